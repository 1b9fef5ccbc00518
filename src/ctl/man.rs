//! The man page wattd.toml(5), made of the reference that is kept in `config/README.md`.

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// The reference of keys.
const REFERENCE: &str = include_str!("../../config/README.md");
/// Heading of its part about wattd.toml.
const KEYS: &str = "## Keys of wattd.toml\n";

/// wattd.toml(5) as roff.
#[must_use]
pub fn configuration() -> String {
    let mut page = Roff::new();
    page.control("TH", ["WATTD.TOML", "5", "", concat!("wattd ", env!("CARGO_PKG_VERSION"))]);
    page.control("SH", ["NAME"]).text([roman("wattd.toml - configuration of wattd")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text(inline("`wattctl check FILE` shows all that is wrong with a file, with the files it names. Relative paths \
                      are relative to the file that holds them. 1 MB is 1,000,000 bytes. Unknown keys are errors."));
    let part = REFERENCE.split_once(KEYS).map_or("", |(_, rest)| rest);
    let part = part.split("\n## ").next().unwrap_or_default();
    let mut keys_begun = false;
    for paragraph in part.split("\n\n").map(str::trim) {
        if !paragraph.starts_with('|') {
            page.control("PP", []).text(inline(&paragraph.replace('\n', " ")));
            continue;
        }
        if !keys_begun {
            page.control("SH", ["KEYS"]);
            keys_begun = true;
        }
        // The first two lines are the table's head.
        paragraph.lines().skip(2).for_each(|row| key(&mut page, row));
        page.control("SH", ["NOTES"]);
    }
    page.control("SH", ["FILES"]).text(inline("`/etc/wattd/wattd.toml`, `/etc/wattd/board.toml`"));
    page.control("SH", ["SEE ALSO"])
        .text(inline("`wattd`(8), `wattctl`(1), `wattctl-check`(1), `wattctl-board`(1)"));
    page.render()
}

/// One row: key, type, default, unit, when a change is in force, meaning.
fn key(page: &mut Roff, row: &str) {
    let cells: Vec<&str> = row.trim_matches('|').splitn(6, '|').map(str::trim).collect();
    let [key, kind, default, unit, reload, meaning] = cells[..] else { return };
    let unit = if unit.is_empty() { String::new() } else { format!(" in {unit}") };
    let reload = if reload == "yes" { "with a reload" } else { "with a restart" };
    page.control("TP", []).text(inline(key));
    page.text(inline(&format!("{kind}{unit}; default: {default}; in force {reload}.")));
    page.control("br", []).text(inline(meaning));
}

/// Text with what stands in backticks in bold.
fn inline(text: &str) -> Vec<Inline> {
    let text = text.replace("**", "");
    let part = |(index, part): (usize, &str)| if index % 2 == 1 { bold(part) } else { roman(part) };
    text.split('`').enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_on_the_page_with_its_meaning() {
        let page = configuration();
        let documented = REFERENCE.split_once(KEYS).unwrap().1.split("\n## ").next().unwrap();
        let keys: Vec<&str> =
            documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert!(keys.len() > 50, "{keys:?}");
        for key in keys {
            let key = key.replace('-', r"\-");
            assert!(page.contains(&format!(".TP\n\\fB{key}\\fR\n")), "{key} in\n{page}");
        }
        assert!(page.contains("budget.power_cap_w"), "{page}");
        assert!(page.contains("Average power that the whole board may draw."), "{page}");
    }

    #[test]
    fn no_markdown_is_left() {
        let page = configuration();
        assert!(!page.contains('`') && !page.contains("**") && !page.contains("\n|"), "{page}");
        for section in ["NAME", "DESCRIPTION", "KEYS", "NOTES", "FILES"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{section} in\n{page}");
        }
    }
}
