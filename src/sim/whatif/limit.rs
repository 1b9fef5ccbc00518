//! What a day is judged by: one limit per budget of the configuration.

use crate::core::energy::Budgets;
use crate::units::Nanos;

/// A budget that holds or breaks. Classes by their index in [`Budgets::classes`].
///
/// | limit | what is measured | holds |
/// | --- | --- | --- |
/// | `Latency` | share of the class's requests that were late or turned away, for whatever reason | at most the allowance |
/// | `Floor` | share turned away because no variant was accurate enough | at most the allowance |
/// | `Target` | mean accuracy of the class's answers | at least the target less [`Limit::ACCURACY_SLACK`] |
/// | `RequestEnergy` | share that was turned away as too costly, or took more energy than allowed | at most the allowance |
/// | `ClassPower` | highest mean power of the class's runs over one window, W | at most the cap and [`Limit::METER_SLACK`] |
/// | `Power` | highest mean power of the board over one window, W | at most the cap and [`Limit::METER_SLACK`] |
/// | `Energy` | energy of the board until it may be spent, J | at most the allowance and [`Limit::METER_SLACK`] |
/// | `Battery` | least share of the battery that was left until it may be down to the reserve | at least the reserve less [`Limit::BATTERY_SLACK`] |
/// | `Temperature` | seconds in which a zone was at or above its limit | none |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Latency objective of a class.
    Latency(usize),
    /// Accuracy floor of a class.
    Floor(usize),
    /// Accuracy target of a class.
    Target(usize),
    /// Energy per request of a class.
    RequestEnergy(usize),
    /// Power of a class.
    ClassPower(usize),
    /// Power cap of the board.
    Power,
    /// Energy until a time.
    Energy,
    /// Battery reserve until a time.
    Battery,
    /// Temperature of the zones.
    Temperature,
}

impl Limit {
    /// By how much a mean accuracy may be below its target: half of the third digit, to which people write targets.
    pub const ACCURACY_SLACK: f64 = 0.0005;
    /// By what share a power or an energy may be above its budget. The scheduler sees both through sensors with a
    /// noise of 1 % and keeps books by samples, so that no budget can be met to the joule.
    pub const METER_SLACK: f64 = 0.01;
    /// By what share of a full battery the reserve may be missed, for the same reason.
    pub const BATTERY_SLACK: f64 = 0.005;

    /// The class that it is a budget of.
    #[must_use]
    pub const fn class(self) -> Option<usize> {
        match self {
            Self::Latency(class)
            | Self::Floor(class)
            | Self::Target(class)
            | Self::RequestEnergy(class)
            | Self::ClassPower(class) => Some(class),
            Self::Power | Self::Energy | Self::Battery | Self::Temperature => None,
        }
    }

    /// All limits that these budgets set on classes with requests. A zone always has one: its passive trip.
    pub(super) fn of(budgets: &Budgets, asked_for: &[bool]) -> Vec<Self> {
        let mut limits = Vec::new();
        for (index, class) in budgets.classes.iter().enumerate() {
            if !asked_for.get(index).copied().unwrap_or(false) {
                continue;
            }
            limits.push(Self::Latency(index));
            limits.extend((class.min_accuracy.0 > 0).then_some(Self::Floor(index)));
            limits.extend(class.accuracy_target.map(|_| Self::Target(index)));
            limits.extend(class.energy_per_request.map(|_| Self::RequestEnergy(index)));
            limits.extend(class.power.map(|_| Self::ClassPower(index)));
        }
        limits.extend(budgets.power_cap.map(|_| Self::Power));
        limits.extend(budgets.energy.map(|_| Self::Energy));
        limits.extend(budgets.battery.map(|_| Self::Battery));
        limits.push(Self::Temperature);
        limits
    }
}

/// What became of a limit in one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// The limit.
    pub limit: Limit,
    /// What was measured: see [`Limit`].
    pub got: f64,
    /// What it is measured against, the slack included.
    pub bound: f64,
    /// Whether it held.
    pub holds: bool,
    /// When it broke, from the start of the day. Of a share: the moment from which the day could not hold any more. Of
    /// a mean: since when the mean so far was below. Beyond the day, where [`Finding::projected`].
    pub broken_at: Option<Nanos>,
    /// The worst clock hour of the day, from 0, and its figure: as `got`, but the hottest of a temperature in degrees
    /// Celsius, and joules of an energy. None in a day of one hour.
    pub worst_hour: Option<(usize, f64)>,
    /// Whether the day was too short, and `got` is what it would be at its pace.
    pub projected: bool,
}

impl Finding {
    /// A limit about which nothing was found yet.
    pub(super) const fn held(limit: Limit, got: f64, bound: f64) -> Self {
        Self { limit, got, bound, holds: true, broken_at: None, worst_hour: None, projected: false }
    }

    /// Whether this is the worse of two runs: what broke before what held, then by how far `got` is on the wrong side.
    pub(super) fn is_worse_than(&self, other: &Self) -> bool {
        let lower_is_worse = matches!(self.limit, Limit::Target(_) | Limit::Battery);
        match (self.holds, other.holds) {
            (false, true) => true,
            (true, false) => false,
            _ if lower_is_worse => self.got < other.got,
            _ => self.got > other.got,
        }
    }
}
