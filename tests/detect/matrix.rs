//! Every board with every fault: `tests/data/sysfs/*.tree` times `tests/data/sysfs/faults`, over FUSE. Whatever a
//! sensor does, the sweep ends and shows what is not current as that; whatever a clock does, it is put back.

use crate::tree;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wattd::board::detect::{Places, draft};
use wattd::board::restore::{NodeOutcome, RestoreReport};
use wattd::board::sim::process::{FixtureBoard, NodeFault};
use wattd::board::sysfs::{Roots, Sampler, SysfsActuator, SysfsBoard};
use wattd::board::{Actuator as _, BoardSpec, Telemetry};
use wattd::core::catalog::Board;
use wattd::core::event::{Applied, ClockBounds, DomainBounds, Readings, Setpoints};
use wattd::core::snapshot::Snapshot;
use wattd::ctl::board::Look;
use wattd::time::{Clock, Timestamp};
use wattd::units::{Microwatts, Nanos};

const FAULTS: &str = include_str!("../data/sysfs/faults");
/// All nodes that are ever written, and the governors.
const CLOCK_NODES: [&str; 4] = ["*_max_freq", "*/max_freq", "*_min_freq", "*/min_freq"];
/// Age from which the core takes a reading for none.
const STALE: Nanos = Nanos::from_secs(1);
/// Sweeps in which something that is bound to happen does.
const MAX_SWEEPS: u32 = 40;

/// A clock that the test moves.
#[derive(Default)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

impl HandClock {
    fn advance(&self, span: Nanos) {
        self.0.fetch_add(span.0, Ordering::Relaxed);
    }
}

/// A fault: what is expected of it, and its script.
#[derive(Default)]
struct Fault {
    expect: String,
    script: String,
}

fn faults() -> BTreeMap<String, Fault> {
    let mut found: BTreeMap<String, Fault> = BTreeMap::new();
    for line in FAULTS.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        let fault = found.entry(words.next().unwrap().to_owned()).or_default();
        fault.expect = words.next().unwrap().to_owned();
        fault.script += words.next().unwrap();
        fault.script.push('\n');
    }
    found
}

/// A board of text, and the board file that is written for it.
struct Bench {
    fixture: FixtureBoard,
    spec: BoardSpec,
    directory: tempfile::TempDir,
}

/// `None`, and why, where FUSE is not to be had.
fn bench(name: &str) -> Option<Bench> {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("board");
    let fixture = match FixtureBoard::mount(&tree::fixture(name), &at) {
        Ok(fixture) => fixture,
        Err(error) => {
            println!("skipped: no FUSE here: {error}");
            return None;
        }
    };
    let look = Look::over(&Places::below(&at), None).unwrap();
    let text = draft("board", &look.found, look.nearest.as_ref(), &[]).unwrap();
    let spec = BoardSpec::parse(&text, Path::new("board.toml")).unwrap();
    Some(Bench { fixture, spec, directory })
}

/// A daemon's side of the board.
struct Run<'a> {
    bench: &'a Bench,
    board: Board,
    clock: Arc<HandClock>,
    telemetry: Box<dyn Telemetry>,
    actuator: SysfsActuator,
    snapshot: Snapshot,
    /// Board and fault, for those who read a failure.
    cell: String,
}

impl<'a> Run<'a> {
    /// Sensors that may hang are read by threads of their own; all others on this one, which no load of the machine can
    /// disturb.
    fn start(bench: &'a Bench, cell: String, may_hang: bool) -> Self {
        let clock = Arc::new(HandClock::default());
        clock.advance(Nanos::from_secs(100));
        let roots = Roots::below(&bench.directory.path().join("board"));
        let opened = SysfsBoard::open(&bench.spec, &roots, clock.clone()).unwrap();
        let board = opened.board().clone();
        let state = tempfile::Builder::new().tempdir_in(bench.directory.path()).unwrap().keep();
        let (telemetry, actuator) =
            opened.into_parts(&state).unwrap_or_else(|error| panic!("{cell}: {error}"));
        let telemetry: Box<dyn Telemetry> =
            if may_hang { Box::new(Sampler::start(telemetry).unwrap()) } else { Box::new(telemetry) };
        let snapshot = Snapshot::new(&board);
        Self { bench, board, clock, telemetry, actuator, snapshot, cell }
    }

    /// A sweep a tenth of a second after the last one, taken in by the core's snapshot.
    fn sweep(&mut self, power: Microwatts) -> Readings {
        self.clock.advance(Nanos::from_millis(100));
        let readings = self.telemetry.sample();
        self.snapshot.absorb(self.clock.now(), &readings, power);
        readings
    }

    /// Asks for one operating point on every domain, by its place.
    fn pin(&mut self, place: impl Fn(usize) -> usize) -> Vec<Option<Applied>> {
        let one = |opps: &Vec<_>| {
            let opp = *opps.get(place(opps.len()))?;
            Some(ClockBounds { min: opp, max: opp })
        };
        let domains: DomainBounds = self.board.domains.iter().map(|domain| one(&domain.opps)).collect();
        self.actuator.apply(&Setpoints { domains }).domains
    }

    /// Sweeps until all sensors read, as they do in the end: a reader may get no CPU for a while. What does not read.
    fn recover(&mut self) -> BTreeSet<String> {
        let mut left = BTreeSet::new();
        for _ in 0..MAX_SWEEPS {
            left = unread(&self.sweep(Microwatts::ZERO));
            if left.is_empty() {
                break;
            }
            self.clock.advance(Nanos::from_secs(5));
        }
        left
    }

    fn put_back(&mut self) -> RestoreReport {
        self.actuator.restore_all().unwrap_or_else(|error| panic!("{}: {error}", self.cell))
    }

    fn clocks(&self) -> BTreeMap<String, String> {
        CLOCK_NODES.iter().flat_map(|pattern| self.bench.fixture.held(pattern)).collect()
    }
}

/// Names of the sensors that gave nothing.
fn unread(readings: &Readings) -> BTreeSet<String> {
    let zones = readings.zones.iter().map(Result::is_err).enumerate().map(|(i, e)| (format!("zone {i}"), e));
    let rails = readings.rails.iter().map(Result::is_err).enumerate().map(|(i, e)| (format!("rail {i}"), e));
    let clocks =
        readings.domains.iter().map(Result::is_err).enumerate().map(|(i, e)| (format!("clock {i}"), e));
    zones.chain(rails).chain(clocks).filter(|(_, failed)| *failed).map(|(name, _)| name).collect()
}

/// Which sensors read one of the nodes that a script is on, by what fails when all of these do.
fn concerned(run: &mut Run<'_>, script: &str) -> BTreeSet<String> {
    for line in script.lines() {
        let pattern = line.split(' ').next().unwrap();
        run.bench.fixture.fault(pattern, Some(&NodeFault::parse("eio").unwrap()));
    }
    let mut concerned = unread(&run.sweep(Microwatts::ZERO));
    for _ in 0..3 {
        // A reader that got no CPU is no fault.
        let again = unread(&run.sweep(Microwatts::ZERO));
        concerned.retain(|sensor| again.contains(sensor));
    }
    run.bench.fixture.heal();
    assert_eq!(run.recover(), BTreeSet::new(), "{}: after all nodes failed once", run.cell);
    concerned
}

fn sensors_fail(run: &mut Run<'_>, fault: &Fault) -> bool {
    let cell = run.cell.clone();
    let concerned = concerned(run, &fault.script);
    if concerned.is_empty() {
        return false;
    }
    run.bench.fixture.play(&fault.script, "faults").unwrap();
    let mut never = unread(&run.sweep(Microwatts::ZERO));
    for sweep in 0..25 {
        let found = unread(&run.sweep(Microwatts::ZERO));
        let current: Vec<&String> = concerned.difference(&found).collect();
        assert!(current.is_empty(), "{cell}: sweep {sweep}: shown as current: {current:?}");
        never.retain(|sensor| found.contains(sensor));
    }
    assert_eq!(never, concerned, "{cell}: never read, against what is faulty");
    let now = run.clock.now();
    for (index, zone) in run.snapshot.zones.iter().enumerate() {
        let faulty = concerned.contains(&format!("zone {index}"));
        assert_eq!(zone.fresh(now, STALE).is_none(), faulty, "{cell}: zone {index} for the core: {zone:?}");
        assert!(!faulty || zone.fault.is_some(), "{cell}: zone {index}: {zone:?}");
    }
    run.bench.fixture.heal();
    run.clock.advance(Nanos::from_secs(60));
    let left = run.recover();
    // A reader that hung takes its time to come back.
    assert!(
        fault.expect == "hung" || left.is_empty(),
        "{cell}: still unread when the fault is over: {left:?}"
    );
    true
}

/// The reading comes; the core must not believe it for ever.
fn readings_are_doubted(run: &mut Run<'_>, fault: &Fault) -> bool {
    let (cell, before) = (run.cell.clone(), run.snapshot.clone());
    let hit = run.bench.fixture.play(&fault.script, "faults").unwrap();
    if hit == 0 || run.board.zones.is_empty() {
        return false;
    }
    let mut doubted = 0;
    // Power enough for the die to rise by many kelvins, which no living sensor fails to show.
    let watts = 20.0 / run.board.thermal.fast_k_per_w.max(0.01);
    for _ in 0..200 {
        run.sweep(Microwatts::from_watts(watts));
        doubted += run.snapshot.zones.iter().filter(|zone| zone.fault.is_some()).count();
    }
    assert!(doubted > 0, "{cell}: no reading was doubted: {:?}", run.snapshot.zones);
    for (zone, was) in run.snapshot.zones.iter().zip(&before.zones) {
        let (Some(value), Some(was)) = (zone.value, was.value) else { continue };
        assert!((value.0 - was.0).abs() <= 15_000, "{cell}: {was} became {value}");
    }
    true
}

fn clocks_fail(run: &mut Run<'_>, fault: &Fault) -> bool {
    let (cell, before) = (run.cell.clone(), run.clocks());
    run.pin(|_| 0);
    let hit = run.bench.fixture.play(&fault.script, "faults").unwrap();
    if hit == 0 || run.board.domains.is_empty() {
        run.put_back();
        return false;
    }
    let report = run.pin(|points| points - 1);
    for (domain, applied) in run.board.domains.iter().zip(&report) {
        let Some(&highest) = domain.opps.last() else { continue };
        let expected = match (fault.expect.as_str(), applied) {
            ("refused", Some(Applied::Refused(_))) => true,
            // A domain with one operating point has nowhere to go.
            ("refused", Some(Applied::Bounds(_))) => domain.opps.len() == 1,
            ("capped", Some(Applied::Bounds(bounds))) => bounds.max < highest || domain.opps.len() == 1,
            ("kept", Some(Applied::Bounds(bounds))) => bounds.max == highest,
            _ => false,
        };
        assert!(expected, "{cell}: domain {}: {applied:?}", domain.name);
    }
    run.sweep(Microwatts::ZERO);
    if fault.expect != "kept" {
        run.put_back();
        run.bench.fixture.heal();
    }
    let report = run.put_back();
    assert_eq!(run.clocks(), before, "{cell}: {report}");
    let failed = report.nodes.iter().filter(|node| matches!(node.outcome, NodeOutcome::Failed(_))).count();
    assert_eq!(failed, 0, "{cell}: {report}");
    true
}

#[test]
fn whatever_fails_on_whatever_board_is_shown_and_survived() {
    let faults = faults();
    let mut cells: BTreeMap<&str, usize> = BTreeMap::new();
    for board in tree::names() {
        let Some(bench) = bench(&board) else { return };
        for (name, fault) in &faults {
            bench.fixture.reset();
            let cell = format!("board {board}, fault {name}");
            let mut run = Run::start(&bench, cell, fault.expect == "hung");
            let left = run.recover();
            assert!(left.is_empty(), "{}: unread before it begins: {left:?}", run.cell);
            let happened = match fault.expect.as_str() {
                "unread" | "hung" => sensors_fail(&mut run, fault),
                "doubted" => readings_are_doubted(&mut run, fault),
                "refused" | "capped" | "kept" => clocks_fail(&mut run, fault),
                other => panic!("{name}: {other}: no such expectation"),
            };
            *cells.entry(name).or_default() += usize::from(happened);
        }
    }
    for (name, boards) in &cells {
        assert!(*boards >= 8, "fault {name} happened on {boards} boards only");
    }
    println!("{} cells", cells.values().sum::<usize>());
}

#[test]
fn a_sensor_that_hangs_at_the_start_is_told_of_and_keeps_nobody_waiting() {
    let Some(bench) = bench("jetson-orin-nano") else { return };
    let zones = bench.fixture.fault("*/thermal_zone0/temp", Some(&NodeFault::Hang));
    assert_eq!(zones, 1);
    // Were it waited for, this would not end.
    let mut run = Run::start(&bench, "hangs at the start".to_owned(), true);
    let roots = Roots::below(&bench.directory.path().join("board"));
    let opened = SysfsBoard::open(&bench.spec, &roots, run.clock.clone()).unwrap();
    assert!(
        opened.missing().contains(&"zone cpu-thermal: does not answer".to_owned()),
        "{:?}",
        opened.missing()
    );
    let left = unread(&run.sweep(Microwatts::ZERO));
    assert!(left.contains("zone 0") && !left.contains("zone 1"), "{left:?}");
    bench.fixture.heal();
    assert_eq!(run.recover(), BTreeSet::new());
}
