//! The policies that the planner is compared with: what systems do today, and what has been published.
//!
//! Each is a small [`Policy`] inside the same [`Server`], which queues, loads, dispatches and answers. All of
//! them see what the core sees and no more: the same profiles, from the same noisy probes, and the same events.
//! Constants come from the papers and from the kernel's sources and are cited where they stand; where a source
//! leaves a margin free, the text says how it was chosen, never on the judged seeds.
//!
//! | name | variant | clocks |
//! | --- | --- | --- |
//! | `performance` | * | highest |
//! | `powersave` | * | lowest |
//! | `ondemand` | * | the kernel's rule on the load of the last 10 ms |
//! | `schedutil` | * | 1.25 x utilisation (PELT, with its estimate at dequeue) |
//! | `race-to-idle` | * | highest while something runs, lowest otherwise |
//! | `ipa`, `step-wise` | * | `schedutil`, below the cap of that thermal governor |
//! | `slowest-feasible` | cheapest | lowest whose profiled latency meets the deadline |
//! | `static-best` | one variant, unit and clock per class, by trial on training traces | |
//! | `alert`, `alert-max-accuracy` | and clock: least energy, or most accuracy, by the odds to be on time | |
//! | `alert-app-only`, `alert-sys-only`, `alert-no-coord` | what ALERT's paper compares it with | |
//! | `poet` | and two clocks for parts of each run: least energy at the speed its controller asks for | |
//! | `wattd` | | the real [`crate::core::Core`] |
//! | `wattd-no-hedging`, `wattd-gaussian-tail`, `wattd-one-slowdown`, `wattd-no-thermal-horizon` | | the same less that part: [`crate::core::tuning::Tuning`] |
//!
//! *: the most accurate variant that is loaded and accurate enough; with the suffix `-smallest` the one with the
//! least profiled latency; with `-fixed:NAME` the variant of that name alone, and what it is not accurate enough
//! for is turned away (a model without a variant of that name is served with its most accurate). *Accurate
//! enough* means the class's target while some variant that is loaded has it, and its floor otherwise. The fair
//! comparison for "what would this board do without a scheduler" is the plain name: a system that does not
//! choose deploys the most accurate model.
//!
//! A policy that does not choose a unit runs a request where it ends first by its profile at the highest clock.
//! Memory clocks are left to the board: none of these policies has a rule for them.

mod alert;
mod costs;
mod governor;
mod knobs;
mod names;
mod pace;
mod poet;
mod queue;
mod server;
mod static_best;
mod thermal;
mod variant;
mod view;

pub use alert::{Alert, Scheme};
pub use costs::Costs;
pub use governor::{Governed, Governor};
pub use knobs::Knobs;
pub use names::{NAMES, UnknownPolicy, build};
pub use pace::SlowestFeasible;
pub use poet::Poet;
pub use queue::Waiting;
pub use server::Server;
pub use static_best::{StaticBest, Training};
pub use thermal::{PowerAllocator, StepWise, Thermal};
pub use variant::Pick;
pub use view::{Configuration, Only, State, UnitState, View};

use super::Scheduler;
use crate::core::event::{Effect, Event, Readings};
use crate::time::Timestamp;
use crate::units::Nanos;

#[cfg(test)]
mod tests;

/// A run as it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where and how.
    pub choice: Configuration,
    /// Items in the batch.
    pub items: u32,
    /// When it began.
    pub started: Timestamp,
    /// The earliest deadline of its requests.
    pub deadline: Timestamp,
}

/// What makes one server different from another.
pub trait Policy {
    /// Where and how the most urgent request is to run. `None`, or a unit that is busy: it waits for the next
    /// event. Called while some unit is free and something loaded would do.
    fn choose(&mut self, view: &View<'_>, head: &Waiting) -> Option<Configuration>;

    /// What the clock domains are to be pinned to, after every event; returns when to be asked again even if
    /// nothing happens. `knobs` are those of the state, which has none meanwhile.
    fn set_clocks(&mut self, view: &View<'_>, knobs: &mut Knobs) -> Option<Timestamp>;

    /// Actual over profiled latency, as far as the policy knows: for how much fits into a batch.
    fn slowdown(&self) -> f64 {
        1.0
    }

    /// A run is sent to its lane; returns how long the policy expects it to take.
    fn started(&mut self, view: &View<'_>, run: &Run) -> Nanos {
        view.profiled(run, self.slowdown())
    }

    /// A run ended with an output, after `compute`.
    fn completed(&mut self, _view: &View<'_>, _run: &Run, _compute: Nanos) {}

    /// A run ended without an output.
    fn failed(&mut self, _view: &View<'_>, _run: &Run) {}

    /// The sensors were read.
    fn sampled(&mut self, _view: &View<'_>, _readings: &Readings) {}
}

impl Scheduler for Box<dyn Scheduler + Send> {
    fn handle(&mut self, now: Timestamp, event: Event) {
        (**self).handle(now, event);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        (**self).poll_effect()
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        (**self).next_wakeup()
    }

    fn observe_truth(&mut self, plant: &crate::board::sim::Plant) {
        (**self).observe_truth(plant);
    }
}
