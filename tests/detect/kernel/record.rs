//! Writes down what a kernel shows of the devices of tests/vm/board.c, as a board of text.

use super::probe::LEFT_OUT;
use nix::errno::Errno;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Files that say where this is.
const SINGLE: [&str; 5] = [
    "proc/sys/kernel/osrelease",
    "sys/class/dmi/id/sys_vendor",
    "sys/class/dmi/id/product_name",
    "sys/class/dmi/id/bios_version",
    "sys/devices/system/cpu/online",
];
/// Texts that are never the same twice: these stand for them.
const CHANGING: [(&str, &str); 4] = [
    ("energy_uj", "123456789"),
    ("cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"),
    ("memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"),
    ("io", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"),
];
const CLASSES: [&str; 5] = ["devfreq", "thermal", "hwmon", "powercap", "power_supply"];

pub(super) fn tree(root: &Path) -> String {
    let mut text = format!(
        "# The devices of tests/vm/board.c under a real kernel, {}, as scripts/vm-check found them.\n",
        std::fs::read_to_string(root.join("proc/sys/kernel/osrelease")).unwrap().trim()
    );
    for path in SINGLE {
        file(&mut text, root, path);
    }
    directory(&mut text, root, "proc/pressure");
    for policy in names(&root.join("sys/devices/system/cpu/cpufreq")) {
        directory(&mut text, root, &format!("sys/devices/system/cpu/cpufreq/{policy}"));
    }
    // Nodes that are there under one governor only.
    let governor = root.join("sys/class/devfreq/1000.gpu/governor");
    let before = std::fs::read_to_string(&governor).unwrap();
    std::fs::write(&governor, "userspace").unwrap();
    let mut devices = String::new();
    for class in CLASSES {
        for name in names(&root.join("sys/class").join(class)) {
            // Cooling devices are this machine's own.
            if name.starts_with("cooling_device") {
                continue;
            }
            let link = format!("sys/class/{class}/{name}");
            let target = std::fs::read_link(root.join(&link)).unwrap();
            writeln!(devices, "\n{} link {}", escaped(&link), target.display()).unwrap();
            let target = std::fs::canonicalize(root.join(&link)).unwrap();
            let below = target.strip_prefix(std::fs::canonicalize(root).unwrap()).unwrap();
            directory(&mut devices, root, below.to_str().unwrap());
        }
    }
    std::fs::write(&governor, &before).unwrap();
    text + &devices.replace("/governor 644 userspace\n", &format!("/governor 644 {before}"))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Its files, where its `device` is, and the files of governors.
fn directory(text: &mut String, root: &Path, path: &str) {
    for name in names(&root.join(path)) {
        let node = format!("{path}/{name}");
        let metadata = std::fs::symlink_metadata(root.join(&node)).unwrap();
        if metadata.is_file() && !LEFT_OUT.contains(&name.as_str()) {
            file(text, root, &node);
        } else if metadata.is_symlink() && name == "device" {
            let target = std::fs::read_link(root.join(&node)).unwrap();
            writeln!(text, "{} link {}", escaped(&node), target.display()).unwrap();
        } else if metadata.is_dir() && name == "userspace" {
            directory(text, root, &node);
        }
    }
}

fn file(text: &mut String, root: &Path, path: &str) {
    let Ok(metadata) = std::fs::metadata(root.join(path)) else { return };
    let mode = metadata.permissions().mode() & 0o7777;
    let name = path.rsplit('/').next().unwrap();
    let line = match CHANGING.iter().find(|(changing, _)| *changing == name) {
        Some((_, instead)) => format!("{mode:o} {instead}"),
        None => match std::fs::read_to_string(root.join(path)) {
            Ok(content) => format!("{mode:o} {}", escaped(content.strip_suffix('\n').unwrap_or(&content))),
            Err(error) => format!("error {:?} {mode:o}", Errno::from_raw(error.raw_os_error().unwrap())),
        },
    };
    writeln!(text, "{} {}", escaped(path).replace(' ', "\\x20"), line.trim_end()).unwrap();
}

/// As [`wattd::board::sim::process::Fixture`] reads it; a blank at the end survives editors.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\0', "\\0");
    text.strip_suffix(' ').map(|text| format!("{text}\\x20")).unwrap_or(text)
}
