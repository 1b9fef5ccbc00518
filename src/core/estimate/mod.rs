//! What the core learns while it runs.
//!
//! - [`slowdown`]: how much slower each processor's two roofs are than their profiles say, and how far each variant's
//!   profile is off beside that;
//! - [`tail`]: how much later than expected a run may be;
//! - [`power`]: what units and the idle board draw;
//! - [`heat`]: how warm the air is and how well the heatsink passes heat on;
//! - [`arrivals`]: how often each model is asked for.
//!
//! Each shows its own error ([`Meter`]). What is learned is bounded, and no reading makes it anything but finite.
//! Nothing here allocates after construction, but for models that come later.

mod arrivals;
mod growth;
mod heat;
mod meter;
mod power;
mod saved;
mod settling;
mod slowdown;
mod tail;

use crate::core::catalog::{Board, Catalog, DomainId, ModelId, Profile, Provenance, UnitId, VariantId};
use crate::core::points::{OperatingPoint, Points};
use crate::core::tuning::Tuning;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Microwatts, MilliCelsius, Nanos};
use arrivals::Arrivals;
pub use arrivals::Rhythm;
use heat::Heat;
pub use meter::Meter;
use power::{Power, Scale, UnitPower};
pub use saved::{Learned, LearnedPair, LearnedUnit, Report};
use serde::{Deserialize, Serialize};
pub(super) use settling::ClockChange;
use settling::Settling;
use slowdown::{Factors, Filter, LN_MAX, Point};
use std::cell::Cell;
use tail::Tail;

/// Deviation of a variant's profile in the logarithm, by where it comes from.
const BIAS_DEVIATION: [(Provenance, f64); 3] =
    [(Provenance::Conservative, 2.0), (Provenance::Modelled, 0.3), (Provenance::Measured, 0.03)];
/// The bias's variance falls no lower: it can be unlearned.
const BIAS_VARIANCE_MIN: f64 = 1e-4;
/// A first run beyond so many standard deviations says that the variant's profile is wrong; if that was measured, a
/// second one must confirm it, for a hiccup is likelier.
const FIRST_RUN_SIGMAS: f64 = 2.0;
/// How much wider the tail of a variant's first runs is than the unit's: a profile's error comes on top.
const FIRST_RUNS_STRETCH: [f64; 3] = [2.0, 1.5, 1.2];
/// The same where the profile was measured.
const FIRST_MEASURED_STRETCH: [f64; 2] = [1.2, 1.1];
/// After so long without a run a slowdown for which requests are refused is forgotten; twice as long after each time in
/// vain, so many times. Each time in vain costs the request or two that come until its run ends; each moment too late,
/// all that come.
const DOUBTED_AFTER: Nanos = Nanos::from_millis(500);
const DOUBT_DOUBLINGS: u32 = 2;
/// Logarithm of a slowdown that is none: 10 %.
const UNTROUBLED: f64 = 0.095;
/// Runs that a hard deadline may be risked on while there is only a guess, which errs to the slow side: refusing
/// them all would leave it a guess for ever.
const RISKED_RUNS: u32 = 3;
/// How much faster than a guess a run may well be.
pub(super) const GUESS_FACTOR: u64 = 10;
/// A run that was cancelled is not taken to have needed more than this beyond what it had, in expected latencies.
const LONGEST_EXCESS: f64 = 0.1;
/// A confirmation of the modelled power older than this says nothing about now.
const POWER_MEMORY: Nanos = Nanos::from_secs(10);

/// What was learned of a variant on a unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pair {
    ln_bias: f64,
    variance: f64,
    observations: u32,
    /// Whether its profile was measured.
    measured: bool,
    /// Logarithm by which its first run was beyond what its profile allows.
    first_off: f64,
    /// Runs begun.
    begun: u32,
    scale: Scale,
    /// Where it stands on its roofline, by operating point.
    points: Box<[Point]>,
    /// The factors of the unit's filter, as of one of its versions, and the slowdowns that follow by operating point; zero
    /// where none was asked for since. The planner asks often, of few points, and what it asks for changes once a run.
    #[serde(skip)]
    factors: Cell<Factors>,
    #[serde(with = "emptied")]
    slowdowns: Box<[Cell<f64>]>,
    #[serde(skip)]
    slowdowns_of: Cell<u64>,
}

/// What is found again when it is asked for has no place in a saved state; only how much there is of it.
mod emptied {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::cell::Cell;

    #[allow(clippy::borrowed_box, reason = "what serde calls it with")]
    pub(super) fn serialize<S: Serializer>(found: &Box<[Cell<f64>]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u16(u16::try_from(found.len()).map_err(serde::ser::Error::custom)?)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Box<[Cell<f64>]>, D::Error> {
        Ok(vec![Cell::new(0.0); usize::from(u16::deserialize(from)?)].into())
    }
}

impl Pair {
    fn new(profile: Option<&Profile>, points: &Points, tuning: Tuning) -> Self {
        let deviation = profile
            .and_then(|profile| BIAS_DEVIATION.iter().find(|(source, _)| *source == profile.latency_source));
        let deviation = deviation.map_or(1.0, |(_, deviation)| *deviation);
        let point = |index: usize| match profile {
            Some(profile) if !tuning.one_slowdown => {
                point(profile, points.at(index).clock, points.memory_share(index))
            }
            _ => Point { share: 1.0, p: 1.0 },
        };
        Self {
            ln_bias: 0.0,
            variance: deviation * deviation,
            observations: 0,
            measured: profile.is_some_and(|profile| profile.latency_source == Provenance::Measured),
            first_off: 0.0,
            begun: 0,
            scale: profile.map_or(Scale::new(1.0, false), |profile| {
                Scale::new(profile.power_scale, profile.power_source == Provenance::Measured)
            }),
            points: (0..points.len()).map(point).collect(),
            factors: Cell::default(),
            slowdowns: vec![Cell::new(0.0); points.len()].into(),
            slowdowns_of: Cell::new(0),
        }
    }
}

fn point(profile: &Profile, clock: Kilohertz, memory_share: f64) -> Point {
    let ghz = if clock == Kilohertz::ZERO { 1.0 } else { clock.as_ghz() };
    let p = profile.latency.p;
    let p = if p >= 1.0 { p.min(10.0) } else { 1.0 };
    let compute = profile.latency.compute_s_ghz / ghz;
    // The quotient first: powers of tiny times vanish.
    let memory = (profile.latency.memory_s_at(memory_share) / compute).powf(p);
    let share = 1.0 / (1.0 + memory);
    Point { share: if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) }, p }
}

/// The first unit of the same processor. What slows one down slows down all of them; of a unit that has not run since,
/// for being too slow, nothing would ever tell that it has passed.
fn first_of_processor(board: &Board, unit: usize) -> usize {
    board.units.iter().position(|other| other.group == board.units[unit].group).unwrap_or(unit)
}

/// When a run last put a slowdown to the test, how often it was forgotten since one was not slow, and what was forgotten,
/// until a run shows whether rightly.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Doubt {
    tested_at: Timestamp,
    count: u32,
    forgotten: Option<Filter>,
}

/// What is expected of runs of one variant on one unit. Its figures stay as they are until something is learned.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Outlook<'a> {
    pair: &'a Pair,
    tail: &'a Tail,
    power: &'a UnitPower,
}

impl Outlook<'_> {
    /// Actual over profiled latency at an operating point.
    #[inline]
    pub(super) fn slowdown(&self, point: usize) -> f64 {
        let known = self.pair.slowdowns[point].get();
        if known > 0.0 { known } else { self.find_slowdown(point) }
    }

    #[cold]
    #[inline(never)]
    fn find_slowdown(&self, point: usize) -> f64 {
        let (ln, _) = self.pair.factors.get().ln_mean(self.pair.points[point].share);
        let slowdown = (ln + self.pair.ln_bias).clamp(-LN_MAX, LN_MAX).exp();
        self.pair.slowdowns[point].set(slowdown);
        slowdown
    }

    /// Power above idle at an operating point, the memory's for its clock included, W.
    #[inline]
    pub(super) fn busy_watts(&self, point: usize) -> f64 {
        self.pair.scale.value * self.power.watts(point) + self.power.memory_w(point)
    }

    /// See [`Estimates::mean_excess`].
    pub(super) fn mean_excess(&self, ratio: f64) -> f64 {
        self.tail.mean_excess(ratio)
    }
}

/// The estimators.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Estimates {
    tuning: Tuning,
    /// By unit.
    points: Vec<Points>,
    filters: Vec<Filter>,
    /// The filter of each unit: units of one processor share one.
    filter_of: Vec<usize>,
    /// What each filter's state is worth, by when it was last put to the test.
    doubts: Vec<Doubt>,
    /// Counts the changes of each filter and of what rests on it, from 1.
    versions: Vec<u64>,
    tails: Vec<Tail>,
    pairs: Vec<Vec<Pair>>,
    power: Power,
    heat: Heat,
    arrivals: Arrivals,
    /// By domain.
    settling: Vec<Settling>,
    latency_errors: Vec<Meter>,
}

impl Estimates {
    /// Nothing learned yet.
    #[must_use]
    pub fn new(catalog: &Catalog) -> Self {
        Self::tuned(catalog, Tuning::default())
    }

    /// The same with parts switched off.
    #[must_use]
    pub fn tuned(catalog: &Catalog, tuning: Tuning) -> Self {
        let board = &catalog.board;
        let units = board.units.len();
        let points: Vec<Points> = (0..units).map(|unit| Points::of(board, UnitId::at(unit))).collect();
        let mut new = Self {
            tuning,
            filters: vec![Filter::default(); units],
            doubts: vec![Doubt::default(); units],
            filter_of: (0..units).map(|unit| first_of_processor(board, unit)).collect(),
            versions: vec![1; units],
            // Each made anew: clones have no room to grow.
            tails: (0..units).map(|_| Tail::new(tuning.gaussian_tail)).collect(),
            pairs: Vec::new(),
            power: Power::new(board, &points),
            heat: Heat::new(board.thermal),
            arrivals: Arrivals::default(),
            settling: vec![Settling::default(); board.domains.len()],
            latency_errors: vec![Meter::default(); units],
            points,
        };
        new.extend(catalog);
        new
    }

    fn pair(&self, variant: VariantId, unit: UnitId) -> &Pair {
        &self.pairs[variant.index()][unit.index()]
    }

    fn filter(&self, unit: UnitId) -> usize {
        if self.tuning.one_slowdown { 0 } else { self.filter_of[unit.index()] }
    }

    /// Index of the operating point of `unit` nearest below.
    fn point_of(&self, unit: UnitId, point: OperatingPoint) -> usize {
        self.points[unit.index()].nearest_below(point)
    }

    // --- Latency -------------------------------------------------------------------------------------------

    /// Actual over profiled latency, as expected now at the unit's highest clocks.
    #[must_use]
    pub fn slowdown(&self, variant: VariantId, unit: UnitId) -> f64 {
        self.slowdown_at_point(variant, unit, self.points[unit.index()].top())
    }

    /// Actual over profiled latency, as expected now at clocks of the unit: where others crowd its memory, a
    /// variant that is bound by its own arithmetic hardly feels it.
    #[must_use]
    pub fn slowdown_at(&self, variant: VariantId, unit: UnitId, point: OperatingPoint) -> f64 {
        self.slowdown_at_point(variant, unit, self.point_of(unit, point))
    }

    /// The same by the index of the unit's operating point.
    #[must_use]
    pub fn slowdown_at_point(&self, variant: VariantId, unit: UnitId, point: usize) -> f64 {
        self.outlook(variant, unit).slowdown(point)
    }

    /// What is expected of runs of a variant on a unit, for whoever asks for a lot of it.
    pub(super) fn outlook(&self, variant: VariantId, unit: UnitId) -> Outlook<'_> {
        let (pair, filter) = (self.pair(variant, unit), self.filter(unit));
        if pair.slowdowns_of.replace(self.versions[filter]) != self.versions[filter] {
            // All points of a pair have the same corner.
            pair.factors.set(self.filters[filter].factors(pair.points[0].p));
            pair.slowdowns.iter().for_each(|slowdown| slowdown.set(0.0));
        }
        Outlook { pair, tail: &self.tails[unit.index()], power: self.power.unit(unit.index()) }
    }

    /// P(actual over expected latency > `ratio`): falls with the ratio, is one at zero and never zero.
    #[must_use]
    pub fn survival(&self, variant: VariantId, unit: UnitId, ratio: f64) -> f64 {
        let ratio = if ratio.is_nan() { 0.0 } else { ratio.max(0.0) };
        let stretch = self.stretch(variant, unit);
        let ratio = if stretch > 1.0 { ratio.powf(1.0 / stretch) } else { ratio };
        self.tails[unit.index()].survival(ratio)
    }

    /// The ratio of actual to expected latency that a run stays below with probability `p`; the inverse of
    /// [`Estimates::survival`].
    #[must_use]
    pub fn quantile(&self, variant: VariantId, unit: UnitId, p: f64) -> f64 {
        let p = if p.is_nan() { 1.0 } else { p.clamp(0.0, 1.0) };
        let stretch = self.stretch(variant, unit);
        let ratio = self.tails[unit.index()].quantile(p);
        if stretch > 1.0 { ratio.max(0.0).powf(stretch) } else { ratio }
    }

    /// E[max(R - ratio, 0)] of R, the ratio of actual to expected latency. At zero that is E[R], and E[min(R, ratio)]
    /// is E[R] less this.
    #[must_use]
    pub fn mean_excess(&self, unit: UnitId, ratio: f64) -> f64 {
        self.tails[unit.index()].mean_excess(ratio)
    }

    fn stretch(&self, variant: VariantId, unit: UnitId) -> f64 {
        let pair = self.pair(variant, unit);
        let first = if pair.measured { &FIRST_MEASURED_STRETCH[..] } else { &FIRST_RUNS_STRETCH };
        first.get(pair.observations as usize).copied().unwrap_or(1.0)
    }

    /// Variance of the logarithm of the slowdown at a unit's operating point, and the share of it that a run of another
    /// variant at another point would take away: what is bound by its own arithmetic tells nothing of the memory.
    #[must_use]
    pub fn unknown(&self, unit: UnitId, of: (VariantId, usize), by: (VariantId, usize)) -> (f64, f64) {
        let filter = &self.filters[self.filter(unit)];
        let point = |(variant, point): (VariantId, usize)| self.pair(variant, unit).points[point];
        let noise = self.tails[unit.index()].noise();
        (filter.variance(point(of)), filter.told(point(of), point(by), noise))
    }

    /// Whether the latency of this variant on this unit is a guess that still has to be tried.
    #[must_use]
    pub fn is_guess(&self, catalog: &Catalog, variant: VariantId, unit: UnitId) -> bool {
        let pair = self.pair(variant, unit);
        let profile = &catalog.variants[variant.index()].profiles[unit.index()];
        pair.observations == 0
            && pair.begun < RISKED_RUNS
            && profile.is_some_and(|profile| profile.latency_source == Provenance::Conservative)
    }

    /// A run at `point` took `actual` where the profile says `profiled`.
    pub fn observe_latency(
        &mut self,
        variant: VariantId,
        unit: UnitId,
        point: OperatingPoint,
        profiled: Nanos,
        actual: Nanos,
    ) {
        if profiled == Nanos::ZERO || actual == Nanos::ZERO {
            return;
        }
        let filter = self.filter(unit);
        let point = self.point_of(unit, point);
        let tail = &mut self.tails[unit.index()];
        let pair = &mut self.pairs[variant.index()][unit.index()];
        let noise = tail.noise();
        let at = pair.points[point];
        let observed = (actual.as_f64() / profiled.as_f64()).ln() - pair.ln_bias;
        // Slow, and nearer to what was forgotten than to no slowdown at all.
        if let Some(forgotten) = self.doubts[filter].forgotten.take()
            && observed > UNTROUBLED.max(0.5 * forgotten.ln_factor(at).0)
        {
            self.filters[filter] = forgotten;
        }
        if pair.observations < if pair.measured { 2 } else { 1 } {
            let (expected, _) = self.filters[filter].ln_factor(at);
            let (variance, off) =
                (self.filters[filter].variance(at) + pair.variance + noise, observed - expected);
            if off * off > FIRST_RUN_SIGMAS * FIRST_RUN_SIGMAS * variance {
                if !pair.measured || pair.first_off * off > 0.0 {
                    pair.variance = pair.variance.max(off * off);
                }
                pair.first_off = off;
            }
        }
        if observed <= UNTROUBLED {
            self.doubts[filter].count = 0;
        }
        self.versions[filter] += 1;
        let update = self.filters[filter].observe(at, observed, pair.variance, noise);
        pair.ln_bias = (pair.ln_bias + update.bias).clamp(-LN_MAX, LN_MAX);
        pair.variance = (pair.variance * (1.0 - update.bias_gain)).max(BIAS_VARIANCE_MIN);
        // The first run of a variant tells of its profile; it says little about the unit.
        if pair.observations > 0 {
            let ratio = update.innovation.exp();
            self.latency_errors[unit.index()].observe(1.0, ratio);
            tail.observe(ratio, update.stepped);
        }
        pair.observations = pair.observations.saturating_add(1);
    }

    /// A run was cancelled after `elapsed`, of which the profile says `profiled` for the whole run. It counts as one
    /// that took as long as those do on average that take so long, unless nothing was out of the ordinary by then: were
    /// only those counted that came in time, a unit that is taken for too fast would be so for ever.
    pub fn observe_longer(
        &mut self,
        variant: VariantId,
        unit: UnitId,
        point: OperatingPoint,
        profiled: Nanos,
        elapsed: Nanos,
    ) {
        let expected = profiled.as_f64() * self.slowdown_at(variant, unit, point);
        if expected > 0.0 && elapsed.as_f64() >= 0.9 * expected {
            let ratio = elapsed.as_f64() / expected;
            let odds = self.survival(variant, unit, ratio).max(f64::MIN_POSITIVE);
            let more = (self.mean_excess(unit, ratio) / odds).clamp(0.0, LONGEST_EXCESS);
            let actual = Nanos::from_f64(expected * (ratio + more));
            self.observe_latency(variant, unit, point, profiled, actual);
        }
    }

    /// Requests are refused for the slowdown of a processor on which nothing runs. What nobody runs for, nobody would
    /// ever see pass: it is forgotten once nothing has shown it for a while, longer each time that it proved true. True
    /// if it was.
    pub fn doubt(&mut self, unit: UnitId, now: Timestamp) -> bool {
        let filter = self.filter(unit);
        let doubt = &mut self.doubts[filter];
        let patience = Nanos(DOUBTED_AFTER.0 << doubt.count.min(DOUBT_DOUBLINGS));
        let slow = self.filters[filter].state().into_iter().any(|ln| ln > UNTROUBLED);
        if !slow || now.since(doubt.tested_at) < patience {
            return false;
        }
        let forgotten = Some(std::mem::take(&mut self.filters[filter]));
        *doubt = Doubt { tested_at: now, count: doubt.count.saturating_add(1), forgotten };
        self.versions[filter] += 1;
        true
    }

    /// A run on this unit failed, or its lane was lost: what was learned of lateness may not hold any more.
    pub fn fault(&mut self, unit: UnitId) {
        self.tails[unit.index()].doubt();
    }

    /// A new profile replaces what was learned about the old one.
    pub fn forget(&mut self, catalog: &Catalog, variant: VariantId, unit: UnitId) {
        let profile = catalog.variants[variant.index()].profiles[unit.index()].as_ref();
        self.pairs[variant.index()][unit.index()] =
            Pair::new(profile, &self.points[unit.index()], self.tuning);
    }

    // --- Power ---------------------------------------------------------------------------------------------

    /// Power of the board with nothing running: from the board file, then as measured. A hot board leaks
    /// more, and others draw from the same supply.
    #[must_use]
    pub fn idle_power(&self) -> Microwatts {
        Microwatts::from_watts(self.power.idle_w())
    }

    /// Power above idle of a variant on a unit, in watts, at the present temperature: the unit's and what the
    /// memory draws for its clock.
    #[must_use]
    pub fn busy_watts(&self, variant: VariantId, unit: UnitId, point: OperatingPoint) -> f64 {
        self.busy_watts_at_point(variant, unit, self.point_of(unit, point))
    }

    /// The same by the index of the unit's operating point.
    #[must_use]
    pub fn busy_watts_at_point(&self, variant: VariantId, unit: UnitId, point: usize) -> f64 {
        self.outlook(variant, unit).busy_watts(point)
    }

    /// A run begins.
    pub fn begin(&mut self, variant: VariantId, unit: UnitId, point: OperatingPoint, now: Timestamp) {
        let filter = self.filter(unit);
        self.doubts[filter].tested_at = now;
        let point = self.point_of(unit, point);
        let pair = &mut self.pairs[variant.index()][unit.index()];
        pair.begun = pair.begun.saturating_add(1);
        self.power.begin(unit.index(), point, pair.scale.value, now);
    }

    /// The clocks of the batch that runs on a unit change.
    pub fn reclock(&mut self, unit: UnitId, point: OperatingPoint, now: Timestamp) {
        self.power.reclock(unit.index(), self.point_of(unit, point), now);
    }

    /// The run on a unit ends, whatever came of it.
    pub fn end(&mut self, unit: UnitId, now: Timestamp) {
        self.power.end(unit.index(), now);
    }

    /// A meter saw a run of a variant at `point` draw `joules` above idle in `time`: the unit's part, without the memory's.
    pub fn observe_energy(
        &mut self,
        variant: VariantId,
        unit: UnitId,
        point: OperatingPoint,
        time: Nanos,
        joules: f64,
    ) {
        let point = self.point_of(unit, point);
        let scale = &mut self.pairs[variant.index()][unit.index()].scale;
        self.power.observe_run(unit.index(), point, scale, time.as_secs_f64(), joules);
    }

    /// What of the power above idle at a point is the memory's, in watts.
    #[must_use]
    pub fn memory_watts(&self, unit: UnitId, point: OperatingPoint) -> f64 {
        self.power.unit(unit.index()).memory_w(self.point_of(unit, point))
    }

    /// Ends an interval between two sweeps of the sensors: the mean power above idle that the units should have
    /// drawn in it. `celsius` is the hottest zone, if it is known.
    pub fn close_interval(&mut self, now: Timestamp, celsius: Option<f64>) -> Microwatts {
        Microwatts::from_watts(self.power.close(now, celsius))
    }

    /// The rails show that the board drew `measured` where the units should have drawn `busy` above idle.
    pub fn observe_power(&mut self, measured: Microwatts, busy: Microwatts, now: Timestamp) {
        self.power.observe_board(measured.as_watts(), busy.as_watts(), now);
    }

    /// Whether attributed energy rests on a recent measurement or on the models alone.
    #[must_use]
    pub fn power_source(&self, now: Timestamp) -> Provenance {
        if self.power.is_confirmed(now, POWER_MEMORY) { Provenance::Measured } else { Provenance::Modelled }
    }

    // --- Heat ----------------------------------------------------------------------------------------------

    /// The hottest zone shows `celsius`; the board drew `power` since the last sweep.
    pub fn observe_heat(&mut self, now: Timestamp, hottest: MilliCelsius, power: Microwatts) {
        self.heat.observe(now, hottest.as_celsius(), power.as_watts());
    }

    /// The highest power, in watts, with which a die on a heatsink of `sink_c` does not pass `limit_c` degrees within
    /// `horizon`. May be negative: nothing helps then.
    #[must_use]
    pub fn watts_within(&self, sink_c: f64, limit_c: f64, horizon: Nanos) -> f64 {
        self.heat.watts_within(sink_c, limit_c, horizon.as_secs_f64())
    }

    /// The highest power of the whole board, in watts, that can be drawn for ever with the die below `limit_c` degrees.
    #[must_use]
    pub fn steady_watts(&self, limit_c: f64) -> f64 {
        self.heat.steady_watts(limit_c)
    }

    /// What of the estimators is switched off.
    #[must_use]
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    // --- Arrivals ------------------------------------------------------------------------------------------

    /// A request for a model was taken.
    /// It may take `span`, and at its fastest takes `usual` by unit.
    pub fn arrived(&mut self, model: ModelId, now: Timestamp, span: Nanos, usual: &[Nanos]) {
        self.arrivals.observe(model, now, span, usual);
    }

    /// A run ended after so many seconds, or was stopped; `change` is the domain's last, or the only one during the run.
    pub(super) fn observe_change(
        &mut self,
        domain: DomainId,
        change: &ClockChange,
        took_s: f64,
        ended: bool,
    ) {
        self.settling[domain.index()].observe(change, took_s, ended);
    }

    /// How many times as long as the board file says a domain's clock takes to change.
    #[must_use]
    pub fn settling(&self, domain: DomainId) -> f64 {
        self.settling[domain.index()].factor()
    }

    /// How a model is asked for, where it was twice.
    #[must_use]
    pub fn rhythm(&self, model: ModelId) -> Option<&Rhythm> {
        self.arrivals.rhythm(model)
    }
}

#[cfg(test)]
#[path = "tests/facade.rs"]
mod tests;
