//! Asks a board what `tests/data/kernel/probes` says, and writes down what it answers.

use super::target::Target;
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const PROBES: &str = include_str!("../../data/kernel/probes");
/// Nodes of every device, which say nothing of clocks or sensors, and those whose text is never the same.
pub(super) const LEFT_OUT: [&str; 2] = ["uevent", "trans_stat"];

fn errno(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |raw| format!("{:?}", Errno::from_raw(raw)))
}

/// What a read gives, as a quoted text or an error.
pub(super) fn read(node: &Path) -> String {
    let mut bytes = Vec::new();
    match File::open(node).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => format!("{:?}", String::from_utf8_lossy(&bytes)),
        Err(error) => errno(&error),
    }
}

/// One write() for each text, into a file that is opened once; how each ended.
fn write(node: &Path, texts: &[String]) -> String {
    let mut file = match OpenOptions::new().write(true).open(node) {
        Ok(file) => file,
        Err(error) => return format!("open: {}", errno(&error)),
    };
    let each = texts.iter().map(|text| match file.write(text.as_bytes()) {
        Ok(written) => format!("{written} bytes"),
        Err(error) => errno(&error),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The directory that an `at` means.
fn device(root: &Path, words: &str) -> Option<PathBuf> {
    let mut words = words.splitn(3, ' ');
    let directory = root.join(words.next()?);
    let (Some(node), Some(text)) = (words.next(), words.next()) else { return Some(directory) };
    let entries = std::fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter(|at| read(&at.join(node)) == format!("{:?}", format!("{text}\n"))).min()
}

fn modes(at: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        let (name, metadata) = (entry.file_name(), std::fs::symlink_metadata(entry.path()).unwrap());
        let name = name.to_string_lossy();
        if metadata.is_file() && !LEFT_OUT.contains(&name.as_ref()) {
            found.push(format!("mode {:o} {name}", metadata.permissions().mode() & 0o7777));
        }
    }
    found.sort();
    found
}

/// Each question with its answer, a line each.
pub(super) fn answers(target: &dyn Target) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = None;
    for line in PROBES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (verb, words) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "at" {
            at = device(target.sys(), words);
            found.push(format!("at {words}{}", if at.is_none() { ": not there" } else { "" }));
            continue;
        }
        let Some(at) = &at else { continue };
        match verb {
            "modes" => found.extend(modes(at)),
            "read" => found.push(format!("{words} reads {}", read(&at.join(words)))),
            "set" | "write" => {
                let (node, texts) = words.split_once(' ').unwrap();
                let texts: Vec<String> =
                    serde_json::Deserializer::from_str(texts).into_iter().map(Result::unwrap).collect();
                let node_path = at.join(node);
                let ended = write(&node_path, &texts);
                target.settle();
                let shows =
                    if verb == "set" { format!("; reads {}", read(&node_path)) } else { String::new() };
                found.push(format!("{node} {texts:?}: {ended}{shows}"));
            }
            "do" => {
                target.act(words);
                target.settle();
                found.push(format!("do {words}"));
            }
            other => panic!("{other}: no such verb"),
        }
    }
    found
}
