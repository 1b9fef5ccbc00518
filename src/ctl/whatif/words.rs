//! Figures as people write them.

use crate::units::Nanos;

/// `H:MM:SS` since the start of the day.
pub(super) fn clock(at: Nanos) -> String {
    let seconds = at.as_micros() / 1_000_000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A number to four digits, without zeros that say nothing.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs().max(1e-9).log10().floor();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=6")]
    let decimals = (3.0 - magnitude).clamp(0.0, 6.0) as usize;
    trimmed(value, decimals)
}

/// A share as a percentage: two decimals, more where a few in ten thousand matter.
pub(super) fn percent(share: f64) -> String {
    let value = share * 100.0;
    let decimals = if value < 0.01 { 4 } else { 2 + usize::from(value < 1.0) };
    format!("{} %", trimmed(value, decimals))
}

fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    let text = text.trim_end_matches('0').trim_end_matches('.');
    (if text == "-0" { "0" } else { text }).to_owned()
}

/// A count with commas.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 run`, `2 runs`.
pub(super) fn plural(value: u64, what: &str) -> String {
    format!("{} {what}{}", count(value), if value == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(clock(Nanos::from_secs(3 * 3600 + 62)), "03:01:02");
        assert_eq!(clock(Nanos::from_secs(100 * 3600)), "100:00:00");
        let numbers =
            [(66.0, "66"), (81.3, "81.3"), (0.93, "0.93"), (72_000.0, "72000"), (0.0, "0"), (-12.5, "-12.5")];
        for (value, text) in numbers {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (percent(0.0), percent(0.000_01), percent(0.1234)),
            ("0 %".into(), "0.001 %".into(), "12.34 %".into())
        );
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!((plural(1, "run"), plural(2, "run")), ("1 run".into(), "2 runs".into()));
    }
}
