//! Variants are measured beside the service, the unfit are refused with the reason, and all is remembered.

use crate::harness::{Daemon, Setup, eventually, inputs, nothing_but, said};
use wattd::core::catalog::Provenance;
use wattd::ctl::load::target::Reply;
use wattd::ctl::status::{ModelStatus, VariantState};

fn tiny() -> Setup {
    let mut setup = Setup::new();
    setup.models("tests/data/models").set("profile.on_start", true).set("models.load", vec!["tiny"]);
    setup
}

fn profiled(daemon: &Daemon<'_>) -> ModelStatus {
    eventually("the end of profiling", || {
        let model = daemon.model("tiny");
        (!model.profiling).then_some(model)
    })
}

/// What holds for a variant on every unit.
fn everywhere(
    model: &ModelStatus,
    variant: &str,
) -> (Vec<VariantState>, Vec<String>, Vec<Option<Provenance>>) {
    let variant = model.variants.iter().find(|one| one.name == variant).unwrap();
    let mut found = (Vec::new(), Vec::new(), Vec::new());
    for unit in &variant.units {
        found.0.push(unit.state);
        found.1.push(unit.reason.clone().unwrap_or_default());
        found.2.push(unit.latency_source);
    }
    found
}

fn check(daemon: &Daemon<'_>, model: &ModelStatus) {
    for (variant, word) in [("nan", "NaN"), ("far", "")] {
        let (states, reasons, _) = everywhere(model, variant);
        assert!(states.iter().all(|state| *state == VariantState::Refused), "{variant}: {model:?}");
        assert!(reasons.iter().all(|reason| !reason.is_empty() && reason.contains(word)), "{reasons:?}");
    }
    for variant in ["base", "int8"] {
        let (states, _, sources) = everywhere(model, variant);
        assert!(states.iter().all(|state| *state != VariantState::Refused), "{variant}: {model:?}");
        assert!(sources.iter().all(|source| *source == Some(Provenance::Measured)), "{variant}: {model:?}");
    }
    let table = said(&daemon.ctl(&["models"]));
    assert!(table.contains("refused") && table.contains("NaN"), "{table}");
    // Whoever insists on one of them learns that it may not run.
    let inputs = inputs("tests/data/models", "tiny");
    match daemon.ask(nothing_but(&inputs, &[("variant", "nan")])) {
        Err(Reply::Rejected { reason, .. }) => assert_eq!(reason, "no_candidate"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unfit_variants_are_refused_and_the_others_serve_meanwhile_and_it_is_all_remembered() {
    let setup = tiny();
    let daemon = setup.start();
    let inputs = inputs("tests/data/models", "tiny");
    let mut answers = 0;
    let model = eventually("the end of profiling", || {
        daemon.infer(inputs.ask(answers % 16, 1));
        answers += 1;
        let model = daemon.model("tiny");
        (!model.profiling).then_some(model)
    });
    assert!(answers > 1, "served meanwhile");
    check(&daemon, &model);
    // What is served is what was found fit.
    for item in 0..16 {
        assert!(["base", "int8"].contains(&daemon.infer(inputs.ask(item, 1)).served.variant.as_str()));
    }
    daemon.stop();

    let files = || -> std::collections::BTreeMap<_, _> {
        let entries = std::fs::read_dir(setup.state_dir().join("profiles")).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect()
    };
    let stored = files();
    assert_eq!(stored.len(), 4 * model.variants[0].units.len(), "one for each variant and unit");
    let daemon = setup.start();
    let model = daemon.model("tiny");
    assert!(!model.profiling, "nothing is left to measure");
    check(&daemon, &model);
    daemon.stop();
    assert_eq!(files(), stored, "nothing was measured again");

    // A file that is no good is measured anew, the others stay.
    let (victim, _) = stored.first_key_value().unwrap();
    std::fs::write(victim, "{").unwrap();
    let daemon = setup.start();
    daemon.logs(&["stored profile is no good"]);
    check(&daemon, &profiled(&daemon));
    daemon.stop();
    let kept = files();
    assert!(
        kept[victim].len() > 1 && kept.iter().filter(|(path, data)| stored[*path] != **data).count() == 1
    );
}

#[test]
fn wattctl_profile_measures_anew_and_a_stop_does_not_wait_for_it() {
    let mut setup = tiny();
    setup.set("profile.on_start", false);
    let daemon = setup.start();
    assert_eq!(everywhere(&daemon.model("tiny"), "base").2[0], Some(Provenance::Conservative));
    let output = daemon.ctl(&["profile", "tiny"]);
    assert!(output.status.success(), "{}", said(&output));
    check(&daemon, &daemon.model("tiny"));
    let output = daemon.ctl(&["profile", "no-such"]);
    assert!(!output.status.success() && said(&output).contains("no-such"), "{}", said(&output));
    // Clocks that were held for probes are let go of.
    eventually("idle clocks", || {
        let domains = daemon.status().domains;
        domains
            .iter()
            .filter(|domain| domain.name != "emc")
            .all(|domain| domain.khz == domain.min_khz)
            .then_some(())
    });
    daemon.post("/wattd/v1/profile", &serde_json::json!({ "model": "tiny" })).unwrap();
    eventually("the beginning", || daemon.model("tiny").profiling.then_some(()));
    daemon.stop();
}
