//! The unit and its companions, as far as they can be checked without booting: systemd's own tools read them.
//! Each test needs a tool that not every machine has; where it is missing, the test says so and passes.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

/// Runs a tool; `None` if there is none on this machine.
fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).env("LC_ALL", "C.UTF-8").output() {
        Ok(output) => Some(output),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: {tool} is not on this machine (Debian, Ubuntu: apt install systemd)");
            None
        }
        Err(e) => panic!("{tool}: {e}"),
    }
}

/// The unit in a folder of its own, with drop-ins, and with binaries that exist on this machine.
fn unit(folder: &Path, drop_ins: &[&str]) -> String {
    let mut text = read("wattd.service");
    assert!(text.contains("/usr/bin/wattd ") && text.contains("/usr/bin/wattctl "));
    text = text.replace("/usr/bin/wattd ", concat!(env!("CARGO_BIN_EXE_wattd"), " "));
    text = text.replace("/usr/bin/wattctl ", concat!(env!("CARGO_BIN_EXE_wattctl"), " "));
    for drop_in in drop_ins {
        text.push('\n');
        text.push_str(&read(drop_in));
    }
    let path = folder.join("wattd.service");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_unit_is_what_systemd_understands() {
    for drop_ins in [[].as_slice(), &["accelerator.conf"], &["no-network.conf"]] {
        let folder = tempfile::tempdir().unwrap();
        let path = unit(folder.path(), drop_ins);
        let Some(output) = run("systemd-analyze", &["verify", "--man=no", &path]) else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Other units of this machine may have faults of their own.
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("wattd")).collect();
        assert!(output.status.success() && ours.is_empty(), "{drop_ins:?}: {said}");
    }
}

/// `systemd-analyze security`: 0 is a sealed box, 10 no protection. The unit's own figure is reached with
/// Prometheus on loopback; without the network it is less.
#[test]
fn the_unit_is_exposed_no_more_than_it_must() {
    for (drop_ins, most) in [([].as_slice(), 1.2), (&["no-network.conf"], 0.5), (&["accelerator.conf"], 1.6)]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = unit(folder.path(), drop_ins);
        let arguments = ["security", "--offline=true", "--no-pager", &path];
        let Some(output) = run("systemd-analyze", &arguments) else { return };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some(found) = text.split("exposure level for wattd.service: ").nth(1) else {
            // Before version 250 there is no --offline.
            eprintln!("skipped: this systemd-analyze cannot judge a unit offline");
            return;
        };
        let exposure: f64 = found.split(' ').next().unwrap().parse().unwrap();
        assert!(exposure <= most, "{drop_ins:?}: exposure {exposure} exceeds {most}:\n{text}");
    }
}

/// Every directive that restricts or grants has a comment above its group.
#[test]
fn every_directive_is_justified() {
    for name in ["wattd.service", "accelerator.conf", "no-network.conf"] {
        let mut justified = false;
        for line in read(name).lines() {
            match line.chars().next() {
                None => justified = false,
                Some('[') => justified = name != "wattd.service",
                Some('#') => justified = true,
                Some(_) => {
                    let plain = ["Description", "Documentation", "WantedBy"];
                    let needs_none = plain.iter().any(|key| line.starts_with(key));
                    assert!(justified || needs_none, "systemd/{name}: `{line}` has no comment above it");
                }
            }
        }
    }
}

/// The groups and files that the unit relies on are those that the companions make.
#[test]
fn groups_and_clock_files_are_handed_over() {
    let root = tempfile::tempdir().unwrap();
    let gpu = root.path().join("sys/devices/platform/gpu/devfreq/gpu");
    let policy = root.path().join("sys/devices/system/cpu/cpufreq/policy4");
    let class = root.path().join("sys/class/devfreq");
    for folder in [&gpu, &policy, &class, &root.path().join("etc")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let nodes = ["min_freq", "max_freq", "governor"].map(|node| gpu.join(node));
    let clocks =
        ["min_freq", "max_freq", "governor", "setspeed"].map(|node| policy.join(format!("scaling_{node}")));
    let bystander = policy.join("cpuinfo_cur_freq");
    for node in nodes.iter().chain(&clocks).chain([&bystander]) {
        std::fs::write(node, "1").unwrap();
        std::fs::set_permissions(node, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    std::os::unix::fs::symlink("../../devices/platform/gpu/devfreq/gpu", class.join("gpu")).unwrap();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: handing files to another group needs root");
        return;
    }
    let at = format!("--root={}", root.path().display());
    let Some(made) = run("systemd-sysusers", &[&at, file("wattd.sysusers.conf").to_str().unwrap()]) else {
        return;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let groups = std::fs::read_to_string(root.path().join("etc/group")).unwrap();
    let gid = |name: &str| -> u32 {
        let line = groups.lines().find(|line| line.starts_with(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no group {name} in {groups}"))
            .split(':')
            .nth(2)
            .unwrap()
            .parse()
            .unwrap()
    };
    let unit = read("wattd.service");
    let wanted = unit.lines().find_map(|line| line.strip_prefix("SupplementaryGroups=")).unwrap();
    wanted.split(' ').for_each(|group| assert!(gid(group) > 0));
    let tmpfiles = file("wattd.tmpfiles.conf");
    let Some(done) = run("systemd-tmpfiles", &[&at, "--create", tmpfiles.to_str().unwrap()]) else { return };
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for node in nodes.iter().chain(&clocks) {
        let found = node.metadata().unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o664, gid("wattd-ctl")), "{}", node.display());
    }
    assert_eq!(bystander.metadata().unwrap().mode() & 0o777, 0o644, "only what is written is handed over");
}

/// The user that systemd makes up is called after the unit, and must not collide with a group (217/USER).
#[test]
fn no_group_has_the_name_of_the_dynamic_user() {
    assert!(read("wattd.service").contains("\nDynamicUser=yes\n"));
    let groups = read("wattd.sysusers.conf");
    assert!(
        groups.lines().all(|line| line.split_whitespace().nth(1) != Some("wattd") || line.starts_with('#'))
    );
}

/// The installed configuration stays in the directories that the unit grants.
#[test]
fn the_installed_configuration_fits_the_sandbox() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/wattd.toml")).unwrap();
    let context =
        wattd::config::Context { group_id: &|_| Some(990), ..wattd::config::Context::of_this_machine() };
    let config = wattd::config::Config::parse(Path::new("/etc/wattd/wattd.toml"), &text, &context).unwrap();
    let unit = read("wattd.service");
    for (path, grant, parent) in [
        (&config.state_dir, "StateDirectory=wattd", "/var/lib/wattd"),
        (&config.runtime.cache_dir, "CacheDirectory=wattd", "/var/cache/wattd"),
        (&config.socket.path, "RuntimeDirectory=wattd", "/run/wattd"),
        (&config.board.file, "ConfigurationDirectory=wattd", "/etc/wattd"),
    ] {
        assert!(unit.lines().any(|line| line == grant), "{grant}");
        assert!(path.starts_with(parent), "{}", path.display());
    }
    let group = config.socket.group.unwrap().name;
    assert!(
        unit.lines().any(|line| line.starts_with("SupplementaryGroups=") && line.contains(&group)),
        "{group}"
    );
}
