//! A run looked at from moment to moment, for a picture.

use super::policies::Policies;
use super::runner::{Finished, RunError, RunOptions, conclude, start};
use super::scenario::Scenario;
use crate::core::catalog::DomainId;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

/// The board at a moment. Temperatures and power are true, not what sensors show.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// Time since the start of the workload.
    pub at: Nanos,
    /// Temperature of each zone in degrees Celsius.
    pub zones_c: Vec<f64>,
    /// Clock of each domain.
    pub clocks: Vec<Kilohertz>,
    /// Mean power through the board's input since the moment before, W.
    pub watts: f64,
    /// Energy through the board's input since the start of the workload, J.
    pub energy_j: f64,
}

/// A run with `moments` looks at the board, evenly spaced from the start of the workload to the end.
///
/// Looking rounds the plant's integrals a little otherwise than not looking: figures are those of the run without.
///
/// # Errors
/// If there is no such policy.
pub fn watch(
    scenario: &Scenario,
    policy: &str,
    seed: u64,
    moments: u32,
) -> Result<(Finished, Vec<Moment>), RunError> {
    let options = RunOptions { schedule: true, ..RunOptions::default() };
    let mut world = start(&Policies::of(scenario), policy, seed, options)?;
    let begin = Timestamp::ZERO.after(scenario.warmup);
    let (zones, domains) = {
        let spec = world.plant().spec();
        (spec.zones.len(), spec.domains.len())
    };
    let lasting = scenario.end().since(begin);
    let step = Nanos((lasting.0 / u64::from(moments.max(1))).max(1));
    world.run_until(begin);
    let at_begin = world.plant().stats().input_j;
    let mut before = at_begin;
    let mut seen = Vec::new();
    for index in 0..=moments {
        world.run_until(begin.after(Nanos(step.0.saturating_mul(u64::from(index)))).min(scenario.end()));
        let plant = world.plant();
        let joules = plant.stats().input_j;
        let watts = if index == 0 { plant.input_watts() } else { (joules - before) / step.as_secs_f64() };
        before = joules;
        seen.push(Moment {
            at: world.now().since(begin),
            zones_c: (0..zones).map(|zone| plant.zone_celsius(zone)).collect(),
            clocks: (0..domains).map(|domain| plant.clock(DomainId::at(domain)).current).collect(),
            watts,
            energy_j: joules - at_begin,
        });
    }
    Ok((conclude(scenario, policy, seed, (options, None), world)?, seen))
}
