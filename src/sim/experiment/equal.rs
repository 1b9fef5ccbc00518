//! A run beside O3 at equal service: what a policy left undone is no saving.
//!
//! *Energy.* Of each of the two, the board's energy over the whole run less the energy of the answers in time that only
//! that one gave. Energy of late and aborted runs stays where it was spent, and so does that of the idle board.

use super::oracle::OracleRecord;
use crate::core::event::Outcome;
use crate::sim::Row;
use crate::sim::oracle::{Answer, Verdict};
use crate::units::{Microjoules, Ppm};
use serde::Serialize;

/// What could have been, and what came of the same requests. With `--oracle` only.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Comparison {
    /// Bounds and oracles.
    #[serde(flatten)]
    pub oracle: OracleRecord,
    /// Of the requests that can be served in time, those that were answered late or not at all.
    pub feasible_misses: u64,
    /// Of the requests that can be served in time, those that were turned away for another reason.
    pub feasible_rejected: u64,
    /// Requests that the policy and O3 both answered in time.
    pub common_requests: u64,
    /// Energy of the board, less that of the policy's answers in time to what O3 did not answer in time.
    pub common_energy_uj: u64,
    /// Energy of O3's board, less that of its answers in time to what the policy did not answer in time.
    pub o3_common_energy_uj: u64,
    /// Mean accuracy of the policy's answers to the common requests; null if there are none.
    pub common_accuracy: Option<f64>,
    /// Mean accuracy of O3's.
    pub o3_common_accuracy: Option<f64>,
}

impl Comparison {
    /// Compares a run, whose rows are kept, with the oracles of its scenario and seed.
    pub(super) fn of(verdict: &Verdict, rows: &[Row], energy: Microjoules) -> Self {
        let count = verdict.feasible.len();
        let (mut answers, mut turned_away) = (vec![None; count], vec![false; count]);
        for row in rows {
            let Some(index) = row.index().filter(|index| *index < count) else { continue };
            turned_away[index] = matches!(row.outcome, Outcome::Rejected { .. }) && !row.missed();
            answers[index] = Answer::in_time(row);
        }
        let lost = |index: &usize| verdict.feasible[*index] && answers[*index].is_none();
        let (rejected, missed): (Vec<usize>, Vec<usize>) =
            (0..count).filter(lost).partition(|index| turned_away[*index]);
        let (mut own_only, mut o3_only, mut common) = (0, 0, Vec::new());
        for pair in answers.iter().zip(&verdict.o3_answers) {
            match pair {
                (Some(own), None) => own_only += own.energy.0,
                (None, Some(o3)) => o3_only += o3.energy.0,
                (Some(own), Some(o3)) => common.push((own.accuracy, o3.accuracy)),
                (None, None) => {}
            }
        }
        Self {
            oracle: OracleRecord::of(verdict),
            feasible_misses: missed.len() as u64,
            feasible_rejected: rejected.len() as u64,
            common_requests: common.len() as u64,
            common_energy_uj: energy.0.saturating_sub(own_only),
            o3_common_energy_uj: verdict.o3_energy_uj.0.saturating_sub(o3_only),
            common_accuracy: mean(common.iter().map(|(own, _)| *own)),
            o3_common_accuracy: mean(common.iter().map(|(_, o3)| *o3)),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn mean(accuracies: impl ExactSizeIterator<Item = Ppm>) -> Option<f64> {
    let count = accuracies.len();
    (count > 0).then(|| accuracies.map(Ppm::as_fraction).sum::<f64>() / count as f64)
}
