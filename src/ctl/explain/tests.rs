//! Explanations of requests on a simulated board in virtual time, against what its plant says happened.

use super::*;
use crate::board::BoardSpec;
use crate::board::sim::{Change, Script};
use crate::core::Core;
use crate::core::energy::{Budgets, ClassBudget, Objective};
use crate::core::event::{Effect, Event, Outcome};
use crate::core::plan::Ruling;
use crate::journal::{self, Recorder};
use crate::model::manifest;
use crate::sim::{
    Arrivals, Machine, Row as Fact, Scheduler, SimModel, Stream, Workload, World, WorldOptions,
};
use crate::time::Timestamp;
use crate::units::{Bytes, MilliCelsius, Nanos, Ppm};
use std::cell::RefCell;
use std::collections::BTreeSet;

const SEED: u64 = 7;

/// A core with its recorder, as the daemon has it.
struct Recorded {
    core: Core,
    recorder: RefCell<Recorder>,
    events: u64,
}

impl Scheduler for Recorded {
    fn handle(&mut self, now: Timestamp, event: Event) {
        let recorder = self.recorder.get_mut();
        self.events += 1;
        if self.events.is_multiple_of(64) {
            // The writer says in its own time when a file is full: virtual time would run away from it.
            recorder.flush().blocking_recv().unwrap();
        }
        recorder.roll_if_full(now, &self.core);
        recorder.event(now, &event);
        self.core.handle(now, event);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        let effect = self.core.poll_effect()?;
        self.recorder.borrow_mut().effect(&effect);
        Some(effect)
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        self.core.next_wakeup()
    }
}

fn machine() -> Machine {
    let text = include_str!("../../../config/boards/jetson-tx2.toml");
    let board = BoardSpec::parse(text, Path::new("tx2")).unwrap();
    let text = include_str!("../../../config/models/fashion/model.toml");
    let model = SimModel::of(&manifest::parse(Path::new("model.toml"), text).manifest.unwrap());
    Machine::new(&board, &[model], SEED).unwrap()
}

fn budgets() -> Budgets {
    Budgets {
        objective: Objective::LeastEnergy,
        power_cap: None,
        power_window: Nanos::from_secs(10),
        energy: None,
        battery: None,
        max_temperature: None,
        temperature_margin: MilliCelsius(3_000),
        memory_cap: Bytes(512 << 20),
        queue_limit: 6,
        app_limit: 64,
        unload_after: None,
        stale_after: Nanos::from_secs(1),
        classes: vec![ClassBudget {
            name: "camera".into(),
            latency: Nanos::from_millis(12),
            min_accuracy: Ppm::from_fraction(0.85),
            accuracy_target: Some(Ppm::from_fraction(0.93)),
            priority: 10,
            energy_per_request: None,
            power: None,
            rescue: true,
        }],
    }
}

/// A recorded run: its folder, its journal, and what the world says of each request.
struct Day {
    _folder: tempfile::TempDir,
    journal: PathBuf,
    facts: Vec<Fact>,
}

fn day(streams: Vec<Stream>, script: &Script, seconds: u64) -> Day {
    day_in_files_of(1 << 30, streams, script, seconds)
}

fn day_in_files_of(limit_bytes: u64, streams: Vec<Stream>, script: &Script, seconds: u64) -> Day {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("events.jsonl");
    let (machine, budgets) = (machine(), budgets());
    let header = journal::header(Timestamp::ZERO, machine.catalog.clone(), budgets.clone());
    let recorder = RefCell::new(Recorder::create(&journal, limit_bytes, &header).unwrap());
    let core = Core::new(machine.catalog.clone(), budgets.clone(), Timestamp::ZERO);
    let options = WorldOptions { seed: SEED, rows: true, ..WorldOptions::default() };
    let workload = Workload::new(streams, SEED);
    let mut world = World::new(Recorded { core, recorder, events: 0 }, &machine, &budgets, workload, options);
    world.play(script);
    world.run_until(Timestamp::ZERO.after(Nanos::from_secs(seconds)));
    assert!(world.drain(Nanos::from_secs(5)), "it comes to rest");
    Day { facts: world.rows().to_vec(), journal, _folder: folder }
}

fn still() -> Script {
    Script::of(Vec::new())
}

/// From the second second on, when everything is loaded.
fn stream(arrivals: Arrivals, seconds: u64) -> Stream {
    let from = Timestamp::ZERO.after(Nanos::from_secs(1));
    Stream { from, ..Stream::plain(arrivals, Nanos::from_secs(seconds)) }
}

fn bursts(size: u32) -> Arrivals {
    Arrivals::Bursts { every: Nanos::from_millis(100), size }
}

impl Day {
    fn explain(&self, id: u64) -> Explained {
        explain(&self.journal, Which::Id(id), true).unwrap()
    }

    fn find(&self, what: &str, wanted: impl Fn(&Fact) -> bool) -> &Fact {
        self.facts.iter().find(|fact| wanted(fact)).unwrap_or_else(|| panic!("seed {SEED}: none is {what}"))
    }
}

fn us(fact: &Fact, at: Timestamp) -> i64 {
    i64::try_from(at.since(fact.arrival).as_micros()).unwrap()
}

/// What must hold of every explanation.
fn agrees(explained: &Explained, fact: &Fact) {
    let what = || format!("seed {SEED}: {fact:?}\n{explained:#?}");
    assert!(explained.checked && !explained.torn, "{}", what());
    assert_eq!(explained.request.id, fact.request.0);
    assert_eq!(explained.request.deadline_us, fact.deadline.since(fact.arrival).as_micros(), "{}", what());
    match (fact.outcome, explained.outcome.as_ref().expect("an end")) {
        (Outcome::Served(served), Ended::Served { at_us, missed, rescued, energy_uj, queue_us, .. }) => {
            assert_eq!(*at_us, us(fact, fact.answered), "{}", what());
            assert_eq!((*missed, *rescued), (served.missed, served.rescued), "{}", what());
            assert_eq!((*energy_uj, *queue_us), (served.energy.0, served.queue.as_micros()), "{}", what());
            let run = fact.run.expect("a run");
            let last =
                explained.runs.iter().find(|run| run.to_us == Some(*at_us)).expect("the run that answered");
            let raised = last.raised.as_ref().map_or(last.clock_khz, |raised| raised.clock_khz);
            assert_eq!(raised, served.clock.0, "{}", what());
            assert_eq!(last.from_us, Some(us(fact, run.started)), "{}", what());
        }
        (Outcome::Rejected { reason, .. }, Ended::Rejected { reason: said, at_us, .. }) => {
            assert_eq!((reason.name(), us(fact, fact.answered)), (*said, *at_us), "{}", what());
        }
        (outcome, ended) => panic!("{outcome:?} is no {ended:?}"),
    }
    decisions_agree(explained, &what);
    // Every moment in the queue is accounted for.
    if let [first, ..] = explained.runs.as_slice() {
        let waited: u64 = explained.waits.iter().map(|wait| wait.span_us).sum();
        let parts = u64::try_from(explained.waits.len()).unwrap();
        let until = u64::try_from(first.at_us).unwrap();
        assert!(explained.runs.len() > 1 || waited.abs_diff(until) <= parts, "{}", what());
    }
    assert!(!explained.verdict.is_empty() && !text(explained).contains("NaN"), "{}", what());
}

/// The choice is the only one that says so, comes first, and is what ran.
fn decisions_agree(explained: &Explained, what: &dyn Fn() -> String) {
    for decision in explained.decisions.iter().filter(|decision| decision.decided == "run") {
        let rows = &decision.offer.candidates;
        let chosen: Vec<&Row> = rows.iter().filter(|row| row.ruling == Ruling::Chosen).collect();
        assert!(chosen.len() == 1 && std::ptr::eq(chosen[0], &rows[0]), "{}", what());
        let run = explained.runs.iter().find(|run| run.at_us == decision.at_us).expect("its run");
        let (row, said) =
            (chosen[0], (&run.variant, &run.unit, run.clock_khz, run.expected_us, run.reserved_uj));
        assert_eq!(
            said,
            (&row.variant, &row.unit, row.clock_khz, row.latency_us, row.energy_uj),
            "{}",
            what()
        );
        assert_eq!((&decision.batch, row.requests), (&run.requests, run.requests.len()), "{}", what());
        assert!(decision.batch.contains(&explained.request.id), "{}", what());
        for row in rows {
            assert!((0.0..=1.0).contains(&row.miss) && (0.0..=1.0).contains(&row.accuracy), "{}", what());
            assert!(row.latency_us > 0 && !row.why.is_empty(), "{}", what());
        }
    }
}

/// Some thirty files, of which two are kept: each replays by itself, and both together are one record.
#[test]
fn a_long_record_goes_on_in_new_files() {
    let day = day_in_files_of(70_000, vec![stream(bursts(5), 12)], &still(), 12);
    let before = journal::previous(&day.journal);
    let replayed = [&before, &day.journal].map(|file| journal::replay(file, |_, _| {}).unwrap());
    assert!(replayed.iter().all(|file| file.events > 0 && file.checks > 0 && !file.torn), "{replayed:?}");
    let mut events = 0;
    journal::read(&day.journal, |_, _, _| events += 1).unwrap();
    assert_eq!(events, replayed.iter().map(|file| file.events).sum::<u64>());
    assert!(journal::resumes(&before).unwrap() && journal::resumes(&day.journal).unwrap());

    // Some, since each is a replay; the last one came after the first of the two files.
    let some: Vec<&Fact> = day.facts.iter().step_by(25).chain(day.facts.last()).collect();
    let has = |file: &Path, fact: &Fact| explain(file, Which::Id(fact.request.0), false).is_ok();
    let kept: Vec<&Fact> = some.iter().copied().filter(|fact| has(&day.journal, fact)).collect();
    assert!(kept.len() > 2 && kept.len() < some.len() / 2, "{} of {}", kept.len(), some.len());
    let first = kept.iter().filter(|fact| has(&before, fact)).count();
    assert!((1..kept.len()).contains(&first), "{first} of {} in the first file", kept.len());
    for fact in kept {
        agrees(&day.explain(fact.request.0), fact);
    }
    let lost = explain(&day.journal, Which::Id(day.facts[0].request.0), false).unwrap_err().to_string();
    assert!(lost.contains("no request") && lost.contains("it has requests"), "{lost}");
}

/// What a file begins with is what the file before it led to, or nothing is explained.
#[test]
fn a_state_that_was_changed_is_refused() {
    let day = day_in_files_of(50_000, vec![stream(bursts(5), 5)], &still(), 7);
    let text = std::fs::read_to_string(&day.journal).unwrap();
    let (header, events) = text.split_once('\n').unwrap();
    let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
    let write = |header: &serde_json::Value| {
        std::fs::write(&day.journal, format!("{header}\n{events}")).unwrap();
        explain(&day.journal, Which::Last, false).unwrap_err().to_string()
    };
    let state = header["state"]["core"].as_str().unwrap().to_owned();
    // Of another moment: what the file before began with.
    let before = std::fs::read_to_string(journal::previous(&day.journal)).unwrap();
    let first: serde_json::Value = serde_json::from_str(before.lines().next().unwrap()).unwrap();
    let mut other = header.clone();
    other["state"] = first["state"].clone();
    let error = write(&other);
    assert!(error.contains("events.jsonl, line 1") && error.contains("differ"), "{error}");
    // Damaged.
    header["state"]["core"] =
        format!("{}{}", if state.starts_with('0') { '1' } else { '0' }, &state[1..]).into();
    std::fs::remove_file(journal::previous(&day.journal)).unwrap();
    let error = write(&header);
    assert!(error.contains("events.jsonl, line 1: state: its SHA-256 is"), "{error}");
}

#[test]
fn what_is_explained_is_what_the_world_saw() {
    let period = Nanos::from_millis(66);
    let camera = stream(Arrivals::Periodic { period, jitter: Nanos::from_millis(2) }, 3);
    let crowd = Stream { quitters: 0.2, patience: Nanos::from_millis(20), ..stream(bursts(5), 3) };
    let hard = Stream { deadline: Some(Nanos::from_millis(5)), ..stream(bursts(3), 3) };
    let day = day(vec![camera, crowd, hard], &still(), 4);
    let rare = |fact: &Fact| match fact.outcome {
        Outcome::Served(served) => served.missed || served.rescued || served.batch_items > 1,
        Outcome::Rejected { .. } => true,
    };
    let mut kinds = BTreeSet::new();
    let (mut shared, mut waited) = (false, BTreeSet::new());
    let picked = |(place, fact): &(usize, &Fact)| place % 12 == 0 || rare(fact);
    for (_, fact) in day.facts.iter().enumerate().filter(picked).take(24) {
        let explained = day.explain(fact.request.0);
        agrees(&explained, fact);
        kinds.insert(match explained.outcome {
            Some(Ended::Rejected { reason, .. }) => reason,
            _ => "served",
        });
        shared |= explained.runs.iter().any(|run| run.requests.len() > 1);
        waited.extend(explained.waits.iter().map(|wait| wait.for_what));
    }
    assert!(kinds.contains("served") && kinds.contains("deadline_unreachable"), "seed {SEED}: {kinds:?}");
    assert!(kinds.contains("queue_full") || kinds.contains("cancelled"), "seed {SEED}: {kinds:?}");
    assert!(shared, "seed {SEED}: some share a run");
    assert!(waited.contains("all_busy") || waited.contains("unit"), "seed {SEED}: {waited:?}");
}

#[test]
fn a_deadline_that_nothing_meets_is_told_with_the_fastest_and_by_how_much() {
    let ask = stream(Arrivals::Trace([Nanos::from_millis(500)].into()), 2);
    let day = day(vec![Stream { deadline: Some(Nanos::from_micros(300)), ..ask }], &still(), 3);
    let explained = day.explain(day.facts[0].request.0);
    agrees(&explained, &day.facts[0]);
    let admission = explained.admission.as_ref().expect("turned away at once");
    let fastest = admission.fastest.iter().map(|fastest| fastest.latency_us).min().unwrap();
    // It was alone: what it would have been late by is what the fastest takes beyond the deadline.
    let late = admission.late_us.unwrap();
    assert!(fastest > 300 && late.abs_diff(fastest - 300) <= 1, "{admission:#?}");
    assert!(admission.offer.candidates.iter().all(|row| row.ruling != Ruling::Chosen));
    let text = text(&explained);
    for word in
        ["deadline_unreachable", "0.30 ms after it came", "With an empty queue, it would have been late"]
    {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    // The last that was late or turned away is this one, too.
    assert_eq!(explain(&day.journal, Which::Late, true).unwrap(), explained);
}

#[test]
fn a_rescue_is_told_with_both_runs_and_what_each_was_expected_to_take() {
    // From the third second on everything takes much longer: what was chosen before it is known is rescued.
    let slow = [3, 5, 7].into_iter().flat_map(|second| {
        let at = Nanos::from_secs(second);
        [
            (at, Change::ContentionCompute(2.5)),
            (at.saturating_add(Nanos::from_secs(1)), Change::ContentionCompute(1.0)),
        ]
    });
    let period = Nanos::from_millis(50);
    let camera = stream(Arrivals::Periodic { period, jitter: Nanos::ZERO }, 9);
    let day = day(vec![camera], &Script::of(slow.collect()), 10);
    let rescued = |fact: &Fact| matches!(fact.outcome, Outcome::Served(served) if served.rescued);
    let fact = day.find("rescued", rescued);
    let explained = day.explain(fact.request.0);
    agrees(&explained, fact);
    let [first, second] = explained.runs.as_slice() else { panic!("{explained:#?}") };
    assert_ne!(first.variant, second.variant);
    assert!(explained.verdict.iter().any(|sentence| sentence.starts_with("Rescued: ")), "{explained:#?}");
    let chosen = &explained.decisions[0].offer.candidates[0];
    // A boost that was planned comes before the rescue, at its time.
    let raised = first.raised.as_ref().map(|raised| (raised.after_us, raised.clock_khz));
    let boost = chosen.boost.as_ref().map(|boost| (boost.after_us, boost.clock_khz));
    assert_eq!(raised, boost, "{explained:#?}");
    let planned = chosen.rescue.as_ref().expect("it was planned");
    assert_eq!((&planned.variant, &planned.unit), (&second.variant, &second.unit));
}

#[test]
fn a_run_that_gave_way_is_told_with_when_and_why() {
    // One has all the time and runs at a low clock; the other would be late behind it.
    let every = |ms| Arrivals::Periodic { period: Nanos::from_millis(ms), jitter: Nanos::ZERO };
    let due = |ms, accuracy| (Some(Nanos::from_millis(ms)), Some(Ppm::from_fraction(accuracy)));
    let (deadline, min_accuracy) = due(500, 0.934);
    let slow = Stream { deadline, min_accuracy, ..stream(every(600), 6) };
    let (from, (deadline, min_accuracy)) = (slow.from.after(Nanos::from_millis(10)), due(20, 0.92));
    let urgent = Stream { from, deadline, min_accuracy, ..stream(every(1_200), 6) };
    let day = day(vec![slow, urgent], &still(), 7);
    let (fact, explained) = (day.facts.iter().map(|fact| (fact, day.explain(fact.request.0))))
        .find(|(_, explained)| explained.runs.len() == 2)
        .unwrap_or_else(|| panic!("seed {SEED}: none gave way"));
    agrees(&explained, fact);
    let [first, second] = explained.runs.as_slice() else { unreachable!() };
    assert!(first.stopped_us.is_some() && second.stopped_us.is_none(), "{explained:#?}");
    let told = |sentence: &String| sentence.contains("gave way after 10.") && sentence.contains("began anew");
    assert!(explained.verdict.iter().any(told), "{explained:#?}");
}

#[test]
fn few_candidates_are_shown_unless_all_are_asked_for_and_each_ruling_is_among_them() {
    let ask = stream(Arrivals::Trace([Nanos::from_millis(500)].into()), 2);
    let day = day(vec![ask], &still(), 3);
    let id = day.facts[0].request.0;
    let (few, all) = (explain(&day.journal, Which::Last, false).unwrap(), day.explain(id));
    let (few, all) = (&few.decisions[0].offer, &all.decisions[0].offer);
    assert!(
        few.candidates.len() <= 12 && all.candidates.len() > 40,
        "{} {}",
        few.candidates.len(),
        all.candidates.len()
    );
    assert_eq!((few.left_out, all.left_out), (all.candidates.len() - few.candidates.len(), 0));
    let rulings = |rows: &[Row]| rows.iter().map(|row| row.ruling).collect::<BTreeSet<_>>();
    assert_eq!(rulings(&few.candidates), rulings(&all.candidates));
    assert!(all.candidates.starts_with(&few.candidates[..1]));
}

#[test]
fn what_cannot_be_explained_says_why() {
    let camera = stream(Arrivals::Periodic { period: Nanos::from_millis(200), jitter: Nanos::ZERO }, 3);
    let day = day(vec![camera], &still(), 4);
    let ids: Vec<u64> = day.facts.iter().map(|fact| fact.request.0).collect();
    let (first, last) = (ids.iter().min().unwrap(), ids.iter().max().unwrap());
    let said = |which| explain(&day.journal, which, false).unwrap_err().to_string();
    let unknown = said(Which::Id(4_711));
    assert!(unknown.contains(&format!("no request 4711; it has requests {first} to {last}")), "{unknown}");
    assert_eq!(unknown.lines().count(), 1);

    let whole = std::fs::read_to_string(&day.journal).unwrap();
    let write = |text: &str| std::fs::write(&day.journal, text).unwrap();
    // Cut off within the answer of the last one.
    let cut = whole.rfind("\"completed\"").unwrap();
    write(&whole[..cut]);
    let open = day.explain(*last);
    assert!(open.torn && !open.checked && open.outcome.is_none(), "{open:#?}");
    assert!(text(&open).contains("Not answered yet: it ran when the journal was cut off"), "{}", text(&open));
    assert!(said(Which::Id(4_711)).ends_with("its last line is cut off"));

    write(&whole.replacen("\"format\":2", "\"format\":99", 1));
    assert!(said(Which::Last).contains("line 1: format 99, this program reads 2"), "{}", said(Which::Last));
    write("no journal\n");
    assert!(said(Which::Last).contains("line 1: not the first line of a journal"), "{}", said(Which::Last));
    let header = whole.lines().next().unwrap();
    write(&format!("{header}\n"));
    assert!(said(Which::Last).contains("no request was answered or turned away yet; it has no request"));
    assert!(said(Which::Id(1)).contains("no request 1; it has no request"));
    // Whoever decides otherwise than was recorded explains nothing.
    write(&whole.replacen("\"items\":1", "\"items\":2", 1));
    assert!(said(Which::Last).contains("the effects differ"), "{}", said(Which::Last));
}

#[test]
fn a_request_is_named_by_its_id_or_as_the_last() {
    assert_eq!("12".parse(), Ok(Which::Id(12)));
    assert_eq!(("last".parse(), "late".parse()), (Ok(Which::Last), Ok(Which::Late)));
    let error = "frame-7".parse::<Which>().unwrap_err();
    assert!(error.contains("frame-7") && error.contains("request_id"), "{error}");
}
