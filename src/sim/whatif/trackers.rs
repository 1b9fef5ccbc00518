//! Counters behind the limits: each notices the moment at which its limit can hold no more.

use super::limit::{Finding, Limit};
use crate::units::Nanos;

/// An hour, the grain of [`Finding::worst_hour`].
pub(super) const HOUR: Nanos = Nanos::from_secs(3600);

/// Something per clock hour of the day. What comes after the last hour counts to it.
#[derive(Debug, Clone)]
pub(super) struct Hours<T>(Vec<T>);

impl<T: Clone + Copy> Hours<T> {
    pub(super) fn new(lasting: Nanos, empty: T) -> Self {
        let hours = usize::try_from(lasting.0.div_ceil(HOUR.0)).unwrap_or(usize::MAX).max(1);
        Self(vec![empty; hours])
    }

    pub(super) fn at(&mut self, at: Nanos) -> &mut T {
        let last = self.0.len() - 1;
        &mut self.0[usize::try_from(at.0 / HOUR.0).unwrap_or(last).min(last)]
    }

    /// The hour whose figure is the highest; none where there is only one.
    fn highest(&self, figure: impl Fn(&T) -> Option<f64>) -> Option<(usize, f64)> {
        if self.0.len() < 2 {
            return None;
        }
        let figures = self.0.iter().enumerate().filter_map(|(hour, each)| Some((hour, figure(each)?)));
        // The first of equals.
        figures.reduce(|worst, next| if next.1 > worst.1 { next } else { worst })
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(super) fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// A share of requests that may fail.
#[derive(Debug, Clone)]
pub(super) struct Share {
    limit: Limit,
    allowance: f64,
    /// Requests of the whole day.
    total: u64,
    failed: u64,
    hours: Hours<(u64, u64)>,
    broken_at: Option<Nanos>,
}

impl Share {
    pub(super) fn new(limit: Limit, allowance: f64, total: u64, lasting: Nanos) -> Self {
        Self { limit, allowance, total, failed: 0, hours: Hours::new(lasting, (0, 0)), broken_at: None }
    }

    /// A request that came at `arrival`; `failed` says when it failed, if it did.
    pub(super) fn count(&mut self, arrival: Nanos, failed: Option<Nanos>) {
        let hour = self.hours.at(arrival);
        hour.0 += 1;
        let Some(at) = failed else { return };
        hour.1 += 1;
        self.failed += 1;
        if self.broken_at.is_none() && share(self.failed, self.total) > self.allowance {
            self.broken_at = Some(at);
        }
    }

    pub(super) const fn broken(&self) -> bool {
        self.broken_at.is_some()
    }

    pub(super) fn finding(&self) -> Finding {
        let rate = |hour: &(u64, u64)| (hour.0 > 0).then(|| share(hour.1, hour.0));
        Finding {
            holds: !self.broken(),
            broken_at: self.broken_at,
            worst_hour: self.hours.highest(rate),
            ..Finding::held(self.limit, share(self.failed, self.total), self.allowance)
        }
    }
}

/// A mean of accuracies that must not be below a target.
#[derive(Debug, Clone)]
pub(super) struct Mean {
    limit: Limit,
    bound: f64,
    /// The highest that an answer can have.
    best: f64,
    /// Requests of the whole day, and those that are over.
    total: u64,
    seen: u64,
    answers: u64,
    sum: f64,
    hours: Hours<(u64, f64)>,
    below_since: Option<Nanos>,
}

impl Mean {
    pub(super) fn new(limit: Limit, bound: f64, best: f64, total: u64, lasting: Nanos) -> Self {
        let hours = Hours::new(lasting, (0, 0.0));
        Self { limit, bound, best, total, seen: 0, answers: 0, sum: 0.0, hours, below_since: None }
    }

    /// A request that came at `arrival` is over, with an answer of this accuracy or without one.
    pub(super) fn count(&mut self, arrival: Nanos, answer: Option<(Nanos, f64)>) {
        self.seen += 1;
        let Some((at, accuracy)) = answer else { return };
        let hour = self.hours.at(arrival);
        *hour = (hour.0 + 1, hour.1 + accuracy);
        self.answers += 1;
        self.sum += accuracy;
        if self.mean() >= self.bound {
            self.below_since = None;
        } else {
            self.below_since = self.below_since.or(Some(at));
        }
    }

    fn mean(&self) -> f64 {
        if self.answers == 0 { self.best } else { mean(self.answers, self.sum) }
    }

    /// Whether the best answers from now on would not mend it.
    pub(super) fn broken(&self) -> bool {
        let left = self.total.saturating_sub(self.seen);
        self.below_since.is_some()
            && mean(self.answers + left, self.sum + mean(1, self.best) * share(left, 1)) < self.bound
    }

    pub(super) fn finding(&self) -> Finding {
        let shortfall = |hour: &(u64, f64)| (hour.0 > 0).then(|| -mean(hour.0, hour.1));
        Finding {
            holds: self.below_since.is_none(),
            broken_at: self.below_since,
            worst_hour: self.hours.highest(shortfall).map(|(hour, negative)| (hour, -negative)),
            ..Finding::held(self.limit, self.mean(), self.bound)
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn mean(number: u64, sum: f64) -> f64 {
    sum / number.max(1) as f64
}

/// Mean powers over windows that follow each other.
#[derive(Debug, Clone)]
pub(super) struct Windows {
    limit: Limit,
    /// W.
    bound: f64,
    width: Nanos,
    /// Joules of each window so far.
    joules: Vec<f64>,
    lasting: Nanos,
    broken_at: Option<Nanos>,
}

impl Windows {
    pub(super) fn new(limit: Limit, bound: f64, width: Nanos, lasting: Nanos) -> Self {
        Self { limit, bound, width, joules: Vec::new(), lasting, broken_at: None }
    }

    /// Energy that was spent at a moment; what comes after the last whole window of the day does not count.
    pub(super) fn spend(&mut self, at: Nanos, joules: f64) {
        let index = at.0 / self.width.0.max(1);
        if (index + 1).saturating_mul(self.width.0) > self.lasting.0 {
            return;
        }
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if index >= self.joules.len() {
            self.joules.resize(index + 1, 0.0);
        }
        self.joules[index] += joules;
        if self.broken_at.is_none() && self.joules[index] > self.bound * self.width.as_secs_f64() {
            self.broken_at = Some(at);
        }
    }

    pub(super) const fn broken(&self) -> bool {
        self.broken_at.is_some()
    }

    pub(super) fn finding(&self) -> Finding {
        let seconds = self.width.as_secs_f64();
        let mut hours = Hours::new(self.lasting, 0.0_f64);
        for (index, joules) in self.joules.iter().enumerate() {
            let hour = hours.at(Nanos(self.width.0.saturating_mul(index as u64)));
            *hour = hour.max(joules / seconds);
        }
        let highest = self.joules.iter().fold(0.0_f64, |highest, joules| highest.max(joules / seconds));
        Finding {
            holds: !self.broken(),
            broken_at: self.broken_at,
            worst_hour: hours.highest(|watts| Some(*watts)),
            ..Finding::held(self.limit, highest, self.bound)
        }
    }
}

/// Energy that must last until a time from power-on.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    /// J.
    bound: f64,
    until: Nanos,
    spent: f64,
    hours: Hours<f64>,
    broken_at: Option<Nanos>,
}

impl Allowance {
    pub(super) fn new(bound: f64, until: Nanos, lasting: Nanos) -> Self {
        Self { bound, until, spent: 0.0, hours: Hours::new(lasting, 0.0), broken_at: None }
    }

    /// So much was spent by `since_power_on`, which is `at` of the day.
    pub(super) fn spent(&mut self, since_power_on: Nanos, at: Nanos, joules: f64) {
        *self.hours.at(at) += joules - self.spent;
        if since_power_on > self.until {
            return;
        }
        self.spent = joules;
        if self.broken_at.is_none() && joules > self.bound {
            self.broken_at = Some(at);
        }
    }

    pub(super) const fn broken(&self) -> bool {
        self.broken_at.is_some()
    }

    /// At the end of a day that lasted so long from power-on, of which `warmup` came before it began.
    pub(super) fn finding(&self, lasted: Nanos, warmup: Nanos) -> Finding {
        let projected = lasted < self.until && !self.broken();
        let watts = self.spent / lasted.as_secs_f64().max(1e-9);
        let got = if projected { watts * self.until.as_secs_f64() } else { self.spent };
        let gone = Nanos::from_secs_f64(self.bound / watts.max(1e-9)).saturating_sub(warmup);
        let holds = got <= self.bound;
        Finding {
            holds,
            broken_at: self.broken_at.or((!holds).then_some(gone)),
            worst_hour: self.hours.highest(|joules| Some(*joules)),
            projected,
            ..Finding::held(Limit::Energy, got, self.bound)
        }
    }
}

/// A battery of which a share must be left at a time from power-on. Energies in J.
#[derive(Debug, Clone)]
pub(super) struct Reserve {
    full: f64,
    start: f64,
    /// Share that must be left, the slack taken off.
    bound: f64,
    until: Nanos,
    left: f64,
    least: f64,
    broken_at: Option<Nanos>,
}

impl Reserve {
    pub(super) fn new(full: f64, start: f64, bound: f64, until: Nanos) -> Self {
        Self { full, start, bound, until, left: start, least: start, broken_at: None }
    }

    pub(super) fn left(&mut self, since_power_on: Nanos, at: Nanos, joules: f64) {
        if since_power_on > self.until {
            return;
        }
        self.left = joules;
        self.least = self.least.min(joules);
        if self.broken_at.is_none() && joules < self.bound * self.full {
            self.broken_at = Some(at);
        }
    }

    pub(super) const fn broken(&self) -> bool {
        self.broken_at.is_some()
    }

    pub(super) fn finding(&self, lasted: Nanos, warmup: Nanos) -> Finding {
        let projected = lasted < self.until && !self.broken();
        let watts = (self.start - self.left) / lasted.as_secs_f64().max(1e-9);
        let at_the_end = (self.start - watts * self.until.as_secs_f64()).max(0.0);
        let got = (if projected { at_the_end.min(self.least) } else { self.least }) / self.full.max(1e-9);
        let usable = self.start - self.bound * self.full;
        let gone = Nanos::from_secs_f64((usable / watts.max(1e-9)).max(0.0)).saturating_sub(warmup);
        let holds = got >= self.bound;
        Finding {
            holds,
            broken_at: self.broken_at.or((!holds).then_some(gone)),
            projected,
            ..Finding::held(Limit::Battery, got, self.bound)
        }
    }
}

/// Zones that must stay below their limits.
#[derive(Debug, Clone)]
pub(super) struct Heat {
    /// By zone, in degrees Celsius.
    limits: Vec<f64>,
    seconds: f64,
    hours: Hours<f64>,
    broken_at: Option<Nanos>,
}

impl Heat {
    pub(super) fn new(limits: Vec<f64>, lasting: Nanos) -> Self {
        Self { limits, seconds: 0.0, hours: Hours::new(lasting, f64::MIN), broken_at: None }
    }

    /// The zones at a moment, `span` after the look before.
    pub(super) fn look(&mut self, at: Nanos, span: Nanos, zone: impl Fn(usize) -> f64) {
        let celsius: Vec<f64> = (0..self.limits.len()).map(zone).collect();
        let hour = self.hours.at(at);
        *hour = celsius.iter().fold(*hour, |hottest, zone| hottest.max(*zone));
        if celsius.iter().zip(&self.limits).any(|(zone, limit)| zone >= limit) {
            self.seconds += span.as_secs_f64();
            self.broken_at = self.broken_at.or(Some(at));
        }
    }

    pub(super) const fn broken(&self) -> bool {
        self.broken_at.is_some()
    }

    pub(super) fn finding(&self) -> Finding {
        Finding {
            holds: !self.broken(),
            broken_at: self.broken_at,
            worst_hour: self.hours.highest(|celsius| (*celsius > f64::MIN).then_some(*celsius)),
            ..Finding::held(Limit::Temperature, self.seconds, 0.0)
        }
    }

    /// The hottest that a zone was when it was looked at, in degrees Celsius; of a board without zones, none.
    pub(super) fn hottest(&self) -> Option<f64> {
        let hottest = self.hours.0.iter().copied().fold(f64::MIN, f64::max);
        (hottest > f64::MIN).then_some(hottest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Nanos = Nanos::from_secs(1);
    const DAY: Nanos = Nanos::from_secs(3 * 3600);

    fn at(seconds: u64) -> Nanos {
        Nanos::from_secs(seconds)
    }

    /// One in a thousand of 3,000 may fail: the fourth breaks it.
    #[test]
    fn a_share_breaks_at_the_failure_that_is_one_too_many() {
        let mut share = Share::new(Limit::Latency(0), 0.001, 3000, DAY);
        for request in 0..3000_u64 {
            let arrival = at(request * 3);
            let late = [100, 1300, 1301, 1302, 2900].contains(&request);
            share.count(arrival, late.then_some(arrival.saturating_add(S)));
        }
        let finding = share.finding();
        assert_eq!((finding.holds, finding.broken_at), (false, Some(at(1302 * 3 + 1))));
        assert!((finding.got - 5.0 / 3000.0).abs() < 1e-12);
        // Requests 1200 to 2399 came in the second hour; three of these 1200 failed.
        assert_eq!(finding.worst_hour, Some((1, 3.0 / 1200.0)));
    }

    /// 0.9 and 0.95 in turn have a mean of 0.925; then nothing but 0.9.
    #[test]
    fn a_mean_breaks_when_it_falls_below_for_good() {
        let mut mean = Mean::new(Limit::Target(0), 0.920_03, 0.95, 1000, DAY);
        for request in 0..1000_u64 {
            let accuracy = if request < 500 && request % 2 == 0 { 0.95 } else { 0.9 };
            mean.count(at(request), Some((at(request), accuracy)));
            assert_eq!(mean.broken(), request >= 849, "request {request}: {:?}", mean.finding());
        }
        // (500 x 0.925 + n x 0.9) / (500 + n) < 0.92003 from n = 125 on. It cannot be mended any more from
        // 500 x 0.925 + n x 0.9 + (500 - n) x 0.95 < 920.03 on: n = 350.
        let finding = mean.finding();
        assert_eq!((finding.holds, finding.broken_at), (false, Some(at(499 + 125))));
    }

    #[test]
    fn a_window_breaks_above_its_mean_power_only() {
        let mut windows = Windows::new(Limit::Power, 2.0, at(10), DAY);
        windows.spend(at(0), 19.0);
        windows.spend(at(9), 1.0);
        windows.spend(at(10), 19.0);
        assert!(!windows.broken(), "20 J in 10 s are 2 W");
        windows.spend(at(15), 2.0);
        let finding = windows.finding();
        assert_eq!((finding.holds, finding.broken_at, finding.got), (false, Some(at(15)), 2.1));
        windows.spend(DAY, 1e9);
        assert_eq!(windows.finding().got, 2.1, "after the last whole window");
    }

    /// 100 J until 200 s, at 0.6 W: gone after 167 s; a day of 100 s can tell.
    #[test]
    fn an_allowance_is_projected_where_the_day_is_too_short() {
        let mut short = Allowance::new(100.0, at(200), at(100));
        (1..=100_u32).for_each(|s| short.spent(at(s.into()), at(s.into()), 0.6 * f64::from(s)));
        let finding = short.finding(at(100), Nanos::ZERO);
        assert!((finding.got - 120.0).abs() < 1e-9 && finding.projected && !finding.holds, "{finding:?}");
        assert_eq!(finding.broken_at.map(|at| at.as_secs_f64().round()), Some(167.0));
        let mut whole = Allowance::new(100.0, at(200), at(300));
        (1..=300_u32).for_each(|s| whole.spent(at(s.into()), at(s.into()), 0.4 * f64::from(s)));
        let finding = whole.finding(at(300), Nanos::ZERO);
        assert!((finding.got - 80.0).abs() < 1e-9 && finding.holds && !finding.projected, "{finding:?}");
    }

    /// 1000 J full at the start, 20 % reserve, 10 W: 200 J left after 80 s.
    #[test]
    fn a_reserve_breaks_when_the_battery_is_down_to_it() {
        let mut reserve = Reserve::new(1000.0, 1000.0, 0.2, at(90));
        (0..=100_u32).for_each(|s| reserve.left(at(s.into()), at(s.into()), 1000.0 - 10.0 * f64::from(s)));
        let finding = reserve.finding(at(100), Nanos::ZERO);
        assert_eq!((finding.holds, finding.broken_at, finding.got), (false, Some(at(81)), 0.1));
        let mut short = Reserve::new(1000.0, 1000.0, 0.2, at(90));
        (0..=40_u32).for_each(|s| short.left(at(s.into()), at(s.into()), 1000.0 - 10.0 * f64::from(s)));
        let finding = short.finding(at(40), Nanos::ZERO);
        assert!((finding.got - 0.1).abs() < 1e-9 && !finding.holds && finding.projected, "{finding:?}");
        assert_eq!(finding.broken_at, Some(at(80)));
    }

    #[test]
    fn heat_counts_the_seconds_at_or_above_the_limit_of_any_zone() {
        let mut heat = Heat::new(vec![80.0, 90.0], DAY);
        for (s, zones) in [(1, [79.0, 89.0]), (2, [80.0, 70.0]), (3, [70.0, 91.0]), (3700, [75.0, 75.0])] {
            heat.look(at(s), S, |zone| zones[zone]);
        }
        let finding = heat.finding();
        assert_eq!((finding.got, finding.broken_at, finding.worst_hour), (2.0, Some(at(2)), Some((0, 91.0))));
        assert_eq!(heat.hottest(), Some(91.0));
    }
}
