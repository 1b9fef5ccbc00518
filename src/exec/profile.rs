//! Profiling one variant on one unit: at most 12 timed runs and 2 warm-ups, then a [`Profile`] or the reason
//! why the variant must not run there.
//!
//! A [`Profiler`] is a small state machine without threads or clocks: it hands out [`ProbeRequest`]s for a
//! lane ([`Profiler::next_probe`]), takes the reports ([`Profiler::absorb`]), and concludes
//! ([`Profiler::finish`]). Latencies at batch 1 and at one larger batch, at up to three clocks, go to
//! [`crate::core::fit`]; the outputs are compared with those of the reference ([`compare`]); power comes from
//! a rail where the caller has one.

mod compare;
mod store;

pub use compare::{Comparison, Expectation, ExpectationSource, Unfit, compare};
pub use store::{ProfileKey, ProfileStore, StoreError};

use crate::core::catalog::{PowerModel, Profile, Provenance, Roofline};
use crate::core::fit::{FitError, Probe, fit_roofline};
use crate::core::points::OperatingPoint;
use crate::exec::lane::{ProbeReport, ProbeRequest, ProbeRun};
use crate::exec::{ExecError, Tensor, VariantFile};
use crate::units::{Bytes, Kilohertz, Microwatts, Nanos};
use std::collections::VecDeque;

/// Samples beyond these are not used.
pub const MAX_SAMPLES: usize = 16;
/// Largest batch that is probed.
const PROBE_BATCH: u32 = 8;
/// A probe that is expected to take longer is left out: the lane has other work.
const LONGEST_PROBE: Nanos = Nanos::from_secs(2);
/// Untimed runs before the first probe.
const WARM_UPS: u32 = 2;
/// Timed runs at batch 1 and at the larger batch per operating point, by number of those: 12 in all.
const RUNS: [(usize, usize); 4] = [(7, 5), (4, 2), (3, 1), (2, 1)];
/// Bounds of a measured power scale; outside, the rail shows something else.
const POWER_SCALE: (f64, f64) = (0.05, 20.0);

/// What is profiled.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The variant.
    pub variant: VariantFile,
    /// Largest batch that a run may hold.
    pub max_batch: u32,
    /// Power model of the unit: what the measured power is compared with.
    pub busy_power: PowerModel,
    /// The profile of a similar variant or unit, for what few probes cannot tell.
    pub prior: Option<Roofline>,
}

/// A rail's power just before a probe and while it ran. Only worth giving if the probe ran for several
/// periods of the sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerDelta {
    /// Before.
    pub before: Microwatts,
    /// During.
    pub during: Microwatts,
}

/// Why a profiler cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// No samples.
    #[error("{0}: no sample inputs to profile with")]
    NoSamples(String),
    /// A sample is not one item.
    #[error("{variant}: sample {index} has {items} items; each must be one")]
    NotOneItem {
        /// The variant.
        variant: String,
        /// Which sample.
        index: usize,
        /// Its items.
        items: usize,
    },
}

/// How profiling ended.
#[derive(Debug)]
pub enum Outcome {
    /// It may run there.
    Fit {
        /// What was measured.
        profile: Profile,
        /// Outputs by sample, to be expected of other variants and units; empty for samples that were not run.
        outputs: Vec<Vec<Tensor>>,
    },
    /// It must not run there.
    Unfit(Unfit),
    /// It was stopped: nothing is known; try again later.
    Interrupted,
}

/// A probe at an operating point, which the caller sets first.
#[derive(Debug)]
pub struct ClockedProbe {
    /// The clocks to set; zero = as it is.
    pub point: OperatingPoint,
    /// For the lane.
    pub request: ProbeRequest,
}

/// One sample's place in one run.
type SampleIndices = Vec<usize>;

/// Profiles one variant on one unit.
#[derive(Debug)]
pub struct Profiler {
    subject: Subject,
    expected: Option<Expectation>,
    highest_memory: Kilohertz,
    waiting: VecDeque<ClockedProbe>,
    /// Per probe under way or waiting: which samples each run holds.
    plans: VecDeque<Vec<SampleIndices>>,
    probes: Vec<Probe>,
    power_scales: Vec<f64>,
    footprint: Bytes,
    outputs: Vec<Vec<Tensor>>,
    ended: Option<Ended>,
}

#[derive(Debug)]
enum Ended {
    Unfit(Unfit),
    Interrupted,
}

impl Profiler {
    /// Plans the probes. Of more than three clocks the highest, a middle one and the lowest are used, with the memory at
    /// its highest; then the highest with the memory at its lowest. No clocks means as they are. Each sample is one request of one item; `expected` holds the outputs of the
    /// reference for the same samples, and is `None` only for the reference itself.
    ///
    /// # Errors
    /// If there are no samples, or one is not a single item.
    pub fn new(
        subject: Subject,
        samples: &[Vec<Tensor>],
        expected: Option<Expectation>,
        [clocks, memories]: [&[Kilohertz]; 2],
        id: u64,
    ) -> Result<Self, ProfileError> {
        let samples = &samples[..samples.len().min(MAX_SAMPLES)];
        if samples.is_empty() {
            return Err(ProfileError::NoSamples(subject.variant.name));
        }
        for (index, sample) in samples.iter().enumerate() {
            let items = sample.first().and_then(|tensor| tensor.shape.first()).copied().unwrap_or(0);
            if items != 1 {
                return Err(ProfileError::NotOneItem { variant: subject.variant.name, index, items });
            }
        }
        let points = pick(clocks, memories);
        let mut next_sample = 0;
        let mut take = |count: usize| -> SampleIndices {
            let taken = (0..count).map(|offset| (next_sample + offset) % samples.len()).collect();
            next_sample = (next_sample + count) % samples.len();
            taken
        };
        let (mut waiting, mut plans) = (VecDeque::new(), VecDeque::new());
        for (index, &point) in points.iter().enumerate() {
            let plan = plan(points.len(), subject.max_batch, &mut take);
            let runs = plan.iter().map(|run| run.iter().map(|&sample| samples[sample].clone()).collect());
            let request = ProbeRequest {
                id,
                variant: subject.variant.clone(),
                runs: runs.collect(),
                warm_ups: if index == 0 { WARM_UPS } else { 0 },
            };
            waiting.push_back(ClockedProbe { point, request });
            plans.push_back(plan);
        }
        Ok(Self {
            outputs: vec![Vec::new(); samples.len()],
            subject,
            expected,
            highest_memory: memories.iter().copied().max().unwrap_or_default(),
            waiting,
            plans,
            probes: Vec::new(),
            power_scales: Vec::new(),
            footprint: Bytes::ZERO,
            ended: None,
        })
    }

    /// The next probe to run, or `None` when all are done or it is settled.
    pub fn next_probe(&mut self) -> Option<ClockedProbe> {
        if self.ended.is_some() { None } else { self.waiting.pop_front() }
    }

    /// Takes the report of a probe, with the clocks that were in force (zero if unknown) and the rail's power,
    /// where there is one.
    pub fn absorb(&mut self, point: OperatingPoint, report: ProbeReport, power: Option<PowerDelta>) {
        let plan = self.plans.pop_front().unwrap_or_default();
        self.footprint = self.footprint.max(report.footprint);
        if let Some(scale) = power.and_then(|delta| power_scale(&self.subject.busy_power, point.clock, delta))
        {
            self.power_scales.push(scale);
        }
        match report.result {
            Ok(runs) => {
                let spent = runs.iter().fold(Nanos::ZERO, |sum, run| sum.saturating_add(run.latency));
                self.drop_slow_probes(point.clock, spent);
                for (run, samples) in runs.into_iter().zip(plan) {
                    self.absorb_run(point, run, &samples);
                }
            }
            Err(error @ ExecError::Provider { .. }) => {
                self.ended.get_or_insert(Ended::Unfit(Unfit::Failed(error.to_string())));
            }
            Err(ExecError::Cancelled | ExecError::NotLoaded(_)) => {
                self.ended.get_or_insert(Ended::Interrupted);
            }
        }
    }

    /// Leaves out the clocks at which a probe would hold its lane for too long, going by the last one.
    fn drop_slow_probes(&mut self, clock: Kilohertz, spent: Nanos) {
        let fast_enough = |probe: &ClockedProbe| {
            let next = probe.point.clock;
            let slower = if next == Kilohertz::ZERO { 1.0 } else { clock.as_f64() / next.as_f64() };
            spent.as_f64() * slower <= LONGEST_PROBE.as_f64()
        };
        let keep: Vec<bool> = self.waiting.iter().map(fast_enough).collect();
        let mut kept = keep.iter();
        self.waiting.retain(|_| *kept.next().unwrap_or(&true));
        let mut kept = keep.iter();
        self.plans.retain(|_| *kept.next().unwrap_or(&true));
    }

    fn absorb_run(&mut self, point: OperatingPoint, run: ProbeRun, samples: &[usize]) {
        let known = point.memory > Kilohertz::ZERO && self.highest_memory > Kilohertz::ZERO;
        let memory_share = if known { point.memory.as_f64() / self.highest_memory.as_f64() } else { 1.0 };
        let (clock, items, latency) = (point.clock, run.items, run.latency);
        self.probes.push(Probe { clock, memory_share, items, latency });
        for (outputs, &sample) in run.outputs.into_iter().zip(samples) {
            let expected = self.expected.as_ref().and_then(|expected| expected.outputs.get(sample));
            let expected = expected.map(Vec::as_slice);
            if let Err(unfit) = compare::check_one(&self.subject.variant.outputs, &outputs, expected) {
                self.ended.get_or_insert(Ended::Unfit(unfit));
            }
            if self.outputs[sample].is_empty() {
                self.outputs[sample] = outputs;
            }
        }
    }

    /// The conclusion, once [`Profiler::next_probe`] gives no more and every probe was absorbed.
    #[must_use]
    pub fn finish(self) -> Outcome {
        match self.ended {
            Some(Ended::Unfit(unfit)) => return Outcome::Unfit(unfit),
            Some(Ended::Interrupted) => return Outcome::Interrupted,
            None => {}
        }
        if let Some(expected) = &self.expected
            && let Err(unfit) = compare(&self.subject.variant.outputs, &self.outputs, expected)
        {
            return Outcome::Unfit(unfit);
        }
        let fit = match fit_roofline(&self.probes, self.subject.prior) {
            Ok(fit) => fit,
            Err(FitError::NoProbes) => return Outcome::Interrupted,
        };
        let count: f64 = self.power_scales.iter().map(|_| 1.0).sum();
        let measured = !self.power_scales.is_empty();
        let profile = Profile {
            latency: fit.roofline,
            spread: fit.spread,
            latency_source: Provenance::Measured,
            power_scale: if measured { self.power_scales.iter().sum::<f64>() / count } else { 1.0 },
            power_source: if measured { Provenance::Measured } else { Provenance::Modelled },
            footprint: self.footprint,
        };
        Outcome::Fit { profile, outputs: self.outputs }
    }
}

/// The operating points to probe at, fastest first.
fn pick(clocks: &[Kilohertz], memories: &[Kilohertz]) -> Vec<OperatingPoint> {
    let mut sorted = clocks.to_vec();
    sorted.sort();
    sorted.dedup();
    let clocks = match sorted[..] {
        [] => vec![Kilohertz::ZERO],
        [low, .., high] if sorted.len() > 3 => vec![high, sorted[sorted.len() / 2], low],
        _ => sorted.into_iter().rev().collect(),
    };
    let (highest, lowest) = (memories.iter().max().copied(), memories.iter().min().copied());
    let memory = highest.unwrap_or_default();
    let slow = lowest.filter(|&lowest| lowest < memory);
    let slow = slow.map(|memory| OperatingPoint { clock: clocks[0], memory });
    clocks.iter().map(|&clock| OperatingPoint { clock, memory }).chain(slow).collect()
}

/// The runs of one probe, each a list of samples.
fn plan(points: usize, max_batch: u32, take: &mut impl FnMut(usize) -> SampleIndices) -> Vec<SampleIndices> {
    let (single, large) = RUNS[points.clamp(1, RUNS.len()) - 1];
    let batch = max_batch.clamp(1, PROBE_BATCH) as usize;
    let sizes = std::iter::repeat_n(1, single).chain(std::iter::repeat_n(batch, large));
    sizes.map(take).collect()
}

/// Power of the probe relative to the unit's model; `None` where either says nothing.
fn power_scale(model: &PowerModel, clock: Kilohertz, delta: PowerDelta) -> Option<f64> {
    // An unknown clock counts as 1 GHz, as in the latency model.
    let clock = if clock == Kilohertz::ZERO { Kilohertz(1_000_000) } else { clock };
    let modelled = model.at(clock);
    let measured = delta.during.saturating_sub(delta.before);
    if modelled <= Microwatts::ZERO || measured <= Microwatts::ZERO {
        return None;
    }
    Some((measured.as_f64() / modelled.as_f64()).clamp(POWER_SCALE.0, POWER_SCALE.1))
}

/// Runs a whole profile on a lane from another thread than the lane's, at the clock as it is: `probe` hands
/// a request to the lane and waits for its report.
///
/// # Errors
/// As [`Profiler::new`].
pub fn profile_with(
    subject: Subject,
    samples: &[Vec<Tensor>],
    expected: Option<Expectation>,
    clock: Kilohertz,
    mut probe: impl FnMut(ProbeRequest) -> ProbeReport,
) -> Result<Outcome, ProfileError> {
    let mut profiler = Profiler::new(subject, samples, expected, [&[], &[]], 0)?;
    while let Some(next) = profiler.next_probe() {
        profiler.absorb(OperatingPoint::of_clock(clock), probe(next.request), None);
    }
    Ok(profiler.finish())
}
