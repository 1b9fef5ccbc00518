//! What a run came to: the record of `--json` and the rows of `--schedule`. Both are a fixed interface.

use super::equal::Comparison;
use super::scenario::Scenario;
use crate::core::event::{ClassId, Outcome};
use crate::sim::{Asked, Row, Run};
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos};
use serde::Serialize;
use std::borrow::Cow;

/// All runs of an experiment, in the order of boards, workloads, disturbances, policies and seeds as given.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    /// The runs.
    pub runs: Vec<Record>,
}

/// One run. Energy and heat are the plant's own, not what the policy believes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Name of the board.
    pub board: String,
    /// Name of the workload.
    pub workload: String,
    /// Name of the disturbance; null = none.
    pub disturbance: Option<String>,
    /// Name of the policy.
    pub policy: String,
    /// The seed.
    pub seed: u64,
    /// Requests that came: `served`, `rejected`, and those without an answer in time or at all.
    pub requests: u64,
    /// Answered, late or not.
    pub served: u64,
    /// Whose deadline was missed: answered late, or not by their deadline, or not by the end.
    pub misses: u64,
    /// Turned away, for another reason than a deadline that passed.
    pub rejected: u64,
    /// Whose predecessor in the order of arrival missed its deadline.
    pub after_miss: u64,
    /// Those of them that missed theirs.
    pub missed_after_miss: u64,
    /// Energy through the board's input over the whole run, idle and loading included.
    pub energy_uj: u64,
    /// Mean accuracy of what was served; null if nothing was.
    pub accuracy_mean: Option<f64>,
    /// Time with some zone at or above its passive trip.
    pub seconds_above_trip: f64,
    /// Highest true temperature of any zone.
    pub peak_milli_celsius: i32,
    /// Median time that the policy took for an event after which it dispatched or turned away; null if it was not
    /// timed.
    pub decision_ns_p50: Option<u64>,
    /// 99 % quantile of the same.
    pub decision_ns_p99: Option<u64>,
    /// What could have been, where that was asked for.
    #[serde(flatten)]
    pub oracle: Option<Comparison>,
}

/// One request of a run, with its times from the start of the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleRow {
    /// When it came.
    pub arrival_us: u64,
    /// Its class.
    pub class: String,
    /// When its answer was due.
    pub deadline_us: u64,
    /// When its last run began; empty if it never ran.
    pub start_us: Option<u64>,
    /// When it was answered; empty if it was not.
    pub finish_us: Option<u64>,
    /// The variant of its last run.
    pub variant: Option<String>,
    /// The unit of its last run.
    pub unit: Option<String>,
    /// The unit's clock at the end of that run.
    pub clock_khz: Option<u32>,
    /// Its share of the energy of its runs, above the idle board.
    pub energy_uj: u64,
    /// `served`, `missed` (late, or no answer), or `rejected:` and the reason.
    pub outcome: Cow<'static, str>,
}

/// Turns rows of a world into rows of a schedule.
pub(super) struct Scribe<'a> {
    pub(super) scenario: &'a Scenario,
}

impl Scribe<'_> {
    /// The whole schedule, in the order of arrival.
    pub(super) fn schedule(&self, rows: &[Row], unanswered: &[Asked]) -> Vec<ScheduleRow> {
        let answered = rows.iter().map(|row| (row.request, self.answered(row)));
        let unanswered = unanswered.iter().map(|asked| (asked.request, self.unanswered(asked)));
        let mut all: Vec<_> = answered.chain(unanswered).collect();
        all.sort_by_key(|(request, _)| *request);
        all.into_iter().map(|(_, row)| row).collect()
    }

    fn answered(&self, row: &Row) -> ScheduleRow {
        let outcome = match row.outcome {
            _ if row.missed() => "missed".into(),
            Outcome::Served(_) => "served".into(),
            Outcome::Rejected { reason, .. } => format!("rejected:{}", reason.name()).into(),
        };
        let served = matches!(row.outcome, Outcome::Served(_));
        let given = served || !row.missed();
        let common = (row.class, row.arrival, row.deadline, row.run, row.energy);
        ScheduleRow { finish_us: given.then(|| self.us(row.answered)), ..self.row(common, outcome) }
    }

    fn unanswered(&self, asked: &Asked) -> ScheduleRow {
        self.row((asked.class, asked.arrival, asked.deadline, asked.run, asked.energy), "missed".into())
    }

    fn row(
        &self,
        (class, arrival, deadline, run, energy): (ClassId, Timestamp, Timestamp, Option<Run>, Microjoules),
        outcome: Cow<'static, str>,
    ) -> ScheduleRow {
        let catalog = &self.scenario.machine.catalog;
        let class = self.scenario.budgets.classes.get(usize::from(class.0));
        let unit = run.and_then(|run| catalog.board.units.get(run.unit.index()));
        ScheduleRow {
            arrival_us: self.us(arrival),
            class: class.map(|class| class.name.clone()).unwrap_or_default(),
            deadline_us: self.us(deadline),
            start_us: run.map(|run| self.us(run.started)),
            finish_us: None,
            variant: run.and_then(|run| Some(catalog.variants.get(run.variant.index())?.name.clone())),
            unit: unit.map(|unit| unit.name.clone()),
            clock_khz: run.map(|run| run.clock.0),
            energy_uj: energy.0,
            outcome,
        }
    }

    /// Microseconds from the start of the workload.
    fn us(&self, at: Timestamp) -> u64 {
        at.since(Timestamp::ZERO.after(self.scenario.warmup)).as_micros()
    }
}

/// Which run a row of a schedule is of; in front of it if there is more than one run.
#[derive(Debug, Clone, Copy, Serialize)]
struct Label<'a> {
    board: &'a str,
    workload: &'a str,
    disturbance: Option<&'a str>,
    policy: &'a str,
    seed: u64,
}

/// Names of the columns of a row, and of those in front of it.
const COLUMNS: [&str; 10] = [
    "arrival_us",
    "class",
    "deadline_us",
    "start_us",
    "finish_us",
    "variant",
    "unit",
    "clock_khz",
    "energy_uj",
    "outcome",
];
const LABEL_COLUMNS: [&str; 5] = ["board", "workload", "disturbance", "policy", "seed"];

/// Writes schedules as CSV: one row per request, runs in their order; with columns in front that say which run a
/// row is of if there is more than one.
///
/// # Errors
/// What the kernel says.
pub fn write_schedule<'a>(
    out: impl std::io::Write,
    runs: impl ExactSizeIterator<Item = (&'a Record, &'a [ScheduleRow])>,
) -> Result<(), csv::Error> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    let labelled = runs.len() > 1;
    let label: &[&str] = if labelled { &LABEL_COLUMNS } else { &[] };
    writer.write_record(label.iter().chain(&COLUMNS))?;
    for (record, rows) in runs {
        let label = Label {
            board: &record.board,
            workload: &record.workload,
            disturbance: record.disturbance.as_deref(),
            policy: &record.policy,
            seed: record.seed,
        };
        for row in rows {
            if labelled {
                writer.serialize((label, row))?;
            } else {
                writer.serialize(row)?;
            }
        }
    }
    writer.flush()?;
    Ok(())
}

/// Mean and half-width of its 95 % confidence interval; the latter only from two values on.
///
/// Student's t: `t_{0.975, n-1} * s / sqrt(n)`.
#[must_use]
pub fn mean_and_interval(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let n = f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX));
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return Some((mean, None));
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some((mean, Some(student_975(values.len() - 1) * (variance / n).sqrt())))
}

/// 97.5 % quantile of Student's t, to three digits.
///
/// Up to 9 degrees of freedom from the table; beyond, Cornish and Fisher's expansion
/// (Abramowitz and Stegun 26.7.5), whose error there is below 0.001.
fn student_975(degrees: usize) -> f64 {
    const TABLE: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
    if let Some(value) = degrees.checked_sub(1).and_then(|index| TABLE.get(index)) {
        return *value;
    }
    let z: f64 = 1.959_964;
    let v = f64::from(u32::try_from(degrees).unwrap_or(u32::MAX));
    let g1 = (z.powi(3) + z) / 4.0;
    let g2 = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let g3 = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + g1 / v + g2 / v.powi(2) + g3 / v.powi(3)
}

/// Seconds of a span, rounded to microseconds, so that they print short.
pub(super) fn seconds(span: Nanos) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "microseconds of years fit 53 bits")]
    let us = span.as_micros() as f64;
    us / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_student_s() {
        assert_eq!(mean_and_interval(&[]), None);
        assert_eq!(mean_and_interval(&[3.0]), Some((3.0, None)));
        // s = 1, n = 3: 4.303 / sqrt(3).
        let (mean, half) = mean_and_interval(&[1.0, 2.0, 3.0]).unwrap();
        assert!((mean - 2.0).abs() < 1e-12 && (half.unwrap() - 2.4843).abs() < 1e-3, "{half:?}");
        // From tables.
        for (degrees, value) in [(9, 2.262), (10, 2.228), (19, 2.093), (30, 2.042), (120, 1.980)] {
            assert!((student_975(degrees) - value).abs() < 0.0015, "{degrees}: {}", student_975(degrees));
        }
    }
}
