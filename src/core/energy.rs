//! Budgets: what the device, a class and an app may spend.

use crate::core::event::{ClassId, Request};
use crate::time::Timestamp;
use crate::units::{Bytes, Microjoules, Microwatts, MilliCelsius, Nanos, Ppm};
use serde::{Deserialize, Serialize};

/// Share of the device's bucket that readings below what was charged may be worth against later ones.
const CREDIT: f64 = 0.05;

/// Which decision rule chooses the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The least expected energy under all constraints.
    #[default]
    LeastEnergy,
    /// The most accurate variant on the fastest unit at its highest clock: what a system without a
    /// power-aware scheduler does under the `performance` governor. For comparison.
    Performance,
}

impl std::str::FromStr for Objective {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "least-energy" => Ok(Self::LeastEnergy),
            "performance" => Ok(Self::Performance),
            other => Err(format!("{other:?} is not an objective; there are least-energy and performance")),
        }
    }
}

/// What a class of requests is promised and allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassBudget {
    /// Name in configuration and metrics.
    pub name: String,
    /// Latency objective: the deadline of a request that names none.
    pub latency: Nanos,
    /// Least accuracy of a request that names none: the floor of every single answer.
    pub min_accuracy: Ppm,
    /// Accuracy to give while the budgets allow it; below it only under a binding power, energy or
    /// thermal budget or deadline. `None` = the floor is enough.
    pub accuracy_target: Option<Ppm>,
    /// Lower is more urgent.
    pub priority: u32,
    /// Most energy per request; `None` = no limit.
    pub energy_per_request: Option<Microjoules>,
    /// Average power this class may draw, as a token bucket over [`Budgets::power_window`]; `None` = no limit.
    pub power: Option<Microwatts>,
    /// Whether a smaller variant may answer where the chosen one would be late.
    #[serde(default = "yes")]
    pub rescue: bool,
}

const fn yes() -> bool {
    true
}

/// An energy allowance until a moment: so much, spread evenly over the time left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyAllowance {
    /// Energy of the whole board from now on.
    pub total: Microjoules,
    /// Time it must last, from now on.
    pub lasting: Nanos,
}

/// From battery to a reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatteryAllowance {
    /// Share of the full battery that must be left.
    pub reserve: Ppm,
    /// Time the rest must last, from now on.
    pub lasting: Nanos,
}

/// All budgets and limits. Replaced as a whole on reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    /// Decision rule.
    pub objective: Objective,
    /// Cap on the board's average power; `None` = no cap.
    pub power_cap: Option<Microwatts>,
    /// Window over which power caps are averaged.
    pub power_window: Nanos,
    /// Energy until a time.
    pub energy: Option<EnergyAllowance>,
    /// Battery until a time.
    pub battery: Option<BatteryAllowance>,
    /// Temperature that no zone may pass; `None` = each zone's passive trip.
    pub max_temperature: Option<MilliCelsius>,
    /// Distance kept from that limit.
    pub temperature_margin: MilliCelsius,
    /// Memory that loaded variants may hold together.
    pub memory_cap: Bytes,
    /// Longest queue, in requests, over all models.
    pub queue_limit: u32,
    /// Most requests of one app in the queue or running.
    pub app_limit: u32,
    /// Time after which an unused variant may be unloaded; `None` = only when memory is needed.
    pub unload_after: Option<Nanos>,
    /// Age from which a reading counts as its worst case.
    pub stale_after: Nanos,
    /// Classes; the first is the default.
    pub classes: Vec<ClassBudget>,
}

impl Budgets {
    /// The class of a request; an unknown class takes the default.
    #[must_use]
    pub fn class(&self, request: &Request) -> &ClassBudget {
        self.classes.get(usize::from(request.class.0)).unwrap_or(&self.classes[0])
    }
}

impl EnergyAllowance {
    /// Average power that spends the rest evenly over the time left: zero once the energy is gone, `None` once
    /// the time is over, for then the allowance has done what it was for.
    #[must_use]
    pub fn power(&self, spent: Microjoules, elapsed: Nanos) -> Option<Microwatts> {
        let left = self.total.saturating_sub(spent);
        let time = self.lasting.saturating_sub(elapsed);
        (time > Nanos::ZERO).then(|| Microwatts::from_f64(left.as_f64() / time.as_secs_f64()))
    }
}

/// A token bucket of energy: fills with a power, is drained by work, and may go into debt when work
/// costs more than was reserved. `rate` `None` means unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    rate_uw: Option<f64>,
    capacity_uj: f64,
    level_uj: f64,
    filled_at: Timestamp,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Option<Microwatts>, window: Nanos, now: Timestamp) -> Self {
        let mut bucket = Self { rate_uw: None, capacity_uj: 0.0, level_uj: 0.0, filled_at: now };
        bucket.set_rate(rate, window, now);
        bucket.level_uj = bucket.capacity_uj;
        bucket
    }

    /// Changes the rate; the surplus is lost when it shrinks. A debt stays a debt.
    pub fn set_rate(&mut self, rate: Option<Microwatts>, window: Nanos, now: Timestamp) {
        let capacity = rate.map_or(0.0, |rate| rate.as_f64().max(0.0) * window.as_secs_f64());
        self.set(rate, Microjoules::from_f64(capacity), now);
    }

    fn set(&mut self, rate: Option<Microwatts>, capacity: Microjoules, now: Timestamp) {
        self.refill(now);
        let was_unlimited = self.rate_uw.is_none();
        self.rate_uw = rate.map(|rate| rate.as_f64().max(0.0));
        self.capacity_uj = capacity.as_f64();
        if was_unlimited {
            self.level_uj = self.capacity_uj;
        }
        self.level_uj = self.level_uj.min(self.capacity_uj);
    }

    /// The same where the rate follows from a temperature, of which what was drawn too much is already part: a debt takes
    /// as long to repay as before. Were it to stay the same energy, it would be paid for twice, and when the rate
    /// collapses near a limit nothing at all would run for as long as that takes.
    fn set_heat_rate(&mut self, rate: Microwatts, capacity: Microjoules, now: Timestamp) {
        self.refill(now);
        if let Some(before) = self.rate_uw.filter(|before| *before > 0.0 && self.level_uj < 0.0) {
            self.level_uj *= rate.as_f64().max(0.0) / before;
        }
        self.set(Some(rate), capacity, now);
    }

    fn refill(&mut self, now: Timestamp) {
        if let Some(rate) = self.rate_uw {
            let gained = rate * now.since(self.filled_at).as_secs_f64();
            self.level_uj = (self.level_uj + gained).min(self.capacity_uj);
        }
        self.filled_at = self.filled_at.max(now);
    }

    /// When `energy` can be drawn: now, later, or never (rate zero). Work larger than the bucket may start
    /// once the bucket is full, and leaves a debt.
    #[must_use]
    pub fn available_at(&self, energy: Microjoules, now: Timestamp) -> Option<Timestamp> {
        let Some(rate) = self.rate_uw else { return Some(now) };
        let level = (self.level_uj + rate * now.since(self.filled_at).as_secs_f64()).min(self.capacity_uj);
        let missing = energy.as_f64().min(self.capacity_uj) - level;
        if missing <= 0.0 && rate > 0.0 {
            Some(now)
        } else if rate > 0.0 {
            Some(now.after(Nanos::from_secs_f64(missing / rate)))
        } else {
            None
        }
    }

    /// When `energy` can be drawn with a share of the full bucket left.
    fn available_beside(&self, energy: Microjoules, reserve: f64, now: Timestamp) -> Option<Timestamp> {
        self.available_at(energy.saturating_add(Microjoules::from_f64(self.capacity_uj * reserve)), now)
    }

    /// Takes energy out.
    pub fn draw(&mut self, energy: Microjoules, now: Timestamp) {
        self.refill(now);
        if self.rate_uw.is_some() {
            self.level_uj -= energy.as_f64();
        }
    }

    /// Corrects an earlier draw once the true energy is known.
    pub fn settle(&mut self, reserved: Microjoules, spent: Microjoules, now: Timestamp) {
        self.refill(now);
        if self.rate_uw.is_some() {
            self.level_uj = (self.level_uj + reserved.as_f64() - spent.as_f64()).min(self.capacity_uj);
        }
    }

    /// Share of the bucket that is filled, in [0, 1]; one if unlimited.
    #[must_use]
    pub fn fill(&self) -> f64 {
        match self.rate_uw {
            None => 1.0,
            Some(_) if self.capacity_uj <= 0.0 => 0.0,
            Some(_) => (self.level_uj / self.capacity_uj).clamp(0.0, 1.0),
        }
    }
}

/// The device's and the classes' buckets: reserve at dispatch, settle at completion.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ledger {
    device: Bucket,
    classes: Vec<Bucket>,
    /// Energy of the whole board since the start, integrated from samples.
    pub board_energy: Microjoules,
    /// Energy attributed to requests since the start.
    pub request_energy: Microjoules,
    reserved: Microjoules,
    /// Energy settled since the last reading of the board's power, microjoules.
    settled_uj: f64,
    /// What the board took beyond that, over all readings; below zero where it took less.
    unbilled_uj: f64,
}

impl Ledger {
    /// Full buckets for these budgets; the device's is unlimited until a cap is set.
    #[must_use]
    pub fn new(budgets: &Budgets, now: Timestamp) -> Self {
        let classes =
            budgets.classes.iter().map(|class| Bucket::new(class.power, budgets.power_window, now)).collect();
        Self {
            device: Bucket::new(None, budgets.power_window, now),
            classes,
            board_energy: Microjoules::ZERO,
            request_energy: Microjoules::ZERO,
            reserved: Microjoules::ZERO,
            settled_uj: 0.0,
            unbilled_uj: 0.0,
        }
    }

    /// Takes over new class budgets.
    pub fn reconfigure(&mut self, budgets: &Budgets, now: Timestamp) {
        self.classes.resize_with(budgets.classes.len(), || Bucket::new(None, budgets.power_window, now));
        for (bucket, class) in self.classes.iter_mut().zip(&budgets.classes) {
            bucket.set_rate(class.power, budgets.power_window, now);
        }
    }

    /// Sets the power above idle that the device may spend on average.
    pub fn cap_device(&mut self, rate: Option<Microwatts>, window: Nanos, now: Timestamp) {
        self.device.set_rate(rate, window, now);
    }

    /// Sets the power above idle that the heat allows on average.
    pub fn cap_heat(&mut self, rate: Microwatts, burst: Microjoules, now: Timestamp) {
        self.device.set_heat_rate(rate, burst, now);
    }

    /// When a request of this class may draw this energy with a share of the full budgets left; `None` = never, as
    /// things are.
    #[must_use]
    pub fn available_at(
        &self,
        class: ClassId,
        energy: Microjoules,
        reserve: f64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let device = self.device.available_beside(energy, reserve, now)?;
        match self.classes.get(usize::from(class.0)) {
            Some(bucket) => Some(device.max(bucket.available_beside(energy, reserve, now)?)),
            None => Some(device),
        }
    }

    /// How long the budgets of this class take to bring in this energy, whatever they hold now; zero without budgets.
    #[must_use]
    pub fn refill_time(&self, class: ClassId, energy: Microjoules) -> Nanos {
        let class = self.classes.get(usize::from(class.0));
        let buckets = [Some(&self.device), class].into_iter().flatten();
        let rates = buckets.filter_map(|bucket| bucket.rate_uw.filter(|rate| *rate > 0.0));
        rates.fold(Nanos::ZERO, |longest, rate| longest.max(Nanos::from_secs_f64(energy.as_f64() / rate)))
    }

    /// When the device's budget alone allows this energy; `None` = never, as things are.
    #[must_use]
    pub fn device_available_at(&self, energy: Microjoules, now: Timestamp) -> Option<Timestamp> {
        self.device.available_at(energy, now)
    }

    /// Reserves energy for one request's share of a batch.
    pub fn reserve(&mut self, class: ClassId, energy: Microjoules, now: Timestamp) {
        self.device.draw(energy, now);
        if let Some(bucket) = self.classes.get_mut(usize::from(class.0)) {
            bucket.draw(energy, now);
        }
        self.reserved = self.reserved.saturating_add(energy);
    }

    /// Replaces a reservation by what was spent.
    pub fn settle(&mut self, class: ClassId, reserved: Microjoules, spent: Microjoules, now: Timestamp) {
        self.device.settle(reserved, spent, now);
        self.settled_uj += spent.as_f64();
        if let Some(bucket) = self.classes.get_mut(usize::from(class.0)) {
            bucket.settle(reserved, spent, now);
        }
        self.reserved = self.reserved.saturating_sub(reserved);
        self.request_energy = self.request_energy.saturating_add(spent);
    }

    /// The board was measured to take so much above its idle power since the last time. What no request was
    /// charged with, such as clocks that are held for the next one, is drawn from the device's bucket: a cap
    /// holds for the board, not for what is attributed. Less than was charged gives little credit, and only
    /// against later readings: a sensor that shows nothing must not make work free.
    pub fn true_up(&mut self, above_idle_uj: f64, now: Timestamp) {
        let beyond = above_idle_uj - std::mem::take(&mut self.settled_uj);
        self.unbilled_uj = (self.unbilled_uj + beyond).max(-self.device.capacity_uj * CREDIT);
        if self.unbilled_uj > 0.0 {
            let unbilled = Microjoules::from_f64(std::mem::take(&mut self.unbilled_uj));
            self.device.settle(Microjoules::ZERO, unbilled, now);
        }
    }

    /// Energy reserved for running batches.
    #[must_use]
    pub fn reserved(&self) -> Microjoules {
        self.reserved
    }

    /// Share of the device's bucket that is filled.
    #[must_use]
    pub fn device_fill(&self) -> f64 {
        self.device.fill()
    }

    /// Share of a class's bucket that is filled.
    #[must_use]
    pub fn class_fill(&self, class: usize) -> f64 {
        self.classes.get(class).map_or(1.0, Bucket::fill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Nanos = Nanos::from_secs(1);

    #[test]
    fn two_watts_refill_one_joule_in_half_a_second() {
        let mut bucket = Bucket::new(Some(Microwatts(2_000_000)), S, Timestamp::ZERO);
        bucket.draw(Microjoules(2_000_000), Timestamp::ZERO);
        let ready = bucket.available_at(Microjoules(1_000_000), Timestamp::ZERO).unwrap();
        assert_eq!(ready, Timestamp::ZERO.after(Nanos::from_millis(500)));
    }

    #[test]
    fn work_larger_than_the_bucket_waits_for_a_full_one_and_leaves_a_debt() {
        // Capacity 2 J; a job of 5 J starts when full, and the next joule then waits (3 + 1) J / 2 W = 2 s.
        let mut bucket = Bucket::new(Some(Microwatts(2_000_000)), S, Timestamp::ZERO);
        assert_eq!(bucket.available_at(Microjoules(5_000_000), Timestamp::ZERO), Some(Timestamp::ZERO));
        bucket.draw(Microjoules(5_000_000), Timestamp::ZERO);
        assert_eq!(
            bucket.available_at(Microjoules(1_000_000), Timestamp::ZERO),
            Some(Timestamp::ZERO.after(Nanos::from_secs(2)))
        );
    }

    #[test]
    fn a_debt_of_heat_is_one_of_time() {
        // 4 J drawn from a bucket of 2 J at 2 W: 1 s of debt, and still 1 s at a tenth of the rate and back at it.
        let mut bucket = Bucket::new(Some(Microwatts(2_000_000)), S, Timestamp::ZERO);
        bucket.draw(Microjoules(4_000_000), Timestamp::ZERO);
        let out_of_debt = |bucket: &Bucket| bucket.available_at(Microjoules::ZERO, Timestamp::ZERO);
        for rate in [200_000_i64, 2_000_000] {
            bucket.set_heat_rate(Microwatts(rate), Microjoules(rate.unsigned_abs()), Timestamp::ZERO);
            assert_eq!(out_of_debt(&bucket), Some(Timestamp::ZERO.after(S)), "{rate}");
        }
        bucket.set_rate(Some(Microwatts(200_000)), S, Timestamp::ZERO);
        assert_eq!(out_of_debt(&bucket), Some(Timestamp::ZERO.after(Nanos::from_secs(10))));
    }

    #[test]
    fn a_zero_rate_never_pays() {
        let bucket = Bucket::new(Some(Microwatts::ZERO), S, Timestamp::ZERO);
        assert_eq!(bucket.available_at(Microjoules(1), Timestamp::ZERO), None);
    }

    #[test]
    fn an_allowance_spreads_what_is_left_over_the_time_left() {
        // 3600 J over 1 h is 1 W; after 30 min with 900 J spent, 2700 J / 1800 s = 1.5 W.
        let allowance =
            EnergyAllowance { total: Microjoules(3_600_000_000), lasting: Nanos::from_secs(3600) };
        assert_eq!(allowance.power(Microjoules::ZERO, Nanos::ZERO), Some(Microwatts(1_000_000)));
        let half = Nanos::from_secs(1800);
        assert_eq!(allowance.power(Microjoules(900_000_000), half), Some(Microwatts(1_500_000)));
        assert_eq!(allowance.power(Microjoules(3_600_000_000), half), Some(Microwatts::ZERO), "spent");
        assert_eq!(allowance.power(Microjoules::ZERO, Nanos::from_secs(3600)), None, "over");
    }

    #[test]
    fn what_the_board_takes_beyond_what_was_charged_is_drawn() {
        let budgets = crate::core::energy::Budgets {
            power_cap: None,
            power_window: S,
            objective: Objective::LeastEnergy,
            energy: None,
            battery: None,
            max_temperature: None,
            temperature_margin: MilliCelsius(3000),
            memory_cap: Bytes(1),
            queue_limit: 1,
            app_limit: 1,
            unload_after: None,
            stale_after: S,
            classes: vec![],
        };
        let now = Timestamp::ZERO;
        let mut ledger = Ledger::new(&budgets, now);
        // A bucket of 2 J. A request was charged 0.5 J, the board took 1.5 J: 0.5 J are left.
        ledger.cap_device(Some(Microwatts(2_000_000)), S, now);
        let charge = |ledger: &mut Ledger| {
            ledger.reserve(ClassId(0), Microjoules(500_000), now);
            ledger.settle(ClassId(0), Microjoules(500_000), Microjoules(500_000), now);
        };
        charge(&mut ledger);
        ledger.true_up(1.5e6, now);
        assert!((ledger.device_fill() - 0.25).abs() < 1e-9, "{}", ledger.device_fill());
        // A sensor that shows nothing gives nothing back, and 0.1 J of credit at most.
        for _ in 0..3 {
            charge(&mut ledger);
            ledger.true_up(0.0, now);
        }
        let before = ledger.device.level_uj;
        ledger.true_up(0.2e6, now);
        assert!((before - ledger.device.level_uj - 0.1e6).abs() < 1.0, "{before} {}", ledger.device.level_uj);
    }

    proptest! {
        #[test]
        fn draws_never_exceed_what_flowed_in(draws in proptest::collection::vec((0u64..3_000_000, 0u64..2_000), 1..60)) {
            // Drawing only when allowed, the total drawn is at most capacity + rate * time + one largest job.
            let rate = Microwatts(1_500_000);
            let mut bucket = Bucket::new(Some(rate), S, Timestamp::ZERO);
            let mut now = Timestamp::ZERO;
            let (mut total, mut largest) = (0u64, 0u64);
            for (energy, pause_ms) in draws {
                now = now.after(Nanos::from_millis(pause_ms));
                if bucket.available_at(Microjoules(energy), now) == Some(now) {
                    bucket.draw(Microjoules(energy), now);
                    total += energy;
                    largest = largest.max(energy);
                }
            }
            let inflow = rate.as_f64() * (1.0 + now.since(Timestamp::ZERO).as_secs_f64());
            prop_assert!(Microjoules(total).as_f64() <= inflow + Microjoules(largest).as_f64() + 1.0);
        }
    }
}
