//! From the raw shape to [`Config`]. Comparisons are written so that NaN fails; every check notes its
//! complaint and goes on, so that one run shows all that is wrong.

use super::document::{Document, Problems};
use super::raw::{
    RawApp, RawBudget, RawClass, RawConfig, RawDeploy, RawSimulation, RawSocket, SimulationMode,
};
use super::{
    BoardConfig, ClassRule, Config, Context, DeployConfig, Group, JournalConfig, LogConfig, ModelsConfig,
    ProfileConfig, RuntimeConfig, Simulation, SocketConfig, class_id,
};
use crate::core::energy::{BatteryAllowance, Budgets, ClassBudget, EnergyAllowance};
use crate::core::rollout::Policy;
use crate::model::{Rules, signature};
use crate::units::{Bytes, Microjoules, Microwatts, MilliCelsius, Nanos, Ppm};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Most classes.
const MAX_CLASSES: usize = 64;
/// Most entries of any other list.
const MAX_ENTRIES: usize = 256;
/// Longest path that the kernel takes for a Unix socket, bytes.
const MAX_SOCKET_PATH: usize = 107;
/// Joules in a watt-hour.
const JOULES_PER_WATT_HOUR: f64 = 3_600.0;

/// Letters that names of models, classes and variants may have: they appear in URLs and metric labels.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(fits)
}

/// What [`is_name`] asks for, for messages.
pub(crate) const NAME_RULE: &str =
    "must be 1 to 64 letters, digits, `-`, `_` or `.`, beginning with a letter or digit";

pub(super) fn config(file: &Path, text: &str, context: &Context<'_>) -> Result<Config, Problems> {
    let mut document = Document::parse(file, text);
    let Some(raw) = document.read::<RawConfig>() else { return document.finish(None) };
    let mut check = Check::new(file, document, context);
    let config = check.config(file, raw);
    check.document.finish(Some(config))
}

/// Checks values and notes what is wrong with them. Also for other files with some of the same tables.
pub(crate) struct Check<'a, 't> {
    /// The file, and what is wrong in it.
    pub(crate) document: Document<'t>,
    base: PathBuf,
    context: &'a Context<'a>,
}

impl<'a, 't> Check<'a, 't> {
    /// A check of this file.
    pub(crate) fn new(file: &Path, document: Document<'t>, context: &'a Context<'a>) -> Self {
        Self { document, base: file.parent().unwrap_or(Path::new("")).to_owned(), context }
    }
}

impl Check<'_, '_> {
    fn config(&mut self, file: &Path, raw: RawConfig) -> Config {
        let board = self.board(&raw);
        let simulation = self.simulation(&raw.simulation);
        let runtime = self.runtime(&raw);
        let models = self.models(&raw);
        let socket = self.socket(&raw.socket);
        let metrics = self.metrics(&raw.metrics.listen);
        let journal = self.journal(&raw);
        let (budgets, class_rules) = self.budgets(&raw);
        let log = self.log(&raw);
        let profile = self.profile(&raw);
        let deploy = self.deploy(&raw.deploy, &budgets);
        Config {
            file: file.to_owned(),
            board,
            simulation,
            runtime,
            models,
            socket,
            metrics,
            state_dir: self.path("state.dir", &raw.state.dir),
            journal,
            budgets,
            class_rules,
            log,
            profile,
            deploy,
            lines: self.lines(&raw),
            raw,
        }
    }

    fn board(&mut self, raw: &RawConfig) -> BoardConfig {
        let board = &raw.board;
        let sample_ms = self.whole("board.sample_period_ms", board.sample_period_ms, 10..=10_000, "ms");
        BoardConfig {
            file: self.path("board.file", &board.file),
            sysfs_root: self.path("board.sysfs_root", &board.sysfs_root),
            sample_period: Nanos::from_millis(sample_ms),
        }
    }

    fn simulation(&mut self, raw: &RawSimulation) -> Simulation {
        if raw.script.is_some() && raw.mode != SimulationMode::InProcess {
            self.document.complain("simulation.script", "needs simulation.mode = \"in-process\"");
        }
        if raw.accelerator_socket.is_some() && raw.mode != SimulationMode::Process {
            self.document.complain("simulation.accelerator_socket", "needs simulation.mode = \"process\"");
        }
        match raw.mode {
            SimulationMode::Off => Simulation::Off,
            SimulationMode::InProcess => Simulation::InProcess {
                seed: raw.seed,
                script: raw.script.as_ref().map(|script| self.path("simulation.script", script)),
            },
            SimulationMode::Process => {
                let key = "simulation.accelerator_socket";
                if raw.accelerator_socket.is_none() {
                    self.document.complain(key, "must be there with simulation.mode = \"process\"");
                }
                let path = raw.accelerator_socket.clone().unwrap_or_default();
                Simulation::Process { accelerator_socket: self.socket_path(key, &path) }
            }
        }
    }

    fn runtime(&mut self, raw: &RawConfig) -> RuntimeConfig {
        let limit = self.whole("runtime.cache_limit_mb", raw.runtime.cache_limit_mb, 1..=1_000_000, "MB");
        RuntimeConfig {
            library: raw.runtime.library.as_ref().map(|library| self.path("runtime.library", library)),
            cache_dir: self.path("runtime.cache_dir", &raw.runtime.cache_dir),
            cache_limit: megabytes(limit),
        }
    }

    fn models(&mut self, raw: &RawConfig) -> ModelsConfig {
        self.bounded("models.dir", raw.models.dir.len(), MAX_ENTRIES);
        self.bounded("models.load", raw.models.load.len(), MAX_ENTRIES);
        if raw.models.dir.is_empty() {
            self.document.complain("models.dir", "must name at least one folder of model folders");
        }
        for (i, name) in raw.models.load.iter().enumerate() {
            self.name(&format!("models.load[{i}]"), name);
        }
        self.bounded("models.public_keys", raw.models.public_keys.len(), MAX_ENTRIES);
        let mut keys = Vec::new();
        for (i, text) in raw.models.public_keys.iter().enumerate().take(MAX_ENTRIES) {
            match signature::key(text) {
                Ok(key) => keys.push(key),
                Err(rule) => self.document.complain(&format!("models.public_keys[{i}]"), rule),
            }
        }
        let max_manifest = self.whole("models.max_manifest_kb", raw.models.max_manifest_kb, 1..=16_384, "kB");
        let max_file = self.whole("models.max_file_mb", raw.models.max_file_mb, 1..=2_048, "MB");
        let rules = Rules { keys, max_manifest: Bytes(max_manifest * 1_000), max_file: megabytes(max_file) };
        let dirs = raw.models.dir.iter().enumerate();
        ModelsConfig {
            dirs: dirs.map(|(i, dir)| self.path(&format!("models.dir[{i}]"), dir)).collect(),
            load: raw.models.load.clone(),
            rules,
        }
    }

    fn socket(&mut self, raw: &RawSocket) -> SocketConfig {
        let mode =
            u32::from_str_radix(&raw.mode, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600);
        if mode.is_none() {
            let rule = "must be an octal mode in quotes that lets the owner read and write, such as \"0660\"";
            self.document.complain("socket.mode", rule);
        }
        let tcp = raw.tcp.as_ref().and_then(|text| self.loopback("socket.tcp", text));
        let most = self.count("socket.max_connections", raw.max_connections, 1..=65_536);
        let per_app = self.count("socket.max_connections_per_app", raw.max_connections_per_app, 1..=65_536);
        if per_app > most {
            let rule = format!("must be at most socket.max_connections ({most})");
            self.document.complain("socket.max_connections_per_app", rule);
        }
        let message = self.whole("socket.max_message_mb", raw.max_message_mb, 1..=2_000, "MB");
        let key = "socket.max_in_flight_mb_per_app";
        let in_flight = self.whole(key, raw.max_in_flight_mb_per_app, 1..=64_000, "MB");
        if in_flight < message {
            let rule = format!("must be at least socket.max_message_mb ({message}), or no such message fits");
            self.document.complain(key, rule);
        }
        self.bounded("socket.operators", raw.operators.len(), MAX_ENTRIES);
        let operators = raw.operators.iter().enumerate();
        let operators = operators.filter_map(|(i, name)| self.group(&format!("socket.operators[{i}]"), name));
        SocketConfig {
            operators: operators.collect(),
            path: self.socket_path("socket.path", &raw.path),
            mode: mode.unwrap_or(0o600),
            group: raw.group.as_ref().and_then(|name| self.group("socket.group", name)),
            tcp,
            max_connections: most,
            max_connections_per_app: per_app,
            max_message: megabytes(message),
            max_in_flight_per_app: megabytes(in_flight),
        }
    }

    fn metrics(&mut self, listen: &str) -> Option<SocketAddr> {
        if listen == "off" {
            return None;
        }
        let address = listen.parse().ok();
        if address.is_none() {
            let rule = "must be \"off\" or an IP address with a port, such as \"127.0.0.1:9464\"";
            self.document.complain("metrics.listen", rule);
        }
        address
    }

    fn journal(&mut self, raw: &RawConfig) -> Option<JournalConfig> {
        let limit = self.whole("journal.limit_mb", raw.journal.limit_mb, 1..=1_000_000, "MB");
        let dir = self.path("journal.dir", &raw.journal.dir);
        raw.journal.enabled.then_some(JournalConfig { dir, limit: megabytes(limit) })
    }

    /// `[budget]`, `[memory]` and `[[class]]`.
    pub(crate) fn budgets(&mut self, raw: &RawConfig) -> (Budgets, Vec<ClassRule>) {
        let budget = &raw.budget;
        let cap = self.optional("budget.power_cap_w", budget.power_cap_w, 0.1..=10_000.0, "W");
        let window = self.number("budget.power_window_s", budget.power_window_s, 0.1..=3_600.0, "s");
        let limit = self.optional("budget.max_temperature_c", budget.max_temperature_c, 20.0..=150.0, "°C");
        let margin = self.number("budget.temperature_margin_c", budget.temperature_margin_c, 0.0..=40.0, "K");
        let stale = self.whole("budget.stale_after_ms", budget.stale_after_ms, 20..=600_000, "ms");
        let twice = raw.board.sample_period_ms.saturating_mul(2);
        if stale < twice {
            let rule = format!(
                "must be at least twice board.sample_period_ms ({twice}), or one late sweep is stale"
            );
            self.document.complain("budget.stale_after_ms", rule);
        }
        let cap_mb = self.whole("memory.cap_mb", raw.memory.cap_mb, 1..=4_000_000, "MB");
        let unload = self.whole("memory.unload_after_s", raw.memory.unload_after_s, 0..=31_536_000, "s");
        let (classes, rules) = self.classes(&raw.class);
        let budgets = Budgets {
            objective: budget.objective,
            power_cap: cap.map(Microwatts::from_watts),
            power_window: Nanos::from_secs_f64(window),
            energy: self.energy(budget),
            battery: self.battery(budget),
            max_temperature: limit.map(MilliCelsius::from_celsius),
            temperature_margin: MilliCelsius::from_celsius(margin),
            memory_cap: megabytes(cap_mb),
            queue_limit: self.count("budget.queue_limit", budget.queue_limit, 1..=65_536),
            app_limit: self.count("budget.app_limit", budget.app_limit, 1..=65_536),
            unload_after: (unload > 0).then(|| Nanos::from_secs(unload)),
            stale_after: Nanos::from_millis(stale),
            classes,
        };
        (budgets, rules)
    }

    fn energy(&mut self, budget: &RawBudget) -> Option<EnergyAllowance> {
        let energy = budget.energy.as_ref()?;
        let range = 0.001..=1e9;
        let joules = match (energy.joules, energy.watt_hours) {
            (Some(joules), None) => self.number("budget.energy.joules", joules, range, "J"),
            (None, Some(hours)) => {
                let joules = hours * JOULES_PER_WATT_HOUR;
                self.number("budget.energy.watt_hours", joules, range, "J (1 Wh = 3600 J)")
            }
            _ => {
                self.document.complain("budget.energy", "needs either `joules` or `watt_hours`");
                return None;
            }
        };
        let lasting = self.span("budget.energy", energy.until.as_deref(), energy.lasting.as_deref())?;
        Some(EnergyAllowance { total: Microjoules::from_f64(joules * 1e6), lasting })
    }

    fn battery(&mut self, budget: &RawBudget) -> Option<BatteryAllowance> {
        let battery = budget.battery.as_ref()?;
        let key = "budget.battery.reserve_percent";
        let percent = self.number(key, battery.reserve_percent, 0.0..=99.0, "%");
        let lasting = self.span("budget.battery", battery.until.as_deref(), battery.lasting.as_deref())?;
        Some(BatteryAllowance { reserve: Ppm::from_fraction(percent / 100.0), lasting })
    }

    /// Time from now: until the next time the local clock shows `until`, or `lasting`.
    fn span(&mut self, table: &str, until: Option<&str>, lasting: Option<&str>) -> Option<Nanos> {
        let (key, span, rule) = match (until, lasting) {
            (Some(until), None) => {
                ("until", self.time_until(until), "must be a time of day such as \"18:00\"")
            }
            (None, Some(lasting)) => {
                let span = humantime::parse_duration(lasting).ok().map(Nanos::from);
                ("lasting", span, "must be a span of time from 1s to 366days, such as \"8h\" or \"1h 30m\"")
            }
            _ => {
                self.document.complain(table, "needs either `until = \"18:00\"` or `lasting = \"8h\"`");
                return None;
            }
        };
        let span = span.filter(|span| (Nanos::from_secs(1)..=Nanos::from_secs(366 * 86_400)).contains(span));
        if span.is_none() {
            self.document.complain(&format!("{table}.{key}"), rule);
        }
        span
    }

    fn time_until(&self, text: &str) -> Option<Nanos> {
        let time: jiff::civil::Time = text.parse().ok()?;
        let now = &self.context.now;
        let at =
            |date: jiff::civil::Date| date.to_datetime(time).to_zoned_datetime(now.time_zone().clone()).ok();
        let today = at(now.date())?;
        // Less than a second away counts as past: an allowance for no time is of no use.
        let second = jiff::SignedDuration::from_secs(1);
        let next =
            if today.duration_since(now) >= second { today } else { at(now.date().tomorrow().ok()?)? };
        let span = std::time::Duration::try_from(next.duration_since(now)).ok()?;
        Some(Nanos::from(span))
    }

    fn classes(&mut self, raw: &[RawClass]) -> (Vec<ClassBudget>, Vec<ClassRule>) {
        self.bounded("class", raw.len(), MAX_CLASSES);
        let mut names = HashSet::new();
        let fallback = [RawClass::fallback()];
        let classes = if raw.is_empty() { &fallback } else { raw };
        let classes = classes.iter().take(MAX_CLASSES).enumerate();
        classes.map(|(i, class)| (self.class(i, class, &mut names), self.class_rule(i, class))).unzip()
    }

    fn class<'r>(&mut self, i: usize, raw: &'r RawClass, names: &mut HashSet<&'r str>) -> ClassBudget {
        let key = |name: &str| format!("class[{i}].{name}");
        self.name(&key("name"), &raw.name);
        if !names.insert(&raw.name) {
            self.document.complain(&key("name"), "is the name of an earlier class: names must differ");
        }
        let latency_ms = self.number(&key("latency_ms"), raw.latency_ms, 0.01..=3_600_000.0, "ms");
        let accuracy = self.number(&key("min_accuracy"), raw.min_accuracy, 0.0..=1.0, "as a fraction");
        let target = self.optional(&key("accuracy_target"), raw.accuracy_target, 0.0..=1.0, "as a fraction");
        let energy_key = key("energy_per_request_mj");
        let energy_mj = self.optional(&energy_key, raw.energy_per_request_mj, 0.001..=1e9, "mJ");
        let power_w = self.optional(&key("power_w"), raw.power_w, 0.001..=10_000.0, "W");
        ClassBudget {
            name: raw.name.clone(),
            latency: Nanos::from_secs_f64(latency_ms / 1e3),
            min_accuracy: Ppm::from_fraction(accuracy),
            accuracy_target: target.map(Ppm::from_fraction),
            priority: raw.priority,
            energy_per_request: energy_mj.map(|mj| Microjoules::from_f64(mj * 1e3)),
            power: power_w.map(Microwatts::from_watts),
            rescue: raw.rescue,
        }
    }

    fn class_rule(&mut self, i: usize, raw: &RawClass) -> ClassRule {
        self.bounded(&format!("class[{i}].apps"), raw.apps.len(), MAX_ENTRIES);
        self.bounded(&format!("class[{i}].models"), raw.models.len(), MAX_ENTRIES);
        for (m, name) in raw.models.iter().enumerate() {
            self.name(&format!("class[{i}].models[{m}]"), name);
        }
        let apps = raw.apps.iter().enumerate();
        let apps = apps.filter_map(|(a, app)| match app {
            RawApp::Uid(uid) => Some(*uid),
            RawApp::User(name) => {
                let uid = (self.context.user_id)(name);
                if uid.is_none() {
                    let rule = "no such user on this machine: name one that exists, or a user id";
                    self.document.complain(&format!("class[{i}].apps[{a}]"), rule);
                }
                uid
            }
        });
        ClassRule { apps: apps.collect(), models: raw.models.clone() }
    }

    fn log(&mut self, raw: &RawConfig) -> LogConfig {
        if !is_filter(&raw.log.level) {
            let rule = "must be off, error, warn, info, debug or trace, or directives such as \
                        \"info,wattd::api=debug\"";
            self.document.complain("log.level", rule);
        }
        LogConfig { filter: raw.log.level.clone(), format: raw.log.format }
    }

    fn profile(&mut self, raw: &RawConfig) -> ProfileConfig {
        ProfileConfig {
            on_start: raw.profile.on_start,
            check_items: self.count("profile.check_items", raw.profile.check_items, 1..=10_000),
        }
    }

    fn deploy(&mut self, raw: &RawDeploy, budgets: &Budgets) -> DeployConfig {
        self.bounded("deploy.canary_classes", raw.canary_classes.len(), MAX_CLASSES);
        let mut canary_classes = Vec::new();
        for (i, name) in raw.canary_classes.iter().enumerate().take(MAX_CLASSES) {
            match budgets.classes.iter().position(|class| class.name == *name) {
                Some(index) => canary_classes.push(class_id(index)),
                None => self.document.complain(
                    &format!("deploy.canary_classes[{i}]"),
                    "must be the name of a [[class]] of this file",
                ),
            }
        }
        // Half at most: as many must go to the version that it is compared with.
        let policy = Policy {
            shadow_requests: self.count("deploy.shadow_requests", raw.shadow_requests, 1..=100_000),
            canary_requests: self.count("deploy.canary_requests", raw.canary_requests, 1..=1_000_000),
            max_failures: self.count("deploy.max_failures", raw.max_failures, 0..=100_000),
            max_latency_ratio: self.number(
                "deploy.max_latency_ratio",
                raw.max_latency_ratio,
                1.0..=100.0,
                "",
            ),
            max_energy_ratio: self.number("deploy.max_energy_ratio", raw.max_energy_ratio, 1.0..=100.0, ""),
        };
        DeployConfig {
            shadow_percent: self.count("deploy.shadow_percent", raw.shadow_percent, 1..=100),
            canary_percent: self.count("deploy.canary_percent", raw.canary_percent, 1..=50),
            canary_classes,
            policy,
        }
    }

    /// Lines of the keys about which problems may come to light later.
    fn lines(&self, raw: &RawConfig) -> BTreeMap<String, usize> {
        let fixed = ["board.file", "simulation.script", "runtime.library", "socket.path", "socket.tcp"];
        let mut keys: Vec<String> = fixed.into_iter().map(str::to_owned).collect();
        keys.extend(["metrics.listen", "state.dir", "journal.dir", "runtime.cache_dir"].map(str::to_owned));
        keys.extend((0..raw.models.dir.len().min(MAX_ENTRIES)).map(|i| format!("models.dir[{i}]")));
        keys.extend((0..raw.models.load.len().min(MAX_ENTRIES)).map(|i| format!("models.load[{i}]")));
        for (c, class) in raw.class.iter().take(MAX_CLASSES).enumerate() {
            let models = 0..class.models.len().min(MAX_ENTRIES);
            keys.extend(models.map(|m| format!("class[{c}].models[{m}]")));
        }
        keys.into_iter().filter_map(|key| Some((key.clone(), self.document.line_of(&key)?))).collect()
    }

    /// A path against the folder of the file.
    pub(crate) fn path(&mut self, key: &str, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            self.document.complain(key, "must not be empty");
        }
        self.base.join(path)
    }

    fn socket_path(&mut self, key: &str, path: &Path) -> PathBuf {
        let path = self.path(key, path);
        let length = path.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let rule = format!("is {length} bytes long: a Unix socket's path has at most {MAX_SOCKET_PATH}");
            self.document.complain(key, rule);
        }
        path
    }

    fn loopback(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let address = text.parse::<SocketAddr>().ok().filter(|address| address.ip().is_loopback());
        if address.is_none() {
            let rule = "must be a loopback address with a port, such as \"127.0.0.1:8001\": \
                        over TCP nobody is identified";
            self.document.complain(key, rule);
        }
        address
    }

    fn group(&mut self, key: &str, name: &str) -> Option<Group> {
        let gid = (self.context.group_id)(name);
        if gid.is_none() {
            self.document.complain(key, "no such group on this machine: create it or name one that exists");
        }
        Some(Group { name: name.to_owned(), gid: gid? })
    }

    /// A name of a model, class or variant.
    pub(crate) fn name(&mut self, key: &str, name: &str) {
        if !is_name(name) {
            self.document.complain(key, NAME_RULE);
        }
    }

    /// A list of bounded length.
    pub(crate) fn bounded(&mut self, key: &str, length: usize, most: usize) {
        if length > most {
            self.document.complain(key, format!("has {length} entries: at most {most} are taken"));
        }
    }

    /// A number within bounds; the lower one in place of a bad one.
    pub(crate) fn number(&mut self, key: &str, value: f64, range: RangeInclusive<f64>, unit: &str) -> f64 {
        // NaN is in no range.
        if range.contains(&value) {
            return value;
        }
        self.document.complain(key, format!("must be from {} to {} {unit}", range.start(), range.end()));
        *range.start()
    }

    /// A number within bounds, if there is one.
    pub(crate) fn optional(
        &mut self,
        key: &str,
        value: Option<f64>,
        range: RangeInclusive<f64>,
        unit: &str,
    ) -> Option<f64> {
        value.map(|value| self.number(key, value, range, unit))
    }

    /// A whole number within bounds; the nearest in place of a bad one.
    pub(crate) fn whole(&mut self, key: &str, value: u64, range: RangeInclusive<u64>, unit: &str) -> u64 {
        if range.contains(&value) {
            return value;
        }
        self.document.complain(key, format!("must be from {} to {} {unit}", range.start(), range.end()));
        value.clamp(*range.start(), *range.end())
    }

    /// The same for smaller numbers.
    pub(crate) fn count(&mut self, key: &str, value: u32, range: RangeInclusive<u32>) -> u32 {
        if range.contains(&value) {
            return value;
        }
        self.document.complain(key, format!("must be from {} to {}", range.start(), range.end()));
        value.clamp(*range.start(), *range.end())
    }
}

const fn megabytes(mb: u64) -> Bytes {
    Bytes(mb.saturating_mul(1_000_000))
}

/// Whether the text is a filter. A bare word that is no level would silently become the name of a target.
fn is_filter(text: &str) -> bool {
    let level = |word: &str| word.trim().parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let directive = |word: &str| word.contains(['=', '[']) || level(word);
    !text.trim().is_empty()
        && text.split(',').all(directive)
        && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
}
