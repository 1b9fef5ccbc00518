//! The daemon as the API sees it.

use super::engine::Engine;
use super::view::{Fixed, megabytes};
use crate::api::backend::{
    Backend, Journal, ModelCounters, ModelView, Pending, Submission, SubmitError, TooLarge,
};
use crate::config::Config;
use crate::core::catalog::{ModelId, VariantId};
use crate::core::event::Event;
use crate::model::store::LoadedModel;
use crate::observe::Page;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// Answers the API from the engine.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) engine: Arc<Engine>,
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) models: Vec<LoadedModel>,
    pub(super) page: Page,
    pub(super) fixed: Fixed,
}

impl Backend for Daemon {
    fn submit(&self, submission: Submission) -> Result<Pending, SubmitError> {
        let config = self.config.load();
        let view = &self.engine.views[submission.model];
        let app = submission.peer.app;
        let class = match &submission.wishes.class {
            None => config.class_of(app, &view.name),
            Some(name) => config.class_named(name, app).map_err(|error| SubmitError(error.to_string()))?,
        };
        let variant = match &submission.wishes.variant {
            None => None,
            Some(name) => Some(self.variant(submission.model, name)?),
        };
        Ok(self.engine.submit(submission, class, variant))
    }

    fn models(&self) -> Arc<Vec<ModelView>> {
        Arc::clone(&self.engine.views)
    }

    fn model_ready(&self, model: usize) -> bool {
        self.engine.state().core.model_ready(ModelId::at(model))
    }

    fn ready(&self) -> bool {
        !self.engine.state().core.status(self.engine.now()).draining
    }

    fn retain(&self, model: usize, resident: bool) -> Result<(), TooLarge> {
        let model = ModelId::at(model);
        let (need, room) = {
            let state = self.engine.state();
            (state.core.least_memory(model), state.core.memory_limits(self.engine.now()).room)
        };
        if resident && need.is_some_and(|need| need > room) {
            let (need, room) = (megabytes(need.unwrap_or_default()), megabytes(room));
            return Err(TooLarge(format!(
                "even its smallest variant takes {need} of memory, and loaded variants may hold {room}"
            )));
        }
        self.engine.feed(Event::Retain { model, resident });
        Ok(())
    }

    fn counters(&self, model: usize) -> ModelCounters {
        self.engine.state().counters.get(model).copied().unwrap_or_default()
    }

    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.engine.status(&self.fixed)).unwrap_or_default()
    }

    fn models_status(&self) -> serde_json::Value {
        serde_json::to_value(self.engine.models_document(&self.models)).unwrap_or_default()
    }

    fn metrics(&self) -> String {
        self.page.render()
    }

    fn journal(&self) -> Option<Journal> {
        let mut state = self.engine.state();
        let recorder = state.recorder.as_mut()?;
        let flushed = recorder.flush();
        Some(Journal { path: recorder.path().to_owned(), recording: recorder.is_recording(), flushed })
    }

    fn profile(&self, model: Option<usize>, anew: bool) {
        let models = model.map_or(0..self.models.len(), |model| model..model + 1);
        models.for_each(|model| self.engine.probes.order(ModelId::at(model), anew));
    }
}

impl Daemon {
    fn variant(&self, model: usize, name: &str) -> Result<VariantId, SubmitError> {
        let state = self.engine.state();
        let catalog = state.core.catalog();
        let mut variants = catalog.models[model].variants.iter();
        let found = variants.find(|variant| catalog.variants[variant.index()].name == name);
        found.copied().ok_or_else(|| SubmitError(format!("no variant {name:?} of this model")))
    }
}
