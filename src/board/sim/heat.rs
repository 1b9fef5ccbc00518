//! Two thermal nodes: a die over a heatsink over the ambient air.
//!
//! `C1 dT1/dt = P - (T1-T2)/R1` and `C2 dT2/dt = (T1-T2)/R1 - (T2-Ta)/R2`, with `C1 = tau1/R1` and
//! `C2 = tau2/R2`. In the steady state `T2 = Ta + P R2` and `T1 = T2 + P R1`, whatever the step.

/// Resistances and time constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeatPath {
    /// Die to heatsink, K/W.
    pub fast_k_per_w: f64,
    /// Time constant of the die, s.
    pub fast_tau_s: f64,
    /// Heatsink to ambient with the fan off (or none), K/W.
    pub slow_k_per_w: f64,
    /// Time constant of the heatsink with the fan off, s. It sets the heat capacity, so with the fan on
    /// the time constant shrinks as the resistance does.
    pub slow_tau_s: f64,
}

/// Temperatures of the two nodes in degrees Celsius.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heat {
    /// The die.
    pub die_c: f64,
    /// The heatsink.
    pub sink_c: f64,
}

impl Heat {
    /// Both nodes at the same temperature.
    #[must_use]
    pub const fn uniform(celsius: f64) -> Self {
        Self { die_c: celsius, sink_c: celsius }
    }

    /// The steady state under a constant power.
    #[must_use]
    pub fn steady(path: &HeatPath, watts: f64, ambient_c: f64, slow_k_per_w: f64) -> Self {
        let sink_c = ambient_c + watts * slow_k_per_w;
        Self { die_c: sink_c + watts * path.fast_k_per_w, sink_c }
    }

    /// Goes `dt_s` seconds on under `watts`, with the heatsink's present resistance `slow_k_per_w`.
    ///
    /// The die relaxes exactly towards its equilibrium with the heatsink held still; the heatsink then
    /// takes the mean flow out of the die. So the step is stable at any length, loses no heat, and its
    /// fixed point is the true steady state.
    pub fn step(&mut self, path: &HeatPath, watts: f64, ambient_c: f64, slow_k_per_w: f64, dt_s: f64) {
        if dt_s <= 0.0 {
            return;
        }
        let steps = dt_s / path.fast_tau_s;
        let passed = -(-steps).exp_m1();
        let die_target = self.sink_c + watts * path.fast_k_per_w;
        let lag = self.die_c - die_target;
        let mean_die_c = die_target + lag * passed / steps;
        self.die_c = die_target + lag * (1.0 - passed);
        let flow = (mean_die_c - self.sink_c) / path.fast_k_per_w;
        let capacity = path.slow_tau_s / path.slow_k_per_w;
        let sink_target = ambient_c + flow * slow_k_per_w;
        let decay = (-dt_s / (capacity * slow_k_per_w)).exp();
        self.sink_c = sink_target + (self.sink_c - sink_target) * decay;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: HeatPath =
        HeatPath { fast_k_per_w: 0.4, fast_tau_s: 6.0, slow_k_per_w: 4.0, slow_tau_s: 450.0 };

    #[test]
    fn the_steady_state_is_power_times_resistance() {
        let mut heat = Heat::uniform(25.0);
        for _ in 0..20_000 {
            heat.step(&PATH, 10.0, 25.0, 4.0, 0.5);
        }
        // 25 + 10 W x 4 K/W = 65; + 10 W x 0.4 K/W = 69.
        assert!((heat.sink_c - 65.0).abs() < 1e-6, "{heat:?}");
        assert!((heat.die_c - 69.0).abs() < 1e-6, "{heat:?}");
        let steady = Heat::steady(&PATH, 10.0, 25.0, 4.0);
        assert!((steady.die_c - 69.0).abs() < 1e-12 && (steady.sink_c - 65.0).abs() < 1e-12);
    }

    #[test]
    fn the_heatsink_warms_with_the_time_constant_of_both_heat_capacities() {
        let mut heat = Heat::uniform(25.0);
        for _ in 0..900 {
            heat.step(&PATH, 10.0, 25.0, 4.0, 0.5);
        }
        // (450/4 + 6/0.4) J/K x 4 K/W = 510 s; after 450 s: 40 K x (1 - exp(-450/510)) = 23.4 K.
        assert!((heat.sink_c - 48.4).abs() < 0.3, "{heat:?}");
    }

    #[test]
    fn the_length_of_the_step_matters_little() {
        let (mut coarse, mut fine) = (Heat::uniform(25.0), Heat::uniform(25.0));
        for _ in 0..200 {
            coarse.step(&PATH, 12.0, 25.0, 4.0, 0.5);
        }
        for _ in 0..10_000 {
            fine.step(&PATH, 12.0, 25.0, 4.0, 0.01);
        }
        assert!((coarse.die_c - fine.die_c).abs() < 0.05, "{coarse:?} {fine:?}");
    }
}
