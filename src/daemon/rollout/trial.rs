//! One version on trial.

use super::desk::Desk;
use crate::api::backend::{Answer, ModelView};
use crate::config::DeployConfig;
use crate::core::catalog::{ModelId, VariantId};
use crate::core::event::{Outcome, Rejection};
use crate::core::rollout::{Evidence, Policy, Stage};
use crate::ctl::rollout::TrialStatus;
use crate::daemon::engine::Engine;
use crate::daemon::routes::Specimen;
use crate::exec::profile::{Comparison, ExpectationSource};
use crate::model::store::LoadedModel;
use crate::model::versions::Record;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// A version on trial.
pub(in crate::daemon) struct OnTrial {
    pub(super) name: String,
    /// The place of the name among the views, if it has one.
    pub(super) index: Option<usize>,
    pub(super) id: ModelId,
    pub(super) serving: Option<ModelId>,
    pub(super) model: LoadedModel,
    pub(super) view: ModelView,
    /// As it is on the disk.
    pub(super) record: Record,
    /// What is wrong with its outputs.
    pub(super) detail: Option<String>,
    /// Its next stage could not be written, and that was said.
    pub(super) stuck: bool,
    comparison: Comparison,
    compared: u32,
    running: Option<(Specimen, oneshot::Receiver<Answer>)>,
}

impl OnTrial {
    pub(super) fn new(
        name: &str,
        index: Option<usize>,
        (id, serving): (ModelId, Option<ModelId>),
        model: LoadedModel,
        view: ModelView,
        record: Record,
    ) -> Self {
        Self {
            name: name.to_owned(),
            index,
            id,
            serving,
            model,
            view,
            record,
            detail: None,
            stuck: false,
            comparison: Comparison::default(),
            compared: 0,
            running: None,
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.record.trial.as_ref().map_or(Stage::Full, |trial| trial.stage)
    }

    /// What was counted in the stage before is of no more use.
    pub(super) fn begin_stage(&mut self) {
        (self.comparison, self.compared, self.detail, self.running) = (Comparison::default(), 0, None, None);
    }

    /// Whether something is to be done about it as soon as the device has time.
    pub(super) fn is_waiting(&self, engine: &Engine) -> bool {
        let caught = || self.index.is_some_and(|index| engine.has_specimen(index));
        self.stage() == Stage::Shadow && (self.running.is_some() || caught())
    }

    /// Runs an answered request again, or compares what came out.
    pub(super) fn compare(&mut self, engine: &Engine, policy: &Policy) {
        let Some(index) = self.index.filter(|_| self.stage() == Stage::Shadow) else { return };
        match self.running.take() {
            None if self.compared < policy.shadow_requests => self.running = engine.run_again(index),
            None => {}
            Some((specimen, mut answer)) => match answer.try_recv() {
                Err(TryRecvError::Empty) => self.running = Some((specimen, answer)),
                Err(TryRecvError::Closed) => {}
                Ok(Answer { outcome: Outcome::Rejected { reason: Rejection::Cancelled, .. }, .. }) => {
                    engine.put_back(index, self.id, specimen);
                }
                Ok(answer) => self.compare_with(engine, &specimen, &answer, policy),
            },
        }
    }

    fn compare_with(&mut self, engine: &Engine, specimen: &Specimen, answer: &Answer, policy: &Policy) {
        // Where it failed instead, that has been counted.
        let Outcome::Served(served) = &answer.outcome else { return };
        let accuracy = |variant: VariantId| engine.state().core.catalog().variants[variant.index()].accuracy;
        let source = ExpectationSource::Reference {
            reference_accuracy: accuracy(specimen.variant),
            accuracy: served.accuracy,
        };
        self.compared += 1;
        let mut found = self.comparison.add(&self.view.outputs, &answer.outputs, &specimen.outputs, source);
        if found.is_ok() && self.compared >= policy.shadow_requests {
            found = self.comparison.verdict(&self.view.outputs);
        }
        if let Err(unfit) = found {
            self.detail = Some(unfit.to_string());
        }
    }

    pub(super) fn evidence(&self, engine: &Engine) -> Evidence {
        let far_off = self.detail.is_some();
        Evidence { compared: self.compared, far_off, ..engine.evidence(self.id, self.index) }
    }

    /// Shows where it stands.
    pub(super) fn show(&mut self, engine: &Engine, deploy: &DeployConfig, desk: &Desk) {
        let (stage, evidence) = (self.stage(), self.evidence(engine));
        let (done, needed) = match stage {
            Stage::Shadow => (evidence.compared, deploy.policy.shadow_requests),
            Stage::Canary => (evidence.trial.answers, deploy.policy.canary_requests),
            _ => (0, 0),
        };
        let (trial, serving) = (evidence.trial, evidence.serving);
        let status = TrialStatus {
            version: self.view.version.clone(),
            stage,
            done,
            needed,
            failed: evidence.failed,
            late: trial.late,
            latency_us: [trial.latency_us.mean(), serving.latency_us.mean()],
            energy_uj: [trial.energy_uj.mean(), serving.energy_uj.mean()],
        };
        desk.show(&self.name, status);
    }
}
