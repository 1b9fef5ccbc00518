//! The last readings with their age. A reading that is old, impossible or stuck becomes its worst case.
//!
//! Four checks stand between a sensor and the rest of the core: a leap upwards faster than heat can travel is
//! held back until a second reading agrees; a fall is believed no faster than the heatsink can cool, however
//! often it is read, for a dead sensor that shows zero must not pass for a cold board (a zone may fall back
//! to where it leapt up from); a temperature that stays equal to the last digit while the thermal model says
//! that it must have moved is stuck; and a reading older than the limit is not a reading any more.

use crate::core::catalog::{Board, ThermalModel};
use crate::core::event::{BatteryState, ClockState, MemoryState, Pressure, Reading, Readings, SensorFault};
use crate::time::Timestamp;
use crate::units::{Microjoules, Microwatts, MilliCelsius, Nanos};
use serde::{Deserialize, Serialize};

/// A step between two samples beyond which a temperature needs a second opinion.
const JUMP: i32 = 15_000;
/// Movement of the modelled die temperature that a living sensor cannot fail to show: one of whole degrees,
/// half-way to the heatsink, on a board whose file overstates the die's resistance by a half, moves by 1.3 K.
const STUCK_MOVEMENT_K: f64 = 4.0;
/// No board stands in colder air.
const COLDEST_C: f64 = -40.0;

/// A value with the moment it was read, and the fault since then, if any.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Aged<T> {
    /// The last good value.
    pub value: Option<T>,
    /// When it was read.
    pub at: Timestamp,
    /// Why the latest reading was not good.
    pub fault: Option<SensorFault>,
}

impl<T> Default for Aged<T> {
    fn default() -> Self {
        Self { value: None, at: Timestamp::ZERO, fault: None }
    }
}

impl<T: Copy> Aged<T> {
    fn absorb(&mut self, now: Timestamp, reading: Reading<T>) {
        match reading {
            Ok(value) => *self = Self { value: Some(value), at: now, fault: None },
            Err(fault) => self.fault = Some(fault),
        }
    }

    /// The value if it is younger than `limit`.
    #[must_use]
    pub fn fresh(&self, now: Timestamp, limit: Nanos) -> Option<T> {
        self.value.filter(|_| now.since(self.at) <= limit)
    }
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct ZoneWatch {
    pending_jump: Option<MilliCelsius>,
    /// Where it stood before it leapt up; it may fall back to there at once.
    before_leap: Option<MilliCelsius>,
    modelled_at_change_k: f64,
}

/// Everything the sensors said last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Temperatures by zone.
    pub zones: Vec<Aged<MilliCelsius>>,
    /// Powers by rail.
    pub rails: Vec<Aged<Microwatts>>,
    /// Clocks by domain.
    pub domains: Vec<Aged<ClockState>>,
    /// Battery.
    pub battery: Aged<BatteryState>,
    /// Memory.
    pub memory: Aged<MemoryState>,
    /// Pressure.
    pub pressure: Aged<Pressure>,
    /// When the sensors were last read at all.
    pub sampled_at: Option<Timestamp>,
    watches: Vec<ZoneWatch>,
    input_rails: Vec<usize>,
    thermal: ThermalModel,
    die_over_sink_k: f64,
}

impl Snapshot {
    /// An empty snapshot for a board.
    #[must_use]
    pub fn new(board: &Board) -> Self {
        let inputs: Vec<usize> = (0..board.rails.len()).filter(|&rail| board.rails[rail].is_input).collect();
        Self {
            zones: vec![Aged::default(); board.zones.len()],
            rails: vec![Aged::default(); board.rails.len()],
            domains: vec![Aged::default(); board.domains.len()],
            battery: Aged::default(),
            memory: Aged::default(),
            pressure: Aged::default(),
            sampled_at: None,
            watches: vec![ZoneWatch::default(); board.zones.len()],
            input_rails: if inputs.is_empty() { (0..board.rails.len()).collect() } else { inputs },
            thermal: board.thermal,
            die_over_sink_k: 0.0,
        }
    }

    /// Takes in one sweep. `power` is the board's power since the last one, measured or modelled.
    pub fn absorb(&mut self, now: Timestamp, readings: &Readings, power: Microwatts) {
        let elapsed = self.sampled_at.map_or(0.0, |at| now.since(at).as_secs_f64());
        let gain = 1.0 - (-elapsed / self.thermal.fast_tau_s.max(0.1)).exp();
        self.die_over_sink_k += gain * (self.thermal.fast_k_per_w * power.as_watts() - self.die_over_sink_k);
        self.sampled_at = Some(now);
        for (zone, &reading) in readings.zones.iter().enumerate().take(self.zones.len()) {
            let checked = reading.and_then(|value| self.plausible(zone, value, now));
            self.zones[zone].absorb(now, checked);
        }
        for (aged, &reading) in self.rails.iter_mut().zip(&readings.rails) {
            aged.absorb(now, reading);
        }
        for (aged, &reading) in self.domains.iter_mut().zip(&readings.domains) {
            aged.absorb(now, reading);
        }
        if let Some(reading) = readings.battery {
            self.battery.absorb(now, reading);
        }
        if let Some(reading) = readings.pressure {
            self.pressure.absorb(now, reading);
        }
        self.memory.absorb(now, readings.memory);
    }

    fn plausible(&mut self, zone: usize, value: MilliCelsius, now: Timestamp) -> Reading<MilliCelsius> {
        let watch = &mut self.watches[zone];
        let last = &self.zones[zone];
        let Some(previous) = last.value else {
            watch.modelled_at_change_k = self.die_over_sink_k;
            return Ok(value);
        };
        let elapsed = now.since(last.at);
        let leapt = value.0.saturating_sub(previous.0) > JUMP;
        let differs = |from: MilliCelsius| (value.0.saturating_sub(from.0)).saturating_abs() > JUMP;
        if leapt && elapsed <= Nanos::from_secs(2) && watch.pending_jump.is_none_or(differs) {
            watch.pending_jump = Some(value);
            return Err(SensorFault::Implausible);
        }
        watch.pending_jump = None;
        let returns = |base: MilliCelsius| value.0 >= base.0.saturating_sub(JUMP);
        if fallen(previous, value, elapsed, &self.thermal) && !watch.before_leap.is_some_and(returns) {
            return Err(SensorFault::Implausible);
        }
        if leapt {
            watch.before_leap = Some(watch.before_leap.map_or(previous, |base| base.min(previous)));
        } else if watch.before_leap.is_some_and(|base| value <= base) {
            watch.before_leap = None;
        }
        if value != previous {
            watch.modelled_at_change_k = self.die_over_sink_k;
        } else if (self.die_over_sink_k - watch.modelled_at_change_k).abs() > STUCK_MOVEMENT_K {
            return Err(SensorFault::Implausible);
        }
        Ok(value)
    }

    /// Power of the whole board from its sensors: the input rails, or the sum of all where there is no input
    /// rail. `None` unless all of them are fresh.
    #[must_use]
    pub fn board_power(&self, now: Timestamp, stale_after: Nanos) -> Option<Microwatts> {
        if self.input_rails.is_empty() {
            return None;
        }
        self.input_rails.iter().try_fold(Microwatts::ZERO, |sum, &rail| {
            self.rails[rail].fresh(now, stale_after).map(|power| sum.saturating_add(power))
        })
    }

    /// The highest temperature among zones whose reading is younger than `stale_after`.
    #[must_use]
    pub fn hottest(&self, now: Timestamp, stale_after: Nanos) -> Option<MilliCelsius> {
        self.zones.iter().filter_map(|zone| zone.fresh(now, stale_after)).max()
    }

    /// Whether every zone that ever spoke was read at `now`.
    #[must_use]
    pub fn all_fresh(&self, now: Timestamp) -> bool {
        self.zones.iter().all(|zone| zone.value.is_none() || zone.at == now)
    }

    /// Energy left in the battery, if known.
    #[must_use]
    pub fn battery_left(&self, now: Timestamp, stale_after: Nanos) -> Option<(Microjoules, Microjoules)> {
        // A battery moves slowly: ten times the age of a temperature is still good.
        let limit = Nanos(stale_after.0.saturating_mul(10));
        self.battery.fresh(now, limit).map(|battery| (battery.remaining, battery.full))
    }
}

/// Whether a zone fell further than its heatsink can have cooled: within `elapsed` towards the coldest air, at
/// twice its pace without a fan, and a jump besides for the die.
fn fallen(from: MilliCelsius, to: MilliCelsius, elapsed: Nanos, thermal: &ThermalModel) -> bool {
    let cooled = 1.0 - (-2.0 * elapsed.as_secs_f64() / thermal.slow_tau_s.max(1.0)).exp();
    let possible = MilliCelsius(JUMP).as_celsius() + (from.as_celsius() - COLDEST_C).max(0.0) * cooled;
    from.as_celsius() - to.as_celsius() > possible
}
