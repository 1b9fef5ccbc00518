//! What a board shows besides the readings that decisions rest on: every sensor with its unit, age, source and
//! quality; alarms; and the bounds that others have set on its clocks. One panel is shared by whoever reads the board,
//! sets it, and answers for it; asking it never waits for a sensor.

use crate::core::event::SensorFault;
use crate::time::Timestamp;
use crate::units::Kilohertz;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// How far a reading can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// Read from a sensor, at its usual pace.
    Measured,
    /// Measured, but less than all that its name says: the note tells what is not in it.
    Partial,
    /// Older than it should be: the sensor fails, sleeps, or takes its time.
    Stale,
    /// Never read.
    Missing,
}

/// A sensor and what it showed last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instrument {
    /// What it measures, such as `zone cpu-thermal`.
    pub name: String,
    /// The last good value; a battery's is what is left, a clock's the present one.
    pub value: Option<f64>,
    /// Unit of the value.
    pub unit: String,
    /// Age of that value in seconds.
    pub age_s: Option<f64>,
    /// Where it is read.
    pub source: String,
    /// How far it can be relied on.
    pub quality: Quality,
    /// Why the latest reading failed.
    #[serde(default)]
    pub fault: Option<SensorFault>,
    /// What should be known about it.
    #[serde(default)]
    pub note: Option<String>,
}

/// What a board may complain of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// The supply's voltage is too low.
    UnderVoltage,
    /// The firmware caps a clock.
    ClockCapped,
    /// The firmware throttles.
    Throttled,
    /// A soft temperature limit is in force.
    SoftTemperature,
    /// A rail drew more than its limit, and the hardware throttled.
    OverCurrent,
    /// A zone is at or above the trip at which the kernel takes hard measures.
    OverTemperature,
}

impl Alarm {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 6] = [
        Self::UnderVoltage,
        Self::ClockCapped,
        Self::Throttled,
        Self::SoftTemperature,
        Self::OverCurrent,
        Self::OverTemperature,
    ];

    /// Name in metrics, logs and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnderVoltage => "under_voltage",
            Self::ClockCapped => "clock_capped",
            Self::Throttled => "throttled",
            Self::SoftTemperature => "soft_temperature",
            Self::OverCurrent => "over_current",
            Self::OverTemperature => "over_temperature",
        }
    }
}

/// An alarm's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmState {
    /// Which one.
    pub alarm: Alarm,
    /// Whether it is on; `None` where the board cannot tell.
    pub on: Option<bool>,
    /// How often it went off since the start.
    pub events: u64,
}

/// A clock domain's bounds that someone else has set while the daemon ran, or before: nvpmodel,
/// power-profiles-daemon, TuneD, thermald, a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Name of the domain.
    pub domain: String,
    /// Lower bound that is kept to.
    pub min_khz: Option<Kilohertz>,
    /// Upper bound that is kept to.
    pub max_khz: Option<Kilohertz>,
    /// How often someone else changed a bound since the start.
    pub changes: u64,
}

/// Who knows the instruments.
pub(crate) trait Instruments: Send + Sync {
    /// All of them as of `now`.
    fn instruments(&self, now: Timestamp) -> Vec<Instrument>;
}

/// What a board shows.
#[derive(Default)]
pub struct Panel {
    instruments: OnceLock<Arc<dyn Instruments>>,
    alarms: Mutex<[(Option<bool>, u64); Alarm::ALL.len()]>,
    foreign: Mutex<Vec<Foreign>>,
}

impl std::fmt::Debug for Panel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Panel").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept here holds no invariant that a panic could break half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Panel {
    /// Hands over the instruments. Once.
    pub(crate) fn attach(&self, instruments: Arc<dyn Instruments>) {
        let fresh = self.instruments.set(instruments).is_ok();
        debug_assert!(fresh, "instruments are attached once");
    }

    /// Every sensor as of `now`.
    #[must_use]
    pub fn instruments(&self, now: Timestamp) -> Vec<Instrument> {
        self.instruments.get().map(|known| known.instruments(now)).unwrap_or_default()
    }

    /// Every alarm.
    #[must_use]
    pub fn alarms(&self) -> Vec<AlarmState> {
        let alarms = lock(&self.alarms);
        let state = |(alarm, (on, events)): (Alarm, &(Option<bool>, u64))| AlarmState {
            alarm,
            on: *on,
            events: *events,
        };
        Alarm::ALL.into_iter().zip(alarms.iter()).map(state).collect()
    }

    /// Domains on which someone else has set bounds.
    #[must_use]
    pub fn foreign(&self) -> Vec<Foreign> {
        lock(&self.foreign).clone()
    }

    /// Takes in whether an alarm is on, and how many events a counter has seen since the last time. `None`: the
    /// board does not say; what was known stands.
    pub(crate) fn alarm(&self, alarm: Alarm, on: Option<bool>, counted: u64) {
        let Some(now) = on else { return };
        let mut alarms = lock(&self.alarms);
        let (before, events) = &mut alarms[alarm as usize];
        let rises = now && *before != Some(true);
        let more = if counted > 0 { counted } else { u64::from(rises) };
        if rises {
            tracing::warn!(alarm = alarm.name(), events = *events + more, "the board raises an alarm");
        } else if !now && *before == Some(true) {
            tracing::info!(alarm = alarm.name(), "the alarm is over");
        }
        *before = Some(now);
        *events = events.saturating_add(more);
    }

    /// Someone else set these bounds on a domain, where they bind.
    pub(crate) fn set_by_others(&self, domain: &str, min: Option<Kilohertz>, max: Option<Kilohertz>) {
        let mut foreign = lock(&self.foreign);
        match foreign.iter_mut().find(|known| known.domain == domain) {
            Some(known) => {
                (known.min_khz, known.max_khz) = (min, max);
                known.changes = known.changes.saturating_add(1);
            }
            None => {
                let domain = domain.to_owned();
                foreign.push(Foreign { domain, min_khz: min, max_khz: max, changes: 1 });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_counts_when_it_goes_off_and_not_while_it_lasts() {
        let panel = Panel::default();
        for on in [Some(false), Some(true), Some(true), None, Some(true), Some(false), Some(true)] {
            panel.alarm(Alarm::UnderVoltage, on, 0);
        }
        panel.alarm(Alarm::OverCurrent, Some(true), 3);
        panel.alarm(Alarm::OverCurrent, Some(true), 2);
        let alarms = panel.alarms();
        assert_eq!((alarms[0].on, alarms[0].events), (Some(true), 2));
        assert_eq!((alarms[4].alarm, alarms[4].events), (Alarm::OverCurrent, 5));
        assert_eq!(alarms[1].on, None, "nobody says");
    }
}
