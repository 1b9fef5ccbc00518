//! What a board and its software say they are: device tree, DMI, kernel, distribution, L4T, firmware.

use super::{Notes, shown};
use crate::board::sysfs::root::{SysfsRoot, garbled};
use serde::Serialize;

/// Where the device tree is shown below the directories that stand for `/sys` and `/proc`.
const TREE: &str = "firmware/devicetree/base";
const TREE_IN_PROC: &str = "device-tree";
const DMI: &str = "class/dmi/id";
/// Most names of `compatible` that are taken.
const MAX_COMPATIBLE: usize = 16;
/// What firmware says where nobody filled in the table.
const PLACEHOLDERS: [&str; 5] =
    ["to be filled by o.e.m.", "default string", "system product name", "not specified", "not applicable"];

/// What a board and its software say they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// `model` of the device tree.
    pub model: Option<String>,
    /// `compatible` of the device tree, the most specific name first.
    pub compatible: Vec<String>,
    /// Vendor and product by DMI.
    pub machine: Option<String>,
    /// Release of the firmware or boot loader.
    pub firmware: Option<String>,
    /// Release of the kernel.
    pub kernel: Option<String>,
    /// The distribution.
    pub system: Option<String>,
    /// NVIDIA's release, on a Jetson.
    pub l4t: Option<L4t>,
}

/// Release of Linux for Tegra.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct L4t {
    /// Such as `36.4.3`.
    pub release: String,
    /// The JetPack that it belongs to.
    pub jetpack: Option<u32>,
}

impl Identity {
    /// The board in a few words.
    #[must_use]
    pub fn name(&self) -> &str {
        self.model.as_deref().or(self.machine.as_deref()).unwrap_or("unknown board")
    }
}

/// Reads all of it below the directories that stand for `/sys`, `/proc` and `/etc`.
pub(super) fn identify(sys: &SysfsRoot, proc: &SysfsRoot, etc: &SysfsRoot, notes: &mut Notes) -> Identity {
    let mut tree = |name: &str| {
        let in_sys = notes.keep(sys.read(format!("{TREE}/{name}")));
        in_sys.or_else(|| notes.keep(proc.read(format!("{TREE_IN_PROC}/{name}"))))
    };
    let model = tree("model").map(|text| shown(&text));
    let compatible = tree("compatible").unwrap_or_default();
    // The boot loader of a Raspberry Pi, and U-Boot.
    let loader = tree("chosen/bootloader/version").or_else(|| tree("chosen/u-boot,version"));
    let names = compatible.split('\0').filter(|name| !name.is_empty()).take(MAX_COMPATIBLE);
    let compatible = names.map(shown).collect();
    let mut dmi = |name: &str| {
        let text = notes.keep(sys.read(format!("{DMI}/{name}")))?;
        (!PLACEHOLDERS.contains(&text.to_lowercase().as_str())).then(|| shown(&text))
    };
    let machine = match (dmi("sys_vendor"), dmi("product_name")) {
        (Some(vendor), Some(product)) if !product.starts_with(&vendor) => Some(format!("{vendor} {product}")),
        (vendor, product) => product.or(vendor),
    };
    let firmware = dmi("bios_version").or(loader.map(|text| shown(&text)));
    let kernel = notes.keep(proc.read("sys/kernel/osrelease")).map(|text| shown(&text));
    let system = notes.keep(etc.read("os-release")).and_then(|text| pretty_name(&text));
    let l4t = notes.keep(etc.read("nv_tegra_release")).and_then(|text| {
        let found = l4t(&text);
        if found.is_none() {
            let expected = "\"# R36 (release), REVISION: 4.3, ...\"";
            notes.add(garbled(&etc.path("nv_tegra_release"), &text, expected));
        }
        found
    });
    Identity { model, compatible, machine, firmware, kernel, system, l4t }
}

/// `PRETTY_NAME` of os-release.
fn pretty_name(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    let bare = value.trim_matches(['"', '\'']);
    (!bare.is_empty()).then(|| shown(bare))
}

/// The release in the first line of nv_tegra_release.
fn l4t(text: &str) -> Option<L4t> {
    let line = text.lines().next()?;
    let (major, rest) = line.strip_prefix("# R")?.split_once(' ')?;
    let major: u32 = major.parse().ok()?;
    let minor = rest.split_once("REVISION: ")?.1.split(',').next()?.trim();
    if minor.is_empty() || minor.len() > 16 || !minor.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let jetpack = match major {
        32 => Some(4),
        34 | 35 => Some(5),
        36 => Some(6),
        38 | 39 => Some(7),
        _ => None,
    };
    Some(L4t { release: format!("{major}.{minor}"), jetpack })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidias_release_is_read_and_nonsense_is_none() {
        let text = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n# KERNEL_VARIANT: oot";
        assert_eq!(l4t(text), Some(L4t { release: "36.4.3".to_owned(), jetpack: Some(6) }));
        let old = "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref";
        assert_eq!(l4t(old), Some(L4t { release: "32.7.1".to_owned(), jetpack: Some(4) }));
        for text in
            ["", "# R", "# Rx (release), REVISION: 1,", "# R36 (release)", "# R36 (release), REVISION: ;rm,"]
        {
            assert_eq!(l4t(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_distribution_says_its_name() {
        assert_eq!(
            pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n").unwrap(),
            "Debian GNU/Linux 13"
        );
        assert_eq!(pretty_name("ID=debian"), None);
    }
}
