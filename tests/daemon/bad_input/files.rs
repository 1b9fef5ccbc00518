//! Configurations, models, libraries and folders that will not do.

use crate::harness::{Daemon, Setup, copy, inputs, nothing_but, root, said, start_in_namespace, wattctl};
use sha2::Digest as _;
use std::path::Path;
use wattd::ctl::load::target::{Ask, NamedTensor, Reply};

fn expect(output: (i32, String), code: i32, words: &[&str]) {
    assert_eq!(output.0, code, "{}", output.1);
    for word in words {
        assert!(output.1.contains(word), "no {word:?} in: {}", output.1);
    }
    assert!(!output.1.contains("panicked"), "{}", output.1);
}

#[test]
fn a_wrong_configuration_ends_with_2_and_names_file_line_key_and_value() {
    let cases: [(&str, toml::Value, &[&str]); 8] = [
        ("budget.colour", "red".into(), &["budget.colour", "power_cap_w"]),
        ("socket.max_connections", "many".into(), &["socket.max_connections", "many"]),
        ("socket.max_connections", 0.into(), &["socket.max_connections", "0"]),
        ("budget.power_cap_w", (-3.0).into(), &["budget.power_cap_w", "-3"]),
        ("budget.power_cap_w", f64::NAN.into(), &["budget.power_cap_w", "nan"]),
        ("socket.tcp", "0.0.0.0:80".into(), &["socket.tcp", "0.0.0.0:80", "loopback"]),
        ("log.level", "loud?".into(), &["log.level", "loud?"]),
        ("simulation.mode", "dream".into(), &["simulation.mode", "dream", "in-process"]),
    ];
    for (key, value, words) in cases {
        let mut setup = Setup::new();
        setup.set(key, value);
        let output = setup.fails();
        let position = format!("{}:", setup.file().display());
        let at = output.1.find(&position).unwrap_or_else(|| panic!("no {position} in {}", output.1));
        let rest = &output.1[at + position.len()..];
        assert!(rest.starts_with(|c: char| c.is_ascii_digit()), "no line number in {}", output.1);
        expect(output, 2, words);
        let checked = wattctl(["check".as_ref(), setup.file().as_os_str()]);
        expect((checked.status.code().unwrap(), said(&checked)), 2, words);
    }
    let setup = Setup::new();
    expect(setup.fails_as_written(), 2, &["wattd.toml", "No such file"]);
    std::fs::write(setup.file(), "[board\n").unwrap();
    expect(setup.fails_as_written(), 2, &["wattd.toml:1", "not TOML"]);
    let mut setup = Setup::new();
    setup.argument("--no-such-flag");
    expect(setup.fails(), 2, &["--no-such-flag"]);
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let mut setup = Setup::new();
    setup.set("budget.power_cap_w", -1).set("memory.cap_mb", -1).set("board.sample_period_ms", 0);
    expect(setup.fails(), 2, &["budget.power_cap_w", "memory.cap_mb", "board.sample_period_ms"]);
}

#[test]
fn what_the_configuration_names_must_be_there() {
    let mut setup = Setup::new();
    setup.set("board.file", "/nowhere/board.toml");
    expect(setup.fails(), 1, &["/nowhere/board.toml"]);
    let mut setup = Setup::new();
    setup.script("[[event]]\nat_s = 1\nset = \"gravity\"\nto = 0\n");
    expect(setup.fails(), 1, &["script.toml", "gravity", "ambient_c"]);
    let mut setup = Setup::new();
    setup.set("simulation.mode", "process").set("simulation.accelerator_socket", "/nowhere/board.sock");
    expect(setup.fails(), 1, &["/nowhere/board.sock", "sim-board"]);
    let mut setup = Setup::new();
    setup.set("runtime.library", "/nowhere/libonnxruntime.so");
    expect(setup.fails(), 1, &["Tried", "/nowhere/libonnxruntime.so", "scripts/setup", "[runtime]"]);
    let mut setup = Setup::new();
    let not_a_library = setup.path("libonnxruntime.so");
    std::fs::write(&not_a_library, "no ELF").unwrap();
    setup.set("runtime.library", not_a_library.display().to_string());
    expect(setup.fails(), 1, &["libonnxruntime.so", "scripts/setup"]);
    let mut setup = Setup::new();
    setup.set("state.dir", "/dev/null/state");
    expect(setup.fails(), 1, &["/dev/null/state", "[state] dir"]);
    let mut setup = Setup::new();
    std::fs::write(setup.path("wattd.sock"), "precious").unwrap();
    setup.set("log.level", "warn");
    expect(setup.fails(), 1, &["wattd.sock", "not a socket"]);
    assert_eq!(std::fs::read_to_string(setup.path("wattd.sock")).unwrap(), "precious");
}

/// A store of `tiny` alone, whose `int8` variant the test spoils: file and manifest may be changed.
fn store(setup: &mut Setup, spoil: impl Fn(&Path, &mut String)) {
    let folder = setup.path("models");
    copy(&root().join("tests/data/models"), &folder);
    let manifest = folder.join("tiny/model.toml");
    let mut text = std::fs::read_to_string(&manifest).unwrap();
    spoil(&folder.join("tiny"), &mut text);
    std::fs::write(&manifest, text).unwrap();
    setup.set("models.dir", vec![folder.display().to_string()]);
    // Read as it was: what nobody asks for is not loaded either.
    setup.set("models.load", vec!["tiny"]);
}

/// Puts another ONNX file in the place of `int8.onnx`, with its true size and hash in the manifest.
fn replace(folder: &Path, manifest: &mut String, data: &[u8]) {
    let old = std::fs::read(folder.join("int8.onnx")).unwrap();
    std::fs::write(folder.join("int8.onnx"), data).unwrap();
    let hash = |data: &[u8]| hex::encode(sha2::Sha256::digest(data));
    assert!(manifest.contains(&hash(&old)));
    *manifest = manifest
        .replace(&hash(&old), &hash(data))
        .replace(&format!("bytes = {}\n", old.len()), &format!("bytes = {}\n", data.len()));
}

/// The rest of the model serves, and whoever wants the spoilt variant is told.
fn serves_the_rest(daemon: &Daemon<'_>) -> Reply {
    let tiny = inputs("tests/data/models", "tiny");
    let answer = daemon.infer(nothing_but(&tiny, &[("variant", "base")]));
    assert_eq!(answer.served.variant, "base");
    daemon.ask(nothing_but(&tiny, &[("variant", "int8")])).unwrap_err()
}

#[test]
fn a_model_file_that_is_not_what_the_manifest_says_costs_its_variant() {
    type Spoil = fn(&Path, &mut String);
    let cases: [(Spoil, &[&str]); 4] = [
        (
            |folder, _| std::fs::remove_file(folder.join("int8.onnx")).unwrap(),
            &["variant[1].file", "int8.onnx"],
        ),
        (
            |folder, _| {
                let path = folder.join("int8.onnx");
                let mut data = std::fs::read(&path).unwrap();
                data[100] ^= 1;
                std::fs::write(path, data).unwrap();
            },
            &["variant[1].sha256", "bfcb54661eaa"],
        ),
        (
            |folder, _| {
                let file = std::fs::File::options().write(true).open(folder.join("int8.onnx")).unwrap();
                file.set_len(1000).unwrap();
            },
            &["variant[1].bytes", "1000 bytes", "truncated"],
        ),
        (
            |_, manifest| *manifest = manifest.replace("accuracy = 0.9688", "accuracy = 7"),
            &["variant[1].accuracy", "7"],
        ),
    ];
    for (spoil, words) in cases {
        let mut setup = Setup::new();
        store(&mut setup, spoil);
        let daemon = setup.start();
        let problems = daemon.status().problems.join("\n");
        for word in words.iter().chain(&["tiny/model.toml:"]) {
            assert!(problems.contains(word), "no {word} in {problems}");
        }
        daemon.logs(words);
        serves_the_rest(&daemon);
        daemon.stop();
        let checked = wattctl(["check".as_ref(), setup.file().as_os_str()]);
        expect((checked.status.code().unwrap(), said(&checked)), 2, words);
    }
}

#[test]
fn a_model_file_with_other_tensors_or_hostile_content_is_refused_when_it_is_loaded() {
    let onnx = |name: &str| std::fs::read(root().join("tests/data/onnx").join(name)).unwrap();
    let truncated = std::fs::read(root().join("tests/data/models/tiny/int8.onnx")).unwrap()[..2000].to_vec();
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("other tensors", onnx("mlp.onnx"), "in the manifest"),
        ("truncated", truncated, ""),
        ("a path to another file", onnx("external.onnx"), "its weights are in another file"),
        ("a bomb", onnx("bomb.onnx"), ""),
        ("noise", (0..5000u32).map(|n| (n * 7919 % 251) as u8).collect(), ""),
    ];
    for (what, data, word) in cases {
        let mut setup = Setup::new();
        store(&mut setup, |folder, manifest| replace(folder, manifest, &data));
        let daemon = setup.start();
        let line = daemon.logs(&["load failed", "tiny/int8"]);
        assert!(line.contains(word), "{what}: {line}");
        let Reply::Rejected { reason, .. } = serves_the_rest(&daemon) else { panic!("{what}") };
        assert_eq!(reason, "not_resident", "{what}");
        let table = said(&daemon.ctl(&["models"]));
        assert!(table.contains("could not be loaded"), "{what}: {table}");
        daemon.stop();
    }
}

#[test]
fn a_broken_manifest_and_a_missing_folder_leave_the_other_models() {
    let mut setup = Setup::new();
    store(&mut setup, |_, _| {});
    std::fs::create_dir(setup.path("models/broken")).unwrap();
    std::fs::write(setup.path("models/broken/model.toml"), "name = \"broken\"\nversion = [").unwrap();
    setup.set("models.dir", vec![setup.path("models").display().to_string(), "/nowhere/models".to_owned()]);
    setup.set("models.load", vec!["tiny", "no-such-model"]);
    let daemon = setup.start();
    let problems = daemon.status().problems.join("\n");
    assert!(problems.contains("broken/model.toml:") && problems.contains("/nowhere/models"), "{problems}");
    daemon.logs(&["models.load[1]", "no-such-model"]);
    assert!(daemon.model("broken").problem.is_some_and(|problem| problem.contains("not TOML")));
    let tensor = inputs("tests/data/models", "tiny").ask(0, 1).inputs[0].tensor.clone();
    let ask = Ask {
        model: "broken".into(),
        inputs: vec![NamedTensor { name: "x".into(), tensor }],
        ..Ask::default()
    };
    let reply = daemon.ask(ask).unwrap_err();
    assert!(format!("{reply:?}").contains("not TOML"), "{reply:?}");
    daemon.infer(inputs("tests/data/models", "tiny").ask(0, 1));
    daemon.stop();
    // A store without any model still runs, and says so.
    let mut setup = Setup::new();
    setup.set("models.dir", vec!["/nowhere/models"]);
    let daemon = setup.start();
    daemon.logs(&["no models"]);
    daemon.stop();
}

#[test]
fn a_second_daemon_is_refused_and_leaves_the_first_alone() {
    let mut setup = Setup::new();
    setup.models("tests/data/models").set("journal.enabled", true);
    let daemon = setup.start();
    let tiny = inputs("tests/data/models", "tiny");
    daemon.infer(tiny.ask(0, 1));
    // The same state directory.
    expect(setup.fails_as_written(), 1, &["held by a running wattd"]);
    assert!(!setup.path("journal/events.jsonl.1").exists(), "the journal of the first is its own");
    // Another one, but the same socket.
    setup_for(&setup, |config| config["state"]["dir"] = setup.path("other").display().to_string().into());
    expect(setup.fails_as_written(), 1, &["another process serves this socket"]);
    daemon.infer(tiny.ask(1, 1));
    daemon.stop();
    setup.start().stop();
}

/// Rewrites the configuration's file.
fn setup_for(setup: &Setup, change: impl Fn(&mut toml::Table)) {
    let mut table: toml::Table = std::fs::read_to_string(setup.file()).unwrap().parse().unwrap();
    change(&mut table);
    table["journal"]["enabled"] = false.into();
    std::fs::write(setup.file(), toml::to_string(&table).unwrap()).unwrap();
}

#[test]
fn a_stale_socket_is_replaced() {
    let mut setup = Setup::new();
    setup.models("tests/data/models");
    setup.start().kill();
    assert!(setup.socket().exists());
    setup.start().stop();
}

#[test]
fn a_full_disk_costs_the_cache_the_profiles_and_the_journal_but_no_request() {
    let mut setup = Setup::new();
    let small = setup.path("small");
    std::fs::create_dir(&small).unwrap();
    let below = |name: &str| small.join(name).display().to_string();
    setup
        .set("state.dir", below("state"))
        .set("journal.dir", below("journal"))
        .set("runtime.cache_dir", below("cache"));
    setup.set("journal.enabled", true).set("profile.on_start", true).models("tests/data/models");
    setup.set("models.load", vec!["tiny"]);
    let Some(mut daemon) = start_in_namespace(
        &setup,
        r#"mount -t tmpfs -o size=64k none "$DIR/small"; mkdir "$DIR/small/state" "$DIR/small/journal" "$DIR/small/cache"
           exec "$@""#,
    ) else {
        return;
    };
    daemon.becomes_ready();
    let tiny = inputs("tests/data/models", "tiny");
    daemon.logs(&["journal", "recording ends here"]);
    daemon.logs(&["could not be stored"]);
    for item in 0..16 {
        daemon.infer(tiny.ask(item, 1));
    }
    assert!(!daemon.status().draining);
    daemon.stop();
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let mut setup = Setup::new();
    let small = setup.path("small");
    std::fs::create_dir(&small).unwrap();
    setup.set("state.dir", small.display().to_string());
    let Some(daemon) = start_in_namespace(&setup, r#"mount -t tmpfs -o ro none "$DIR/small"; exec "$@""#)
    else {
        return;
    };
    expect(daemon.ends(), 1, &["small", "Read-only file system"]);
}
