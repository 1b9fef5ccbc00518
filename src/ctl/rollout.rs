//! What `wattctl rollout` shows: the versions of every model, the one on trial, and the steps that led there.

use crate::core::rollout::Stage;
use crate::ctl::report::table::table;
use comfy_table::Cell;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// All models.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollouts {
    /// By name.
    pub models: Vec<RolloutStatus>,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RolloutStatus {
    /// Its name.
    pub model: String,
    /// The version that serves, if one does.
    pub version: Option<String>,
    /// The version that is kept to go back to.
    pub previous: Option<String>,
    /// The version on trial.
    pub trial: Option<TrialStatus>,
    /// The last steps, the newest last.
    pub steps: Vec<StepStatus>,
    /// What is wrong with what is remembered of it.
    pub problem: Option<String>,
}

/// A version on trial. Counts are of its present stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrialStatus {
    /// The version.
    pub version: String,
    /// Its stage.
    pub stage: Stage,
    /// Requests compared, or answers given.
    pub done: u32,
    /// How many the stage takes; 0 where it does not count.
    pub needed: u32,
    /// Requests that it failed on.
    pub failed: u32,
    /// Its late answers.
    pub late: u32,
    /// Mean time from arrival to answer, microseconds: its own, and that of the version that serves.
    pub latency_us: [f64; 2],
    /// Mean energy of an item, microjoules: the same.
    pub energy_uj: [f64; 2],
}

impl Default for TrialStatus {
    fn default() -> Self {
        Self {
            version: String::new(),
            stage: Stage::Verify,
            done: 0,
            needed: 0,
            failed: 0,
            late: 0,
            latency_us: [0.0; 2],
            energy_uj: [0.0; 2],
        }
    }
}

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepStatus {
    /// When, seconds since the Unix epoch.
    pub unix_s: u64,
    /// The version.
    pub version: String,
    /// Where it came to.
    pub stage: Stage,
    /// Why, where it was taken back.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Steps that the table shows of a model.
const STEPS: usize = 8;

/// The document as text.
#[must_use]
pub fn show(rollouts: &Rollouts) -> String {
    let mut table = table(&["model", "serves", "kept", "on trial", "stage", "progress"]);
    for model in &rollouts.models {
        let word = |text: &Option<String>| Cell::new(text.as_deref().unwrap_or("-"));
        let (version, stage, progress) = model.trial.as_ref().map_or_else(
            || ("-".to_owned(), "-", String::new()),
            |trial| (trial.version.clone(), trial.stage.name(), progress(trial)),
        );
        table.add_row(vec![
            Cell::new(&model.model),
            word(&model.version),
            word(&model.previous),
            Cell::new(version),
            Cell::new(stage),
            Cell::new(progress),
        ]);
    }
    let mut text = format!("{table}\n");
    for model in &rollouts.models {
        if let Some(problem) = &model.problem {
            let _ = writeln!(text, "{}: {problem}", model.model);
        }
        for step in model.steps.iter().rev().take(STEPS).rev() {
            let time = i64::try_from(step.unix_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            let time = time.map(|time| time.to_string()).unwrap_or_default();
            let _ = write!(text, "{time} {} {}: {}", model.model, step.version, step.stage.name());
            let reason = step.reason.as_ref().map(|reason| format!(" because {reason}")).unwrap_or_default();
            let _ = writeln!(text, "{reason}");
        }
    }
    text
}

fn progress(trial: &TrialStatus) -> String {
    if trial.needed == 0 {
        return String::new();
    }
    let mut text = format!("{} of {}", trial.done, trial.needed);
    if trial.failed > 0 {
        let _ = write!(text, ", {} failed", trial.failed);
    }
    if trial.stage == Stage::Canary && trial.done > 0 {
        let [us, serving_us] = trial.latency_us.map(|us| us / 1e3);
        let [mj, serving_mj] = trial.energy_uj.map(|uj| uj / 1e3);
        let _ = write!(
            text,
            "; {us:.2} ms ({serving_us:.2} ms serving), {mj:.2} mJ ({serving_mj:.2} mJ), {} late",
            trial.late
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_and_the_last_steps() {
        let step = |n: u64, stage, reason: Option<&str>| StepStatus {
            unix_s: 1_700_000_000 + n,
            version: "2".to_owned(),
            stage,
            reason: reason.map(str::to_owned),
        };
        let mut steps: Vec<StepStatus> = (0..20).map(|n| step(n, Stage::Load, None)).collect();
        steps.push(step(20, Stage::RolledBack, Some("failed on 2 of 9 requests")));
        let trial = TrialStatus {
            version: "3".to_owned(),
            stage: Stage::Canary,
            done: 7,
            needed: 100,
            failed: 1,
            latency_us: [1500.0, 1250.0],
            energy_uj: [40_000.0, 50_000.0],
            ..TrialStatus::default()
        };
        let model = RolloutStatus {
            model: "fashion".to_owned(),
            version: Some("1".to_owned()),
            trial: Some(trial),
            steps,
            ..RolloutStatus::default()
        };
        let text = show(&Rollouts { models: vec![model] });
        for part in [
            "fashion",
            "canary",
            "7 of 100, 1 failed; 1.50 ms (1.25 ms serving), 40.00 mJ (50.00 mJ), 0 late",
            "2023-11-14T22:13:40Z fashion 2: rolled_back because failed on 2 of 9 requests",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert_eq!(text.matches(": load").count(), STEPS - 1, "{text}");
    }
}
