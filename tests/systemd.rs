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

/// The units that listen for the daemon.
const SOCKETS: [&str; 2] = ["wattd.socket", "wattd-metrics.socket"];

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
    assert!(text.contains("=/usr/bin/wattd ") && text.contains("=/usr/bin/wattctl "));
    text = text.replace("/usr/bin/wattd ", concat!(env!("CARGO_BIN_EXE_wattd"), " "));
    text = text.replace("/usr/bin/wattctl ", concat!(env!("CARGO_BIN_EXE_wattctl"), " "));
    for drop_in in drop_ins {
        text.push('\n');
        text.push_str(&read(drop_in));
    }
    let path = folder.join("wattd.service");
    std::fs::write(&path, text).unwrap();
    for socket in SOCKETS {
        std::fs::write(folder.join(socket), read(socket)).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_unit_is_what_systemd_understands() {
    for drop_ins in [[].as_slice(), &["accelerator.conf"], &["loopback.conf"]] {
        let folder = tempfile::tempdir().unwrap();
        let path = unit(folder.path(), drop_ins);
        let sockets = SOCKETS.map(|socket| folder.path().join(socket).display().to_string());
        let Some(output) = run("systemd-analyze", &["verify", "--man=no", &path, &sockets[0], &sockets[1]])
        else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Other units of this machine may have faults of their own.
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("wattd")).collect();
        assert!(output.status.success() && ours.is_empty(), "{drop_ins:?}: {said}");
    }
}

/// `systemd-analyze security`: 0 is a sealed box, 10 no protection.
#[test]
fn the_unit_is_exposed_no_more_than_it_must() {
    for (drop_ins, most) in [([].as_slice(), 0.7), (&["accelerator.conf"], 1.0), (&["loopback.conf"], 1.4)] {
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
    for name in ["wattd.service", "wattd.socket", "wattd-metrics.socket", "accelerator.conf", "loopback.conf"]
    {
        let mut justified = false;
        for line in read(name).lines() {
            match line.chars().next() {
                None => justified = false,
                Some('[') => justified = name.ends_with(".conf"),
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

/// Nodes below `/sys`, each with the mode that the kernel gives it, and that which it has while the package is installed.
const NODES: [(&str, u32, u32); 14] = [
    ("devices/platform/gpu/devfreq/gpu/min_freq", 0o644, 0o664),
    ("devices/platform/gpu/devfreq/gpu/max_freq", 0o644, 0o664),
    ("devices/platform/gpu/devfreq/gpu/governor", 0o644, 0o664),
    ("devices/system/cpu/cpufreq/policy4/scaling_min_freq", 0o644, 0o664),
    ("devices/system/cpu/cpufreq/policy4/scaling_max_freq", 0o644, 0o664),
    ("devices/system/cpu/cpufreq/policy4/scaling_governor", 0o644, 0o664),
    ("devices/system/cpu/cpufreq/policy4/scaling_setspeed", 0o644, 0o664),
    ("devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq", 0o444, 0o444),
    ("kernel/nvpmodel_clk_cap/emc", 0o664, 0o664),
    ("kernel/nvpmodel_emc_cap/emc_iso_cap", 0o660, 0o660),
    ("devices/platform/bus@0/13e00000.host1x/15880000.nvdla0/clk_cap/dla0_core", 0o644, 0o664),
    ("devices/platform/13e40000.host1x/15880000.nvdla0/acm/clk_cap/dla0_core", 0o644, 0o664),
    ("devices/13e10000.host1x/15880000.nvdla0/acm/clk_cap/dla0_core", 0o644, 0o664),
    ("class/powercap/intel-rapl:0/energy_uj", 0o400, 0o440),
];

/// The groups and files that the unit relies on are those that the companions make, and removing the package hands all
/// back as kernels make it.
#[test]
fn groups_and_clock_files_are_handed_over_and_back() {
    let root = tempfile::tempdir().unwrap();
    let nodes = NODES.map(|(node, kernel, handed)| (root.path().join("sys").join(node), kernel, handed));
    for (node, kernel, _) in &nodes {
        std::fs::create_dir_all(node.parent().unwrap()).unwrap();
        std::fs::write(node, "1").unwrap();
        std::fs::set_permissions(node, std::fs::Permissions::from_mode(*kernel)).unwrap();
    }
    let class = root.path().join("sys/class/devfreq");
    for folder in [&class, &root.path().join("etc")] {
        std::fs::create_dir_all(folder).unwrap();
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
    let group = gid("wattd-ctl");
    for (node, _, handed) in &nodes {
        let found = node.metadata().unwrap();
        let owner = if *handed == 0o444 { 0 } else { group };
        assert_eq!((found.mode() & 0o777, found.gid()), (*handed, owner), "{}", node.display());
    }
    let prerm = read("debian/prerm");
    let (_, rest) = prerm.split_once("sed -E '").unwrap();
    let back = run("sed", &["-E", rest.split_once('\'').unwrap().0, tmpfiles.to_str().unwrap()]).unwrap();
    let lines = root.path().join("back");
    std::fs::write(&lines, back.stdout).unwrap();
    let done = run("systemd-tmpfiles", &[&at, "--create", lines.to_str().unwrap()]).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for (node, kernel, _) in &nodes {
        let found = node.metadata().unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (*kernel, 0), "{} is handed back", node.display());
    }
}

/// The sockets stand where the configuration says that the daemon would listen.
#[test]
fn the_sockets_are_those_of_the_configuration() {
    let config: toml::Table =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/wattd.toml"))
            .unwrap()
            .parse()
            .unwrap();
    let says = |key: &str| config["socket"][key].as_str().unwrap();
    let socket = read("wattd.socket");
    for line in [
        format!("ListenStream={}", says("path")),
        format!("SocketMode={}", says("mode")),
        format!("SocketGroup={}", says("group")),
    ] {
        assert!(socket.lines().any(|found| found == line), "{line}");
    }
    let metrics = format!("ListenStream={}", config["metrics"]["listen"].as_str().unwrap());
    assert!(read("wattd-metrics.socket").lines().any(|line| line == metrics), "{metrics}");
}

/// `scripts/install` below a folder: all files in place, an edited configuration kept, and everything taken away again.
#[test]
fn what_is_installed_below_a_folder_goes_again() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join(".wattd/onnxruntime/lib/libonnxruntime.so").exists() {
        eprintln!("skipped: there is no ONNX Runtime to install (scripts/setup)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_wattd")).parent().unwrap();
    let install = |more: &[&str]| {
        let mut command = Command::new(root.join("scripts/install"));
        command.arg("--root").arg(folder.path()).arg("--bin").arg(bin).args(more);
        let output = command.output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{more:?}: {said}");
        said
    };
    let said = install(&["--dry-run"]);
    assert!(said.contains("/usr/lib/systemd/system/wattd.service"), "{said}");
    assert_eq!(files(folder.path()), Vec::<String>::new(), "a dry run does nothing");
    install(&[]);
    let installed = files(folder.path());
    for file in [
        "etc/wattd/wattd.toml",
        "usr/bin/wattctl",
        "usr/lib/sysusers.d/wattd.conf",
        "usr/share/bash-completion/completions/wattctl",
        "usr/share/man/man1/wattctl-status.1.gz",
        "usr/share/man/man5/wattd.toml.5.gz",
        "usr/share/man/man8/wattd.8.gz",
        "usr/share/wattd/models/fashion/model.toml",
    ] {
        assert!(installed.iter().any(|found| found == file), "{file} in {installed:#?}");
    }
    let library = installed.iter().find(|file| file.starts_with("usr/lib/wattd/libonnxruntime.so"));
    assert!(library.is_some(), "{installed:#?}");
    let config = folder.path().join("etc/wattd/wattd.toml");
    std::fs::write(&config, "# edited").unwrap();
    let said = install(&[]);
    assert!(said.contains("wattd.toml is there and stays"), "{said}");
    assert_eq!(files(folder.path()), installed);
    install(&["--uninstall"]);
    assert_eq!(files(folder.path()), ["etc/wattd/wattd.toml"]);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "# edited");
    install(&[]);
    install(&["--purge"]);
    assert_eq!(files(folder.path()), Vec::<String>::new());
}

/// All files below a folder, by their paths from there.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
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
    assert!(
        config.models.dirs.iter().any(|dir| dir.starts_with("/usr/share/wattd")),
        "{:?}",
        config.models.dirs
    );
    for (path, grant, parent) in [
        (&config.state_dir, "StateDirectory=wattd", "/var/lib/wattd"),
        (&config.runtime.cache_dir, "CacheDirectory=wattd", "/var/cache/wattd"),
        (&config.board.file, "ConfigurationDirectory=wattd", "/etc/wattd"),
    ] {
        assert!(unit.lines().any(|line| line == grant), "{grant}");
        assert!(path.starts_with(parent), "{}", path.display());
    }
}
