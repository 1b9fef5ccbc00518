//! However the daemon ends, clocks and governors are in the end as they were found.

use crate::harness::{Guarded, Setup, SimBoard, as_found, eventually, fuse_works, said, wattctl};
use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A daemon that holds all clocks at their highest: their nodes surely differ from what was found.
fn busy(board: &SimBoard) -> Setup {
    let mut setup = Setup::new();
    setup.on(board).models("tests/data/models").set("budget.objective", "performance");
    setup
}

fn changed(board: &SimBoard, before: &std::collections::BTreeMap<std::path::PathBuf, String>) {
    eventually("the first changed clock", || (board.nodes() != *before).then_some(()));
}

fn restore(setup: &Setup, board: &SimBoard) -> Output {
    let (state, sys) = (setup.state_dir(), board.mount.clone());
    wattctl([
        "restore".as_ref(),
        "--state-dir".as_ref(),
        state.as_os_str(),
        "--sysfs-root".as_ref(),
        sys.as_os_str(),
    ])
}

/// On both kinds of tree where there are both.
fn on_every_tree(test: impl Fn(&SimBoard)) {
    test(&SimBoard::start_with("jetson-tx2", &["--files-only"]));
    if fuse_works() {
        test(&SimBoard::start("jetson-tx2"));
    } else {
        println!("no FUSE tree: /dev/fuse cannot be opened");
    }
}

#[test]
fn after_a_stop() {
    on_every_tree(|board| {
        let before = board.nodes();
        let setup = busy(board);
        let daemon = setup.start();
        changed(board, &before);
        daemon.stop();
        as_found(board, &before, "at the end");
        let output = restore(&setup, board);
        assert!(output.status.success() && said(&output).contains("no journal"), "{}", said(&output));
    });
}

#[test]
fn after_a_stop_in_the_middle_of_the_start() {
    on_every_tree(|board| {
        let before = board.nodes();
        let setup = busy(board);
        setup.write();
        let daemon = setup.launch();
        // The lock is taken just before the first clock may change; no request was served yet.
        eventually("the state directory", || std::fs::read_dir(setup.state_dir()).ok()?.next().map(|_| ()));
        daemon.signal(Signal::SIGTERM);
        daemon.stop_has_begun();
        as_found(board, &before, "at the end");
    });
}

#[test]
fn after_a_kill_and_wattctl_restore() {
    on_every_tree(|board| {
        let before = board.nodes();
        let setup = busy(board);
        let daemon = setup.start();
        changed(board, &before);
        let output = restore(&setup, board);
        assert!(!output.status.success(), "not under a running daemon: {}", said(&output));
        assert!(said(&output).contains("held by a running wattd"), "{}", said(&output));
        daemon.kill();
        assert_ne!(board.nodes(), before);
        let output = restore(&setup, board);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("again") && said(&output).contains("settled"), "{}", said(&output));
        as_found(board, &before, "at the end");
        let output = restore(&setup, board);
        assert!(output.status.success() && said(&output).contains("no journal"), "{}", said(&output));
    });
}

#[test]
fn after_a_kill_and_a_restart() {
    on_every_tree(|board| {
        let before = board.nodes();
        let setup = busy(board);
        let daemon = setup.start();
        changed(board, &before);
        daemon.kill();
        assert_ne!(board.nodes(), before);
        let daemon = setup.start();
        daemon.logs(&["an earlier process left clocks changed"]);
        changed(board, &before);
        daemon.stop();
        as_found(board, &before, "at the end");
    });
}

#[test]
fn what_somebody_else_set_meanwhile_is_left() {
    on_every_tree(|board| {
        let before = board.nodes();
        let setup = busy(board);
        let daemon = setup.start();
        changed(board, &before);
        daemon.kill();
        let (node, _) = before.iter().find(|(path, _)| path.ends_with("policy0/scaling_max_freq")).unwrap();
        std::fs::write(node, "1574400\n").unwrap();
        eventually("the write", || (board.nodes()[node] == "1574400").then_some(()));
        let output = restore(&setup, board);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(board.nodes()[node], "1574400", "{}", said(&output));
        for (path, value) in board.nodes() {
            assert!(path == *node || before[&path] == value, "{}: {value}", path.display());
        }
    });
}

/// A load under which clocks rise and fall.
fn load(setup: &Setup) -> Guarded {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattctl"));
    command.args(["load", "--model", "tiny", "--rate", "40", "--poisson", "--duration", "60s", "--quiet"]);
    command
        .env("WATTD_SOCKET", setup.socket())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Guarded(command.spawn().unwrap())
}

#[test]
fn after_kills_at_any_moment_under_load() {
    let seed = std::env::var("WATTD_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("WATTD_TEST_SEED={seed}");
    let mut random = rand::rngs::ChaCha8Rng::seed_from_u64(seed);
    let board = SimBoard::start("jetson-tx2");
    let before = board.nodes();
    let mut setup = Setup::new();
    setup.on(&board).models("tests/data/models");
    let mut left_changed = 0;
    for round in 0..12 {
        // Alternately hurried to the highest clocks and led down with every pause.
        setup.set("budget.objective", if round % 3 == 0 { "performance" } else { "least-energy" });
        setup.write();
        let daemon = setup.launch();
        eventually("the socket", || setup.socket().exists().then_some(()));
        let _load = load(&setup);
        if round % 3 == 0 {
            changed(&board, &before);
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..400_000)));
        daemon.kill();
        left_changed += u32::from(board.nodes() != before);
        // Every other time the next daemon finds what this one left.
        if random.random_bool(0.5) || round == 11 {
            let output = restore(&setup, &board);
            assert!(output.status.success(), "round {round}: {}", said(&output));
            as_found(&board, &before, &format!("round {round}: {}", said(&output)));
        }
    }
    println!("{left_changed} of 12 kills left clocks changed");
    assert!(left_changed > 0, "the test tests something");
}
