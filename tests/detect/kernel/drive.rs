//! What the daemon's own readers and writers make of a board.

use std::path::Path;
use std::sync::Arc;
use wattd::board::detect::{Places, draft};
use wattd::board::sysfs::SysfsBoard;
use wattd::board::{Actuator as _, BoardSpec, Telemetry as _};
use wattd::core::event::{ClockBounds, Setpoints};
use wattd::ctl::board::Look;
use wattd::time::MonotonicClock;

/// Looks the board over, opens it by the file that is written for it, reads every sensor, holds every clock at each of
/// its operating points, and puts all back: a line for each.
pub(super) fn drive(root: &Path) -> Vec<String> {
    let places = Places::below(root);
    let look = Look::over(&places, None).unwrap();
    let prefix = if root == Path::new("/") { String::new() } else { root.display().to_string() };
    let mut found: Vec<String> =
        look.text().replace(&prefix, "").lines().map(|line| line.trim_end().to_owned()).collect();
    let text = draft("board", &look.found, look.nearest.as_ref(), &[]).unwrap();
    let spec = BoardSpec::parse(&text, Path::new("board.toml")).unwrap();
    let state = tempfile::tempdir().unwrap();
    let opened = SysfsBoard::open(&spec, &places.roots, Arc::new(MonotonicClock::start())).unwrap();
    let board = opened.board().clone();
    let (mut telemetry, mut actuator) = opened.into_parts(state.path()).unwrap();
    let mut readings = telemetry.sample();
    for (zone, value) in board.zones.iter().zip(&readings.zones) {
        found.push(format!("zone {}: {value:?}", zone.name));
    }
    for (index, domain) in board.domains.iter().enumerate() {
        for point in &domain.opps {
            let bounds = Some(ClockBounds { min: *point, max: *point });
            let domains = (0..board.domains.len()).map(|other| bounds.filter(|_| other == index)).collect();
            let applied = actuator.apply(&Setpoints { domains });
            readings = telemetry.sample();
            let (shown, read) = (&applied.domains[index], &readings.domains[index]);
            found.push(format!("{} at {point}: {shown:?}, then {read:?}", domain.name));
        }
    }
    // A counter gives a power from its second reading on, which nobody can foretell.
    for ((rail, spec), value) in board.rails.iter().zip(&spec.rails).zip(&readings.rails) {
        let value = if spec.chip.is_empty() { format!("{}", value.is_ok()) } else { format!("{value:?}") };
        found.push(format!("rail {}: {value}", rail.name));
    }
    let report = actuator.restore_all().unwrap().to_string().replace(&prefix, "");
    found.extend(report.lines().map(str::to_owned));
    found
}
