//! The daemon's own threads: sensors, clocks, timer.

use super::engine::Engine;
use super::presence::Presence;
use crate::board::panel::Panel;
use crate::board::{Actuator, Telemetry};
use crate::core::event::Event;
use crate::units::Nanos;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Sweeps between two upkeeps of the metrics.
const UPKEEP_EVERY: u64 = 50;

/// Starts a named thread.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Reads the sensors every `period`, lets the core decide on them, looks which CPUs are there, and pings the watchdog: only a completed
/// control cycle counts as a sign of life.
pub(super) fn sense(
    engine: &Engine,
    telemetry: &mut dyn Telemetry,
    presence: &mut Presence,
    panel: &Panel,
    period: Nanos,
    stop: &AtomicBool,
) {
    let page = engine.state().observer.page();
    let mut due = engine.now();
    for sweep in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let readings = telemetry.sample();
        presence.look(engine);
        engine.feed(Event::Sampled(readings));
        engine.show_budgets();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        if sweep % UPKEEP_EVERY == 0 {
            engine.show_estimates();
            engine.show_board(panel);
            page.upkeep();
        }
        due = due.after(period);
        let now = engine.now();
        // After a stall the schedule starts anew instead of catching up in a burst.
        if due < now {
            due = now;
        }
        std::thread::sleep(due.since(now).into());
    }
}

/// Applies setpoints as they come, and at the end puts the clocks back as they were found.
pub(super) fn actuate(engine: &Engine, mut actuator: Box<dyn Actuator>) {
    while let Some(setpoints) = engine.next_setpoints() {
        let report = actuator.apply(&setpoints);
        engine.feed(Event::Applied(report));
    }
    actuator.restore();
}

/// Runs the timer until the end.
pub(super) fn time(engine: &Arc<Engine>) {
    engine.run_timer();
}
