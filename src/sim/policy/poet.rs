//! POET (Imes, Kim, Maggio and Hoffmann, "POET: A Portable Approach to Minimizing Energy Under Soft Real-time
//! Constraints", RTAS 2015; constants from its library, github.com/libpoet/poet).
//!
//! A controller turns the measured speed into the speed to ask for, and a translator turns that speed into at
//! most two configurations and the time for each. With the goal as the unit of speed, and the library's fast
//! (deadbeat) poles `p1 = p2 = z1 = 0`, `mu = 1`, its control law is the integrator
//!
//! ```text
//! u(n) = u(n-1) + w e(n),   e(n) = 1 - measured speed,   w = 1 / base speed
//! ```
//!
//! where a Kalman filter estimates the base speed `x` from `speed = u x` (`Q = 1e-5, R = 0.01, P0 = 1`). So `u` is the
//! factor by which to be faster than the profile says, and cancels any constant slowdown in one step.
//!
//! The translator solves `min t_l P_l + t_u P_u` subject to `t_l s_l + t_u s_u = 1 run`, `t_l + t_u = T`, over all
//! pairs of configurations around the speed asked for, idling being one of them. The control period is one
//! run, for each has a deadline of its own: it starts at the lower clock and ends at the upper one. Pairs share
//! variant and unit; the library knows one application per controller, so the cheapest of all accurate
//! enough is taken, which can only help it.
//!
//! POET promises a mean and leaves the margin to the user: runs aim at 90 % of their time. That is three standard
//! deviations of 3 % noise.

use super::knobs::Knobs;
use super::pace::{Pins, soonest};
use super::queue::Waiting;
use super::view::{Configuration, View};
use super::{Policy, Run};
use crate::core::catalog::{UnitId, VariantId};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

const Q: f64 = 1e-5;
const R: f64 = 0.01;
const P0: f64 = 1.0;
/// Share of the time to the deadline that a run aims at.
const AIM: f64 = 0.9;
/// Bounds of the speedup asked for: beyond them lies no disturbance, but a wound-up integrator.
const SPEEDUPS: (f64, f64) = (0.2, 5.0);

/// The controller.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Controller {
    speedup: f64,
    base: f64,
    variance: f64,
}

impl Default for Controller {
    fn default() -> Self {
        Self { speedup: 1.0, base: 1.0, variance: P0 }
    }
}

impl Controller {
    /// The last run was `speed` times as fast as its goal, at the present speedup.
    fn observe(&mut self, speed: f64) {
        let predicted = self.variance + Q;
        let gain = predicted * self.speedup / (self.speedup * predicted * self.speedup + R);
        self.base += gain * (speed - self.speedup * self.base);
        self.variance = (1.0 - gain * self.speedup) * predicted;
        let workload = 1.0 / self.base.max(1e-3);
        self.speedup = (self.speedup + workload * (1.0 - speed)).clamp(SPEEDUPS.0, SPEEDUPS.1);
    }
}

/// One run in two parts.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Plan {
    /// Point and profiled seconds of the first part, if it has two.
    lower: Option<(usize, f64)>,
    /// Point and profiled seconds of the last part.
    upper: (usize, f64),
    joules: f64,
}

impl Plan {
    fn seconds(&self) -> f64 {
        self.lower.map_or(0.0, |(_, seconds)| seconds) + self.upper.1
    }
}

/// The cheapest mix of at most two points that does one run in `span_s` of profiled time. `points` are seconds
/// per run and watts above idle. `None` if even the fastest takes longer.
fn translate(points: &[(f64, f64)], span_s: f64) -> Option<Plan> {
    let mut best: Option<Plan> = None;
    let mut offer = |plan: Plan| {
        if best.is_none_or(|best| plan.joules < best.joules) {
            best = Some(plan);
        }
    };
    for (upper, &(upper_s, upper_w)) in points.iter().enumerate() {
        if upper_s > span_s {
            continue;
        }
        // Idling is the configuration of no speed and no power: the rest of the time.
        offer(Plan { lower: None, upper: (upper, upper_s), joules: upper_s * upper_w });
        for (lower, &(lower_s, lower_w)) in points.iter().enumerate() {
            if lower_s <= span_s || upper_s >= lower_s {
                continue;
            }
            // t_u / upper_s + (span - t_u) / lower_s = 1
            let t_u = (1.0 - span_s / lower_s) / (1.0 / upper_s - 1.0 / lower_s);
            let t_l = (span_s - t_u).max(0.0);
            let joules = t_u * upper_w + t_l * lower_w;
            offer(Plan { lower: Some((lower, t_l)), upper: (upper, t_u), joules });
        }
    }
    best
}

/// A run under way.
#[derive(Debug, Clone, Copy)]
struct Phase {
    /// When the upper clock is due, and which; `None` once it is asked for.
    switch: Option<(Timestamp, Kilohertz)>,
    /// Profiled seconds of the whole plan.
    planned_s: f64,
}

/// The policy.
#[derive(Debug, Clone, Default)]
pub struct Poet {
    controller: Controller,
    phases: Vec<Option<Phase>>,
    pins: Pins,
}

impl Poet {
    fn plan(&self, view: &View<'_>, pair: (VariantId, UnitId), items: u32, slack_s: f64) -> Option<Plan> {
        let costs = &view.state.costs;
        let (variant, unit) = pair;
        let points: Vec<(f64, f64)> = (0..costs.clocks(unit).len())
            .map(|point| (costs.seconds(variant, unit, point, items), costs.watts(variant, unit, point)))
            .collect();
        translate(&points, slack_s * AIM / self.controller.speedup)
    }
}

impl Policy for Poet {
    fn choose(&mut self, view: &View<'_>, head: &Waiting) -> Option<Configuration> {
        let plans = view.choices(head).filter_map(|pair| {
            let plan = self.plan(view, pair, head.request.items, view.slack_s(head, pair.1))?;
            Some((plan.joules, Configuration { variant: pair.0, unit: pair.1, point: plan.upper.0 }))
        });
        let best = plans.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, choice)| choice);
        best.or_else(|| soonest(view, head))
    }

    fn set_clocks(&mut self, view: &View<'_>, knobs: &mut Knobs) -> Option<Timestamp> {
        let mut again: Option<Timestamp> = None;
        for (index, phase) in self.phases.iter_mut().enumerate() {
            let Some(Phase { switch: Some((at, clock)), .. }) = *phase else { continue };
            if at <= view.now {
                self.pins.turn(view, UnitId::at(index), clock);
                *phase = phase.map(|phase| Phase { switch: None, ..phase });
            } else {
                again = Some(again.map_or(at, |other| other.min(at)));
            }
        }
        self.pins.set(view, knobs);
        again
    }

    fn slowdown(&self) -> f64 {
        self.controller.speedup
    }

    fn started(&mut self, view: &View<'_>, run: &Run) -> Nanos {
        let Configuration { variant, unit, point } = run.choice;
        let costs = &view.state.costs;
        let slack_s = run.deadline.since(view.now).as_secs_f64();
        let whole = costs.seconds(variant, unit, point, run.items);
        let plan = self.plan(view, (variant, unit), run.items, slack_s);
        let plan = plan.unwrap_or(Plan { lower: None, upper: (point, whole), joules: 0.0 });
        let upper = costs.clocks(unit)[plan.upper.0];
        let switch = plan.lower.map(|(lower, seconds)| {
            let after = Nanos::from_secs_f64(seconds * self.controller.speedup);
            (costs.clocks(unit)[lower], (view.now.after(after), upper))
        });
        self.pins.turn(view, unit, switch.map_or(upper, |(lower, _)| lower));
        self.phases.resize(view.state.units.len(), None);
        let planned_s = plan.seconds();
        self.phases[unit.index()] = Some(Phase { switch: switch.map(|(_, switch)| switch), planned_s });
        Nanos::from_secs_f64(planned_s * self.controller.speedup)
    }

    fn completed(&mut self, _view: &View<'_>, run: &Run, compute: Nanos) {
        let phase = self.phases.get_mut(run.choice.unit.index()).and_then(Option::take);
        if let Some(phase) = phase.filter(|_| compute > Nanos::ZERO) {
            self.controller.observe(self.controller.speedup * phase.planned_s / compute.as_secs_f64());
        }
    }

    fn failed(&mut self, _view: &View<'_>, run: &Run) {
        if let Some(phase) = self.phases.get_mut(run.choice.unit.index()) {
            *phase = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A board twice as slow as its profile: with the base speed known, one step of the integrator is all it takes.
    #[test]
    fn the_controller_is_deadbeat() {
        let mut controller = Controller { base: 0.5, variance: 0.0, ..Controller::default() };
        controller.observe(0.5);
        assert!((controller.speedup - 2.0).abs() < 1e-3, "{controller:?}");
        controller.observe(controller.speedup * 0.5);
        assert!((controller.speedup - 2.0).abs() < 1e-3, "{controller:?}");
    }

    /// Without knowing it, the filter's first gain of P / (P + R) = 0.99 leaves half a per cent of the step.
    #[test]
    fn a_step_is_cancelled_by_the_second_run() {
        let mut controller = Controller::default();
        controller.observe(0.5);
        // Base: 1 - 0.990099 * 0.5 = 0.50495; speedup: 1 + 0.5 / 0.50495 = 1.99020.
        assert!((controller.speedup - 1.990_196).abs() < 1e-4, "{controller:?}");
        controller.observe(controller.speedup * 0.5);
        assert!((controller.speedup - 2.0).abs() < 1e-3, "{controller:?}");
    }

    #[test]
    fn the_integrator_does_not_wind_up() {
        let mut controller = Controller::default();
        (0..1000).for_each(|_| controller.observe(0.01));
        assert!(controller.speedup <= SPEEDUPS.1);
        (0..1000).for_each(|_| controller.observe(100.0));
        assert!(controller.speedup >= SPEEDUPS.0 && controller.base.is_finite());
    }

    /// Runs of 4 s at 1 W and 1 s at 8 W, to be done in 2 s: t_u = (1 - 2/4) / (1 - 1/4) = 2/3 s at 8 W and
    /// 4/3 s at 1 W, 6.667 J. Racing to idle would take 8 J.
    #[test]
    fn two_points_make_the_speed_exactly() {
        let plan = translate(&[(4.0, 1.0), (1.0, 8.0)], 2.0).unwrap();
        assert_eq!((plan.lower.unwrap().0, plan.upper.0), (0, 1));
        assert!((plan.upper.1 - 2.0 / 3.0).abs() < 1e-12 && (plan.seconds() - 2.0).abs() < 1e-12);
        assert!((plan.joules - 20.0 / 3.0).abs() < 1e-12);
        let done = plan.lower.unwrap().1 / 4.0 + plan.upper.1;
        assert!((done - 1.0).abs() < 1e-12, "{done}");
    }

    /// At 2 W the slow point costs as much as the fast one: racing to idle is cheaper than mixing.
    #[test]
    fn racing_to_idle_is_one_of_the_mixes() {
        let plan = translate(&[(4.0, 3.0), (1.0, 8.0)], 2.0).unwrap();
        assert_eq!((plan.lower, plan.upper), (None, (1, 1.0)));
        let plan = translate(&[(4.0, 1.0), (1.0, 8.0)], 5.0).unwrap();
        assert_eq!((plan.lower, plan.upper), (None, (0, 4.0)), "slow enough alone");
        assert_eq!(translate(&[(4.0, 1.0), (1.0, 8.0)], 0.5), None);
    }

    /// Against every mix on a fine grid: no other pair or share is cheaper.
    #[test]
    fn no_mix_is_cheaper() {
        let points = [(8.0, 0.4), (4.0, 1.1), (2.5, 2.0), (1.4, 5.0), (1.0, 9.0)];
        for step in 10..90 {
            let span = f64::from(step) / 10.0;
            let plan = translate(&points, span).unwrap();
            for (a, b) in points.iter().flat_map(|a| points.iter().map(move |b| (a, b))) {
                for share in 0..=100 {
                    let (done_a, done_b) = (f64::from(share) / 100.0, 1.0 - f64::from(share) / 100.0);
                    let seconds = done_a * a.0 + done_b * b.0;
                    let joules = done_a * a.0 * a.1 + done_b * b.0 * b.1;
                    assert!(seconds > span || joules > plan.joules - 1e-9, "{span}: {a:?} {b:?} {share}");
                }
            }
        }
    }
}
