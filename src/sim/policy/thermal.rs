//! The kernel's thermal governors: the power allocator (IPA) and step-wise.
//!
//! Both act on the zones that the sensors show and cap the clocks that the frequency governor may choose. They
//! keep each zone below the same temperature as the planner: the limit of the budgets or the zone's passive
//! trip, whichever is lower, less the budgets' margin. Like the kernel's zones with a passive trip they are
//! polled every 100 ms (`polling-delay-passive` of driver-api/thermal/power_allocator.rst), or with each sweep of
//! the sensors where that is rarer; a zone that cannot be read is left as it is.

use super::view::View;
use crate::core::catalog::{DomainId, UnitId};
use crate::core::event::Readings;
use crate::core::thermal::limit;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

/// Between two rounds.
const PERIOD: Nanos = Nanos::from_millis(100);
/// IPA's control loop starts this far below the temperature it controls for (10 K between the two passive trips
/// of arch/arm64/boot/dts/rockchip/rk3588.dtsi and of ARM's Juno board).
const SWITCH_ON_K: f64 = 10.0;
/// Of step-wise's trip (the 2000 m°C of most device trees, rk3588's among them).
const HYSTERESIS_K: f64 = 2.0;
/// Air that the integrator of a board takes its sustainable power in.
const ROOM_C: f64 = 25.0;

/// A thermal governor.
#[derive(Debug, Clone)]
pub enum Thermal {
    /// drivers/thermal/gov_power_allocator.c
    PowerAllocator(PowerAllocator),
    /// drivers/thermal/gov_step_wise.c
    StepWise(StepWise),
}

impl Thermal {
    /// The power allocator.
    #[must_use]
    pub fn power_allocator() -> Self {
        Self::PowerAllocator(PowerAllocator::default())
    }

    /// Step-wise.
    #[must_use]
    pub fn step_wise() -> Self {
        Self::StepWise(StepWise::default())
    }

    /// The highest clock that the domain may have; `None` = any.
    #[must_use]
    pub fn cap(&self, domain: DomainId) -> Option<Kilohertz> {
        let caps = match self {
            Self::PowerAllocator(governor) => &governor.caps,
            Self::StepWise(governor) => &governor.caps,
        };
        caps.get(domain.index()).copied().flatten()
    }

    /// The sensors were read; `busy_s` are the seconds that each unit has been busy since the start.
    pub fn sampled(&mut self, view: &View<'_>, readings: &Readings, busy_s: &[f64]) {
        match self {
            Self::PowerAllocator(governor) => governor.sampled(view, readings, busy_s),
            Self::StepWise(governor) => governor.sampled(view, readings),
        }
    }
}

/// The temperature to stay below, by zone, in degrees Celsius.
fn control_c(view: &View<'_>, zone: usize) -> f64 {
    let budgets = &view.state.budgets;
    limit(&view.state.catalog.board, budgets, zone).as_celsius() - budgets.temperature_margin.as_celsius()
}

/// Power above idle of a domain at a clock with its most powerful unit busy all the time, W.
fn full_watts(view: &View<'_>, domain: DomainId, clock: Kilohertz) -> f64 {
    let units = &view.state.catalog.board.units;
    let watts = view.units_of(domain).map(|unit| units[unit.index()].busy_power.at(clock).as_watts());
    watts.fold(0.0, f64::max)
}

/// A PID controller per zone turns temperature into a power that all domains may draw together, which is
/// divided among them by what they ask for.
#[derive(Debug, Clone, Default)]
pub struct PowerAllocator {
    polled_at: Option<Timestamp>,
    /// Sum of past overshoots by zone, K.
    integral_k: Vec<f64>,
    busy_before_s: Vec<f64>,
    caps: Vec<Option<Kilohertz>>,
}

/// A domain as an actor: what it asks for, what it could draw.
#[derive(Debug, Clone, Copy)]
struct Actor {
    domain: DomainId,
    requested_w: f64,
    max_w: f64,
    /// Share of the full power at the present clock that was drawn over the last period.
    load: f64,
}

impl PowerAllocator {
    fn sampled(&mut self, view: &View<'_>, readings: &Readings, busy_s: &[f64]) {
        let span = self.polled_at.map(|at| view.now.since(at));
        if span.is_some_and(|span| span < PERIOD) {
            return;
        }
        let board = &view.state.catalog.board;
        let actors = self.actors(view, busy_s, span.unwrap_or(PERIOD).as_secs_f64());
        self.polled_at = Some(view.now);
        self.busy_before_s = busy_s.to_vec();
        self.integral_k.resize(board.zones.len(), 0.0);
        let mut caps: Vec<Option<Kilohertz>> = vec![None; board.domains.len()];
        for (zone, reading) in readings.zones.iter().enumerate().take(board.zones.len()) {
            let Ok(temperature) = reading else {
                caps = lower(&caps, &self.caps);
                continue;
            };
            let granted = self.allocate(view, zone, temperature.as_celsius(), &actors);
            for (actor, watts) in actors.iter().zip(granted.into_iter().flatten()) {
                let cap = clock_for(view, actor, watts);
                let slot = &mut caps[actor.domain.index()];
                *slot = Some(slot.map_or(cap, |other| other.min(cap)));
            }
        }
        self.caps = caps;
    }

    fn actors(&self, view: &View<'_>, busy_s: &[f64], span_s: f64) -> Vec<Actor> {
        let units = &view.state.catalog.board.units;
        let share = |unit: UnitId| {
            let before = self.busy_before_s.get(unit.index()).copied().unwrap_or(0.0);
            ((busy_s[unit.index()] - before) / span_s.max(1e-9)).clamp(0.0, 1.0)
        };
        let knobs = &view.state.knobs;
        let actor = |domain: DomainId| {
            let high = *knobs.points(domain).last()?;
            let present = knobs.present(domain).unwrap_or(high);
            let drawn = view
                .units_of(domain)
                .map(|unit| share(unit) * units[unit.index()].busy_power.at(present).as_watts());
            let requested_w: f64 = drawn.sum();
            let full = full_watts(view, domain, present);
            let load = if full > 0.0 { requested_w / full } else { 0.0 };
            Some(Actor { domain, requested_w, max_w: full_watts(view, domain, high), load })
        };
        view.compute_domains().filter_map(actor).collect()
    }

    /// What each actor may draw for the sake of a zone; `None` = anything.
    fn allocate(&mut self, view: &View<'_>, zone: usize, celsius: f64, actors: &[Actor]) -> Option<Vec<f64>> {
        let control = control_c(view, zone);
        if celsius < control - SWITCH_ON_K {
            self.integral_k[zone] = 0.0;
            return None;
        }
        let max_w: f64 = actors.iter().map(|actor| actor.max_w).sum();
        let sustainable = sustainable_watts(view, control, actors);
        let range = pid(sustainable, max_w, control - celsius, &mut self.integral_k[zone]);
        Some(divvy_up(actors, range))
    }
}

/// Power above idle at which the board stays at a temperature in a cool room, by its thermal model; at least
/// what its domains draw at their lowest points, the kernel's own estimate.
fn sustainable_watts(view: &View<'_>, control: f64, actors: &[Actor]) -> f64 {
    let board = &view.state.catalog.board;
    let resistance = board.thermal.fast_k_per_w + board.thermal.slow_k_per_w;
    let steady = (control - ROOM_C) / resistance.max(1e-6) - board.idle_power.as_watts();
    let lowest = actors.iter().map(|actor| {
        let points = view.state.knobs.points(actor.domain);
        points.first().map_or(0.0, |&low| full_watts(view, actor.domain, low))
    });
    steady.max(lowest.sum())
}

/// The controller with the kernel's default constants (`estimate_pid_constants`): `k_po = P / d`,
/// `k_pu = 2 P / d`, `k_i = k_pu / 10`, no derivative, errors summed only above the control temperature
/// (integral cut-off 0) and while the sum stays below the greatest power. Returns watts.
fn pid(sustainable_w: f64, max_w: f64, error_k: f64, integral_k: &mut f64) -> f64 {
    let k_po = sustainable_w / SWITCH_ON_K;
    let k_pu = 2.0 * sustainable_w / SWITCH_ON_K;
    let k_i = k_pu / 10.0;
    let proportional = if error_k < 0.0 { k_po } else { k_pu } * error_k;
    if error_k < 0.0 && (k_i * (*integral_k + error_k)).abs() < max_w {
        *integral_k += error_k;
    }
    (sustainable_w + proportional + k_i * *integral_k).clamp(0.0, max_w)
}

/// Divides a power in proportion to what the actors ask for; what is above one's maximum goes to the others in
/// proportion to what they lack (`divvy_up_power`).
fn divvy_up(actors: &[Actor], watts: f64) -> Vec<f64> {
    let requested: f64 = actors.iter().map(|actor| actor.requested_w).sum();
    let share = |actor: &Actor| if requested > 0.0 { actor.requested_w / requested * watts } else { 0.0 };
    let surplus: f64 = actors.iter().map(|actor| (share(actor) - actor.max_w).max(0.0)).sum();
    let lack = |actor: &Actor| (actor.max_w - share(actor)).max(0.0);
    let lacking: f64 = actors.iter().map(lack).sum();
    let extra = surplus.min(lacking);
    let grant = |actor: &Actor| {
        let more = if lacking > 0.0 { lack(actor) / lacking * extra } else { 0.0 };
        share(actor).min(actor.max_w) + more
    };
    actors.iter().map(grant).collect()
}

/// The highest clock at which the actor draws no more than `watts` at its load of the last period, at least
/// 1 % (`cpufreq_power2state`).
fn clock_for(view: &View<'_>, actor: &Actor, watts: f64) -> Kilohertz {
    let points = view.state.knobs.points(actor.domain);
    let full = watts / actor.load.max(0.01);
    let fits = points.iter().rev().find(|&&point| full_watts(view, actor.domain, point) <= full);
    fits.or(points.first()).copied().unwrap_or(Kilohertz::ZERO)
}

/// Of two sets of caps the lower of each.
fn lower(a: &[Option<Kilohertz>], b: &[Option<Kilohertz>]) -> Vec<Option<Kilohertz>> {
    let pair = |(index, &one): (usize, &Option<Kilohertz>)| match (one, b.get(index).copied().flatten()) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    a.iter().enumerate().map(pair).collect()
}

#[derive(Debug, Clone, Default)]
struct StepZone {
    last_c: Option<f64>,
    throttling: bool,
    /// Steps below the highest operating point, by domain; `None`: the zone makes no demand.
    targets: Vec<Option<usize>>,
}

/// While a zone is above its trip and rising, every domain goes one operating point down per round; while it
/// is below and falling, one up.
#[derive(Debug, Clone, Default)]
pub struct StepWise {
    polled_at: Option<Timestamp>,
    zones: Vec<StepZone>,
    caps: Vec<Option<Kilohertz>>,
}

impl StepWise {
    fn sampled(&mut self, view: &View<'_>, readings: &Readings) {
        if self.polled_at.is_some_and(|at| view.now.since(at) < PERIOD) {
            return;
        }
        self.polled_at = Some(view.now);
        let board = &view.state.catalog.board;
        let domains = board.domains.len();
        self.zones.resize_with(board.zones.len(), StepZone::default);
        for zone in 0..board.zones.len() {
            let Some(Ok(temperature)) = readings.zones.get(zone) else { continue };
            // A cooling device is where the most demanding of all zones has it, at each zone's turn.
            let current: Vec<usize> = (0..domains).map(|domain| self.state(domain)).collect();
            let deepest = |domain: usize| board.domains[domain].opps.len().saturating_sub(1);
            self.zones[zone].update(
                temperature.as_celsius(),
                control_c(view, zone),
                (0..domains).map(|domain| (current[domain], deepest(domain))),
            );
        }
        self.caps = (0..domains).map(|domain| self.cap(&board.domains[domain].opps, domain)).collect();
    }

    fn state(&self, domain: usize) -> usize {
        let targets = self.zones.iter().filter_map(|zone| zone.targets.get(domain).copied().flatten());
        targets.max().unwrap_or(0)
    }

    fn cap(&self, opps: &[Kilohertz], domain: usize) -> Option<Kilohertz> {
        let state = self.state(domain);
        (state > 0).then(|| opps[opps.len() - 1 - state])
    }
}

impl StepZone {
    /// `get_target_state` for each domain, given its present state and its deepest.
    fn update(&mut self, celsius: f64, trip: f64, domains: impl Iterator<Item = (usize, usize)>) {
        let last = self.last_c.replace(celsius);
        let (rising, falling) =
            (last.is_none_or(|last| celsius > last), last.is_some_and(|last| celsius < last));
        let threshold = if self.throttling { trip - HYSTERESIS_K } else { trip };
        self.throttling = celsius >= threshold;
        for (domain, (current, deepest)) in domains.enumerate() {
            if self.targets.len() <= domain {
                self.targets.push(None);
            }
            let target = &mut self.targets[domain];
            *target = match *target {
                _ if self.throttling && rising => Some((current + 1).min(deepest)),
                // Just throttled while not rising: the instance starts one step down all the same.
                None if self.throttling => Some((current + 1).min(deepest)),
                Some(_) if !self.throttling && falling && current == 0 => None,
                Some(_) if !self.throttling && falling => Some(current - 1),
                kept => kept,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(requested_w: f64, max_w: f64) -> Actor {
        Actor { domain: DomainId(0), requested_w, max_w, load: 1.0 }
    }

    /// The document's own figures: at the switch-on temperature three times the sustainable power, at the
    /// desired one just that; above it the proportional and the integral term pull down.
    #[test]
    fn the_controller_gives_the_powers_of_its_document() {
        let mut integral = 0.0;
        let mut power = |error| pid(2.0, 100.0, error, &mut integral);
        assert!((power(SWITCH_ON_K) - 6.0).abs() < 1e-9);
        assert!((power(0.0) - 2.0).abs() < 1e-9);
        // k_po = 0.2 W/K, k_i = 0.04 W/K: 2 - 0.2 * 5 - 0.04 * 5, and a round later 0.04 * 5 less.
        assert!((power(-5.0) - 0.8).abs() < 1e-9);
        assert!((power(-5.0) - 0.6).abs() < 1e-9);
        // Below the control temperature nothing is summed up: what was stays.
        assert!((power(0.0) - 1.6).abs() < 1e-9);
    }

    #[test]
    fn the_integral_does_not_wind_up_beyond_the_greatest_power() {
        let mut integral = 0.0;
        for _ in 0..1000 {
            assert!(pid(2.0, 3.0, -5.0, &mut integral) >= 0.0);
        }
        assert!((0.04 * integral).abs() < 3.0, "{integral}");
    }

    #[test]
    fn power_is_divided_by_request_and_the_surplus_by_what_is_lacking() {
        // 6 W for requests of 2 and 1: 4 and 2. The first may have 1 only, the other three are free to 5.
        let granted = divvy_up(&[actor(2.0, 1.0), actor(1.0, 5.0)], 6.0);
        assert!((granted[0] - 1.0).abs() < 1e-9 && (granted[1] - 5.0).abs() < 1e-9, "{granted:?}");
        let granted = divvy_up(&[actor(2.0, 9.0), actor(1.0, 9.0)], 6.0);
        assert!((granted[0] - 4.0).abs() < 1e-9 && (granted[1] - 2.0).abs() < 1e-9, "{granted:?}");
        assert_eq!(divvy_up(&[actor(0.0, 9.0)], 6.0), [0.0], "nobody asks");
    }

    #[test]
    fn step_wise_goes_one_step_per_round_and_lets_go_below_the_hysteresis() {
        let mut zone = StepZone::default();
        let mut round = |celsius: f64| {
            let current = zone.targets.first().copied().flatten().unwrap_or(0);
            zone.update(celsius, 80.0, std::iter::once((current, 3)));
            zone.targets[0]
        };
        assert_eq!(round(79.0), None);
        assert_eq!(round(80.0), Some(1), "at the trip and rising");
        assert_eq!(round(81.0), Some(2));
        assert_eq!(round(80.5), Some(2), "above and falling: as it is");
        assert_eq!(round(79.0), Some(2), "within the hysteresis");
        assert_eq!(round(79.5), Some(3), "within the hysteresis and rising");
        assert_eq!(round(79.9), Some(3), "no deeper than the last step");
        assert_eq!(round(77.0), Some(2), "below and falling");
        assert_eq!(round(77.0), Some(2), "below and steady");
        assert_eq!(round(76.0), Some(1));
        assert_eq!(round(75.0), Some(0));
        assert_eq!(round(74.0), None);
    }
}
