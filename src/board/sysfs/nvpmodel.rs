//! The power mode of a Jetson, as NVIDIA's `nvpmodel` has left it: only read. Its bounds are found in the clock nodes
//! themselves, which is what counts; the mode tells the operator where they come from.

use super::root::{Attribute, Page, SysfsError, SysfsRoot, garbled};
use std::io::Read as _;
use std::path::Path;

const STATUS: &str = "var/lib/nvpmodel/status";
const MODES: &str = "etc/nvpmodel.conf";
/// Most modes that are named.
const MAX_MODES: usize = 16;
/// Most of the modes' file that is read, in bytes.
const MAX_BYTES: u64 = 256 << 10;

/// Reads the mode's number.
#[derive(Debug)]
pub(crate) struct PowerMode {
    status: Attribute,
}

impl PowerMode {
    /// Below the directory that stands for `/`; and what the modes are called.
    pub(crate) fn find(machine: &SysfsRoot) -> Option<(Self, Option<String>)> {
        machine.exists(STATUS).then(|| {
            let modes = read_start(&machine.path(MODES)).ok();
            let names = modes.map(|text| names(&text)).filter(|names| !names.is_empty());
            (Self { status: machine.attribute(STATUS) }, names)
        })
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.status.path()
    }

    /// The mode's number. Which one is the strongest differs between boards.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<u32, SysfsError> {
        let text = self.status.text(buffer)?;
        let mode = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("pmode:"));
        let number = mode.and_then(|number| number.parse().ok());
        number.ok_or_else(|| garbled(self.status.path(), text, "\"pmode:<number>\""))
    }
}

fn read_start(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// `0 15W, 1 25W` from lines such as `< POWER_MODEL ID=0 NAME=15W >`.
fn names(text: &str) -> String {
    let modes = text.lines().filter_map(|line| {
        let line = line.trim().strip_prefix('<')?.trim().strip_prefix("POWER_MODEL")?;
        let key = |key: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key));
        let (id, name) = key("ID=").zip(key("NAME="))?;
        Some(format!("{} {}", id.parse::<u32>().ok()?, name.trim_end_matches('>')))
    });
    let modes: Vec<String> = modes.take(MAX_MODES).collect();
    if modes.is_empty() { String::new() } else { format!("modes: {}", modes.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_named_as_the_file_names_them() {
        let text = "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n\
                    < POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=0 >\n< POWER_MODEL ID=x NAME=y >";
        assert_eq!(names(text), "modes: 0 15W, 2 MAXN_SUPER");
        assert_eq!(names("nothing"), "");
    }
}
