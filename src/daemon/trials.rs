//! What the engine does for versions on trial: takes them in, sends requests to them, runs answered ones again, and
//! tells what became of it.

use super::engine::{Engine, Outputs, Rest, Shown, State, Unanswered};
use super::routes::{OnTrial, Purpose, Route, Specimen, is_its_fault};
use super::shelf::LaidOut;
use crate::api::backend::{Answer, ModelCounters, ModelView};
use crate::core::Core;
use crate::core::catalog::{ModelId, UnitId, VariantId};
use crate::core::event::{ClassId, Event, Outcome, Request, RequestId};
use crate::core::residency::Residence;
use crate::core::rollout::{Addition, Cause, Evidence, SHADOW, Stage, Step};
use crate::exec::Tensor;
use crate::model::store::LoadedModel;
use crate::time::Timestamp;
use crate::units::{Bytes, Nanos};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Tries to load a variant after which a version is given up. The core goes on to try once more.
const LOAD_TRIES: u32 = 2;

impl State {
    /// The version for a request, and what for. Who names a variant means one of the version that serves.
    pub(super) fn route(
        &mut self,
        name: usize,
        class: ClassId,
        variant: Option<VariantId>,
    ) -> (ModelId, Purpose) {
        let Self { routes, core, .. } = self;
        match variant.and_then(|variant| core.catalog().variants.get(variant.index())) {
            Some(variant) => (variant.model, Purpose::Serve),
            None => routes[name].choose(class, |model| core.model_ready(model)),
        }
    }

    /// A request that a version on trial failed on, for the version that serves: the client need not know.
    pub(super) fn try_elsewhere(
        &mut self,
        id: RequestId,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Option<Request> {
        let Outcome::Rejected { reason, .. } = outcome else { return None };
        let tried = self.unanswered.get(&id)?.purpose == Purpose::Try;
        if !tried || !is_its_fault(*reason) {
            return None;
        }
        let mut entry = self.unanswered.remove(&id)?;
        self.note_end(&entry, outcome, &[], now.since(entry.arrival));
        // Its id is spent: a client that hangs up from now on is not noticed.
        let (id, model) = (self.next_id(), self.routes[entry.name].serving);
        (entry.purpose, entry.request.id, entry.request.model) = (Purpose::Serve, id, model);
        let request = entry.request.clone();
        self.unanswered.insert(id, entry);
        Some(request)
    }

    /// Notes how a request ended where a version is on trial.
    pub(super) fn note_end(
        &mut self,
        entry: &Unanswered,
        outcome: &Outcome,
        outputs: &[Tensor],
        took: Nanos,
    ) {
        if self.shadow == Some(entry.request.id) {
            self.shadow = None;
        }
        let route = &mut self.routes[entry.name];
        let Some(trial) = &route.trial else { return };
        let model = entry.request.model;
        if model != route.serving && model != trial.version {
            return;
        }
        route.ended(entry.purpose, entry.request.items, outcome, took);
        let Outcome::Served(served) = outcome else { return };
        if entry.purpose == Purpose::Serve && route.wants_specimen() {
            let specimen = Specimen {
                class: entry.request.class,
                items: entry.request.items,
                min_accuracy: entry.request.min_accuracy,
                inputs: entry.inputs.clone(),
                outputs: outputs.to_vec(),
                variant: served.variant,
            };
            if let Some(trial) = &mut route.trial {
                trial.specimen = Some(specimen);
            }
        }
    }
}

impl Engine {
    /// Stops what runs again for nobody: a client's request came.
    pub(super) fn clear_the_way(&self, state: &mut State, rest: &mut Rest) {
        if let Some(shadow) = state.shadow.take() {
            self.step(state, Event::Cancel(shadow), &mut Outputs::new(), rest);
        }
    }

    /// Ids that the next model and its first variant get. Only one thread may add models.
    pub(super) fn next_ids(&self) -> (usize, usize) {
        let state = self.state();
        let catalog = state.core.catalog();
        (catalog.models.len(), catalog.variants.len())
    }

    /// Takes a model into the catalogue; `None` if that is full. `name`: the name that it may serve under, if that has
    /// a version already.
    pub(super) fn extend(&self, laid_out: LaidOut, name: Option<usize>) -> Option<ModelId> {
        let LaidOut { tables, keys, samples, refused } = laid_out;
        let id = ModelId::at(self.next_ids().0);
        let model = tables.catalog.models.into_iter().next()?;
        let version = tables.views.first().map(|view| view.version.clone()).unwrap_or_default();
        let variants = tables.catalog.variants;
        let names: Vec<Arc<str>> = variants.iter().map(|variant| Arc::from(variant.name.as_str())).collect();
        let addition = Addition { model, version, variants };
        if !addition.fits(self.state().core.catalog()) {
            return None;
        }
        // Before the core can order any of it.
        let mut files = self.files.load().as_ref().clone();
        files.extend(tables.files);
        self.files.store(Arc::new(files));
        self.probes.take_in(samples.into_iter().next().flatten(), keys);
        for (variant, unit, reason) in refused {
            self.probes.refuse(variant, unit, reason);
        }
        let (mut state, mut rest) = (self.state(), Rest::default());
        state.names.variants.extend(names);
        state.name_of.push(name);
        self.step(&mut state, Event::Extended(Box::new(addition)), &mut Outputs::new(), &mut rest);
        drop(state);
        self.finish(rest);
        Some(id)
    }

    /// Moves a version on: from now on requests find it as its stage says.
    pub(super) fn move_on(
        &self,
        step: Step,
        name: Option<usize>,
        (percent, classes): (u32, Vec<ClassId>),
        shown: impl FnOnce() -> Shown,
    ) {
        let (mut state, mut rest) = (self.state(), Rest::default());
        if step.stage == Stage::Full {
            // Under the lock, so that views and routes agree for whoever takes both.
            let index = name.unwrap_or(state.routes.len());
            if name.is_none() {
                state.routes.push(Route::to(step.version));
                state.counters.push(ModelCounters::default());
            }
            state.name_of[step.version.index()] = Some(index);
            state.routes[index] = Route::to(step.version);
            self.shown.store(Arc::new(shown()));
        } else if let Some(name) = name {
            let active = matches!(step.stage, Stage::Shadow | Stage::Canary);
            state.routes[name].trial =
                active.then(|| OnTrial::new(step.version, step.stage, percent, classes));
        }
        self.step(&mut state, Event::Rollout(step), &mut Outputs::new(), &mut rest);
        drop(state);
        self.finish(rest);
    }

    /// What is known of a version. What it was compared for is the caller's to fill in.
    pub(super) fn evidence(&self, version: ModelId, name: Option<usize>) -> Evidence {
        let profiling = self.probes.is_busy(version);
        let state = self.state();
        let pairs = pairs(&state.core, version);
        let trial = name.and_then(|name| state.routes[name].trial.as_ref());
        let mut evidence = Evidence {
            loaded: state.core.model_ready(version),
            not_loadable: not_loadable(&state.core, &pairs),
            profiling,
            runnable: !pairs.is_empty(),
            ..Evidence::default()
        };
        if let Some(trial) = trial.filter(|trial| trial.version == version) {
            evidence.failed = trial.failed;
            evidence.trial = trial.trial;
            evidence.serving = trial.serving;
        }
        evidence
    }

    /// Runs an answered request again on the version on trial, if the device has nothing else to do.
    pub(super) fn run_again(&self, name: usize) -> Option<(Specimen, oneshot::Receiver<Answer>)> {
        let (mut state, mut rest) = (self.state(), Rest::default());
        if !state.core.is_idle() {
            return None;
        }
        let trial = state.routes[name].trial.as_mut()?;
        let version = trial.version;
        let specimen = trial.specimen.take()?;
        if !state.core.model_ready(version) {
            return None;
        }
        let (id, now) = (state.next_id(), self.now());
        let (reply, answer) = oneshot::channel();
        let request = Request {
            id,
            app: SHADOW,
            class: specimen.class,
            model: version,
            items: specimen.items,
            input_bytes: Bytes(specimen.inputs.iter().map(|tensor| tensor.data.len() as u64).sum()),
            deadline: None,
            min_accuracy: specimen.min_accuracy,
            max_energy: None,
            variant: None,
            priority: Some(u32::MAX),
        };
        let entry = Unanswered {
            reply,
            inputs: specimen.inputs.clone(),
            name,
            purpose: Purpose::Compare,
            arrival: now,
            request: request.clone(),
        };
        state.unanswered.insert(id, entry);
        state.shadow = Some(id);
        self.step(&mut state, Event::Submit(request), &mut Outputs::new(), &mut rest);
        drop(state);
        self.finish(rest);
        Some((specimen, answer))
    }

    /// Puts an answered request back that was stopped for a client's.
    pub(super) fn put_back(&self, name: usize, version: ModelId, specimen: Specimen) {
        let mut state = self.state();
        if let Some(trial) = &mut state.routes[name].trial
            && trial.version == version
            && trial.specimen.is_none()
        {
            trial.specimen = Some(specimen);
        }
    }

    /// Whether an answered request waits to be run again.
    pub(super) fn has_specimen(&self, name: usize) -> bool {
        self.state().routes[name].trial.as_ref().is_some_and(|trial| trial.specimen.is_some())
    }

    /// The views with another version in the place of a name, or after them.
    pub(super) fn shown_with(&self, name: Option<usize>, view: ModelView, model: LoadedModel) -> Shown {
        let mut shown = Shown::clone(&self.shown.load());
        let views = Arc::make_mut(&mut shown.views);
        let model = Arc::new(model);
        match name {
            Some(name) => (views[name], shown.loaded[name]) = (view, model),
            None => {
                views.push(view);
                shown.loaded.push(model);
            }
        }
        shown
    }
}

/// Variants of a model with the units that they may run on.
fn pairs(core: &Core, model: ModelId) -> Vec<(VariantId, UnitId)> {
    let catalog = core.catalog();
    let units = |variant: VariantId| {
        let profiles = catalog.variants[variant.index()].profiles.iter().enumerate();
        profiles.filter(|(_, profile)| profile.is_some()).map(move |(unit, _)| (variant, UnitId::at(unit)))
    };
    catalog.models[model.index()].variants.iter().copied().flat_map(units).collect()
}

/// Why none of these ever will be in memory.
fn not_loadable(core: &Core, pairs: &[(VariantId, UnitId)]) -> Option<Cause> {
    let footprint = |(variant, unit): &(VariantId, UnitId)| {
        core.catalog().variants[variant.index()].profiles[unit.index()].map(|profile| profile.footprint)
    };
    let Some(needs) = pairs.iter().filter_map(footprint).min() else { return Some(Cause::Unfit) };
    let cap = core.budgets().memory_cap;
    if needs > cap {
        return Some(Cause::NoRoom { needs, cap });
    }
    let tries = pairs.iter().map(|&(variant, unit)| match core.residence(variant, unit) {
        Residence::Failed { tries, .. } | Residence::Loading { tries } => tries,
        _ => 0,
    });
    let given_up = tries.clone().any(|tries| tries >= LOAD_TRIES) || tries.clone().all(|tries| tries > 0);
    given_up.then_some(Cause::NotLoaded)
}
