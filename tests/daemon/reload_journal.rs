//! A reload takes over what it can and says what it cannot; the journal replays to the same decisions.

use crate::harness::{Daemon, Setup, eventually, inputs, nothing_but, said, wattctl};
use nix::sys::signal::Signal;
use wattd::ctl::load::target::Reply;

#[test]
fn a_reload_takes_over_budgets_and_classes_and_names_what_needs_a_restart() {
    let setup = Setup::new();
    let daemon = setup.start();
    let fashion = inputs("config/models", "fashion");
    assert!(daemon.ask(nothing_but(&fashion, &[("class", "strict")])).is_err());
    let file = setup.file();
    let text = std::fs::read_to_string(&file).unwrap();
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        daemon.signal(Signal::SIGHUP);
    };

    let mut table: toml::Table = text.parse().unwrap();
    table["budget"]["queue_limit"] = 17.into();
    table["socket"]["max_message_mb"] = 3.into();
    table["log"]["level"] = "debug".into();
    let strict = toml::toml! { name = "strict" min_accuracy = 0.999 };
    table["class"].as_array_mut().unwrap().push(strict.into());
    reload(&toml::to_string(&table).unwrap());
    daemon.logs(&["need a restart", "socket.max_message_mb"]);
    let line = daemon.logs(&["configuration reloaded", "budget.queue_limit", "log.level"]);
    assert!(!line.contains("max_message"), "{line}");
    assert_eq!(daemon.status().queue.limit, 17);
    assert!(daemon.status().classes.iter().any(|class| class.name == "strict"));
    match daemon.ask(nothing_but(&fashion, &[("class", "strict")])) {
        Err(Reply::Rejected { reason, .. }) => assert_eq!(reason, "accuracy_unreachable"),
        other => panic!("{other:?}"),
    }
    let refused = r#"wattd_requests_total{model="fashion",class="strict",outcome="rejected"}"#;
    assert_eq!(daemon.metric(refused), Some(1.0), "{}", daemon.get("/metrics"));

    // A bad file changes nothing, whatever else is in it.
    table["budget"]["queue_limit"] = 18.into();
    table["budget"]["app_limit"] = (-1).into();
    reload(&toml::to_string(&table).unwrap());
    let log = daemon.logs(&["budget.app_limit", "-1"]);
    assert!(log.contains("wattd.toml:"), "names file and line: {log}");
    assert_eq!(daemon.status().queue.limit, 17);
    reload("[[[");
    daemon.logs(&["not TOML"]);
    daemon.infer(fashion.ask(0, 1));

    // What has gone is gone, for requests and for metrics.
    reload(&text);
    eventually("the old limit", || (daemon.status().queue.limit == 256).then_some(()));
    assert!(daemon.ask(nothing_but(&fashion, &[("class", "strict")])).is_err());
    daemon.infer(fashion.ask(0, 1));
    daemon.stop();
}

#[test]
fn a_reload_in_the_middle_of_traffic_loses_nothing() {
    let setup = Setup::new();
    let daemon = setup.start();
    let fashion = inputs("config/models", "fashion");
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            for item in 0..40 {
                daemon.infer(nothing_but(
                    &fashion,
                    &[("class", if item % 2 == 0 { "interactive" } else { "default" })],
                ));
            }
        });
        while !client.is_finished() {
            daemon.signal(Signal::SIGHUP);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    assert_eq!(daemon.status().counters.served, 40);
    daemon.stop();
}

fn traffic(daemon: &Daemon<'_>) {
    let fashion = inputs("config/models", "fashion");
    for item in 0..30 {
        daemon.infer(fashion.ask(item, 1 + item % 3));
    }
    let _ = daemon.ask(nothing_but(&fashion, &[("deadline_us", "1")]));
    let _ = daemon.ask(nothing_but(&fashion, &[("min_accuracy_ppm", "990000")]));
    daemon.signal(Signal::SIGHUP);
    daemon.logs(&["configuration reloaded"]);
}

/// Events, checks that agreed, and all that the tool said.
fn replay(setup: &Setup, file: &str) -> (u64, u64, String) {
    let output = wattctl([std::ffi::OsString::from("replay"), setup.path("journal").join(file).into()]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let number_before = |word: &str| -> u64 {
        text.split(word).next().unwrap().split_whitespace().next_back().unwrap().parse().unwrap()
    };
    (number_before(" events gave"), number_before(" checks agree"), text)
}

#[test]
fn a_journal_of_real_traffic_replays_to_the_same_effects() {
    let mut setup = Setup::new();
    setup.set("journal.enabled", true).set("profile.on_start", true);
    setup.set("models.load", vec!["fashion"]);
    let daemon = setup.start();
    traffic(&daemon);
    let served = daemon.status().counters.served;
    // Enough for a check in between, too.
    eventually("256 events", || {
        (daemon.metric("wattd_decision_duration_seconds_count")? > 256.0).then_some(())
    });
    daemon.stop();
    let (events, checks, text) = replay(&setup, "events.jsonl");
    assert!(events > 256 && checks >= 2, "{text}");
    assert!(text.contains(&format!("({served} served, 2 turned away)")), "{served}: {text}");
    assert!(!text.contains("cut off"), "{text}");

    // A changed event is noticed.
    let path = setup.path("journal/events.jsonl");
    let journal = std::fs::read_to_string(&path).unwrap();
    let at = journal.find("\"submit\"").unwrap();
    let forged = format!("{}{}", &journal[..at], journal[at..].replacen("\"items\":1", "\"items\":7", 1));
    std::fs::write(&path, forged).unwrap();
    let output = wattctl([std::ffi::OsStr::new("replay"), path.as_os_str()]);
    assert!(!output.status.success() && said(&output).contains("differ"), "{}", said(&output));
}

#[test]
fn a_journal_that_a_kill_cut_off_replays_as_far_as_it_goes() {
    let mut setup = Setup::new();
    setup.set("journal.enabled", true);
    let daemon = setup.start();
    traffic(&daemon);
    let path = setup.path("journal/events.jsonl");
    // Lines reach the file in blocks: some must be there before the kill.
    eventually("a journal on disk", || (std::fs::metadata(&path).ok()?.len() > 40_000).then_some(()));
    daemon.kill();
    let (events, _, _) = replay(&setup, "events.jsonl");
    assert!(events > 10, "{events}");
    // The next daemon keeps it beside its own.
    let daemon = setup.start();
    daemon.stop();
    assert_eq!(replay(&setup, "events.jsonl.1").0, events);
    assert!(!replay(&setup, "events.jsonl").2.contains("cut off"));
    // However it is cut, what is whole is replayed.
    let whole = std::fs::read(setup.path("journal/events.jsonl.1")).unwrap();
    let header = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in [header, header + 1, (header + whole.len()) / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(replay(&setup, "events.jsonl").0 <= events);
    }
    std::fs::write(&path, &whole[..header / 2]).unwrap();
    let output = wattctl([std::ffi::OsStr::new("replay"), path.as_os_str()]);
    assert!(!output.status.success() && said(&output).contains("line 1"), "{}", said(&output));
}
