//! The table's cells, and what a daemon costs that does nothing.

use crate::client::Figures;
use crate::harness::Setup;
use crate::servers::processor_time;
use std::time::Duration;

/// A column.
#[derive(Debug)]
pub(crate) struct Cell;

impl Cell {
    /// Medians over the rounds, each column by itself.
    pub(crate) fn row(rounds: &[Figures]) -> String {
        let median = |of: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        format!(
            "{} | {} | {:.0} | {}",
            digits(median(|f| f.p50_us)),
            digits(median(|f| f.p99_us)),
            median(|f| f.per_second),
            digits(median(|f| f.cpu_us))
        )
    }
}

/// Three digits or so.
fn digits(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Processor time and memory of a daemon with no model loaded and no client.
pub(crate) fn idle(name: &str, setup: &mut Setup) {
    setup.set("models.load", Vec::<String>::new()).set("profile.on_start", false);
    let daemon = setup.start();
    // What the start left to do is done by then.
    std::thread::sleep(Duration::from_secs(3));
    let span = Duration::from_secs(20);
    let before = processor_time(daemon.pid());
    std::thread::sleep(span);
    let used = processor_time(daemon.pid()) - before;
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_owned();
    let share = 100.0 * used.as_secs_f64() / span.as_secs_f64();
    println!("\n{name}, idle, no model loaded: {share:.2} % of a core, {resident} resident");
    daemon.stop();
}
