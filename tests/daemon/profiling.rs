//! Variants are measured beside the service, the unfit are refused with the reason, and all is remembered.

use crate::harness::{Daemon, Setup, copy, eventually, inputs, nothing_but, root, said};
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
        assert!(states.iter().all(|state| *state == VariantState::Quarantined), "{variant}: {model:?}");
        assert!(reasons.iter().all(|reason| !reason.is_empty() && reason.contains(word)), "{reasons:?}");
    }
    for variant in ["base", "int8"] {
        let (states, _, sources) = everywhere(model, variant);
        assert!(states.iter().all(|state| *state != VariantState::Quarantined), "{variant}: {model:?}");
        assert!(sources.iter().all(|source| *source == Some(Provenance::Measured)), "{variant}: {model:?}");
    }
    let table = said(&daemon.ctl(&["models"]));
    assert!(table.contains("quarantined") && table.contains("NaN"), "{table}");
    // Whoever insists on one of them learns that it may not run.
    let inputs = inputs("tests/data/models", "tiny");
    match daemon.ask(nothing_but(&inputs, &[("variant", "nan")])) {
        Err(Reply::Rejected { reason, .. }) => assert_eq!(reason, "no_candidate"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unfit_variants_are_quarantined_and_the_others_serve_meanwhile_and_it_is_all_remembered() {
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

/// What a stored profile says, by variant file and unit; edited as text.
fn edit(setup: &Setup, sha256: &str, unit: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let folder = std::fs::read_dir(setup.state_dir().join("profiles")).unwrap();
    for path in folder.map(|entry| entry.unwrap().path()) {
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if record["key"]["model_sha256"] == sha256 && record["key"]["unit"] == unit {
            change(&mut record);
            return std::fs::write(&path, record.to_string()).unwrap();
        }
    }
    panic!("no profile of {sha256} on {unit}");
}

/// `int8` is kept off all units for its answers to the check set, and everybody is told.
fn is_quarantined_for_its_answers(daemon: &Daemon<'_>, model: &ModelStatus) {
    let (states, reasons, sources) = everywhere(model, "int8");
    assert!(states.iter().all(|state| *state == VariantState::Quarantined), "{model:?}");
    assert!(reasons.iter().all(|reason| reason.contains("of the check set")), "{reasons:?}");
    assert!(sources.iter().all(|source| *source == Some(Provenance::Measured)), "what it takes is shown");
    let told = daemon.status().problems;
    assert!(told.iter().any(|problem| problem.contains("tiny/int8 is quarantined on gpu")), "{told:?}");
    daemon.logs(&["quarantined", "check set"]);
    match daemon.ask(nothing_but(&inputs("tests/data/models", "tiny"), &[("variant", "int8")])) {
        Err(Reply::Rejected { reason, .. }) => assert_eq!(reason, "no_candidate"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_variant_less_accurate_here_than_it_says_is_quarantined_until_it_is_not() {
    let mut setup = tiny();
    let models = setup.path("models");
    copy(&root().join("tests/data/models"), &models);
    setup.set("models.dir", vec![models.display().to_string()]);
    let daemon = setup.start();
    let model = profiled(&daemon);
    let base = &model.variants[0].units;
    assert!(base.iter().all(|unit| unit.check.is_some_and(|check| check.right == check.items)), "{base:?}");
    let metric = |daemon: &Daemon<'_>, name: &str, unit: &str| {
        daemon.metric(&format!("{name}{{model=\"tiny\",variant=\"int8\",unit=\"{unit}\"}}"))
    };
    assert_eq!(metric(&daemon, "wattd_variant_quarantined", "gpu"), Some(0.0));
    daemon.stop();

    // The stored answers are fewer now on all units than the manifest says.
    let manifest = models.join("tiny/model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let int8 = text.split("[[variant]]").nth(2).unwrap();
    let sha256 = int8.lines().find_map(|line| line.strip_prefix("sha256 = ")).unwrap().trim_matches('"');
    let units: Vec<String> = base.iter().map(|unit| unit.unit.clone()).collect();
    let right = |setup: &Setup, unit: &str, part: u64| {
        edit(setup, sha256, unit, |record| {
            let checked = &mut record["result"]["Ok"]["checked"];
            checked["right"] = (checked["items"].as_u64().unwrap() * part / 100).into();
        });
    };
    units.iter().for_each(|unit| right(&setup, unit, 70));
    for _ in 0..2 {
        let daemon = setup.start();
        let model = daemon.model("tiny");
        assert!(!model.profiling, "nothing is left to measure");
        is_quarantined_for_its_answers(&daemon, &model);
        assert_eq!(metric(&daemon, "wattd_variant_quarantined", "gpu"), Some(1.0));
        let accuracy = metric(&daemon, "wattd_check_accuracy_ratio", "gpu").unwrap();
        assert!((0.65..=0.7).contains(&accuracy), "{accuracy}");
        daemon.stop();
    }
    // Where the manifest says that it is no better on this sample, nothing is wrong: judged anew, not measured anew.
    let harder = int8.replace("accuracy = 0.9688", "accuracy = 0.9688\nsample_accuracy = 0.72");
    assert_ne!(int8, harder);
    std::fs::write(&manifest, text.replace(int8, &harder)).unwrap();
    let daemon = setup.start();
    let model = daemon.model("tiny");
    assert!(!model.profiling && everywhere(&model, "int8").0.iter().all(|s| *s != VariantState::Quarantined));
    daemon.stop();
    units.iter().for_each(|unit| right(&setup, unit, 97));
    std::fs::write(&manifest, &text).unwrap();

    // On one unit it was wrong when it was measured; that unit has been mended since.
    right(&setup, "gpu", 0);
    let daemon = setup.start();
    let quarantined = |daemon: &Daemon<'_>| -> Vec<String> {
        let model = daemon.model("tiny");
        let units = model.variants[1].units.iter().filter(|unit| unit.state == VariantState::Quarantined);
        units.map(|unit| unit.unit.clone()).collect()
    };
    assert_eq!(quarantined(&daemon), ["gpu"]);
    let output = daemon.ctl(&["profile", "tiny"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(quarantined(&daemon).is_empty());
    assert_eq!(metric(&daemon, "wattd_variant_quarantined", "gpu"), Some(0.0));
    daemon.infer(nothing_but(&inputs("tests/data/models", "tiny"), &[("variant", "int8")]));
    daemon.stop();
    let daemon = setup.start();
    assert!(quarantined(&daemon).is_empty(), "and that is remembered");
    daemon.stop();
}
