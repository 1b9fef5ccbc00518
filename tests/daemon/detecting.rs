//! `wattctl board` on a board without a file, and the daemon on the file that it wrote.

use crate::harness::{Setup, SimBoard, as_found, inputs, said, wattctl};
use wattd::core::thermal::Regime;

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

/// A board of several clusters has units bound to CPUs that this machine may lack: those are looked at in
/// `tests/detect`.
const BOARDS: [&str; 6] =
    ["desktop", "jetson-nano", "jetson-orin-nano", "jetson-tx2", "raspberry-pi-4", "raspberry-pi-5"];

#[test]
fn the_daemon_works_on_the_file_that_was_written_and_leaves_the_board_as_found() {
    let fashion = inputs("config/models", "fashion");
    for name in BOARDS {
        let board = SimBoard::start(name);
        let before = board.nodes();
        let mut setup = Setup::new();
        let file = setup.path("found.toml");
        let shown = wattctl(["board", "--sysfs-root", &text(&board.mount), "--write", &text(&file)]);
        assert!(shown.status.success(), "{name}: {}", said(&shown));
        // What the file of a simulated desktop names, any PC has.
        let fits = if name == "desktop" { "generic-x86" } else { name };
        assert!(said(&shown).contains(&format!("board file: {fits}.toml fits")), "{name}: {}", said(&shown));
        assert!(!said(&shown).contains("not here"), "{name}: {}", said(&shown));
        assert_eq!(board.nodes(), before, "{name}: looking changes nothing");

        setup
            .without("simulation")
            .set("board.file", text(&file))
            .set("board.sysfs_root", text(&board.mount));
        setup.write();
        let checked = wattctl(["check", &text(&setup.file())]);
        assert!(checked.status.success(), "{name}: {}", said(&checked));
        let daemon = setup.start();
        let status = daemon.status();
        assert_eq!((status.board.name.as_str(), status.board.synthetic), ("found", true));
        assert_eq!(status.missing, Vec::<String>::new(), "{name}");
        assert_ne!(status.regime, Regime::Critical, "{name}");
        let answer = daemon.infer(fashion.ask(0, 1));
        assert_eq!(fashion.right(&answer, 0, 1), 1, "{name}");
        daemon.stop();
        as_found(&board, &before, name);
    }
}

#[test]
fn a_file_that_is_there_is_not_written_over_and_a_tree_that_is_not_is_named() {
    let setup = Setup::new();
    let (file, tree) = (setup.path("mine.toml"), setup.path("tree"));
    std::fs::write(&file, "measured").unwrap();
    std::fs::create_dir_all(tree.join("sys")).unwrap();
    let shown = wattctl(["board", "--root", &text(&tree), "--write", &text(&file)]);
    assert_eq!(shown.status.code(), Some(2), "{}", said(&shown));
    assert!(said(&shown).contains("mine.toml: File exists"), "{}", said(&shown));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "measured");
    let shown = wattctl(["board", "--root", "/no/such"]);
    assert_eq!(shown.status.code(), Some(2), "{}", said(&shown));
    assert!(said(&shown).contains("/no/such/sys: expected a directory"), "{}", said(&shown));
    let shown = wattctl(["board", "--root", &text(&tree), "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(document["nearest"], serde_json::Value::Null);
}
