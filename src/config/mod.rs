//! Configuration: a raw TOML shape ([`raw`]) that is read with positions ([`document`]), validated into
//! [`Config`] with all problems at once, and compared on reload ([`diff`]).
//!
//! `config/README.md` explains every key.

pub mod diff;
pub mod document;
pub mod raw;
mod validate;

pub(crate) use validate::{Check, NAME_RULE, is_name};

use crate::core::energy::Budgets;
use crate::core::event::{AppId, ClassId};
use crate::core::rollout::Policy;
use crate::model::Rules;
use crate::units::{Bytes, Nanos};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use diff::Changes;
pub use document::{Problem, Problems};
pub use raw::{LogFormat, RawConfig};

/// Longest configuration file, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A validated configuration. Paths are resolved against the folder of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// Board file and sampling.
    pub board: BoardConfig,
    /// Which board stands behind the daemon.
    pub simulation: Simulation,
    /// ONNX Runtime.
    pub runtime: RuntimeConfig,
    /// Model folders.
    pub models: ModelsConfig,
    /// Unix socket and limits of its clients.
    pub socket: SocketConfig,
    /// Where the Prometheus endpoint listens; `None` = nowhere.
    pub metrics: Option<SocketAddr>,
    /// Folder of profiles and of the clocks to restore.
    pub state_dir: PathBuf,
    /// Where events are recorded; `None` = not at all.
    pub journal: Option<JournalConfig>,
    /// Budgets and limits, for the core.
    pub budgets: Budgets,
    /// Which requests belong to which class, in the order of [`Budgets::classes`].
    pub class_rules: Vec<ClassRule>,
    /// Logging.
    pub log: LogConfig,
    /// Profiling policy.
    pub profile: ProfileConfig,
    /// New versions of models.
    pub deploy: DeployConfig,
    raw: RawConfig,
    lines: BTreeMap<String, usize>,
}

/// Board file and sampling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardConfig {
    /// The board file.
    pub file: PathBuf,
    /// Where sysfs is mounted.
    pub sysfs_root: PathBuf,
    /// Time between two sweeps over the sensors.
    pub sample_period: Nanos,
}

/// Which board stands behind the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Simulation {
    /// The real one.
    Off,
    /// A simulated one inside the daemon.
    InProcess {
        /// Seed of all that is random on it.
        seed: u64,
        /// What happens to it, and when.
        script: Option<PathBuf>,
    },
    /// A simulated one in another process, whose sysfs tree is at [`BoardConfig::sysfs_root`].
    Process {
        /// Socket on which that process tells when a run would have ended.
        accelerator_socket: PathBuf,
    },
}

/// ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The library; `None` = the usual places.
    pub library: Option<PathBuf>,
    /// Folder of optimised graphs.
    pub cache_dir: PathBuf,
    /// Size of that folder at which the oldest are deleted.
    pub cache_limit: Bytes,
}

/// Model folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelsConfig {
    /// Folders that hold model folders.
    pub dirs: Vec<PathBuf>,
    /// Models to hold in memory from the start.
    pub load: Vec<String>,
    /// What model folders are held to.
    pub rules: Rules,
}

/// A group of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Id.
    pub gid: u32,
}

/// Unix socket and limits of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// Path of the socket.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Its group; `None` = the daemon's own.
    pub group: Option<Group>,
    /// Loopback address for clients that know no Unix sockets.
    pub tcp: Option<SocketAddr>,
    /// Most connections.
    pub max_connections: u32,
    /// Most connections of one app.
    pub max_connections_per_app: u32,
    /// Largest message.
    pub max_message: Bytes,
    /// Most bytes of requests in flight of one app.
    pub max_in_flight_per_app: Bytes,
    /// Groups whose members may load, unload, profile and see all apps; besides root and the daemon's user.
    pub operators: Vec<Group>,
}

/// Record of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// Folder of the records.
    pub dir: PathBuf,
    /// Size of that folder at which the oldest are deleted.
    pub limit: Bytes,
}

/// Which requests belong to a class.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClassRule {
    /// User ids; empty = any.
    pub apps: Vec<u32>,
    /// Model names; empty = any.
    pub models: Vec<String>,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives for the filter; known to parse.
    pub filter: String,
    /// Shape of the lines.
    pub format: LogFormat,
}

/// Profiling policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileConfig {
    /// Whether to profile in the background what has no profile yet.
    pub on_start: bool,
    /// Labelled inputs whose outputs are compared with the reference variant.
    pub check_items: u32,
}

/// New versions of models.
#[derive(Debug, Clone, PartialEq)]
pub struct DeployConfig {
    /// Share of the answered requests that are run again on a new version, percent.
    pub shadow_percent: u32,
    /// Share of the requests that a new version answers, percent.
    pub canary_percent: u32,
    /// Classes whose requests it may answer, by index; empty: all.
    pub canary_classes: Vec<ClassId>,
    /// What is asked of it.
    pub policy: Policy,
}

/// Why a request may not have the class it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// No such class.
    #[error("class `{name}` is not one of {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The class lists apps, and this is none of them.
    #[error("class `{0}` is not for this app")]
    NotAllowed(String),
}

/// What validation needs to know of the machine.
pub struct Context<'a> {
    /// Local time, against which `until` is resolved.
    pub now: jiff::ZonedDateTime,
    /// Id of a user.
    pub user_id: &'a dyn Fn(&str) -> Option<u32>,
    /// Id of a group.
    pub group_id: &'a dyn Fn(&str) -> Option<u32>,
}

impl Context<'static> {
    /// This machine, now.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let seconds = i64::try_from(crate::time::unix_seconds()).unwrap_or(0);
        let now = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Self {
            now: now.to_zoned_datetime(jiff::tz::TimeZone::system()),
            user_id: &|name| nix::unistd::User::from_name(name).ok()?.map(|user| user.uid.as_raw()),
            group_id: &|name| nix::unistd::Group::from_name(name).ok()?.map(|group| group.gid.as_raw()),
        }
    }
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// All that is wrong with it, each with file, line, key, value and what would be right.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        let text = document::read_text(file, MAX_FILE_BYTES).map_err(|p| Problems(vec![p]))?;
        Self::parse(file, &text, &Context::of_this_machine())
    }

    /// Validates the text of a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(file: &Path, text: &str, context: &Context<'_>) -> Result<Self, Problems> {
        validate::config(file, text, context)
    }

    /// The file as it was written, with defaults filled in.
    #[must_use]
    pub fn raw(&self) -> &RawConfig {
        &self.raw
    }

    /// A problem that only came to light when the value at `key` was used.
    #[must_use]
    pub fn problem(&self, key: &str, value: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            line: self.lines.get(key).copied(),
            key: key.to_owned(),
            value: Some(value.into()),
            message: message.into(),
        }
    }

    /// Problems with names of models that are not in `known`.
    #[must_use]
    pub fn check_model_names(&self, known: &[&str]) -> Vec<Problem> {
        let in_classes = self.class_rules.iter().enumerate().flat_map(|(c, rule)| {
            rule.models.iter().enumerate().map(move |(m, name)| (format!("class[{c}].models[{m}]"), name))
        });
        let loaded = self.models.load.iter().enumerate().map(|(m, name)| (format!("models.load[{m}]"), name));
        loaded
            .chain(in_classes)
            .filter(|(_, name)| !known.contains(&name.as_str()))
            .map(|(key, name)| {
                let message = format!("no such model; there are: {}", known.join(", "));
                self.problem(&key, format!("\"{name}\""), message)
            })
            .collect()
    }

    /// The class of a request that names none: the first whose rule names the app or the model and
    /// excludes neither, else the default.
    #[must_use]
    pub fn class_of(&self, app: AppId, model: &str) -> ClassId {
        let found = self.class_rules.iter().position(|rule| rule.claims(app, model));
        class_id(found.unwrap_or(0))
    }

    /// The class that a request names.
    ///
    /// # Errors
    /// If there is none of that name, or it lists apps and not this one.
    pub fn class_named(&self, name: &str, app: AppId) -> Result<ClassId, ClassError> {
        let Some(index) = self.budgets.classes.iter().position(|class| class.name == name) else {
            let known: Vec<&str> = self.budgets.classes.iter().map(|class| class.name.as_str()).collect();
            return Err(ClassError::Unknown { name: name.to_owned(), known: known.join(", ") });
        };
        if self.class_rules.get(index).is_some_and(|rule| !rule.admits(app)) {
            return Err(ClassError::NotAllowed(name.to_owned()));
        }
        Ok(class_id(index))
    }
}

/// Validation keeps the number of classes far below the limit of the type.
pub(crate) fn class_id(index: usize) -> ClassId {
    ClassId(u16::try_from(index).unwrap_or(0))
}

impl ClassRule {
    fn admits(&self, app: AppId) -> bool {
        self.apps.is_empty() || self.apps.contains(&app.0)
    }

    fn claims(&self, app: AppId, model: &str) -> bool {
        let names_something = !(self.apps.is_empty() && self.models.is_empty());
        let model_fits = self.models.is_empty() || self.models.iter().any(|name| name == model);
        names_something && self.admits(app) && model_fits
    }
}

#[cfg(test)]
mod tests;
