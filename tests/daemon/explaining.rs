//! What was decided about a request is explained, while the daemon runs and afterwards.

use crate::harness::{Daemon, Setup, eventually, inputs, nothing_but, said, wattctl};
use serde_json::Value;
use std::ffi::OsString;
use std::path::PathBuf;
use wattd::ctl::load::target::Reply;

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.set("journal.enabled", true);
    setup
}

/// `wattctl explain ... --json` with a daemon; it must succeed.
fn live(daemon: &Daemon<'_>, which: &str) -> Value {
    let output = daemon.ctl(&["explain", which, "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same from a file alone.
fn offline(journal: &PathBuf, which: &str) -> Result<Value, String> {
    let arguments: [OsString; 5] =
        ["explain".into(), which.into(), "--json".into(), "--journal".into(), journal.into()];
    let output = wattctl(arguments);
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(said(&output))
    }
}

fn refused(daemon: &Daemon<'_>, wishes: &[(&str, &str)]) -> (String, u64) {
    let fashion = inputs("config/models", "fashion");
    match daemon.ask(nothing_but(&fashion, wishes)) {
        Err(Reply::Rejected { reason, request, .. }) => {
            (reason, request.expect("a refusal carries its id").get())
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_request_is_explained_by_its_id_while_the_daemon_runs_and_after_it_has_gone() {
    let setup = setup();
    let daemon = setup.start();
    let fashion = inputs("config/models", "fashion");
    let answers: Vec<_> = (0..8).map(|item| daemon.infer(fashion.ask(item, 1))).collect();
    let answer = answers.last().unwrap();
    let id: u64 = answer.parameters["request_id"].parse().unwrap();

    let explained = live(&daemon, "last");
    assert_eq!(explained["request"]["id"], id);
    let outcome = &explained["outcome"];
    assert_eq!(outcome["how"], "served");
    for key in ["variant", "unit", "energy_source"] {
        assert_eq!(outcome[key], answer.parameters[key], "{explained:#}");
    }
    for key in ["clock_khz", "queue_us", "compute_us", "energy_uj"] {
        assert_eq!(outcome[key].to_string(), answer.parameters[key], "{explained:#}");
    }
    // What ran is what was chosen, and ran as the response says.
    let decision = explained["decisions"].as_array().unwrap().last().unwrap();
    let chosen = &decision["candidates"][0];
    assert_eq!((&decision["decided"], &chosen["ruling"]), (&"run".into(), &"chosen".into()), "{explained:#}");
    let run = explained["runs"].as_array().unwrap().first().unwrap();
    assert_eq!((&chosen["variant"], &chosen["latency_us"]), (&run["variant"], &run["expected_us"]));
    assert_eq!(run["to_us"].as_i64().unwrap(), outcome["at_us"].as_i64().unwrap(), "{explained:#}");
    // By the eighth answer the guess has become an estimate.
    assert_eq!(chosen["guess"], false, "{explained:#}");
    assert!(decision["candidates"].as_array().unwrap().len() > 1 && decision["binding"].is_string());

    // The first waited for a variant to be loaded, or, where the machine was so slow that one was when it came, for the
    // profiler at most.
    let first = live(&daemon, &answers[0].parameters["request_id"]);
    let known = |wait: &Value| ["load", "all_busy", "unit"].iter().any(|what| wait["for_what"] == *what);
    assert!(first["waits"].as_array().unwrap().iter().all(known), "{first:#}");

    let people = said(&daemon.ctl(&["explain", &id.to_string()]));
    for word in
        [format!("Request {id}: model fashion"), "Served".into(), "chosen".into(), "What happened".into()]
    {
        assert!(people.contains(&word), "no {word:?} in\n{people}");
    }
    daemon.stop();

    let journal = setup.path("journal/events.jsonl");
    let after = offline(&journal, &id.to_string()).unwrap();
    assert_eq!(after["checked"], true, "the journal was closed with a check");
    for part in ["request", "outcome", "decisions", "runs", "verdict"] {
        assert_eq!(after[part], explained[part], "the same whether the daemon is there or not");
    }
    let unknown = offline(&journal, "4711").unwrap_err();
    assert!(unknown.contains("no request 4711; it has requests 1 to 8"), "{unknown}");

    // The next daemon begins to count anew; what was before it is beside its own.
    let daemon = setup.start();
    let output = daemon.ctl(&["explain", &id.to_string()]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("it has no request") && text.contains("events.jsonl.1"), "{text}");
    assert_eq!(offline(&setup.path("journal/events.jsonl.1"), "last").unwrap()["request"]["id"], id);
    daemon.stop();
}

#[test]
fn a_refusal_is_explained_with_its_figures() {
    let setup = setup();
    let daemon = setup.start();
    let fashion = inputs("config/models", "fashion");
    (0..4).for_each(|item| drop(daemon.infer(fashion.ask(item, 1))));

    let (reason, id) = refused(&daemon, &[("deadline_us", "40")]);
    assert_eq!(reason, "deadline_unreachable");
    let explained = live(&daemon, "late");
    assert_eq!(explained["request"]["id"], id);
    assert_eq!(
        (&explained["outcome"]["reason"], &explained["outcome"]["at_us"]),
        (&reason.into(), &0.into())
    );
    let admission = &explained["admission"];
    let fastest = admission["fastest"].as_array().unwrap().iter();
    let fastest = fastest.map(|unit| unit["latency_us"].as_u64().unwrap()).min().unwrap();
    assert!(fastest > 40 && admission["late_us"].as_u64().unwrap() > 0, "{admission:#}");
    assert!(!admission["candidates"].as_array().unwrap().is_empty(), "{admission:#}");

    let (_, id) = refused(&daemon, &[("min_accuracy_ppm", "990000")]);
    let explained = live(&daemon, "last");
    assert_eq!(explained["request"]["id"], id);
    let excluded = explained["admission"]["excluded"].as_array().unwrap();
    assert!(excluded.iter().all(|out| out["why"] == "below_floor") && !excluded.is_empty(), "{explained:#}");
    let sentence = explained["verdict"][1].as_str().unwrap();
    assert!(sentence.contains("99.00 %"), "{sentence}");

    let (_, id) = refused(&daemon, &[("max_energy_uj", "1")]);
    let explained = live(&daemon, &id.to_string());
    assert_eq!(explained["outcome"]["reason"], "energy_unreachable");
    let sentence = explained["verdict"][1].as_str().unwrap();
    assert!(sentence.starts_with("It allowed 1 µJ; the cheapest that would do costs "), "{sentence}");

    // The tool shows the id that it takes.
    let output = daemon.ctl(&["infer", "fashion", "--sample", "0", "--min-accuracy", "0.99"]);
    let text = said(&output);
    assert!(!output.status.success() && text.contains(&format!("(request_id {})", id + 1)), "{text}");
    daemon.stop();
}

#[test]
fn without_a_journal_it_says_how_to_keep_one() {
    let setup = Setup::new();
    let daemon = setup.start();
    let output = daemon.ctl(&["explain", "last"]);
    let text = said(&output);
    assert!(!output.status.success() && text.contains("enabled = true in [journal]"), "{text}");
    let missing = offline(&setup.path("journal/events.jsonl"), "last").unwrap_err();
    assert!(missing.contains("events.jsonl") && missing.contains("No such file"), "{missing}");
    daemon.stop();
}

#[test]
fn a_journal_that_is_full_goes_on_in_a_new_file() {
    let mut setup = setup();
    setup.set("journal.limit_mb", 1).set("board.sample_period_ms", 10);
    let daemon = setup.start();
    let fashion = inputs("config/models", "fashion");
    daemon.infer(fashion.ask(0, 1));
    let journal = setup.path("journal/events.jsonl");
    let before = setup.path("journal/events.jsonl.1");
    eventually("a second file", || before.exists().then_some(()));
    daemon.infer(fashion.ask(1, 1));
    for id in ["1", "2"] {
        let output = daemon.ctl(&["explain", id, "--json"]);
        assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
        let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(explained["request"]["id"].to_string(), id);
    }
    for file in [&before, &journal] {
        let output = daemon.ctl(&["replay", &file.display().to_string()]);
        assert!(output.status.success(), "{}", said(&output));
    }
    daemon.stop();
}
