//! How warm the air around the board is and how badly its heatsink passes on heat.
//!
//! Two nodes, the die on a heatsink in the air: `C dTs/dt = P - (Ts - Ta) / R`, and the hottest zone shows
//! `Ts + Rf P`, `P` averaged over the die's time constant. `C` and `Rf` are the board file's; the state of an
//! extended Kalman filter is the sink's temperature `Ts`, the air's `Ta` and `ln R`. From a single working point air
//! and resistance cannot be told apart, and need not be: both say the same of the power that is sustained
//! near it. Two surprises in a row of more than three standard deviations, as when a fan fails, make both
//! doubted.

use super::meter::Meter;
use crate::core::catalog::ThermalModel;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// First guess of the air's temperature, degrees Celsius, its deviation, and its bounds.
const AIR_C: f64 = 25.0;
const AIR_DEVIATION: f64 = 10.0;
const AIR_RANGE: (f64, f64) = (-40.0, 90.0);
/// Deviation of the logarithm of the file's resistance, and how far it may be off at most. Air that warms steadily looks
/// like a heatsink that passes on less and less; the weather changes more often than the heatsink does.
const LN_R_DEVIATION: f64 = 0.2;
const LN_R_RANGE: f64 = 2.5;
/// Drift per square root of a second of sink, K; air, K; logarithm of the resistance.
const DRIFT: [f64; 3] = [0.02, 0.05, 0.003];
/// Deviation of a reading, K, and of the die's rise over the sink, as a share.
const READING_K: f64 = 0.4;
const RISE_SHARE: f64 = 0.15;
const OUTLIER: f64 = 3.0;
/// Doubt of air, K, and resistance after two surprises.
const DOUBT: (f64, f64) = (4.0, 0.2);
/// A prediction is judged after so many seconds, against the die's rise over the air of at least so many kelvin.
const AHEAD_S: f64 = 10.0;
const LEAST_RISE_K: f64 = 5.0;
/// After a pause longer than this the sink is where the die is read, s.
const PAUSE_S: f64 = 60.0;

/// The filter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Heat {
    model: ThermalModel,
    /// J/K.
    capacity: f64,
    /// Sink and air in degrees Celsius, logarithm of the resistance over the file's.
    state: [f64; 3],
    covariance: [[f64; 3]; 3],
    /// Power averaged over the die's time constant, W.
    die_w: f64,
    seen_at: Option<Timestamp>,
    surprises: u32,
    /// A sink that is predicted without looking, and for how long it has been, s.
    blind: (f64, f64),
    pub(super) error: Meter,
}

impl Heat {
    pub(super) fn new(model: ThermalModel) -> Self {
        let capacity = model.slow_tau_s.max(0.1) / model.slow_k_per_w.max(1e-3);
        Self {
            model,
            capacity,
            state: [AIR_C, AIR_C, 0.0],
            covariance: prior(),
            die_w: 0.0,
            seen_at: None,
            surprises: 0,
            blind: (AIR_C, 0.0),
            error: Meter::default(),
        }
    }

    /// The air's temperature, degrees Celsius.
    pub(super) fn air_c(&self) -> f64 {
        self.state[1]
    }

    /// Heatsink to air, K/W.
    pub(super) fn resistance(&self) -> f64 {
        self.model.slow_k_per_w.max(1e-3) * self.state[2].exp()
    }

    fn fast(&self) -> f64 {
        self.model.fast_k_per_w.max(1e-3)
    }

    /// Takes over what an earlier life knew; the air may have changed.
    pub(super) fn restore(&mut self, air_c: f64, ln_r: f64) {
        if (AIR_RANGE.0..=AIR_RANGE.1).contains(&air_c) && ln_r.abs() <= LN_R_RANGE {
            self.state = [air_c, air_c, ln_r];
        }
    }

    /// What is worth keeping of air and resistance: as far as the readings did not tell more of either than was known
    /// at first, the first guess. From one working point only their sum is known, and what one of them takes the other
    /// has too little; taken apart by the next one they would both be wrong.
    pub(super) fn kept(&self) -> [f64; 2] {
        let (guess, unknown) = ([AIR_C, 0.0], prior());
        std::array::from_fn(|index| {
            let known = 1.0 - self.covariance[index + 1][index + 1] / unknown[index + 1][index + 1];
            guess[index] + known.clamp(0.0, 1.0) * (self.state[index + 1] - guess[index])
        })
    }

    /// The hottest zone shows `celsius`, and the board drew `watts` since the last reading.
    pub(super) fn observe(&mut self, now: Timestamp, celsius: f64, watts: f64) {
        if !(celsius.abs() < 300.0 && watts.abs() < 1e5) {
            return;
        }
        let watts = watts.max(0.0);
        let elapsed = self.seen_at.map(|at| now.since(at).as_secs_f64());
        self.seen_at = Some(now);
        let Some(elapsed) = elapsed.filter(|elapsed| *elapsed <= PAUSE_S) else {
            self.die_w = watts;
            self.state[0] = celsius - self.fast() * watts;
            self.covariance = prior();
            self.blind = (self.state[0], 0.0);
            return;
        };
        let passed = 1.0 - (-elapsed / self.model.fast_tau_s.max(0.1)).exp();
        self.die_w += passed * (watts - self.die_w);
        self.judge(celsius, watts, elapsed);
        self.predict(watts, elapsed);
        self.correct(celsius);
    }

    fn judge(&mut self, celsius: f64, watts: f64, elapsed: f64) {
        let (sink, since) = self.blind;
        self.blind = (self.sink_after(sink, watts, elapsed), since + elapsed);
        if self.blind.1 >= AHEAD_S {
            let rise = (celsius - self.air_c()).max(LEAST_RISE_K);
            self.error.observe(rise + self.blind.0 + self.fast() * self.die_w - celsius, rise);
            self.blind = (self.state[0], 0.0);
        }
    }

    fn sink_after(&self, sink: f64, watts: f64, elapsed: f64) -> f64 {
        let target = self.air_c() + watts * self.resistance();
        target + (sink - target) * self.left_after(elapsed)
    }

    /// What is left of the sink's distance from its steady state after so many seconds.
    fn left_after(&self, elapsed: f64) -> f64 {
        (-elapsed / (self.capacity * self.resistance())).exp()
    }

    fn predict(&mut self, watts: f64, elapsed: f64) {
        let [sink, air, _] = self.state;
        let rise = watts * self.resistance();
        let left = self.left_after(elapsed);
        let by_r =
            rise * (1.0 - left) + (sink - air - rise) * left * elapsed / (self.capacity * self.resistance());
        // F P F' with F the identity but for its first row.
        let row = [left, 1.0 - left, by_r];
        let p = self.covariance;
        let through: [f64; 3] = std::array::from_fn(|j| (0..3).map(|i| row[i] * p[i][j]).sum());
        let own: f64 = (0..3).map(|j| through[j] * row[j]).sum();
        self.covariance[0] = [own, through[1], through[2]];
        (self.covariance[1][0], self.covariance[2][0]) = (through[1], through[2]);
        for (index, drift) in DRIFT.into_iter().enumerate() {
            self.covariance[index][index] += drift * drift * elapsed;
        }
        self.bound();
        self.state[0] = self.sink_after(sink, watts, elapsed);
    }

    fn correct(&mut self, celsius: f64) {
        let over = self.fast() * self.die_w;
        let noise = READING_K * READING_K + (RISE_SHARE * over).powi(2);
        let surprise = celsius - over - self.state[0];
        let outlying = surprise * surprise > OUTLIER * OUTLIER * (self.covariance[0][0] + noise);
        self.surprises = if outlying { self.surprises + 1 } else { 0 };
        if self.surprises >= 2 {
            self.covariance[0][0] += surprise * surprise;
            self.covariance[1][1] += DOUBT.0 * DOUBT.0;
            self.covariance[2][2] += DOUBT.1 * DOUBT.1;
            self.bound();
        }
        let gains: [f64; 3] =
            std::array::from_fn(|i| self.covariance[i][0] / (self.covariance[0][0] + noise));
        let first = self.covariance[0];
        for (i, gain) in gains.iter().enumerate() {
            self.state[i] += gain * surprise;
            for (j, value) in first.iter().enumerate() {
                self.covariance[i][j] -= gain * value;
            }
        }
        self.state[1] = self.state[1].clamp(AIR_RANGE.0, AIR_RANGE.1);
        self.state[2] = self.state[2].clamp(-LN_R_RANGE, LN_R_RANGE);
    }

    /// What is not seen for long is not known worse than at first.
    fn bound(&mut self) {
        for (index, most) in [1e4, 4.0 * AIR_DEVIATION * AIR_DEVIATION, 4.0 * LN_R_DEVIATION * LN_R_DEVIATION]
            .into_iter()
            .enumerate()
        {
            let scale = (most / self.covariance[index][index].max(1e-12)).min(1.0).sqrt();
            if scale < 1.0 {
                (0..3).for_each(|other| {
                    self.covariance[index][other] *= scale;
                    self.covariance[other][index] *= scale;
                });
            }
            self.covariance[index][index] = self.covariance[index][index].max(1e-9);
        }
    }

    /// The highest power with which a die whose sink is at `sink_c` does not pass `limit_c` within `horizon_s`
    /// seconds: `limit = Ta (1 - e) + Ts e + P (R (1 - e) + Rf)`, with `e = exp(-horizon / (R C))`.
    pub(super) fn watts_within(&self, sink_c: f64, limit_c: f64, horizon_s: f64) -> f64 {
        let left = self.left_after(horizon_s.max(0.0));
        let room = limit_c - self.air_c() * (1.0 - left) - sink_c * left;
        room / (self.resistance() * (1.0 - left) + self.fast())
    }

    /// The highest power that can be drawn for ever with the die below `limit_c`.
    pub(super) fn steady_watts(&self, limit_c: f64) -> f64 {
        ((limit_c - self.air_c()) / (self.resistance() + self.fast())).max(0.0)
    }
}

fn prior() -> [[f64; 3]; 3] {
    let mut covariance = [[0.0; 3]; 3];
    covariance[0][0] = READING_K * READING_K;
    covariance[1][1] = AIR_DEVIATION * AIR_DEVIATION;
    covariance[2][2] = LN_R_DEVIATION * LN_R_DEVIATION;
    covariance
}

#[cfg(test)]
#[path = "tests/heat.rs"]
mod tests;
