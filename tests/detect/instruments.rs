//! What boards show besides temperatures, powers and clocks, which `matrix` has, with every fault of a node that is read:
//! batteries, loads, alarms, the power mode, pressure, which CPUs are online. It is shown as failed and not as current, no
//! other is, and it comes back.

use crate::tree;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wattd::board::detect::{Places, draft};
use wattd::board::panel::{Instrument, Quality};
use wattd::board::sim::process::{FixtureBoard, NodeFault};
use wattd::board::sysfs::{Roots, SysfsBoard};
use wattd::board::{BoardSpec, Telemetry};
use wattd::ctl::board::Look;
use wattd::time::{Clock, Timestamp};
use wattd::units::Nanos;

/// Such as are in the matrix.
const ELSEWHERE: [&str; 3] = ["zone ", "rail ", "domain "];
const FAULTS: [&str; 6] = ["enodata", "ebusy", "eio", "text \u{1}?", "text", "vanish"];

#[derive(Default)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// Sweeps over seconds, and what is shown then.
fn shown(
    telemetry: &mut dyn Telemetry,
    board: &wattd::board::panel::Panel,
    clock: &HandClock,
) -> BTreeMap<String, Instrument> {
    for _ in 0..4 {
        clock.0.fetch_add(Nanos::from_secs(1).0, Ordering::Relaxed);
        telemetry.sample();
    }
    board.instruments(clock.now()).into_iter().map(|one| (one.name.clone(), one)).collect()
}

#[test]
fn whatever_else_is_read_fails_alone_is_shown_as_failed_and_comes_back() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for name in tree::names() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("board");
        let fixture = match FixtureBoard::mount(&tree::fixture(&name), &at) {
            Ok(fixture) => fixture,
            Err(error) => return println!("skipped: no FUSE here: {error}"),
        };
        let look = Look::over(&Places::below(&at), None).unwrap();
        let text = draft("board", &look.found, look.nearest.as_ref(), &[]).unwrap();
        let spec = BoardSpec::parse(&text, Path::new("board.toml")).unwrap();
        for fault in FAULTS {
            fixture.reset();
            let clock = Arc::new(HandClock::default());
            let board = SysfsBoard::open(&spec, &Roots::below(&at), clock.clone()).unwrap();
            let panel = board.panel();
            let mut telemetry = board.into_telemetry();
            let sound = shown(&mut telemetry, &panel, &clock);
            let here = |one: &Instrument| -> Option<PathBuf> {
                let source = Path::new(&one.source).canonicalize().ok()?;
                source.strip_prefix(&at).ok().map(Path::to_owned)
            };
            for (instrument, node) in sound.iter().filter_map(|(name, one)| Some((name, here(one)?))) {
                if ELSEWHERE.iter().any(|kind| instrument.starts_with(kind)) {
                    continue;
                }
                let cell = format!("{name}, {fault}, {instrument}");
                assert!(sound[instrument].fault.is_none(), "{cell}: {:?}", sound[instrument]);
                assert_eq!(
                    fixture.fault(&node.display().to_string(), Some(&NodeFault::parse(fault).unwrap())),
                    1
                );
                let now = shown(&mut telemetry, &panel, &clock);
                let failed = &now[instrument];
                assert!(failed.fault.is_some(), "{cell}: {failed:?}");
                assert!(matches!(failed.quality, Quality::Stale | Quality::Missing), "{cell}: {failed:?}");
                for (other, one) in now.iter().filter(|(other, _)| *other != instrument) {
                    let also = one.source == failed.source;
                    assert!(also || one.fault == sound[other].fault, "{cell}: {other}: {one:?}");
                }
                fixture.heal();
                (0..3).for_each(|_| drop(shown(&mut telemetry, &panel, &clock)));
                let healed = &shown(&mut telemetry, &panel, &clock)[instrument];
                assert_eq!((healed.fault, healed.quality), (None, sound[instrument].quality), "{cell}");
                *seen.entry(instrument.clone()).or_default() += 1;
            }
        }
    }
    for kind in ["battery", "pressure", "CPUs online", "load gpu", "over-current", "throttled", "nvpmodel"] {
        assert!(seen.contains_key(kind), "{kind} on no board: {seen:?}");
    }
    println!("{} cells", seen.values().sum::<usize>());
}
