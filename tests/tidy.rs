//! The house rules that no compiler checks. (That every configuration key and every metric is documented is
//! checked beside them, in `src/config/tests.rs` and `src/observe/names.rs`.)

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};

/// Longest source file, lines.
const MAX_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder of the project; none if it is not there.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            // Links lead out of the project.
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let rust = files(folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    rust.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn is_test(path: &Path) -> bool {
    path.components()
        .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "test_support.rs")))
}

/// Lines outside tests and comments, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    product.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")).map(|(i, l)| (i + 1, l))
}

/// Complains of every line of product code in `folder` that holds one of `words`.
fn forbid(folder: &str, words: &[&str], except: &[&str], why: &str) {
    let mut faults = Vec::new();
    for (path, text) in sources(folder) {
        let place = name(&path);
        if is_test(path.strip_prefix(root()).unwrap()) || except.contains(&place.as_str()) {
            continue;
        }
        for (line, text) in code(&text) {
            for word in words.iter().filter(|word| text.contains(**word)) {
                faults.push(format!("{place}:{line}: `{word}`"));
            }
        }
    }
    assert!(faults.is_empty(), "{why}:\n{}", faults.join("\n"));
}

#[test]
fn the_walk_finds_the_sources() {
    let found = sources("src");
    assert!(found.iter().any(|(path, _)| name(path) == "src/lib.rs"));
    assert!(found.iter().any(|(path, _)| name(path) == "src/core/event.rs"));
    let text = "a\n// b\n#[cfg(test)]\nmod tests {\nc\n}";
    assert_eq!(code(text).collect::<Vec<_>>(), [(1, "a")]);
}

#[test]
fn the_core_is_pure() {
    let forbidden = [
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "std::env",
        "std::io",
        "std::sync",
        "Instant",
        "SystemTime",
        "tokio",
        "metrics::",
        "rand::",
        "tracing::",
        "crate::api",
        "crate::board",
        "crate::config",
        "crate::exec",
        "crate::observe",
        "crate::model",
        "println!",
        "HashMap",
        "HashSet",
    ];
    let why = "src/core decides and does nothing else: no files, clocks, threads, sockets, metrics or randomness, \
               and no iteration order that differs from run to run (BTreeMap, Vec)";
    forbid("src/core", &forbidden, &[], why);
}

#[test]
fn only_time_reads_a_clock() {
    let forbidden = ["Instant::now", "SystemTime::now", "DateTime::now", "jiff::Timestamp::now", "Utc::now"];
    forbid("src", &forbidden, &["src/time.rs"], "take a Timestamp, or a Clock from src/time.rs");
}

#[test]
fn every_queue_is_bounded() {
    forbid("src", &["unbounded", "mpsc::channel()"], &[], "name a bound, and what happens beyond it");
}

#[test]
fn every_exception_to_a_lint_has_a_reason() {
    let mut faults = Vec::new();
    for (path, text) in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let begins = line.trim_start();
            if !(begins.starts_with("#[allow(") || begins.starts_with("#![allow(")) {
                continue;
            }
            let attribute: String = lines[i..].iter().take(8).copied().collect();
            let end = attribute.find(")]").unwrap_or(attribute.len());
            let above = i > 0 && lines[i - 1].trim_start().starts_with("//");
            if !attribute[..end].contains("reason") && !above {
                faults.push(format!("{}:{}", name(&path), i + 1));
            }
        }
    }
    assert!(faults.is_empty(), "say why, by `reason` or a comment above:\n{}", faults.join("\n"));
}

#[test]
fn files_fit_a_reader() {
    let long = |(path, text): (PathBuf, String)| {
        let lines = text.lines().count();
        (lines > MAX_LINES).then(|| format!("{}: {lines} lines", name(&path)))
    };
    let faults: Vec<String> =
        ["src", "tests", "benches"].into_iter().flat_map(sources).filter_map(long).collect();
    assert!(faults.is_empty(), "at most {MAX_LINES} lines:\n{}", faults.join("\n"));
}

/// Nothing that only makes sense on the machine where it was written.
#[test]
fn no_machine_or_registry_is_named() {
    // Written in two halves, so that this file may name them.
    let forbidden = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("pypi", ".org"),
        concat!("python", "hosted"),
        concat!("crates", ".io"),
        concat!("npmjs", ".org"),
        concat!("deb", ".debian.org"),
    ];
    let top = ["README.md", "ARCHITECTURE.md", "Cargo.toml", "build.rs", "deny.toml", "clippy.toml"];
    let folders = ["src", "config", "systemd", "scripts", "tests", "benches", ".ci"];
    let all = folders.into_iter().flat_map(files).chain(top.map(|file| root().join(file)));
    let mut faults = Vec::new();
    let mut read = 0;
    for path in all {
        // Pictures, models and the like are no text.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        read += 1;
        for (i, line) in text.lines().enumerate() {
            for word in forbidden.iter().filter(|word| line.contains(**word)) {
                faults.push(format!("{}:{}: `{word}`", name(&path), i + 1));
            }
        }
    }
    assert!(read > 20, "only {read} files were read");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The top level is fixed: what is new goes into one of the rooms.
#[test]
fn the_top_level_is_as_agreed() {
    let agreed = [
        "ARCHITECTURE.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "benches",
        "build.rs",
        "clippy.toml",
        "config",
        "deny.toml",
        "rustfmt.toml",
        "scripts",
        "src",
        "systemd",
        "tests",
    ];
    let tracked = std::process::Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output();
    let Some(tracked) = tracked.ok().filter(|output| output.status.success()) else {
        eprintln!("skipped: not a git checkout, or no git");
        return;
    };
    let listed = String::from_utf8(tracked.stdout).unwrap();
    let tops = listed.split('\0').filter_map(|path| path.split('/').next()).filter(|top| !top.is_empty());
    let strangers: Vec<&str> = tops.filter(|top| !top.starts_with('.') && !agreed.contains(top)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    for license in ["LICENSE-APACHE", "LICENSE-MIT"] {
        assert!(root().join(license).is_file(), "{license} is missing");
    }
}
