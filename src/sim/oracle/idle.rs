//! The energy that no schedule can save.
//!
//! **Claim.** Let a reference board have no work, domains that draw the least they can, and a fan that, unless it has
//! failed, turns whenever that cools. Under any schedule the board's energy is at least the reference's, plus for
//! every run the power of its unit and of its domains above their least, times `1 + heating`.
//!
//! *Why.* Power at the input is the sum of constants, loads of domains, loads of busy units, and leakage. The first
//! are the same for everybody, the next two are counted with the runs or at their least. Leakage grows with the
//! temperature of the die, so it remains to show that the die of a working board is never cooler than the reference's.
//! Both nodes obey `C1 dT1 = P - (T1-T2)/R1`, `C2 dT2 = (T1-T2)/R1 - (T2-Ta)/R2`: each derivative does not fall with
//! the other temperature, grows with `P`, and grows with `R2` where the heatsink is warmer than the air, falls where
//! it is cooler. What begins below stays below in such a (cooperative) system, and the reference draws less and has
//! the `R2` that cools most. (A board whose fan never turned would not do: work that has started the fan may leave
//! the board cooler than one that idles just below the fan's threshold.)
//!
//! *Heating.* A joule of work also warms the die, and leakage is convex: `L(T) >= L(Tr) + L'(Tr) (T - Tr)`. The excess
//! `T - Tr` is at least the response of the two nodes, with the resistance of the turning fan, to the power of the
//! runs. So a joule spent at `t` adds `heating(t) = sum over s > t of L'(Tr(s)) response(s, t) ds` more, which one
//! sweep backwards through the steps of the reference gives for all `t` (the adjoint of the recursion forwards).
//!
//! Plant and reference integrate explicitly, with power held over a step; [`ROUNDING`] covers the difference.

use super::instance::MemoryClocks;
use crate::board::sim::{Change, Driver, Heat, Plant, PlantSpec, Script};
use crate::core::catalog::DomainId;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

/// Share of the idle energy given up to differences of integration.
const ROUNDING: f64 = 1e-4;

/// The idle board over a horizon.
#[derive(Debug, Clone)]
pub(super) struct Idle {
    /// Its energy, J.
    pub(super) joules: f64,
    /// Beginnings of steps, and the joules that a joule of work in that step adds by warming the board.
    heating: Vec<(Timestamp, f64)>,
}

struct Step {
    from: Timestamp,
    seconds: f64,
    /// Of the leakage at the input, W/K.
    slope: f64,
    fan_failed: bool,
}

impl Idle {
    /// `plant` is the board at power-on.
    pub(super) fn of(
        plant: &Plant,
        script: Option<(&Script, Timestamp)>,
        horizon: Nanos,
        memory: MemoryClocks,
    ) -> Self {
        let spec = plant.spec();
        let (steps, joules) = reference(plant, script, Timestamp::ZERO.after(horizon), memory);
        let mut heating = Vec::with_capacity(steps.len());
        // Joules still to come of a kelvin on the die and of one on the heatsink.
        let mut worth = (0.0, 0.0);
        for step in steps.iter().rev() {
            let slow = sink_resistance(spec, step.fan_failed);
            let after = |die_c, sink_c, watts| {
                let mut heat = Heat { die_c, sink_c };
                heat.step(&spec.thermal, watts, 0.0, slow, step.seconds * spec.thermal_speedup);
                heat.die_c * worth.0 + heat.sink_c * worth.1
            };
            heating.push((step.from, after(0.0, 0.0, 1.0) / step.seconds));
            worth = (step.slope * step.seconds + after(1.0, 0.0, step.slope), after(0.0, 1.0, 0.0));
        }
        heating.reverse();
        Self { joules: joules * (1.0 - ROUNDING), heating }
    }

    /// Joules that a joule of work adds at least by warming the board, whenever it is spent within a window.
    pub(super) fn heating(&self, from: Timestamp, until: Timestamp) -> f64 {
        let first = self.heating.partition_point(|(at, _)| *at <= from).saturating_sub(1);
        let steps = self.heating[first..].iter().take_while(|(at, _)| *at <= until);
        let least = steps.map(|(_, heating)| *heating).fold(f64::INFINITY, f64::min);
        if least.is_finite() { least.max(0.0) } else { 0.0 }
    }
}

/// The steps of the reference board until `end`, and its energy.
fn reference(
    plant: &Plant,
    script: Option<(&Script, Timestamp)>,
    end: Timestamp,
    memory: MemoryClocks,
) -> (Vec<Step>, f64) {
    let spec = plant.spec();
    let (gain, cold_w) = (1.0 + spec.conversion_loss, cold_watts(plant, memory));
    // A quarter of the plant's longest step.
    let longest = (spec.thermal.fast_tau_s / spec.thermal_speedup / 40.0).clamp(5e-4, 0.125);
    let mut changes: Vec<(Timestamp, &Change)> = script
        .into_iter()
        .flat_map(|(script, origin)| {
            script.steps().iter().map(move |(at, change)| (origin.after(*at), change))
        })
        .collect();
    changes.reverse();
    let (mut heat, mut ambient_c, mut extra_w, mut fan_failed) = (plant.heat(), spec.ambient_c, 0.0, false);
    let (mut at, mut joules, mut steps) = (Timestamp::ZERO, 0.0, Vec::new());
    while at < end {
        while let Some((_, change)) = changes.pop_if(|(due, _)| *due <= at) {
            match change {
                Change::AmbientC(celsius) => ambient_c = *celsius,
                Change::ExtraPowerW(watts) => extra_w = *watts,
                Change::FanFailed(failed) => fan_failed = *failed,
                _ => {}
            }
        }
        let next = changes.last().map_or(end, |(due, _)| *due).min(end);
        let until = at.after(Nanos::from_secs_f64(longest)).min(next);
        let seconds = until.since(at).as_secs_f64();
        let leaks = spec.rails.iter().map(|rail| (rail.leakage_watts(heat.die_c), rail.leakage_e_fold_k));
        let (leak_w, slope) = leaks.fold((0.0, 0.0), |(sum, slope), (watts, e_fold_k)| {
            (sum + watts * gain, slope + watts * gain / e_fold_k)
        });
        let watts = cold_w + leak_w + extra_w;
        joules += watts * seconds;
        steps.push(Step { from: at, seconds, slope, fan_failed });
        let slow = sink_resistance(spec, fan_failed || heat.sink_c < ambient_c);
        heat.step(&spec.thermal, watts, ambient_c, slow, seconds * spec.thermal_speedup);
        at = until;
    }
    (steps, joules)
}

fn sink_resistance(spec: &PlantSpec, fan_off: bool) -> f64 {
    match spec.fan {
        Some(fan) if !fan_off => fan.slow_k_per_w,
        _ => spec.thermal.slow_k_per_w,
    }
}

/// Power at the input of the board without work and leakage, with every load of a domain at its least, W.
fn cold_watts(plant: &Plant, memory: MemoryClocks) -> f64 {
    let spec = plant.spec();
    let base: f64 = spec.rails.iter().map(|rail| rail.base_w).sum();
    let domains = (0..spec.domains.len()).map(DomainId::at);
    let held = domains.map(|domain| match memory {
        MemoryClocks::AsBooted if is_memory(spec, domain) => {
            spec.domain_watts(domain, plant.clock(domain).current)
        }
        _ => least_domain_watts(spec, domain),
    });
    base * (1.0 + spec.conversion_loss) + held.sum::<f64>()
}

/// Whether a domain is the memory clock of some unit.
fn is_memory(spec: &PlantSpec, domain: DomainId) -> bool {
    spec.units.iter().any(|unit| unit.memory_domain == Some(domain))
}

/// The least that a domain's loads can draw at the input, each for itself, W.
pub(super) fn least_domain_watts(spec: &PlantSpec, domain: DomainId) -> f64 {
    let opps = &spec.domains[domain.index()].opps;
    let loads = spec.loads.iter().filter(|load| load.driver == Driver::Domain(domain));
    let least = loads.map(|load| {
        let watts = opps.iter().map(|clock: &Kilohertz| load.watts.at(clock.as_f64()));
        watts.fold(f64::INFINITY, f64::min)
    });
    least.sum::<f64>() * (1.0 + spec.conversion_loss)
}
