//! One value of the configuration, or of the day, that can be made looser.

use super::day::{Day, rest};
use super::limit::Limit;
use crate::units::{Microjoules, Microwatts, MilliCelsius, Nanos, Ppm};
use std::sync::Arc;

/// How many times as large a value may become, or as small.
const FACTOR: f64 = 30.0;
/// Coldest ambient that is tried, in degrees Celsius; and most that it is lowered.
const COLDEST_C: f64 = -20.0;
const COOLER_K: f64 = 60.0;

/// A value that a suggestion changes. Classes by their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Knob {
    /// `class[].latency_ms`, ms, raised.
    Latency(usize),
    /// `class[].min_accuracy`, lowered.
    Floor(usize),
    /// `class[].accuracy_target`, lowered.
    Target(usize),
    /// `class[].energy_per_request_mj`, mJ, raised.
    RequestEnergy(usize),
    /// `class[].power_w`, W, raised.
    ClassPower(usize),
    /// `budget.power_cap_w`, W, raised.
    PowerCap,
    /// `budget.energy`, in the unit that the configuration gives it in, raised.
    Energy,
    /// For how many hours energy and battery must last, shortened; and the day with it.
    Lasting,
    /// Capacity of the battery in Wh, raised.
    Battery,
    /// `budget.battery.reserve_percent`, %, lowered.
    Reserve,
    /// `budget.max_temperature_c`, degrees Celsius, raised to the lowest passive trip at most.
    MaxTemperature,
    /// The ambient temperature of the day, in degrees Celsius, lowered.
    Ambient,
}

impl Knob {
    /// Those that may help where these limits broke: their own, and those of the device, whose shortage shows in
    /// what the classes get.
    /// Of heat only where the board came near its limit.
    pub(super) fn that_may_help(day: &Day, broken: &[Limit], hot: bool) -> Vec<Self> {
        let mut knobs: Vec<Self> = broken.iter().filter_map(|limit| Self::of_limit(*limit)).collect();
        let budgets = &day.scenario.budgets;
        knobs.extend(budgets.power_cap.map(|_| Self::PowerCap));
        knobs.extend(budgets.energy.map(|_| Self::Energy));
        knobs.extend(budgets.battery.map(|_| Self::Reserve));
        knobs.extend(budgets.battery.map(|_| Self::Battery));
        if budgets.energy.is_some() || budgets.battery.is_some() {
            knobs.push(Self::Lasting);
        }
        knobs.extend(budgets.max_temperature.filter(|_| hot).map(|_| Self::MaxTemperature));
        // A script that sets the ambient has the last word on it.
        if hot && !day.scripted_ambient {
            knobs.push(Self::Ambient);
        }
        let mut seen = Vec::new();
        for knob in knobs {
            if !seen.contains(&knob) && knob.loosest(day) != knob.value(day) {
                seen.push(knob);
            }
        }
        seen
    }

    /// The value that a limit is set by; heat may have none.
    #[must_use]
    pub const fn of_limit(limit: Limit) -> Option<Self> {
        match limit {
            Limit::Latency(class) => Some(Self::Latency(class)),
            Limit::Floor(class) => Some(Self::Floor(class)),
            Limit::Target(class) => Some(Self::Target(class)),
            Limit::RequestEnergy(class) => Some(Self::RequestEnergy(class)),
            Limit::ClassPower(class) => Some(Self::ClassPower(class)),
            Limit::Power => Some(Self::PowerCap),
            Limit::Energy => Some(Self::Energy),
            Limit::Battery => Some(Self::Reserve),
            Limit::Temperature => None,
        }
    }

    /// The limit that it sets, if it is one of the configuration's.
    pub(super) const fn limit(self) -> Option<Limit> {
        match self {
            Self::Latency(class) => Some(Limit::Latency(class)),
            Self::Floor(class) => Some(Limit::Floor(class)),
            Self::Target(class) => Some(Limit::Target(class)),
            Self::RequestEnergy(class) => Some(Limit::RequestEnergy(class)),
            Self::ClassPower(class) => Some(Limit::ClassPower(class)),
            Self::PowerCap => Some(Limit::Power),
            Self::Energy => Some(Limit::Energy),
            Self::Reserve => Some(Limit::Battery),
            Self::MaxTemperature => Some(Limit::Temperature),
            Self::Lasting | Self::Battery | Self::Ambient => None,
        }
    }

    /// Its value now, in the unit of the configuration; NaN if it is not set.
    #[must_use]
    pub fn value(self, day: &Day) -> f64 {
        let budgets = &day.scenario.budgets;
        let class = |index: usize| budgets.classes.get(index);
        let value = match self {
            Self::Latency(index) => class(index).map(|class| class.latency.as_secs_f64() * 1e3),
            Self::Floor(index) => class(index).map(|class| class.min_accuracy.as_fraction()),
            Self::Target(index) => class(index).and_then(|class| Some(class.accuracy_target?.as_fraction())),
            Self::RequestEnergy(index) => {
                class(index).and_then(|class| Some(class.energy_per_request?.as_f64() / 1e3))
            }
            Self::ClassPower(index) => class(index).and_then(|class| Some(class.power?.as_watts())),
            Self::PowerCap => budgets.power_cap.map(Microwatts::as_watts),
            Self::Energy => budgets.energy.map(|energy| energy.total.as_f64() / 1e6 / day.energy_unit_j),
            Self::Lasting => {
                let energy = budgets.energy.map(|energy| energy.lasting);
                let longest = energy.max(budgets.battery.map(|battery| battery.lasting));
                longest.map(|span| span.as_secs_f64() / 3600.0)
            }
            Self::Battery => day.scenario.machine.plant.battery.map(|battery| battery.capacity_wh),
            Self::Reserve => budgets.battery.map(|battery| battery.reserve.as_fraction() * 100.0),
            Self::MaxTemperature => budgets.max_temperature.map(MilliCelsius::as_celsius),
            Self::Ambient => Some(day.scenario.machine.plant.ambient_c),
        };
        value.unwrap_or(f64::NAN)
    }

    /// The loosest value that is tried; the present one where there is no room.
    pub(super) fn loosest(self, day: &Day) -> f64 {
        let value = self.value(day);
        let variants = &day.scenario.machine.catalog.variants;
        let least = variants.iter().map(|variant| variant.accuracy.as_fraction()).fold(1.0, f64::min);
        match self {
            // An hour is the most that the configuration takes.
            Self::Latency(_) => (value * FACTOR).min(3_600_000.0).max(value),
            Self::RequestEnergy(_) | Self::ClassPower(_) | Self::PowerCap | Self::Energy | Self::Battery => {
                value * FACTOR
            }
            // Below the least accurate variant nothing changes any more.
            Self::Floor(_) => least.min(value),
            Self::Target(index) => {
                let floor = day.scenario.budgets.classes[index].min_accuracy.as_fraction();
                least.max(floor).min(value)
            }
            Self::Lasting => value / FACTOR,
            Self::Reserve => 0.0,
            Self::MaxTemperature => {
                let zones = day.scenario.machine.plant.zones.iter();
                zones.map(|zone| zone.passive.as_celsius()).fold(150.0, f64::min).max(value)
            }
            Self::Ambient => (value - COOLER_K).max(COLDEST_C).min(value),
        }
    }

    /// Whether looser is higher.
    #[must_use]
    pub const fn rises(self) -> bool {
        !matches!(self, Self::Floor(_) | Self::Target(_) | Self::Lasting | Self::Reserve | Self::Ambient)
    }

    /// A value so much of the way from one that breaks to one that holds, as short as one writes it, on the looser
    /// side. Values without a zero of their own count by factors.
    pub(super) fn along(self, breaks: f64, holds: f64, share: f64) -> f64 {
        let by_factors = matches!(
            self,
            Self::Latency(_)
                | Self::RequestEnergy(_)
                | Self::ClassPower(_)
                | Self::PowerCap
                | Self::Energy
                | Self::Lasting
                | Self::Battery
        );
        let there = if by_factors {
            breaks * (holds / breaks).powf(share)
        } else {
            breaks + (holds - breaks) * share
        };
        let short = short(there, self.decimals(there), self.rises());
        if self.rises() { short.min(holds) } else { short.max(holds) }
    }

    /// Digits after the point that are worth telling apart: three in all, or what such values are written with.
    fn decimals(self, value: f64) -> i32 {
        match self {
            Self::Floor(_) | Self::Target(_) => 3,
            Self::Reserve | Self::MaxTemperature | Self::Ambient => 1,
            _ => {
                #[allow(clippy::cast_possible_truncation, reason = "between -6 and 10")]
                let magnitude = value.abs().max(1e-6).log10().floor() as i32;
                2 - magnitude
            }
        }
    }

    /// The day with another value.
    #[must_use]
    pub fn turned(self, day: &Day, value: f64) -> Day {
        let mut day = day.clone();
        let budgets = &mut day.scenario.budgets;
        match self {
            Self::Latency(index) => budgets.classes[index].latency = Nanos::from_secs_f64(value / 1e3),
            Self::Floor(index) => budgets.classes[index].min_accuracy = Ppm::from_fraction(value),
            Self::Target(index) => budgets.classes[index].accuracy_target = Some(Ppm::from_fraction(value)),
            Self::RequestEnergy(index) => {
                budgets.classes[index].energy_per_request = Some(Microjoules::from_f64(value * 1e3));
            }
            Self::ClassPower(index) => budgets.classes[index].power = Some(Microwatts::from_watts(value)),
            Self::PowerCap => budgets.power_cap = Some(Microwatts::from_watts(value)),
            Self::Energy => {
                if let Some(energy) = &mut budgets.energy {
                    energy.total = Microjoules::from_f64(value * day.energy_unit_j * 1e6);
                }
            }
            Self::Lasting => {
                let span = Nanos::from_secs_f64(value * 3600.0);
                if let Some(energy) = &mut budgets.energy {
                    energy.lasting = energy.lasting.min(span);
                }
                if let Some(battery) = &mut budgets.battery {
                    battery.lasting = battery.lasting.min(span);
                }
                day.lasting = day.lasting.min(span);
            }
            Self::Battery => {
                if let Some(battery) = &mut Arc::make_mut(&mut day.scenario.machine.plant).battery {
                    battery.capacity_wh = value;
                }
            }
            Self::Reserve => {
                if let Some(battery) = &mut budgets.battery {
                    battery.reserve = Ppm::from_fraction(value / 100.0);
                }
            }
            Self::MaxTemperature => budgets.max_temperature = Some(MilliCelsius::from_celsius(value)),
            Self::Ambient => {
                let plant = Arc::make_mut(&mut day.scenario.machine.plant);
                plant.ambient_c = value;
                rest(plant);
            }
        }
        day.settle();
        day
    }
}

/// Rounded to so many decimals (before the point, if negative), up or down.
fn short(value: f64, decimals: i32, up: bool) -> f64 {
    let round = |value: f64| if up { value.ceil() } else { value.floor() };
    // Two exact powers of ten rather than one that is not.
    if decimals >= 0 {
        let scale = 10_f64.powi(decimals);
        round(value * scale) / scale
    } else {
        let scale = 10_f64.powi(-decimals);
        round(value / scale) * scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_and_on_the_looser_side() {
        let half = |knob: Knob, breaks, holds| knob.along(breaks, holds, 0.5);
        assert_eq!(half(Knob::Latency(0), 66.0, 100.0), 81.3, "66 x 100 is 81.24 squared");
        assert_eq!(half(Knob::Latency(0), 660.0, 1000.0), 813.0);
        assert_eq!(half(Knob::Energy, 72_000.0, 720_000.0), 228_000.0);
        assert_eq!(half(Knob::Target(0), 0.934, 0.9), 0.917);
        assert_eq!(half(Knob::Target(0), 0.934, 0.933), 0.933, "as near as one writes it");
        assert_eq!(half(Knob::Lasting, 10.0, 1.0), 3.16);
        assert_eq!(half(Knob::Ambient, 45.0, 44.9), 44.9);
        assert_eq!(half(Knob::Reserve, 20.0, 0.0), 10.0);
        assert_eq!(Knob::Reserve.along(20.0, 0.0, 0.25), 15.0);
        assert_eq!(Knob::PowerCap.along(5.0, 80.0, 0.25), 10.0);
        assert_eq!(Knob::PowerCap.along(7.0, 210.0, 1.0), 210.0);
    }

    #[test]
    fn the_middle_never_leaves_the_bracket() {
        for (breaks, holds) in [(1.0, 1.004), (0.01, 0.1), (1e6, 1e7), (99.9, 100.0)] {
            let middle = Knob::PowerCap.along(breaks, holds, 0.5);
            assert!(breaks < middle && middle <= holds, "{breaks} {middle} {holds}");
        }
    }
}
