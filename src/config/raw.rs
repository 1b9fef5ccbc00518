//! The configuration file as written. [`super::Config`] is what becomes of it.
//!
//! Every key is explained in `config/README.md`; a test proves that none is missing there.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Board file and sampling.
    pub board: RawBoard,
    /// Simulated board.
    pub simulation: RawSimulation,
    /// ONNX Runtime.
    pub runtime: RawRuntime,
    /// Model folders.
    pub models: RawModels,
    /// Memory of loaded variants.
    pub memory: RawMemory,
    /// Unix socket and limits of its clients.
    pub socket: RawSocket,
    /// Prometheus endpoint.
    pub metrics: RawMetrics,
    /// What must outlive the daemon.
    pub state: RawState,
    /// Record of events for replay.
    pub journal: RawJournal,
    /// Device budgets.
    pub budget: RawBudget,
    /// Classes of requests; the first is the default.
    pub class: Vec<RawClass>,
    /// Logging.
    pub log: RawLog,
    /// Profiling policy.
    pub profile: RawProfile,
    /// New versions of models.
    pub deploy: RawDeploy,
}

/// `[board]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBoard {
    /// Board file.
    pub file: PathBuf,
    /// Where sysfs is mounted.
    pub sysfs_root: PathBuf,
    /// Time between two sweeps over the sensors, ms.
    pub sample_period_ms: u64,
}

impl Default for RawBoard {
    fn default() -> Self {
        Self { file: "/etc/wattd/board.toml".into(), sysfs_root: "/sys".into(), sample_period_ms: 100 }
    }
}

/// Which board stands behind the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SimulationMode {
    /// The real one.
    #[default]
    Off,
    /// A simulated one inside the daemon.
    InProcess,
    /// A simulated one in another process, which serves a sysfs tree and an accelerator socket.
    Process,
}

/// `[simulation]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSimulation {
    /// Which board stands behind the daemon.
    pub mode: SimulationMode,
    /// Socket on which the other process tells when a run would have ended.
    pub accelerator_socket: Option<PathBuf>,
    /// Seed of all that is random on the simulated board.
    pub seed: u64,
    /// What happens to the simulated board, and when.
    pub script: Option<PathBuf>,
}

/// `[runtime]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRuntime {
    /// The ONNX Runtime library.
    pub library: Option<PathBuf>,
    /// Folder of optimised graphs.
    pub cache_dir: PathBuf,
    /// Size of that folder at which the oldest are deleted, MB.
    pub cache_limit_mb: u64,
}

impl Default for RawRuntime {
    fn default() -> Self {
        Self { library: None, cache_dir: "/var/cache/wattd".into(), cache_limit_mb: 1024 }
    }
}

/// `[models]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawModels {
    /// Folders that hold model folders.
    pub dir: Vec<PathBuf>,
    /// Models to hold in memory from the start.
    pub load: Vec<String>,
    /// Keys of minisign one of which must have signed a manifest; none: nothing need be signed.
    pub public_keys: Vec<String>,
    /// Longest manifest, kB.
    pub max_manifest_kb: u64,
    /// Largest file of a variant, MB.
    pub max_file_mb: u64,
}

impl Default for RawModels {
    fn default() -> Self {
        Self {
            dir: vec!["/var/lib/wattd/models".into()],
            load: Vec::new(),
            public_keys: Vec::new(),
            max_manifest_kb: 256,
            max_file_mb: 2048,
        }
    }
}

/// `[memory]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMemory {
    /// Memory that loaded variants may hold together, MB.
    pub cap_mb: u64,
    /// Time after which an unused variant may be unloaded, s; 0 = only when memory is needed.
    pub unload_after_s: u64,
}

impl Default for RawMemory {
    fn default() -> Self {
        Self { cap_mb: 512, unload_after_s: 300 }
    }
}

/// `[socket]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSocket {
    /// Path of the Unix socket.
    pub path: PathBuf,
    /// Mode of the socket, octal.
    pub mode: String,
    /// Group of the socket.
    pub group: Option<String>,
    /// Loopback address for clients that know no Unix sockets.
    pub tcp: Option<String>,
    /// Most connections.
    pub max_connections: u32,
    /// Most connections of one app.
    pub max_connections_per_app: u32,
    /// Largest message, MB.
    pub max_message_mb: u64,
    /// Most bytes of requests in flight of one app, MB.
    pub max_in_flight_mb_per_app: u64,
    /// Groups that may load, unload, profile and see all apps.
    pub operators: Vec<String>,
}

impl Default for RawSocket {
    fn default() -> Self {
        Self {
            path: "/run/wattd/wattd.sock".into(),
            mode: "0660".to_owned(),
            group: None,
            tcp: None,
            max_connections: 256,
            max_connections_per_app: 64,
            max_message_mb: 64,
            max_in_flight_mb_per_app: 128,
            operators: Vec::new(),
        }
    }
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMetrics {
    /// Address of the Prometheus endpoint, or `off`.
    pub listen: String,
}

impl Default for RawMetrics {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".to_owned() }
    }
}

/// `[state]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawState {
    /// Folder of profiles and of the clocks to restore.
    pub dir: PathBuf,
}

impl Default for RawState {
    fn default() -> Self {
        Self { dir: "/var/lib/wattd".into() }
    }
}

/// `[journal]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawJournal {
    /// Whether to record.
    pub enabled: bool,
    /// Folder of the records.
    pub dir: PathBuf,
    /// Size of that folder at which the oldest are deleted, MB.
    pub limit_mb: u64,
}

impl Default for RawJournal {
    fn default() -> Self {
        Self { enabled: false, dir: "/var/lib/wattd/journal".into(), limit_mb: 64 }
    }
}

/// `[budget]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBudget {
    /// Decision rule.
    pub objective: crate::core::energy::Objective,
    /// Cap on the board's average power, W.
    pub power_cap_w: Option<f64>,
    /// Window over which power is averaged, s.
    pub power_window_s: f64,
    /// Temperature that no zone may pass, degrees Celsius.
    pub max_temperature_c: Option<f64>,
    /// Distance kept from that limit, K.
    pub temperature_margin_c: f64,
    /// Longest queue, requests.
    pub queue_limit: u32,
    /// Most requests of one app in the queue or running.
    pub app_limit: u32,
    /// Age from which a reading counts as its worst case, ms.
    pub stale_after_ms: u64,
    /// Energy until a time.
    pub energy: Option<RawEnergy>,
    /// Battery until a time.
    pub battery: Option<RawBattery>,
}

impl Default for RawBudget {
    fn default() -> Self {
        Self {
            objective: crate::core::energy::Objective::default(),
            power_cap_w: None,
            power_window_s: 10.0,
            max_temperature_c: None,
            temperature_margin_c: 5.0,
            queue_limit: 256,
            app_limit: 128,
            stale_after_ms: 1000,
            energy: None,
            battery: None,
        }
    }
}

/// `[budget.energy]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEnergy {
    /// Energy, J.
    pub joules: Option<f64>,
    /// Energy, Wh.
    pub watt_hours: Option<f64>,
    /// Local time of day until which it must last.
    pub until: Option<String>,
    /// Time it must last.
    pub lasting: Option<String>,
}

/// `[budget.battery]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBattery {
    /// Share of the full battery that must be left, percent.
    pub reserve_percent: f64,
    /// Local time of day until which the rest must last.
    pub until: Option<String>,
    /// Time the rest must last.
    pub lasting: Option<String>,
}

/// An app, as a class lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a user id (number) or a user name (text)")]
pub enum RawApp {
    /// User id.
    Uid(u32),
    /// User name.
    User(String),
}

/// `[[class]]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawClass {
    /// Name.
    pub name: String,
    /// Latency objective, ms.
    #[serde(default = "default_latency_ms")]
    pub latency_ms: f64,
    /// Least accuracy, 0 to 1.
    #[serde(default)]
    pub min_accuracy: f64,
    /// Accuracy to give while the budgets allow, 0 to 1.
    #[serde(default)]
    pub accuracy_target: Option<f64>,
    /// Lower is more urgent.
    #[serde(default = "default_priority")]
    pub priority: u32,
    /// Most energy per request, mJ.
    #[serde(default)]
    pub energy_per_request_mj: Option<f64>,
    /// Average power that the class may draw, W.
    #[serde(default)]
    pub power_w: Option<f64>,
    /// Whether a smaller variant may answer where the chosen one takes too long.
    #[serde(default = "default_rescue")]
    pub rescue: bool,
    /// Apps whose requests belong to the class.
    #[serde(default)]
    pub apps: Vec<RawApp>,
    /// Models whose requests belong to the class.
    #[serde(default)]
    pub models: Vec<String>,
}

fn default_latency_ms() -> f64 {
    1_000.0
}

fn default_priority() -> u32 {
    100
}

fn default_rescue() -> bool {
    true
}

impl RawClass {
    /// The class that stands in where the file has none.
    #[must_use]
    pub fn fallback() -> Self {
        Self {
            name: "default".to_owned(),
            latency_ms: default_latency_ms(),
            min_accuracy: 0.0,
            accuracy_target: None,
            priority: default_priority(),
            energy_per_request_mj: None,
            power_w: None,
            rescue: default_rescue(),
            apps: Vec::new(),
            models: Vec::new(),
        }
    }
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a terminal, or for the journal where systemd reads the output.
    #[default]
    Auto,
    /// For a terminal.
    Text,
    /// For the journal: a priority in front, no time.
    Journal,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// Least level, or directives such as `info,wattd::api=debug`.
    pub level: String,
    /// Shape of the lines.
    pub format: LogFormat,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}

/// `[profile]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProfile {
    /// Whether to profile in the background what has no profile yet.
    pub on_start: bool,
    /// Labelled inputs whose outputs are compared with the reference variant.
    pub check_items: u32,
}

impl Default for RawProfile {
    fn default() -> Self {
        Self { on_start: true, check_items: 32 }
    }
}

/// `[deploy]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDeploy {
    /// Share of the answered requests that are run again on a new version, percent.
    pub shadow_percent: u32,
    /// Requests to compare before a new version answers any.
    pub shadow_requests: u32,
    /// Share of the requests that a new version answers, percent.
    pub canary_percent: u32,
    /// Answers that a new version gives before it gives all.
    pub canary_requests: u32,
    /// Classes whose requests a new version may answer; none: all.
    pub canary_classes: Vec<String>,
    /// Requests that a new version may fail on.
    pub max_failures: u32,
    /// How many times as long its answers may take.
    pub max_latency_ratio: f64,
    /// How many times the energy an item may take.
    pub max_energy_ratio: f64,
}

impl Default for RawDeploy {
    fn default() -> Self {
        Self {
            shadow_percent: 10,
            shadow_requests: 50,
            canary_percent: 10,
            canary_requests: 100,
            canary_classes: Vec::new(),
            max_failures: 1,
            max_latency_ratio: 1.5,
            max_energy_ratio: 1.5,
        }
    }
}
