//! What variants may hold in memory, and what is told of what there is no room for.

use crate::harness::{Setup, eventually, inputs, nothing_but, said};
use nix::sys::signal::Signal;
use wattd::ctl::load::target::Reply;
use wattd::ctl::status::VariantState;

#[test]
fn what_takes_more_than_the_cap_is_refused_with_both_figures_until_the_cap_is_raised() {
    let mut setup = Setup::new();
    setup.models("tests/data/models").set("memory.cap_mb", 5);
    let daemon = setup.start();
    let load = || daemon.post("/v2/repository/models/tiny/load", &serde_json::json!({}));
    // A session is taken to need 8 MiB besides its weights.
    let refused = load().unwrap_err();
    assert!(refused.contains("takes 8.4 MB") && refused.contains("may hold 5.0 MB"), "{refused}");
    let units = |variant: usize| daemon.model("tiny").variants[variant].units.clone();
    for unit in units(0) {
        assert_eq!(unit.state, VariantState::TooLarge);
        let reason = unit.reason.unwrap();
        assert!(reason.contains("8.4 MB") && reason.contains("5.0 MB"), "{reason}");
    }
    let table = said(&daemon.ctl(&["models"]));
    assert!(table.contains("too-large") && table.contains("8.4 MB"), "{table}");
    let inputs = inputs("tests/data/models", "tiny");
    match daemon.ask(nothing_but(&inputs, &[])) {
        Err(Reply::Rejected { reason, .. }) => assert_eq!(reason, "not_resident"),
        other => panic!("{other:?}"),
    }
    let told = daemon.status().problems;
    assert!(told.iter().any(|problem| problem.contains("8.4 MB") && problem.contains("5.0 MB")), "{told:?}");
    assert_eq!(daemon.metric("wattd_memory_cap_bytes"), Some(5e6));

    let text = std::fs::read_to_string(setup.file()).unwrap();
    assert!(text.contains("cap_mb = 5\n"), "{text}");
    std::fs::write(setup.file(), text.replace("cap_mb = 5\n", "cap_mb = 100\n")).unwrap();
    daemon.signal(Signal::SIGHUP);
    eventually("the new cap", || (daemon.status().memory?.cap == 100_000_000).then_some(()));
    load().unwrap();
    daemon.infer(nothing_but(&inputs, &[]));
    assert!(daemon.status().problems.is_empty());
    daemon.stop();
}
