//! What a sweep over the sensors costs: no allocation per reading, and descriptors that stay open.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "detect/tree.rs"]
#[allow(dead_code, reason = "what measures it needs less than all")]
mod tree;

use allocation_counter::measure;
use std::path::Path;
use std::sync::Arc;
use wattd::board::sim::process::FixtureBoard;
use wattd::board::sysfs::{Roots, SysfsBoard};
use wattd::board::{BoardSpec, Telemetry as _};
use wattd::time::MonotonicClock;

/// Lists that a sweep hands over: zones, rails, domains.
const LISTS: u64 = 3;
/// Sweeps that are counted, after some in which descriptors are opened.
const SWEEPS: u64 = 50;

/// The shipped file of a board, less the zone that is empty on it: an error that is told names its path.
fn spec() -> BoardSpec {
    let mut spec = wattd::board::shipped::named("jetson-orin-nano").unwrap().unwrap();
    spec.zones.retain(|zone| zone.name != "tj-thermal");
    spec
}

#[test]
fn a_sweep_allocates_nothing_but_the_lists_that_it_hands_over() {
    let tree = tree::Tree::of("jetson-orin-nano");
    let clock = Arc::new(MonotonicClock::start());
    let board = SysfsBoard::open(&spec(), &Roots::below(tree.root()), clock).unwrap();
    assert_eq!(board.missing(), [] as [String; 0]);
    let mut telemetry = board.into_telemetry();
    // What is read once a second is read in the first of these.
    (0..3).for_each(|_| drop(telemetry.sample()));
    let counted = measure(|| (0..SWEEPS).for_each(|_| drop(telemetry.sample())));
    assert_eq!(counted.count_total, SWEEPS * LISTS, "{counted:?}");
}

#[test]
fn descriptors_are_kept_where_the_file_system_lets_them_be() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("board");
    let _board = match FixtureBoard::mount(&tree::fixture("jetson-orin-nano"), &at) {
        Ok(board) => board,
        Err(error) => return println!("skipped: no FUSE here: {error}"),
    };
    let clock = Arc::new(MonotonicClock::start());
    let mut telemetry = SysfsBoard::open(&spec(), &Roots::below(&at), clock).unwrap().into_telemetry();
    let open = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = all.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let mut below: Vec<_> = targets.filter(|path| path.starts_with(Path::new(&at))).collect();
        below.sort();
        below
    };
    telemetry.sample();
    let first = open();
    let zones = first.iter().filter(|path| path.ends_with("temp")).count();
    assert!(zones >= 2 && first.len() > 10, "{first:?}");
    telemetry.sample();
    assert_eq!(open(), first, "none was opened anew, none closed");
}
