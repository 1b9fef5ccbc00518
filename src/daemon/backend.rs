//! The daemon as the API sees it.

use super::engine::Engine;
use super::rollout::Desk;
use super::view::Fixed;
use crate::api::backend::{
    Accepted, Backend, Journal, ModelCounters, ModelView, Order, Pending, Submission, SubmitError,
};
use crate::config::Config;
use crate::core::catalog::{ModelId, VariantId};
use crate::core::event::Event;
use crate::observe::Page;
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Answers the API from the engine.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) engine: Arc<Engine>,
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) rollouts: Arc<Desk>,
    pub(super) page: Page,
    pub(super) fixed: Fixed,
}

impl Backend for Daemon {
    fn submit(&self, submission: Submission) -> Result<Pending, SubmitError> {
        let config = self.config.load();
        let shown = self.engine.shown.load();
        let app = submission.peer.app;
        let class = match &submission.wishes.class {
            None => config.class_of(app, &shown.views[submission.model].name),
            Some(name) => config.class_named(name, app).map_err(|error| SubmitError(error.to_string()))?,
        };
        let variant = match &submission.wishes.variant {
            None => None,
            Some(name) => Some(self.variant(submission.model, name)?),
        };
        Ok(self.engine.submit(submission, class, variant))
    }

    fn models(&self) -> Arc<Vec<ModelView>> {
        Arc::clone(&self.engine.shown.load().views)
    }

    fn model_ready(&self, model: usize) -> bool {
        let state = self.engine.state();
        state.core.model_ready(state.routes[model].serving)
    }

    fn ready(&self) -> bool {
        !self.engine.state().core.status(self.engine.now()).draining
    }

    fn retain(&self, model: usize, resident: bool) {
        let model = self.serving(model);
        self.engine.feed(Event::Retain { model, resident });
    }

    fn counters(&self, model: usize) -> ModelCounters {
        self.engine.state().counters.get(model).copied().unwrap_or_default()
    }

    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.engine.status(&self.fixed)).unwrap_or_default()
    }

    fn models_status(&self) -> serde_json::Value {
        serde_json::to_value(self.engine.models_document()).unwrap_or_default()
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
        let all = 0..self.engine.shown.load().views.len();
        let models = model.map_or(all, |model| model..model + 1);
        models.for_each(|model| self.engine.probes.order(self.serving(model), anew));
    }

    fn deploy(&self, order: Order) -> oneshot::Receiver<Result<Accepted, String>> {
        let (reply, answer) = oneshot::channel();
        let desk = Arc::clone(&self.rollouts);
        // It reads a manifest.
        tokio::task::spawn_blocking(move || {
            // Whoever asked may have gone.
            let _ = reply.send(desk.order(order));
        });
        answer
    }

    fn rollouts(&self) -> serde_json::Value {
        serde_json::to_value(self.rollouts.document(&self.engine.shown.load().views)).unwrap_or_default()
    }
}

impl Daemon {
    fn serving(&self, model: usize) -> ModelId {
        self.engine.state().routes[model].serving
    }

    fn variant(&self, model: usize, name: &str) -> Result<VariantId, SubmitError> {
        let state = self.engine.state();
        let catalog = state.core.catalog();
        let mut variants = catalog.models[state.routes[model].serving.index()].variants.iter();
        let found = variants.find(|variant| catalog.variants[variant.index()].name == name);
        found.copied().ok_or_else(|| SubmitError(format!("no variant {name:?} of this model")))
    }
}
