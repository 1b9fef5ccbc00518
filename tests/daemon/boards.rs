//! The daemon serves on every board file, through its sysfs tree.

use crate::harness::{Setup, SimBoard, as_found, eventually, inputs};
use wattd::core::thermal::Regime;

#[test]
fn every_board_serves_through_its_tree_and_is_left_as_found() {
    let folder = crate::harness::root().join("config/boards");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 5, "{names:?}");
    let fashion = inputs("config/models", "fashion");
    for name in names {
        let board = SimBoard::start(&name);
        let before = board.nodes();
        // As an operator does it by hand: arguments in place of the configuration's keys.
        let mut setup = Setup::new();
        for (flag, path) in
            [("--board", &board.file), ("--sysfs-root", &board.mount), ("--accelerator", &board.socket)]
        {
            setup.argument(flag).argument(path.display().to_string());
        }
        let daemon = setup.start();
        let answer = daemon.infer(fashion.ask(0, 1));
        assert_eq!(fashion.right(&answer, 0, 1), 1, "{name}");
        let status = eventually("a cool board with readable sensors", || {
            let status = daemon.status();
            (status.regime == Regime::Nominal).then_some(status)
        });
        assert_eq!((status.board.name.as_str(), status.board.simulated), (name.as_str(), true));
        assert_eq!(status.missing, Vec::<String>::new(), "{name}");
        assert!(!status.zones.is_empty() && !status.domains.is_empty(), "{name}: {status:?}");
        for zone in &status.zones {
            assert!(zone.c.is_some_and(|c| c > 0.0 && c < 100.0), "{name}: {zone:?}");
        }
        for rail in &status.rails {
            assert!(rail.w.is_some_and(|w| w >= 0.0), "{name}: {rail:?}");
        }
        for domain in &status.domains {
            assert!(domain.khz.is_some() && domain.controllable, "{name}: {domain:?}");
        }
        assert!(status.power_w.is_some_and(|watts| watts > 0.1), "{name}: {status:?}");
        daemon.stop();
        as_found(&board, &before, &name);
    }
}

#[test]
fn without_a_simulated_board_behind_it_a_tree_is_taken_for_a_real_one() {
    let board = SimBoard::start("desktop");
    let mut setup = Setup::new();
    setup.argument("--board").argument(board.file.display().to_string());
    setup.argument("--sysfs-root").argument(board.mount.display().to_string());
    let daemon = setup.start();
    assert!(!daemon.status().board.simulated);
    let fashion = inputs("config/models", "fashion");
    let answer = daemon.infer(fashion.ask(0, 1));
    assert_eq!(fashion.right(&answer, 0, 1), 1);
    daemon.stop();
}
