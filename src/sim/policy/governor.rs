//! Clock governors, by the kernel's rules, on the operating points of the board: `performance`, `powersave`,
//! `ondemand`, `schedutil`, and racing to idle.
//!
//! The kernel governs CPUs by these rules and leaves other devices to governors of the same kinds; here one
//! rule governs every domain that computes. A unit is to its domain what a CPU is to its policy: the domain
//! follows its busiest unit.

use super::Policy;
use super::knobs::Knobs;
use super::queue::Waiting;
use super::thermal::Thermal;
use super::variant::Pick;
use super::view::{Configuration, View};
use crate::core::catalog::DomainId;
use crate::core::event::Readings;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

/// `ondemand`'s sampling rate: "typically of the order of 10 ms" (admin-guide/pm/cpufreq.rst), and the minimum in
/// its source for kernels with fine-grained idle accounting.
const ONDEMAND_PERIOD: Nanos = Nanos::from_millis(10);
/// Load above which `ondemand` goes straight to the highest clock (MICRO_FREQUENCY_UP_THRESHOLD, 95 %).
const UP_THRESHOLD: f64 = 0.95;
/// Half-life of PELT's geometric series (scheduler/schedutil.rst: y^32 = 0.5, in periods of 1024 us).
const PELT_HALF_LIFE_S: f64 = 32.0 * 1024e-6;
/// Weight of the newest dequeue in the estimate of utilisation (UTIL_EST_WEIGHT_SHIFT 2).
const UTIL_EST_WEIGHT: f64 = 0.25;
/// C in `f = C * f_max * util / max` (kernel/sched/cpufreq_schedutil.c).
const HEADROOM: f64 = 1.25;
/// The scheduler's tick while something runs: CONFIG_HZ=250.
const TICK: Nanos = Nanos::from_millis(4);
/// How often the blocked load of idle CPUs is aged (kernel/sched/fair.c: nohz statistics every 32 ms).
const NOHZ_PERIOD: Nanos = Nanos::from_millis(32);

/// A rule for clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Governor {
    /// The highest operating point.
    Performance,
    /// The lowest.
    Powersave,
    /// The highest while something runs on the domain, the lowest otherwise.
    RaceToIdle,
    /// The load of the last period: above the threshold the highest point, else in proportion between lowest
    /// and highest (drivers/cpufreq/cpufreq_ondemand.c, `od_update`).
    Ondemand,
    /// 1.25 times the frequency-invariant utilisation, at most once in 1.5 transition times
    /// (`cpufreq_policy_transition_delay_us`).
    Schedutil,
}

/// What a governor remembers of a unit.
#[derive(Debug, Clone, Copy, Default)]
struct Tracked {
    since: Timestamp,
    running: bool,
    /// Busy seconds since the domain was sampled last.
    busy_s: f64,
    /// Busy seconds since the start.
    total_s: f64,
    /// PELT: share of the capacity at the highest clock, decayed.
    util: f64,
    /// What the utilisation was at the ends of runs.
    estimate: f64,
}

impl Tracked {
    /// Lets the time until now pass, at a share of the highest clock; from now on the unit runs or does not.
    fn pass(&mut self, now: Timestamp, clock_share: f64, runs: bool) {
        let span_s = now.since(self.since).as_secs_f64();
        let capacity = if self.running { clock_share } else { 0.0 };
        self.util = capacity + (self.util - capacity) * 0.5f64.powf(span_s / PELT_HALF_LIFE_S);
        if self.running {
            self.busy_s += span_s;
            self.total_s += span_s;
        }
        if self.running && !runs {
            // Rises at once, falls slowly (UTIL_EST_FASTUP).
            let fall = UTIL_EST_WEIGHT * (self.util - self.estimate);
            self.estimate = self.util.max(self.estimate + fall);
        }
        (self.running, self.since) = (runs, now);
    }

    /// What the scheduler tells its governor: while it runs, no less than it came to in the past.
    fn utilisation(&self) -> f64 {
        if self.running { self.util.max(self.estimate) } else { self.util }
    }
}

/// What a governor remembers of a domain.
#[derive(Debug, Clone, Copy, Default)]
struct Domain {
    sampled_at: Timestamp,
    updated_at: Option<Timestamp>,
    target: Option<Kilohertz>,
}

/// A governor over all domains, a rule for the variant, and a thermal governor that caps the clocks.
#[derive(Debug, Clone)]
pub struct Governed {
    governor: Governor,
    pick: Pick,
    thermal: Option<Thermal>,
    units: Vec<Tracked>,
    domains: Vec<Domain>,
}

impl Governed {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new(governor: Governor, pick: Pick, thermal: Option<Thermal>) -> Self {
        Self { governor, pick, thermal, units: Vec::new(), domains: Vec::new() }
    }

    fn track_all(&mut self, view: &View<'_>, knobs: &Knobs) {
        let board = &view.state.catalog.board;
        self.units.resize(board.units.len(), Tracked::default());
        self.domains.resize(board.domains.len(), Domain::default());
        for id in view.compute_domains() {
            let high = knobs.points(id).last().map_or(1.0, |high| high.as_f64());
            let present = knobs.present(id).map_or(1.0, |present| present.as_f64() / high.max(1.0));
            for unit in view.units_of(id) {
                self.units[unit.index()].pass(view.now, present, view.runs(unit));
            }
        }
    }

    fn ondemand(&mut self, view: &View<'_>, id: DomainId, points: &[Kilohertz]) -> Option<Timestamp> {
        let domain = &mut self.domains[id.index()];
        let elapsed = view.now.since(domain.sampled_at);
        // The timer is deferrable: an idle domain is not woken for it once there is nothing to lower.
        if !view.is_busy(id) && domain.target.is_some() && domain.target == points.first().copied() {
            return None;
        }
        if elapsed < ONDEMAND_PERIOD && domain.target.is_some() {
            return Some(domain.sampled_at.after(ONDEMAND_PERIOD));
        }
        let busiest = view.units_of(id).map(|unit| self.units[unit.index()].busy_s).fold(0.0, f64::max);
        let wall_s = elapsed.as_secs_f64();
        let load = if wall_s > 0.0 { (busiest / wall_s).min(1.0) } else { 0.0 };
        domain.target = ondemand_target(load, points);
        domain.sampled_at = view.now;
        for unit in view.units_of(id) {
            self.units[unit.index()].busy_s = 0.0;
        }
        Some(view.now.after(ONDEMAND_PERIOD))
    }

    fn schedutil(&mut self, view: &View<'_>, id: DomainId, knobs: &Knobs) -> Option<Timestamp> {
        let points = knobs.points(id);
        let utils = view.units_of(id).map(|unit| self.units[unit.index()].utilisation());
        let wanted = schedutil_target(utils.fold(0.0, f64::max), points);
        let limit = Nanos(knobs.settle(id).0.saturating_mul(3) / 2);
        let domain = &mut self.domains[id.index()];
        let allowed_at = domain.updated_at.map_or(view.now, |at| at.after(limit));
        if wanted != domain.target && allowed_at <= view.now {
            domain.target = wanted;
            domain.updated_at = Some(view.now);
        }
        let settled = wanted == domain.target;
        let busy = view.is_busy(id);
        if !busy && settled && wanted == points.first().copied() {
            return None;
        }
        let again = view.now.after(if busy { TICK } else { NOHZ_PERIOD });
        Some(if settled { again } else { again.min(allowed_at.max(view.now.after(Nanos::from_micros(1)))) })
    }
}

/// `od_update` of the kernel: `min + load * (max - min)`, resolved to the nearest operating point
/// (CPUFREQ_RELATION_C).
fn ondemand_target(load: f64, points: &[Kilohertz]) -> Option<Kilohertz> {
    let (&low, &high) = (points.first()?, points.last()?);
    if load > UP_THRESHOLD {
        return Some(high);
    }
    let wanted = low.as_f64() + load * (high.as_f64() - low.as_f64());
    let distance = |point: &Kilohertz| (point.as_f64() - wanted).abs();
    points.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b)))
}

/// `get_next_freq` of the kernel: the lowest operating point that is at least 1.25 times the utilisation's
/// share of the highest.
fn schedutil_target(util: f64, points: &[Kilohertz]) -> Option<Kilohertz> {
    let high = *points.last()?;
    let raw = HEADROOM * util * high.as_f64();
    Some(points.iter().copied().find(|point| point.as_f64() >= raw).unwrap_or(high))
}

impl Policy for Governed {
    fn choose(&mut self, view: &View<'_>, head: &Waiting) -> Option<Configuration> {
        let choice = self.pick.choose(view, head)?;
        // What is planned on is the clock in force; the governor may change it at any time.
        let domain = view.state.catalog.board.units[choice.unit.index()].domain;
        let present = domain.and_then(|domain| view.state.knobs.present(domain));
        let point = present.map_or(choice.point, |clock| view.state.costs.point_at(choice.unit, clock));
        Some(Configuration { point, ..choice })
    }

    fn set_clocks(&mut self, view: &View<'_>, knobs: &mut Knobs) -> Option<Timestamp> {
        self.track_all(view, knobs);
        let mut again: Option<Timestamp> = None;
        for id in view.compute_domains() {
            let Some((&low, &high)) = knobs.points(id).first().zip(knobs.points(id).last()) else { continue };
            let next = match self.governor {
                Governor::Performance => self.hold(id, high),
                Governor::Powersave => self.hold(id, low),
                Governor::RaceToIdle => self.hold(id, if view.is_busy(id) { high } else { low }),
                Governor::Ondemand => self.ondemand(view, id, knobs.points(id)),
                Governor::Schedutil => self.schedutil(view, id, knobs),
            };
            again = [again, next].into_iter().flatten().min();
            if let Some(target) = self.domains[id.index()].target {
                knobs.pin(id, target);
            }
            if let Some(thermal) = &self.thermal {
                knobs.cap(id, thermal.cap(id));
            }
        }
        again
    }

    fn sampled(&mut self, view: &View<'_>, readings: &Readings) {
        self.track_all(view, &view.state.knobs);
        if let Some(thermal) = &mut self.thermal {
            let busy_s: Vec<f64> = self.units.iter().map(|unit| unit.total_s).collect();
            thermal.sampled(view, readings, &busy_s);
        }
    }
}

impl Governed {
    fn hold(&mut self, id: DomainId, clock: Kilohertz) -> Option<Timestamp> {
        self.domains[id.index()].target = Some(clock);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTS: [Kilohertz; 4] = [Kilohertz(500), Kilohertz(1000), Kilohertz(1500), Kilohertz(2000)];

    fn at_ms(ms: f64) -> Timestamp {
        Timestamp::ZERO.after(Nanos::from_secs_f64(ms / 1e3))
    }

    /// 1.25 x 0.8 = 1: above 80 % the highest clock, as the kernel's comment says; else the lowest point at or above.
    #[test]
    fn schedutil_adds_a_quarter_and_rounds_up() {
        let cases =
            [(0.0, 500), (0.2, 500), (0.21, 1000), (0.5, 1500), (0.6, 1500), (0.61, 2000), (1.0, 2000)];
        for (util, clock) in cases {
            assert_eq!(schedutil_target(util, &POINTS), Some(Kilohertz(clock)), "{util}");
        }
        assert_eq!(schedutil_target(0.5, &[]), None);
    }

    /// 500 + load x 1500 kHz, to the nearest; above 95 % straight to the top.
    #[test]
    fn ondemand_is_proportional_below_its_threshold() {
        for (load, clock) in [(0.0, 500), (0.16, 500), (0.17, 1000), (0.6, 1500), (0.95, 2000), (0.96, 2000)]
        {
            assert_eq!(ondemand_target(load, &POINTS), Some(Kilohertz(clock)), "{load}");
        }
    }

    /// The document: the most recent 32 periods of 1024 us contribute half.
    #[test]
    fn pelt_halves_in_32_periods_and_counts_by_the_clock() {
        let mut unit = Tracked::default();
        unit.pass(at_ms(0.0), 1.0, true);
        unit.pass(at_ms(32.768), 1.0, true);
        assert!((unit.util - 0.5).abs() < 1e-9, "{}", unit.util);
        // At half the highest clock the same time is worth half: it stays at what it is.
        unit.pass(at_ms(65.536), 0.5, true);
        assert!((unit.util - 0.5).abs() < 1e-9, "{}", unit.util);
        unit.pass(at_ms(65.536), 0.5, false);
        unit.pass(at_ms(98.304), 0.5, false);
        assert!((unit.util - 0.25).abs() < 1e-9 && (unit.utilisation() - 0.25).abs() < 1e-9);
        // Woken up, it is taken to be what it was when it went to sleep.
        unit.pass(at_ms(98.304), 0.5, true);
        assert!((unit.utilisation() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_estimate_rises_at_once_and_falls_by_a_quarter() {
        let mut unit = Tracked { util: 0.8, running: true, ..Tracked::default() };
        unit.pass(Timestamp::ZERO, 1.0, false);
        assert!((unit.estimate - 0.8).abs() < 1e-9);
        (unit.util, unit.running) = (0.4, true);
        unit.pass(Timestamp::ZERO, 1.0, false);
        assert!((unit.estimate - 0.7).abs() < 1e-9, "0.8 - (0.8 - 0.4) / 4");
    }
}
