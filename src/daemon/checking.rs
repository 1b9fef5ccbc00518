//! The profiler's last question to a variant on a unit: whether it answers the labelled sample as rightly as its manifest
//! says.
//!
//! The items go to the lane as probes do, a small batch at a time between the requests, as many as a check may take.

use super::engine::Engine;
use super::profiling::{Background, ModelSamples};
use crate::core::catalog::{Profile, UnitId};
use crate::core::points::OperatingPoint;
use crate::exec::lane::{ProbeReport, ProbeRequest};
use crate::exec::profile::Checked;
use crate::exec::{ExecError, Tensor, VariantFile};
use crate::model::score;
use crate::units::Nanos;
use std::ops::Range;

/// A check is cut to what takes no longer at the unit's highest clock.
const LONGEST: Nanos = Nanos::from_secs(2);
/// A run holds its lane no longer, unless one item does.
const LONGEST_RUN: Nanos = Nanos::from_millis(20);
/// Most items in a run.
const MAX_BATCH: u32 = 8;
/// Most bytes of outputs that are held at a time.
const OUTPUT_BYTES: usize = 16 << 20;

/// A run of a check: the items in it.
type Run = Range<usize>;

/// The runs of a check, by probe: of `of` items `wanted` at most, of `output_bytes` each. They are spread over the sample,
/// which may be sorted by class.
fn plan(
    profile: &Profile,
    point: OperatingPoint,
    max_batch: u32,
    (wanted, of): (usize, usize),
    output_bytes: usize,
) -> Vec<Vec<Run>> {
    let latency = |items| profile.latency.latency(point.clock, items);
    let batch = (1..=max_batch.clamp(1, MAX_BATCH)).rev().find(|&items| latency(items) <= LONGEST_RUN);
    let batch = batch.unwrap_or(1);
    let runs = LONGEST.0 / latency(batch).0.max(1);
    let batch = batch as usize;
    let affordable = usize::try_from(runs).unwrap_or(usize::MAX).saturating_mul(batch);
    let items = wanted.min(affordable).clamp(1, of.max(1));
    let runs = items.div_ceil(batch);
    let apart = if runs * batch <= of { of / runs } else { batch };
    let run = |index: usize| {
        let first = index * apart;
        first..first + batch.min(items - index * batch)
    };
    let runs: Vec<Run> = (0..runs).map(run).collect();
    let per_probe = (OUTPUT_BYTES / output_bytes.saturating_mul(batch).max(1)).max(1);
    runs.chunks(per_probe).map(<[Run]>::to_vec).collect()
}

impl Background {
    /// Has the variant answer the sample; how many items it got right, or what is wrong with an answer. `None` if it was
    /// interrupted.
    pub(super) fn check(
        &mut self,
        engine: &Engine,
        (unit, point): (UnitId, OperatingPoint),
        (variant, max_batch): (&VariantFile, u32),
        samples: &ModelSamples,
        (profile, outputs): (&Profile, &[Vec<Tensor>]),
    ) -> Option<Result<Checked, String>> {
        let output_bytes = outputs.iter().flatten().map(|tensor| tensor.data.len()).max().unwrap_or(1);
        let mut checked = Checked { right: 0, items: 0 };
        let items = (samples.items, samples.sample.len());
        for runs in plan(profile, point, max_batch, items, output_bytes) {
            let inputs = runs.iter().map(|run| vec![samples.sample.items(run.clone())]).collect();
            let request = ProbeRequest { id: 0, variant: variant.clone(), runs: inputs, warm_ups: 0 };
            let (_, report) = self.probe(engine, unit, point, request)?;
            match count(samples, &runs, report)? {
                Ok((right, items)) => {
                    checked = Checked { right: checked.right + right, items: checked.items + items }
                }
                Err(wrong) => return Some(Err(wrong)),
            }
        }
        Some(Ok(checked))
    }
}

/// Right answers and all in a report, or what is wrong with one; `None` if it was interrupted.
fn count(samples: &ModelSamples, runs: &[Run], report: ProbeReport) -> Option<Result<(u32, u32), String>> {
    let done = match report.result {
        Ok(done) => done,
        Err(error @ ExecError::Provider { .. }) => return Some(Err(error.to_string())),
        Err(_) => return None,
    };
    let (mut right, mut items) = (0, 0);
    for (run, done) in runs.iter().zip(done) {
        let outputs = done.outputs.into_iter().next().unwrap_or_default();
        let values = outputs.get(samples.sample.output()).map(score::numbers);
        if values.and_then(Result::ok).is_some_and(|values| values.iter().any(|value| value.is_nan())) {
            let items = format!("{} to {}", run.start, run.end - 1);
            return Some(Err(format!("answers NaN to items {items} of the check set")));
        }
        match samples.sample.correct(&outputs, run.start, run.len()) {
            Ok(correct) => {
                for correct in correct {
                    right += u32::from(correct);
                    items += 1;
                }
            }
            Err(error) => {
                return Some(Err(format!("its answers to the check set cannot be scored: {error}")));
            }
        }
    }
    Some(Ok((right, items)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalog::{Provenance, Roofline};
    use crate::units::{Bytes, Kilohertz};

    /// At 1 GHz `ms` per item, without gain from batches.
    fn taking(ms: f64) -> (Profile, OperatingPoint) {
        let latency = Roofline {
            compute_s_ghz: ms / 1e3,
            memory_s: 0.0,
            p: 2.0,
            overhead_s: 0.0,
            marginal: 1.0,
            memory_elasticity: 1.0,
        };
        let profile = Profile {
            latency,
            spread: 0.0,
            latency_source: Provenance::Measured,
            power_scale: 1.0,
            power_source: Provenance::Modelled,
            footprint: Bytes::ZERO,
        };
        (profile, OperatingPoint::of_clock(Kilohertz(1_000_000)))
    }

    #[test]
    fn a_check_is_cut_to_the_time_that_it_may_take() {
        let planned = |ms: f64, max_batch: u32, wanted: usize| {
            let (profile, point) = taking(ms);
            let runs = plan(&profile, point, max_batch, (wanted, 1_000), 40).concat();
            (runs[0].len(), runs.iter().map(Run::len).sum())
        };
        assert_eq!(planned(1.0, 32, 256), (8, 256));
        assert_eq!(planned(5.0, 32, 1_000), (4, 400), "20 ms a run, 2 s in all");
        assert_eq!(planned(5.0, 2, 1_000), (2, 400));
        assert_eq!(planned(300.0, 32, 256), (1, 6));
        assert_eq!(planned(9_000.0, 32, 256), (1, 1), "one at least");
        assert_eq!(planned(1.0, 32, 3), (3, 3));
    }

    #[test]
    fn large_outputs_are_not_held_all_at_once() {
        let (profile, point) = taking(1.0);
        let probes = plan(&profile, point, 8, (100, 100), 1 << 20);
        assert_eq!(probes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2, 2, 2, 2, 1], "16 MiB each");
        assert_eq!(plan(&profile, point, 8, (100, 100), 1 << 30).len(), 13, "one run, however large");
    }

    #[test]
    fn items_are_from_all_over_the_sample_and_none_is_asked_twice() {
        let (profile, point) = taking(1.0);
        for (wanted, of) in [(256, 1_000), (256, 256), (250, 256), (8, 9), (1, 1), (32, 33), (100, 1_000)] {
            let runs = plan(&profile, point, 8, (wanted, of), 40).concat();
            let mut asked: Vec<usize> = runs.into_iter().flatten().collect();
            let count = asked.len();
            asked.dedup();
            assert_eq!((asked.len(), count), (wanted, wanted), "{wanted} of {of}");
            assert!(asked.iter().all(|item| *item < of) && asked.is_sorted(), "{wanted} of {of}: {asked:?}");
            // Of a tenth each of ten classes in a row, all are asked.
            if of == 1_000 {
                assert!((0..10).all(|class| asked.iter().any(|item| item / 100 == class)), "{asked:?}");
            }
        }
    }
}
