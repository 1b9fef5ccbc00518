//! Versions on trial: the thread that takes them in, moves them on, and takes them back.
//!
//! What is decided is in [`crate::core::rollout`]; what is on disk in [`crate::model::versions`]; what requests do in
//! [`super::trials`]. Here the three are kept in step: **the disk first, then the core**. A stage is written before it
//! begins, so that a version that takes the process down with it is found by its stage at the next start.

mod desk;
mod trial;

pub(super) use desk::Desk;

use super::engine::Engine;
use super::shelf::Shelf;
use crate::config::Config;
use crate::core::catalog::ModelId;
use crate::core::event::Event;
use crate::core::rollout::{Cause, Stage, Step, Verdict, judge};
use crate::model::store::LoadedModel;
use crate::model::versions::{Home, Line, Record, Trial, Versions};
use arc_swap::ArcSwap;
use desk::{Job, Next};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use trial::OnTrial;

/// Time between two looks at what is on trial.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same while a request waits to be run again: the device's spare moments may be short.
const LOOK_OFTEN: Duration = Duration::from_millis(2);
/// How often the daemon may end unexpectedly while a version is on trial. In its loading, once is too often.
const MAX_DEATHS: u32 = 2;

/// The installed models, with the versions that serve in their place; where each is; and what could not be read.
pub(super) fn in_force(
    installed: &[LoadedModel],
    versions: &Versions,
) -> (Vec<LoadedModel>, Vec<Home>, Vec<String>) {
    let (mut models, mut problems) = (installed.to_vec(), Vec::new());
    let mut homes = vec![Home::Folder; models.len()];
    for name in versions.models() {
        // One that cannot be read is told of when the folder is opened.
        let Ok(Record { active: Some(home @ Home::Version(_)), .. }) = versions.record(&name) else {
            continue;
        };
        let Home::Version(version) = &home else { continue };
        match versions.read(&name, version) {
            Ok(model) => match models.iter().position(|other| other.name == name) {
                Some(index) => (models[index], homes[index]) = (model, home),
                None => {
                    models.push(model);
                    homes.push(home);
                }
            },
            Err(error) => problems.push(format!(
                "version {version} of {name} should serve and cannot; what [models] dir has serves instead: {error}"
            )),
        }
    }
    (models, homes, problems)
}

/// The thread's side.
pub(super) struct Rollouts {
    pub(super) engine: Arc<Engine>,
    pub(super) desk: Arc<Desk>,
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) versions: Versions,
    pub(super) shelf: Shelf,
    /// The models of `[models] dir`.
    pub(super) installed: Vec<LoadedModel>,
    /// Versions that have a model in the catalogue.
    pub(super) known: BTreeMap<(String, Home), ModelId>,
    pub(super) trials: Vec<OnTrial>,
}

impl Rollouts {
    /// Works until the desk ends.
    pub(super) fn run(mut self) {
        for model in &self.installed {
            if let Some(manifest) = &model.manifest {
                self.desk.name(&model.name, &Home::Folder, &manifest.version);
            }
        }
        for name in self.versions.models() {
            self.resume(&name);
        }
        loop {
            let look_after = (!self.trials.is_empty()).then(|| {
                if self.trials.iter().any(|trial| trial.is_waiting(&self.engine)) {
                    LOOK_OFTEN
                } else {
                    LOOK_EVERY
                }
            });
            match self.desk.next(look_after) {
                Next::End => break,
                Next::Job(job) => self.carry_out(job),
                Next::Look => {}
            }
            for mut trial in std::mem::take(&mut self.trials) {
                if self.look(&mut trial) {
                    self.trials.push(trial);
                }
            }
        }
        for mut trial in std::mem::take(&mut self.trials) {
            if let Some(on_disk) = &mut trial.record.trial {
                on_disk.paused = true;
            }
            self.write(&trial.name, &trial.record);
        }
    }

    /// Goes on with what was on trial when the daemon ended.
    fn resume(&mut self, name: &str) {
        let Ok(mut record) = self.versions.record(name) else { return };
        let Some(mut on_disk) = record.trial.take() else {
            let Some(Line { stage: Stage::Verify, version, .. }) = record.steps.last().cloned() else {
                return;
            };
            record.note(&version, Stage::RolledBack, Some("the daemon ended while it was copied".to_owned()));
            self.write(name, &record);
            return;
        };
        on_disk.deaths += u32::from(!on_disk.paused);
        let fatal = !on_disk.paused && on_disk.stage == Stage::Load;
        if fatal || on_disk.deaths > MAX_DEATHS {
            let (version, stage, reason) =
                (&on_disk.version, on_disk.stage.name(), Cause::Died(on_disk.stage).to_string());
            tracing::warn!(model = name, version, stage, reason, "new version taken back");
            record.note(version, Stage::RolledBack, Some(reason));
            self.write(name, &record);
            self.discard(name, &record, &on_disk.home);
            return;
        }
        let (home, direct, deaths) = (on_disk.home, on_disk.direct, on_disk.deaths);
        tracing::info!(model = name, version = on_disk.version, deaths, "goes on with the new version");
        self.begin(name, home, direct, deaths, record);
    }

    fn carry_out(&mut self, job: Job) {
        match job {
            Job::Deploy { folder, name, version, now } => self.take_in(&folder, &name, &version, now),
            Job::Return { name, home } => match self.versions.record(&name) {
                Ok(record) => self.begin(&name, home, true, 0, record),
                Err(problem) => {
                    tracing::error!(model = name, problem, "not gone back");
                    self.desk.ended(&name);
                }
            },
            Job::Cancel { name } => {
                if let Some(index) = self.trials.iter().position(|trial| trial.name == name) {
                    let mut trial = self.trials.swap_remove(index);
                    self.take_back(&mut trial, Cause::Operator);
                }
            }
        }
    }

    /// Copies and checks a folder, and begins with it.
    fn take_in(&mut self, folder: &Path, name: &str, version: &str, now: bool) {
        let taken = self.versions.record(name).and_then(|mut record| {
            tracing::info!(model = name, version, stage = Stage::Verify.name(), "new version moves on");
            record.note(version, Stage::Verify, None);
            self.versions.put(name, &record).map_err(|error| error.to_string())?;
            let taken = self.versions.take_in(folder, name, version);
            taken.map(|_| record).map_err(|error| error.to_string())
        });
        match taken {
            Ok(record) => self.begin(name, Home::Version(version.to_owned()), now, 0, record),
            Err(reason) => self.refuse(name, version, reason),
        }
    }

    /// A version that never came as far as the core.
    fn refuse(&self, name: &str, version: &str, reason: String) {
        tracing::warn!(model = name, version, reason, "new version refused");
        if let Ok(mut record) = self.versions.record(name) {
            record.trial = None;
            record.note(version, Stage::RolledBack, Some(reason));
            self.write(name, &record);
            self.discard(name, &record, &Home::Version(version.to_owned()));
        }
        self.desk.ended(name);
    }

    /// Puts a version that is here on trial.
    fn begin(&mut self, name: &str, home: Home, direct: bool, deaths: u32, mut record: Record) {
        let found = match &home {
            Home::Version(version) => self.versions.read(name, version).map_err(|error| error.to_string()),
            Home::Folder => {
                self.installed(name).cloned().ok_or_else(|| "no longer in [models] dir".to_owned())
            }
        };
        let version = match (&found, &home) {
            (Ok(model), _) => model.manifest.as_ref().map_or_else(String::new, |m| m.version.clone()),
            (Err(_), Home::Version(version)) => version.clone(),
            (Err(_), Home::Folder) => String::new(),
        };
        let fits = found.and_then(|model| self.fits(name, &model).map(|()| model));
        let model = match fits {
            Ok(model) => model,
            Err(reason) => return self.refuse(name, &version, reason),
        };
        // Before anything of it is loaded.
        let stage = Stage::Load;
        let trial =
            Trial { home: home.clone(), version: version.clone(), direct, stage, deaths, paused: false };
        record.trial = Some(trial);
        record.note(&version, stage, None);
        if let Err(error) = self.versions.put(name, &record) {
            return self.refuse(name, &version, error.to_string());
        }
        let index = self.engine.shown.load().views.iter().position(|view| view.name == name);
        let known = self.known.get(&(name.to_owned(), home.clone())).copied();
        let laid_out = self.shelf.lay_out(std::slice::from_ref(&model), self.engine.next_ids());
        let Some(view) = laid_out.tables.views.first().cloned() else { return };
        let Some(id) = known.or_else(|| self.engine.extend(laid_out, index)) else {
            let reason =
                "so many models have come since the daemon started that there is no room: restart it";
            return self.refuse(name, &version, reason.to_owned());
        };
        self.known.insert((name.to_owned(), home), id);
        // What cannot be served is nothing to compare with.
        let able = |index: &usize| self.engine.shown.load().views[*index].unavailable.is_none();
        let serving = index.filter(able).map(|index| self.engine.state().routes[index].serving);
        let mut trial = OnTrial::new(name, index, (id, serving), model, view, record);
        self.tell(&trial, stage, None);
        trial.show(&self.engine, &self.config.load().deploy, &self.desk);
        self.trials.push(trial);
    }

    fn installed(&self, name: &str) -> Option<&LoadedModel> {
        self.installed.iter().find(|model| model.name == name && model.unavailable.is_none())
    }

    /// Whether clients of the version that serves can be answered by this one.
    fn fits(&self, name: &str, model: &LoadedModel) -> Result<(), String> {
        let shown = self.engine.shown.load();
        let Some(view) = shown.views.iter().find(|view| view.name == name) else { return Ok(()) };
        let Some(manifest) = &model.manifest else { return Err("it has no manifest".to_owned()) };
        // Nothing serves from a folder that is broken.
        if view.unavailable.is_some() {
            return Ok(());
        }
        if manifest.inputs != view.inputs || manifest.outputs != view.outputs {
            return Err(format!(
                "its inputs or outputs are not those of version {}: clients would be answered wrongly; give the model \
                 another name",
                view.version
            ));
        }
        if manifest.max_batch < view.max_batch {
            return Err(format!(
                "its max_batch is {}, that of version {} is {}: clients count on that many",
                manifest.max_batch, view.version, view.max_batch
            ));
        }
        Ok(())
    }

    /// Looks at a version; whether it stays on trial.
    fn look(&self, trial: &mut OnTrial) -> bool {
        trial.compare(&self.engine, &self.config.load().deploy.policy);
        let stage = trial.stage();
        let evidence = trial.evidence(&self.engine);
        match judge(stage, &evidence, &self.config.load().deploy.policy) {
            Verdict::RollBack(cause) => {
                self.take_back(trial, cause);
                return false;
            }
            Verdict::Advance => {
                if !self.advance(trial) {
                    return false;
                }
            }
            // Let go of for want of requests.
            Verdict::Stay if stage > Stage::Load && !self.engine.state().core.is_retained(trial.id) => {
                self.engine.feed(Event::Retain { model: trial.id, resident: true });
            }
            Verdict::Stay => {}
        }
        trial.show(&self.engine, &self.config.load().deploy, &self.desk);
        true
    }

    /// On to the next stage; whether the version stays on trial.
    fn advance(&self, trial: &mut OnTrial) -> bool {
        let Some(on_disk) = &trial.record.trial else { return false };
        let next = on_disk.stage.next(on_disk.direct || trial.serving.is_none());
        let (home, version) = (on_disk.home.clone(), on_disk.version.clone());
        let mut record = trial.record.clone();
        record.note(&version, next, None);
        let older = record.previous.clone();
        if next == Stage::Full {
            let before = trial.index.map(|_| record.active.clone().unwrap_or_default());
            (record.previous, record.active, record.trial) = (before, Some(home), None);
        } else if let Some(on_disk) = &mut record.trial {
            on_disk.stage = next;
        }
        if let Err(error) = self.versions.put(&trial.name, &record) {
            // As long as it is not on the disk it has not happened; it is tried again.
            if !std::mem::replace(&mut trial.stuck, true) {
                tracing::error!(model = trial.name, version, %error, "new version waits: its next stage cannot be written");
            }
            return true;
        }
        (trial.record, trial.stuck) = (record, false);
        trial.begin_stage();
        self.tell(trial, next, None);
        match next {
            Stage::Profile => self.engine.probes.order(trial.id, false),
            Stage::Full => {
                if let Some(older) = older {
                    self.discard(&trial.name, &trial.record, &older);
                }
                self.desk.ended(&trial.name);
                return false;
            }
            _ => {}
        }
        true
    }

    /// Back to the version that served before, which never stopped.
    fn take_back(&self, trial: &mut OnTrial, cause: Cause) {
        let Some(on_disk) = trial.record.trial.take() else { return };
        let reason = match &trial.detail {
            Some(detail) if matches!(cause, Cause::Drift { .. }) => format!("{cause}: {detail}"),
            _ => cause.to_string(),
        };
        trial.record.note(&on_disk.version, Stage::RolledBack, Some(reason));
        self.tell(trial, Stage::RolledBack, Some(cause));
        self.write(&trial.name, &trial.record);
        self.discard(&trial.name, &trial.record, &on_disk.home);
        self.desk.ended(&trial.name);
    }

    /// Lets the core know, and requests find their way.
    fn tell(&self, trial: &OnTrial, stage: Stage, cause: Option<Cause>) {
        let step = Step { version: trial.id, serving: trial.serving, stage, cause };
        let deploy = &self.config.load().deploy;
        let percent = if stage == Stage::Shadow { deploy.shadow_percent } else { deploy.canary_percent };
        let shown = || self.engine.shown_with(trial.index, trial.view.clone(), trial.model.clone());
        self.engine.move_on(step, trial.index, (percent, deploy.canary_classes.clone()), shown);
    }

    fn write(&self, name: &str, record: &Record) {
        if let Err(error) = self.versions.put(name, record) {
            tracing::error!(model = name, %error, "what became of its versions cannot be written");
        }
    }

    /// Removes a version that is not needed any more.
    fn discard(&self, name: &str, record: &Record, home: &Home) {
        if record.active.as_ref() != Some(home) && record.previous.as_ref() != Some(home) {
            self.versions.remove(name, home);
        }
    }
}
