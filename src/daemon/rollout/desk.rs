//! Where orders for versions are left, and what is shown of them.

use crate::api::backend::{Accepted, ModelView, Order};
use crate::core::rollout::Stage;
use crate::ctl::rollout::{RolloutStatus, Rollouts, StepStatus, TrialStatus};
use crate::model::manifest;
use crate::model::store::MANIFEST;
use crate::model::versions::{Home, Record, Versions};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Orders that may wait.
const MAX_JOBS: usize = 16;

/// An order that can be carried out.
#[derive(Debug)]
pub(super) enum Job {
    Deploy { folder: PathBuf, name: String, version: String, now: bool },
    Cancel { name: String },
    Return { name: String, home: Home },
}

/// What comes next.
pub(super) enum Next {
    Job(Job),
    Look,
    End,
}

/// The desk.
#[derive(Debug)]
pub(in crate::daemon) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
    versions: Versions,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Models with a version on trial, and its stage; from the order on.
    busy: BTreeMap<String, (String, Stage)>,
    live: BTreeMap<String, TrialStatus>,
    /// Names of versions by model and place.
    named: BTreeMap<(String, Home), String>,
    ending: bool,
}

impl Desk {
    pub(in crate::daemon) fn new(versions: Versions) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), versions }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an order if it makes sense as things are. Reads files.
    ///
    /// # Errors
    /// Why it does not.
    pub(in crate::daemon) fn order(&self, order: Order) -> Result<Accepted, String> {
        let (job, accepted) = match order {
            Order::Deploy { folder, now } => self.deploy(folder, now)?,
            Order::RollBack { model } => self.roll_back(model)?,
        };
        let mut state = self.state();
        if state.ending {
            return Err("the daemon is stopping".to_owned());
        }
        if state.jobs.len() >= MAX_JOBS {
            return Err(format!("{MAX_JOBS} orders wait already: try again later"));
        }
        match &job {
            // Looked at under the lock that takes it: of two at once one comes second.
            Job::Deploy { name, version, .. } => {
                if let Some((other, stage)) = state.busy.get(name) {
                    return Err(format!(
                        "version {other} of {name} is on trial, in stage {}: wait for its end, or take it back with \
                         wattctl deploy --rollback {name}",
                        stage.name()
                    ));
                }
                state.busy.insert(name.clone(), (version.clone(), Stage::Verify));
            }
            Job::Return { name, .. } => {
                state.busy.insert(name.clone(), (accepted.version.clone(), Stage::Verify));
            }
            Job::Cancel { .. } => {}
        }
        state.jobs.push_back(job);
        self.changed.notify_all();
        Ok(accepted)
    }

    fn deploy(&self, folder: PathBuf, now: bool) -> Result<(Job, Accepted), String> {
        if !folder.is_absolute() {
            return Err(format!("{}: must be an absolute path", folder.display()));
        }
        let (name, version) = identity(&folder, &self.versions)?;
        let record = self.versions.record(&name)?;
        let here = Home::Version(version.clone());
        if record.active.as_ref() == Some(&here) || self.serves(&name, &version, &record) {
            return Err(format!(
                "version {version} of {name} serves already: give the new one another `version` in its {MANIFEST}"
            ));
        }
        if record.previous.as_ref() == Some(&here) {
            return Err(format!(
                "version {version} of {name} is kept as the one before: go back to it with wattctl deploy --rollback \
                 {name}"
            ));
        }
        let accepted = Accepted { model: name.clone(), version: version.clone() };
        Ok((Job::Deploy { folder, name, version, now }, accepted))
    }

    /// Whether the installed folder of that version serves.
    fn serves(&self, name: &str, version: &str, record: &Record) -> bool {
        let installed = record.active.as_ref().is_none_or(|home| *home == Home::Folder);
        installed && self.named(name, &Home::Folder).as_deref() == Some(version)
    }

    fn roll_back(&self, name: String) -> Result<(Job, Accepted), String> {
        let trial = self.state().busy.get(&name).map(|(version, _)| version.clone());
        if let Some(version) = trial {
            return Ok((Job::Cancel { name: name.clone() }, Accepted { model: name, version }));
        }
        let record = self.versions.record(&name)?;
        let Some(home) = record.previous else {
            return Err(format!("of {name} no other version is kept, and none is on trial"));
        };
        let version = self.named(&name, &home).unwrap_or_else(|| "?".to_owned());
        Ok((Job::Return { name: name.clone(), home }, Accepted { model: name, version }))
    }

    /// The version at a place.
    fn named(&self, name: &str, home: &Home) -> Option<String> {
        match home {
            Home::Version(version) => Some(version.clone()),
            Home::Folder => self.state().named.get(&(name.to_owned(), home.clone())).cloned(),
        }
    }

    /// Says which version is at a place.
    pub(super) fn name(&self, name: &str, home: &Home, version: &str) {
        self.state().named.insert((name.to_owned(), home.clone()), version.to_owned());
    }

    /// Waits for an order, or for the time to look at what is on trial.
    pub(super) fn next(&self, look_after: Option<Duration>) -> Next {
        let mut state = self.state();
        loop {
            if state.ending {
                return Next::End;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Next::Job(job);
            }
            match look_after {
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(span) => {
                    let waited = self.changed.wait_timeout(state, span);
                    let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    state = guard;
                    if timeout.timed_out() && state.jobs.is_empty() && !state.ending {
                        return Next::Look;
                    }
                }
            }
        }
    }

    /// Shows where a version on trial stands.
    pub(super) fn show(&self, name: &str, status: TrialStatus) {
        let mut state = self.state();
        state.busy.insert(name.to_owned(), (status.version.clone(), status.stage));
        state.live.insert(name.to_owned(), status);
    }

    /// Nothing of the model is on trial any more.
    pub(super) fn ended(&self, name: &str) {
        let mut state = self.state();
        state.busy.remove(name);
        state.live.remove(name);
    }

    /// Lets the thread return.
    pub(in crate::daemon) fn end(&self) {
        self.state().ending = true;
        self.changed.notify_all();
    }

    /// Everything `wattctl rollout` shows. Reads files.
    pub(in crate::daemon) fn document(&self, views: &[ModelView]) -> Rollouts {
        let names = self.state().busy.keys().cloned().collect::<Vec<_>>();
        let mut models: Vec<RolloutStatus> =
            views.iter().map(|view| self.status(&view.name, Some(&view.version))).collect();
        // Of models that are new nothing serves yet.
        let strangers = self.versions.models().into_iter().chain(names);
        for name in strangers {
            if !models.iter().any(|model| model.model == name) {
                models.push(self.status(&name, None));
            }
        }
        Rollouts { models }
    }

    fn status(&self, name: &str, version: Option<&String>) -> RolloutStatus {
        let (record, problem) = match self.versions.record(name) {
            Ok(record) => (record, None),
            Err(problem) => (Record::new(None), Some(problem)),
        };
        let previous = record.previous.as_ref().and_then(|home| self.named(name, home));
        let state = self.state();
        let waiting = || {
            let (version, stage) = state.busy.get(name)?;
            Some(TrialStatus { version: version.clone(), stage: *stage, ..TrialStatus::default() })
        };
        let step = |line: &crate::model::versions::Line| StepStatus {
            unix_s: line.unix_s,
            version: line.version.clone(),
            stage: line.stage,
            reason: line.reason.clone(),
        };
        RolloutStatus {
            model: name.to_owned(),
            version: version.cloned(),
            previous,
            trial: state.live.get(name).cloned().or_else(waiting),
            steps: record.steps.iter().map(step).collect(),
            problem,
        }
    }
}

/// Name and version of a model folder.
fn identity(folder: &Path, versions: &Versions) -> Result<(String, String), String> {
    let file = folder.join(MANIFEST);
    let limit = versions.store().rules().max_manifest;
    let text = crate::config::document::read_text(&file, limit.0).map_err(|problem| {
        format!("{problem} (the daemon must be able to read it: its service sees neither /home nor /tmp)")
    })?;
    let parsed = manifest::parse(&file, &text);
    match (parsed.manifest, parsed.problems.first()) {
        (Some(manifest), None) => Ok((manifest.name, manifest.version)),
        (_, problem) => Err(problem.map_or_else(|| "no manifest".to_owned(), ToString::to_string)),
    }
}
