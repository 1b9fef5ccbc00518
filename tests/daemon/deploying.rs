//! New versions come while the old one serves: the good take over, the bad are taken back with the reason, and whenever
//! the daemon dies, one version or the other serves.

use crate::harness::{
    Daemon, FOREVER, Inputs, Setup, copy, eventually, inputs, root, said, start_in_namespace, wattctl,
};
use sha2::Digest as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use wattd::core::rollout::Stage;
use wattd::ctl::rollout::{RolloutStatus, Rollouts};
use wattd::units::Ppm;

/// A folder of version `version` of `tiny` with its variants `base` and `int8`; `base` has the bytes of another file.
fn version(setup: &Setup, version: &str, base: &[u8], change: impl Fn(String) -> String) -> PathBuf {
    let folder = setup.path(&format!("new/{version}"));
    copy(&root().join("tests/data/models/tiny"), &folder);
    let text = std::fs::read_to_string(folder.join("model.toml")).unwrap();
    let text = text.split("# Other random weights").next().unwrap();
    let old = std::fs::read(folder.join("base.onnx")).unwrap();
    let hash = |data: &[u8]| hex::encode(sha2::Sha256::digest(data));
    let text = text
        .replace("version = \"1\"", &format!("version = \"{version}\""))
        .replace(&hash(&old), &hash(base))
        .replace(&format!("bytes = {}\n", old.len()), &format!("bytes = {}\n", base.len()));
    std::fs::write(folder.join("base.onnx"), base).unwrap();
    std::fs::write(folder.join("model.toml"), change(text)).unwrap();
    folder
}

/// A manifest without its second variant.
fn base_only(text: String) -> String {
    text.split("[[variant]]\nname = \"int8\"").next().unwrap().to_owned()
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(root().join("tests/data/models/tiny").join(name)).unwrap()
}

fn good(setup: &Setup, name: &str) -> PathBuf {
    version(setup, name, &file("base.onnx"), |text| text)
}

/// A daemon's set-up that serves version 1 of `tiny`, and is soon done with new ones.
fn setup() -> Setup {
    let mut setup = Setup::new();
    let first = good(&setup, "1");
    copy(&first, &setup.path("models/tiny"));
    setup.set("models.dir", vec![setup.path("models").display().to_string()]);
    setup.set("models.load", vec!["tiny"]).set("profile.on_start", true);
    setup.set("journal.enabled", true);
    for (key, value) in
        [("shadow_percent", 100), ("shadow_requests", 10), ("canary_percent", 50), ("canary_requests", 30)]
    {
        setup.set(&format!("deploy.{key}"), value);
    }
    setup
}

/// Starts it, and waits until version 1 is measured.
fn start(setup: &Setup) -> Daemon<'_> {
    let daemon = setup.start();
    eventually("the end of profiling", || (!daemon.model("tiny").profiling).then_some(()));
    daemon
}

fn rollout(daemon: &Daemon<'_>) -> RolloutStatus {
    let rollouts: Rollouts = serde_json::from_str(&daemon.get("/wattd/v1/rollout")).unwrap();
    rollouts.models.into_iter().find(|model| model.model == "tiny").unwrap()
}

fn deploy(daemon: &Daemon<'_>, folder: &Path) -> (bool, String) {
    let output = daemon.ctl(&["deploy", &folder.display().to_string()]);
    (output.status.success(), said(&output))
}

/// A request that only `base` may answer, which labelled the sample: a right version is always right.
fn exact(tensors: &Inputs, item: usize) -> wattd::ctl::load::target::Ask {
    let mut ask = tensors.ask(item, 1);
    ask.min_accuracy = Some(Ppm(1_000_000));
    ask
}

/// Asks all the time while `until` waits; every answer must be right. How many there were.
fn under_load<T>(daemon: &Daemon<'_>, until: impl FnOnce() -> T) -> (T, u64) {
    let tensors = inputs("tests/data/models", "tiny");
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            for item in (0..16).cycle() {
                if stop.load(Relaxed) {
                    return;
                }
                // One that is killed answers nobody.
                let Ok(answer) = daemon.ask(exact(&tensors, item)) else { continue };
                assert_eq!(tensors.right(&answer, item, 1), 1, "item {item}");
                answers.fetch_add(1, Relaxed);
                // The device has spare time, or nothing could run beside.
                std::thread::sleep(std::time::Duration::from_millis(40));
            }
        });
        let result = until();
        stop.store(true, Relaxed);
        result
    });
    (result, answers.into_inner())
}

/// Waits until nothing is on trial; the last step.
fn end(daemon: &Daemon<'_>) -> (Stage, String) {
    let look = || {
        let status = rollout(daemon);
        // After a restart what was on trial is taken up again.
        let ended = status.trial.is_none() && status.steps.last().is_some_and(|step| step.stage.is_end());
        (ended, status)
    };
    let patience = FOREVER.as_millis() / 100;
    let looks = (0..patience).map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        look()
    });
    let Some((_, status)) = looks.into_iter().find(|(ended, _)| *ended) else {
        panic!("the trial does not end: {:?}\n{}", look().1, daemon.log());
    };
    let last = status.steps.last().unwrap().clone();
    (last.stage, last.reason.unwrap_or_default())
}

fn stages(daemon: &Daemon<'_>, version: &str) -> Vec<Stage> {
    let steps = rollout(daemon).steps;
    steps.iter().filter(|step| step.version == version).map(|step| step.stage).collect()
}

#[test]
fn a_good_version_takes_over_under_load_can_be_taken_back_and_is_remembered() {
    let setup = setup();
    let daemon = start(&setup);
    let ((), answers) = under_load(&daemon, || {
        let (accepted, words) = deploy(&daemon, &good(&setup, "2"));
        assert!(accepted, "{words}");
        assert_eq!(end(&daemon), (Stage::Full, String::new()), "{}", daemon.log());
    });
    assert!(answers > 40, "only {answers} answers");
    assert_eq!(stages(&daemon, "2"), Stage::ALL[..6]);
    let status = rollout(&daemon);
    assert_eq!((status.version.as_deref(), status.previous.as_deref()), (Some("2"), Some("1")));
    assert_eq!(daemon.model("tiny").version, "2");
    assert!(daemon.model("tiny").folder.unwrap().ends_with("versions/tiny/2"));
    let metric = |stage: &str| {
        daemon.metric(&format!("wattd_rollout_steps_total{{model=\"tiny\",version=\"2\",stage=\"{stage}\"}}"))
    };
    assert_eq!(["load", "profile", "shadow", "canary", "full"].map(metric), [Some(1.0); 5]);
    daemon.logs(&["new version moves on", "canary"]);
    let table = said(&daemon.ctl(&["rollout"]));
    assert!(table.contains("tiny 2: full"), "{table}");
    // The same again is no new version; nor is one that is kept.
    assert!(deploy(&daemon, &good(&setup, "2")).1.contains("version 2 of tiny serves already"));
    daemon.stop();

    // Every step replays.
    let journal = setup.path("journal/events.jsonl");
    let replayed = said(&wattctl(["replay".as_ref(), "--effects".as_ref(), journal.as_os_str()]));
    for stage in ["load", "profile", "shadow", "canary", "full"] {
        assert!(replayed.contains(&format!("\"stage\":\"{stage}\"")), "{stage}: {replayed}");
    }

    // After a restart it serves still, and the version before can be had again.
    let daemon = start(&setup);
    assert_eq!(daemon.model("tiny").version, "2");
    let ((), _) = under_load(&daemon, || {
        let output = daemon.ctl(&["deploy", "--rollback", "tiny"]);
        assert!(output.status.success(), "{}", said(&output));
    });
    let status = rollout(&daemon);
    assert_eq!((status.version.as_deref(), status.previous.as_deref()), (Some("1"), Some("2")));
    daemon.stop();
    let daemon = start(&setup);
    assert_eq!(daemon.model("tiny").version, "1");
    daemon.stop();
}

#[test]
fn bad_versions_are_taken_back_with_the_reason_and_no_client_sees_them() {
    let setup = setup();
    let daemon = start(&setup);
    let cases = [
        (
            version(&setup, "drift", &file("far.onnx"), |text| text),
            Stage::Shadow,
            "is far from the reference",
        ),
        (version(&setup, "nan", &file("nan.onnx"), base_only), Stage::Profile, "the profiler refused"),
    ];
    for (folder, last, words) in cases {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let ((stage, reason), _) = under_load(&daemon, || {
            deploy(&daemon, &folder);
            end(&daemon)
        });
        assert_eq!(stage, Stage::RolledBack, "{name}: {}", said(&daemon.ctl(&["rollout"])));
        assert!(reason.contains(words), "{name}: no `{words}` in {reason}");
        let before = stages(&daemon, &name);
        assert_eq!(before[before.len() - 2], last, "{name}: {before:?} {reason}");
        assert_eq!(daemon.model("tiny").version, "1");
        assert!(!setup.state_dir().join("versions/tiny").join(&name).exists(), "nothing is left of {name}");
    }
    daemon.stop();
}

#[test]
fn what_cannot_be_a_version_is_refused_with_what_would_be_right() {
    let setup = setup();
    let daemon = start(&setup);
    let garbage = version(&setup, "garbage", b"no graph at all", base_only);
    let damaged = good(&setup, "damaged");
    std::fs::write(damaged.join("int8.onnx"), "other bytes").unwrap();
    let other = version(&setup, "other", &file("base.onnx"), |text| {
        text.replace("shape = [-1, 4]", "shape = [-1, 5]")
    });
    let escape = version(&setup, "escape", &file("base.onnx"), |text| {
        text.replace("file = \"int8.onnx\"", "file = \"../1/int8.onnx\"")
    });
    let cases = [
        (setup.path("nowhere"), "nowhere"),
        (good(&setup, "1"), "version 1 of tiny serves already: give the new one another `version`"),
        (escape, "must be a relative path inside the model's folder"),
        (damaged, "variant[1].bytes"),
        (other, "clients would be answered wrongly"),
        (garbage, "none of its variants could be loaded"),
    ];
    for (folder, words) in cases {
        let output = daemon.ctl(&["deploy", &folder.display().to_string(), "--wait", "1m"]);
        assert!(!output.status.success() && said(&output).contains(words), "{words}: {}", said(&output));
        assert_eq!(daemon.model("tiny").version, "1");
    }
    let output = daemon.ctl(&["deploy", "--rollback", "tiny"]);
    assert!(said(&output).contains("no other version is kept"), "{}", said(&output));
    // A model that is new has nothing to be compared with.
    let stranger = version(&setup, "7", &file("base.onnx"), |text| {
        text.replace("name = \"tiny\"", "name = \"stranger\"")
    });
    let output = daemon.ctl(&["deploy", &stranger.display().to_string(), "--wait", "1m"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut ask = inputs("tests/data/models", "tiny").ask(0, 1);
    ask.model = "stranger".to_owned();
    daemon.infer(ask.clone());
    daemon.stop();
    let daemon = setup.start();
    daemon.infer(ask);
    assert_eq!(daemon.model("stranger").version, "7");
    daemon.stop();
}

#[test]
fn of_two_at_once_the_second_is_refused_and_an_operator_can_take_back_the_first() {
    let setup = setup();
    let daemon = start(&setup);
    // Nobody asks for anything: it waits for requests to compare.
    assert!(deploy(&daemon, &good(&setup, "2")).0);
    eventually("its shadow stage", || rollout(&daemon).trial.filter(|trial| trial.stage == Stage::Shadow));
    let (accepted, words) = deploy(&daemon, &good(&setup, "3"));
    assert!(!accepted && words.contains("version 2 of tiny is on trial, in stage shadow"), "{words}");
    let output = daemon.ctl(&["deploy", "--rollback", "tiny"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(end(&daemon), (Stage::RolledBack, "an operator took it back".to_owned()));
    assert!(deploy(&daemon, &good(&setup, "3")).0);
    daemon.stop();

    // A stop is no crash: it goes on.
    let daemon = start(&setup);
    let ((), _) = under_load(&daemon, || assert_eq!(end(&daemon).0, Stage::Full));
    assert_eq!(daemon.model("tiny").version, "3");
    daemon.stop();
}

#[test]
fn whenever_it_is_killed_one_version_or_the_other_serves() {
    let setup = setup();
    let stages = [Stage::Verify, Stage::Load, Stage::Profile, Stage::Shadow, Stage::Canary];
    for (round, wanted) in stages.into_iter().enumerate() {
        let daemon = start(&setup);
        let before = daemon.model("tiny").version;
        let next = format!("k{round}");
        let folder = good(&setup, &next);
        let ((), _) = under_load(&daemon, || {
            let order = serde_json::json!({ "folder": folder });
            daemon.post("/wattd/v1/deploy", &order).unwrap();
            eventually("its stage, or a later one", || {
                rollout(&daemon).trial.is_none_or(|trial| trial.stage >= wanted).then_some(())
            });
            daemon.signal(nix::sys::signal::Signal::SIGKILL);
        });
        daemon.kill();
        let daemon = start(&setup);
        if rollout(&daemon).steps.iter().all(|step| step.version != next) {
            // It had not even been written down that it came.
            assert_eq!(daemon.model("tiny").version, before);
            daemon.stop();
            continue;
        }
        let ((stage, reason), _) = under_load(&daemon, || end(&daemon));
        let now = daemon.model("tiny").version;
        match stage {
            Stage::Full => assert_eq!(now, next),
            Stage::RolledBack => {
                assert_eq!(now, before, "{reason}");
                assert!(reason.contains("the daemon ended"), "{reason}");
            }
            other => panic!("{other:?} {reason}"),
        }
        let left = std::fs::read_dir(setup.state_dir().join("versions/tiny")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.len() <= 3 && !left.contains(&".incoming".to_owned()), "{left:?}");
        daemon.stop();
    }
}

/// As it is found after the process died while the version was loaded, whatever killed it.
#[test]
fn a_version_that_crashes_the_daemon_at_its_loading_is_not_loaded_again() {
    let setup = setup();
    let daemon = start(&setup);
    assert!(deploy(&daemon, &good(&setup, "2")).0);
    eventually("its shadow stage", || rollout(&daemon).trial.filter(|trial| trial.stage == Stage::Shadow));
    daemon.kill();
    let state = setup.state_dir().join("versions/tiny/state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(text.contains("\"stage\": \"shadow\",\n    \"deaths\""), "{text}");
    let crashed =
        text.replace("\"stage\": \"shadow\",\n    \"deaths\"", "\"stage\": \"load\",\n    \"deaths\"");
    std::fs::write(&state, crashed).unwrap();
    let daemon = start(&setup);
    let (stage, reason) = end(&daemon);
    assert_eq!(stage, Stage::RolledBack);
    assert!(reason.contains("the daemon ended unexpectedly in stage load"), "{reason}");
    assert_eq!(daemon.model("tiny").version, "1");
    let folder = setup.state_dir().join("versions/tiny/2");
    eventually("its removal", || (!folder.exists()).then_some(()));
    daemon.stop();
}

#[test]
fn a_full_disk_is_named_and_nothing_is_lost() {
    let mut setup = setup();
    setup.set("profile.on_start", false);
    let folder = good(&setup, "2");
    let shell = r#"mkdir -p "$DIR/state/versions"; mount -t tmpfs -o size=16k none "$DIR/state/versions"
                  exec "$@""#;
    let Some(mut daemon) = start_in_namespace(&setup, shell) else { return };
    daemon.becomes_ready();
    let (accepted, words) = deploy(&daemon, &folder);
    assert!(!accepted && words.contains("No space left on device"), "{words}");
    assert_eq!(daemon.model("tiny").version, "1");
    daemon.infer(inputs("tests/data/models", "tiny").ask(0, 1));
    daemon.stop();
}
