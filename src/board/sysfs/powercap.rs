//! Energy counters: `class/powercap/*` (RAPL), and hwmon's `energyN_input`.

use super::root::{Attribute, Limits, Page, SysfsError, SysfsRoot, plausible_power};
use crate::time::Timestamp;
use crate::units::{Microwatts, Nanos};
use std::path::Path;

const CLASS: &str = "class/powercap";
/// Two readings closer together than this say little about power (RAPL counts about once a
/// millisecond): the last rate stands.
const MIN_SPAN: Nanos = Nanos::from_millis(5);
/// More power than anything draws, in W: bounds how often a counter can have wrapped.
const MOST_W: f64 = 1_000.0;

/// Power as the rate of an energy counter in µJ.
#[derive(Debug)]
pub(crate) struct EnergyRate {
    counter: Attribute,
    /// Value after which the counter starts at 0 again, in µJ.
    range: Option<i64>,
    last: Option<(Timestamp, i64)>,
    rate: Option<Microwatts>,
}

impl EnergyRate {
    /// Of a counter that wraps at `range` µJ, if it does.
    pub(crate) fn new(counter: Attribute, range: Option<i64>) -> Self {
        Self { counter, range, last: None, rate: None }
    }

    /// The powercap zone whose `name` is `name`, or which is called so (`intel-rapl:0`).
    pub(crate) fn find(root: &SysfsRoot, name: &str) -> Result<Self, String> {
        for entry in root.list(CLASS) {
            let zone = Path::new(CLASS).join(&entry);
            let fits = entry == name || root.read(zone.join("name")).is_ok_and(|text| text == name);
            if fits && root.exists(zone.join("energy_uj")) {
                let range =
                    root.read_number(zone.join("max_energy_range_uj")).ok().filter(|range| *range > 0);
                return Ok(Self::new(root.attribute(zone.join("energy_uj")), range));
            }
        }
        Err(format!("no powercap zone {name:?} under {}", root.path(CLASS).display()))
    }

    /// Name of every zone with a counter, and the zone that it is a part of.
    pub(crate) fn all(root: &SysfsRoot) -> Vec<(String, Option<String>)> {
        let named = |entry: &str| {
            let name = root.read(Path::new(CLASS).join(entry).join("name"));
            name.ok().filter(|name| !name.is_empty()).unwrap_or_else(|| entry.to_owned())
        };
        let counted = |entry: &String| root.exists(Path::new(CLASS).join(entry).join("energy_uj"));
        // `intel-rapl:0:1` is the second part of `intel-rapl:0`.
        let whole = |entry: &str| {
            let (parent, _) = entry.rsplit_once(':').filter(|(parent, _)| parent.contains(':'))?;
            Some(named(parent))
        };
        let entries = root.list(CLASS).into_iter().filter(counted);
        entries.map(|entry| (named(&entry), whole(&entry))).collect()
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.counter.path()
    }

    /// The average power since the last reading.
    pub(crate) fn sample(&mut self, now: Timestamp, buffer: &mut Page) -> Result<Microwatts, SysfsError> {
        let energy = self.counter.within(&Limits::COUNT, buffer)?;
        let not_yet = |path: &Path| SysfsError::NotYet { path: path.to_owned() };
        let Some((then, before)) = self.last else {
            self.last = Some((now, energy));
            return Err(not_yet(self.counter.path()));
        };
        let span = now.since(then);
        if span < MIN_SPAN {
            return self.rate.ok_or_else(|| not_yet(self.counter.path()));
        }
        self.last = Some((now, energy));
        self.rate = None;
        let Some(spent) = spent(before, energy, self.range, span) else {
            return Err(not_yet(self.counter.path()));
        };
        let microwatts = spent as f64 / span.as_secs_f64();
        let power = plausible_power(Microwatts::from_f64(microwatts).0, self.counter.path())?;
        self.rate = Some(power);
        Ok(power)
    }
}

/// µJ between two readings; `None` where that cannot be known: a counter that went back without a
/// range, or a span in which it may have wrapped more than once.
fn spent(before: i64, after: i64, range: Option<i64>, span: Nanos) -> Option<i64> {
    let Some(range) = range else {
        return after.checked_sub(before).filter(|energy| *energy >= 0);
    };
    if span.as_secs_f64() * MOST_W * 1e6 >= range as f64 {
        return None;
    }
    let wrapped = if after < before { range } else { 0 };
    after.checked_sub(before)?.checked_add(wrapped).filter(|energy| *energy >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_wraps_goes_on() {
        // 100 of 1e9 left, then 50 more: 150.
        assert_eq!(spent(999_999_900, 50, Some(1_000_000_000), Nanos::from_millis(100)), Some(150));
    }

    #[test]
    fn a_counter_that_goes_back_without_a_range_says_nothing() {
        assert_eq!(spent(900, 50, None, Nanos::from_millis(100)), None);
    }

    #[test]
    fn a_wrap_after_a_long_sleep_says_nothing() {
        // 1 kW would fill 1e9 µJ in one second, so after 10 s any number of wraps may lie between.
        assert_eq!(spent(900, 50, Some(1_000_000_000), Nanos::from_secs(10)), None);
    }
}
