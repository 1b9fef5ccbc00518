//! The slowest clock that is fast enough, and what policies that plan a clock per run have in common.

use super::knobs::Knobs;
use super::queue::Waiting;
use super::view::{Configuration, View};
use super::{Policy, Run};
use crate::core::catalog::UnitId;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

/// Pins the domain of a run to the clock that was planned for it, and lets idle domains rest at their lowest
/// point. While another run is on the domain the clock may rise, but not fall under it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins {
    wanted: Vec<Kilohertz>,
}

impl Pins {
    pub(super) fn started(&mut self, view: &View<'_>, choice: Configuration) {
        self.turn(view, choice.unit, view.clock(choice));
    }

    /// The unit is to run at `clock` from now on.
    pub(super) fn turn(&mut self, view: &View<'_>, unit: UnitId, clock: Kilohertz) {
        let board = &view.state.catalog.board;
        self.wanted.resize(board.domains.len(), Kilohertz::ZERO);
        let Some(domain) = board.units[unit.index()].domain else { return };
        let shared = view.units_of(domain).any(|other| other != unit && view.runs(other));
        let wanted = &mut self.wanted[domain.index()];
        *wanted = if shared { clock.max(*wanted) } else { clock };
    }

    pub(super) fn set(&self, view: &View<'_>, knobs: &mut Knobs) {
        for domain in view.compute_domains() {
            let lowest = knobs.points(domain).first().copied();
            let planned = self.wanted.get(domain.index()).copied().filter(|_| view.is_busy(domain));
            if let Some(clock) = planned.or(lowest) {
                knobs.pin(domain, clock);
            }
        }
    }
}

/// For each variant and unit the lowest clock whose profiled latency meets the deadline; of these the
/// configuration with the least profiled energy. Where none meets it, the one that ends first. No margin: the
/// rule has none.
#[derive(Debug, Clone, Default)]
pub struct SlowestFeasible {
    pins: Pins,
}

impl Policy for SlowestFeasible {
    fn choose(&mut self, view: &View<'_>, head: &Waiting) -> Option<Configuration> {
        let costs = &view.state.costs;
        let items = head.request.items;
        let feasible = view.choices(head).filter_map(|(variant, unit)| {
            let slack = view.slack_s(head, unit);
            let mut points = 0..costs.clocks(unit).len();
            let point = points.find(|&point| costs.seconds(variant, unit, point, items) <= slack)?;
            Some(Configuration { variant, unit, point })
        });
        let joules = |choice: &Configuration| costs.joules(choice.variant, choice.unit, choice.point, items);
        feasible.min_by(|a, b| joules(a).total_cmp(&joules(b))).or_else(|| soonest(view, head))
    }

    fn set_clocks(&mut self, view: &View<'_>, knobs: &mut Knobs) -> Option<Timestamp> {
        self.pins.set(view, knobs);
        None
    }

    fn started(&mut self, view: &View<'_>, run: &Run) -> Nanos {
        self.pins.started(view, run.choice);
        view.profiled(run, 1.0)
    }
}

/// The configuration that ends first by its profile.
pub(super) fn soonest(view: &View<'_>, head: &Waiting) -> Option<Configuration> {
    let costs = &view.state.costs;
    let top = |(variant, unit)| Configuration { variant, unit, point: costs.top(unit) };
    view.choices(head).map(top).min_by_key(|choice| {
        let latency = costs.latency(choice.variant, choice.unit, choice.point, head.request.items);
        view.free_at(choice.unit).after(latency)
    })
}
