//! The real daemon in a folder of its own: its configuration, its process, its clients.
//!
//! A test says what differs from `config/desktop.toml`; everything the daemon writes is in a temporary
//! folder. Waits are for conditions and bounded; whatever is started is killed when it is dropped.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support; each test binary uses its part, and a test that cannot go on has failed"
)]

mod board;
mod inputs;

pub use board::{SimBoard, as_found, fuse_works};
pub use inputs::{Inputs, inputs, inputs_of, nothing_but};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;
use wattd::ctl::load::target::{Ask, Reply};
use wattd::ctl::record::ServedLine;
use wattd::ctl::rpc::Rpc;
use wattd::ctl::status::{ModelStatus, Models, Status};

/// A board that is whatever machine this is.
const BARE: &str = r#"
name = "bare"
description = "One CPU thread of whatever machine this is"
synthetic = true
idle_power_w = 1.0

[[unit]]
name = "cpu"
kind = "cpu"
threads = 1
busy_power = { constant_w = 5.0, linear_w_per_ghz = 0.0, cubic_w_per_ghz3 = 0.0 }

[thermal]
fast_k_per_w = 0.8
fast_tau_s = 2.0
slow_k_per_w = 2.0
slow_tau_s = 120.0
"#;

/// Nothing here takes nearly as long; a condition that has not come by then will not.
pub const FOREVER: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The package's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Looks until `probe` has something, but not for ever.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..FOREVER.as_millis() / LOOK_EVERY.as_millis() {
        if let Some(found) = probe() {
            return found;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    panic!("{what}: not within {FOREVER:?}");
}

/// Runs a future to its end, but not for ever.
pub fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(FOREVER, future).await.expect("ends") })
}

/// The address of a port that is free now.
pub fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// `wattctl` with arguments.
pub fn wattctl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wattctl")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What a process said, on both streams.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub struct Guarded(pub Child);

impl Guarded {
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        eventually("the end of a process", || self.0.try_wait().unwrap())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A configuration in a folder of its own.
#[derive(Debug)]
pub struct Setup {
    dir: tempfile::TempDir,
    config: toml::Table,
    arguments: Vec<String>,
    binary: PathBuf,
}

impl Setup {
    /// `config/desktop.toml` with all that the daemon writes in a temporary folder, nothing loaded beforehand
    /// and nothing profiled, sensors read often.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wattd").tempdir().unwrap();
        let text = std::fs::read_to_string(root().join("config/desktop.toml")).unwrap();
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_wattd"));
        let mut setup = Self { config: text.parse().unwrap(), dir, arguments: Vec::new(), binary };
        let own = |name: &str| setup.dir.path().join(name).display().to_string();
        let in_package = |name: &str| root().join(name).display().to_string();
        let (socket, state, journal) = (own("wattd.sock"), own("state"), own("journal"));
        let library = std::env::var("WATTD_ORT_LIB")
            .unwrap_or_else(|_| in_package(".wattd/onnxruntime/lib/libonnxruntime.so"));
        setup.set("board.file", in_package("config/boards/jetson-tx2.toml"));
        setup.set("board.sample_period_ms", 20);
        setup.set("runtime.library", library);
        // Graphs are the same for all tests.
        setup.set("runtime.cache_dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/daemon-graphs"));
        setup.set("models.dir", vec![in_package("config/models")]);
        setup.set("models.load", Vec::<String>::new());
        setup.set("socket.path", socket);
        setup.set("metrics.listen", "off");
        setup.set("state.dir", state);
        setup.set("journal.enabled", false);
        setup.set("journal.dir", journal);
        setup.set("profile.on_start", false);
        setup
    }

    /// The same on the machine as it is: one CPU unit, nothing to read and nothing to set, profiled in the background.
    pub fn bare(models: &Path) -> Self {
        let mut setup = Self::new();
        let board = setup.path("bare.toml");
        std::fs::write(&board, BARE).unwrap();
        setup.set("board.file", board.display().to_string());
        setup.set("board.sample_period_ms", 100);
        setup.set("simulation.mode", "off");
        setup.set("models.dir", vec![models.canonicalize().unwrap().display().to_string()]);
        setup.set("profile.on_start", true);
        setup
    }

    /// Sets a key such as `budget.power_cap_w`.
    pub fn set(&mut self, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().unwrap();
        let mut table = &mut self.config;
        for part in parts {
            let inner = table.entry(part).or_insert_with(|| toml::Table::new().into());
            table = inner.as_table_mut().unwrap();
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// Adds a class with further keys.
    pub fn class(&mut self, name: &str, keys: &[(&str, toml::Value)]) -> &mut Self {
        let mut class = toml::Table::from_iter([("name".to_owned(), name.into())]);
        class.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let classes = self.config.entry("class").or_insert_with(|| toml::Value::Array(Vec::new()));
        classes.as_array_mut().unwrap().push(class.into());
        self
    }

    /// Removes a key at the top.
    pub fn without(&mut self, key: &str) -> &mut Self {
        self.config.remove(key);
        self
    }

    /// Serves only the models in a folder of the package.
    pub fn models(&mut self, folder: &str) -> &mut Self {
        self.set("models.dir", vec![root().join(folder).display().to_string()])
    }

    /// Runs another build of the daemon.
    pub fn binary(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.binary = path.into();
        self
    }

    /// Adds a command line argument.
    pub fn argument(&mut self, argument: impl Into<String>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    /// Drives a simulated board in another process.
    pub fn on(&mut self, board: &SimBoard) -> &mut Self {
        self.set("board.file", board.file.display().to_string());
        self.set("board.sysfs_root", board.mount.display().to_string());
        self.set("simulation.mode", "process");
        self.set("simulation.accelerator_socket", board.socket.display().to_string())
    }

    /// Writes a disturbance script and names it.
    pub fn script(&mut self, text: &str) -> &mut Self {
        let path = self.path("script.toml");
        std::fs::write(&path, text).unwrap();
        self.set("simulation.script", path.display().to_string())
    }

    /// A path in the temporary folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The configuration's file.
    pub fn file(&self) -> PathBuf {
        self.path("wattd.toml")
    }

    pub fn socket(&self) -> PathBuf {
        self.path("wattd.sock")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.config["state"]["dir"].as_str().unwrap().into()
    }

    /// Writes the configuration.
    pub fn write(&self) {
        std::fs::write(self.file(), toml::to_string(&self.config).unwrap()).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.file()).args(&self.arguments).stdin(Stdio::null());
        // Another test's choice, or the person's at the keyboard, is not this one's.
        command.env_remove("ORT_DYLIB_PATH").env_remove("WATTD_SOCKET").env_remove("NOTIFY_SOCKET");
        command
    }

    /// Starts the daemon and waits until it takes requests.
    pub fn start(&self) -> Daemon<'_> {
        self.write();
        let mut daemon = self.launch();
        daemon.becomes_ready();
        daemon
    }

    /// Starts the daemon on the configuration as it was written last, and does not wait.
    pub fn launch(&self) -> Daemon<'_> {
        let log = self.path("log");
        let to = || File::options().create(true).append(true).open(&log).unwrap();
        let child = self.command().stdout(to()).stderr(to()).spawn().unwrap();
        Daemon { process: Guarded(child), setup: self, socket: self.socket(), log }
    }

    /// Starts a daemon that must end by itself; its exit code and words.
    pub fn fails(&self) -> (i32, String) {
        self.write();
        self.fails_as_written()
    }

    /// The same on the configuration as it was written last.
    pub fn fails_as_written(&self) -> (i32, String) {
        let child = self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut process = Guarded(child);
        let status = process.ended();
        let mut text = String::new();
        for stream in [&mut process.0.stdout.take().map(to_read), &mut process.0.stderr.take().map(to_read)] {
            stream.as_mut().unwrap().read_to_string(&mut text).unwrap();
        }
        (status.code().unwrap_or(-1), text)
    }
}

fn to_read(stream: impl std::io::Read + 'static) -> Box<dyn std::io::Read> {
    Box::new(stream)
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon<'a> {
    process: Guarded,
    setup: &'a Setup,
    pub socket: PathBuf,
    log: PathBuf,
}

/// An answer: the tensors with their names, how it came about, and every parameter as text.
#[derive(Debug)]
pub struct Answer {
    pub outputs: Vec<wattd::ctl::load::target::NamedTensor>,
    pub served: ServedLine,
    pub parameters: std::collections::BTreeMap<String, String>,
}

impl Daemon<'_> {
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it takes requests.
    pub fn becomes_ready(&mut self) {
        eventually("the daemon's socket", || {
            if let Some(status) = self.process.0.try_wait().unwrap() {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            self.try_get("/v2/health/ready").ok()
        });
    }

    /// Waits for its end; the exit code.
    pub fn ends(mut self) -> (i32, String) {
        let status = self.process.ended();
        (status.code().unwrap_or(-1), self.log())
    }

    /// Stops it as a service manager would; it must end well.
    pub fn stop(self) {
        self.signal(Signal::SIGTERM);
        self.stop_has_begun();
    }

    /// Waits for the good end of a daemon that was told to stop.
    pub fn stop_has_begun(mut self) {
        let status = self.process.ended();
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.log());
        assert!(!self.socket.exists(), "the socket goes with the daemon");
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.process.ended();
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_none()
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log has a line with all the words; returns it.
    pub fn logs(&self, words: &[&str]) -> String {
        let has = |line: &&str| words.iter().all(|word| line.contains(word));
        for _ in 0..FOREVER.as_millis() / LOOK_EVERY.as_millis() {
            if let Some(line) = self.log().lines().find(has) {
                return line.to_owned();
            }
            std::thread::sleep(LOOK_EVERY);
        }
        panic!("no line with {words:?} in the log:\n{}", self.log());
    }

    pub fn try_get(&self, path: &str) -> Result<String, String> {
        let body = wait_for(wattd::api::client::get(&self.socket, path, FOREVER));
        body.map(|body| String::from_utf8(body.to_vec()).unwrap()).map_err(|error| error.to_string())
    }

    /// `GET`, which must succeed.
    pub fn get(&self, path: &str) -> String {
        self.try_get(path).unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.log()))
    }

    pub fn post(&self, path: &str, json: &serde_json::Value) -> Result<serde_json::Value, String> {
        let body = wait_for(wattd::api::client::post(&self.socket, path, json, FOREVER));
        let body = body.map_err(|error| error.to_string())?;
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    pub fn status(&self) -> Status {
        serde_json::from_str(&self.get("/wattd/v1/status")).unwrap()
    }

    pub fn models(&self) -> Models {
        serde_json::from_str(&self.get("/wattd/v1/models")).unwrap()
    }

    pub fn model(&self, name: &str) -> ModelStatus {
        self.models().models.into_iter().find(|model| model.name == name).expect("a model of that name")
    }

    /// The value of a metric with exactly these labels, in the page's order.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let page = self.get("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// One inference by gRPC.
    pub fn ask(&self, ask: Ask) -> Result<Answer, Reply> {
        let (reply, parameters) = wait_for(async {
            Rpc::connect(&self.socket, 1)
                .await
                .map_err(|error| Reply::Failed(error.to_string()))?
                .infer_in_full(ask)
                .await
        })?;
        match reply {
            Reply::Answer { outputs, served, .. } => {
                Ok(Answer { outputs, served, parameters: parameters.into_iter().collect() })
            }
            other => Err(other),
        }
    }

    /// One inference that must succeed.
    pub fn infer(&self, ask: Ask) -> Answer {
        self.ask(ask).unwrap_or_else(|reply| panic!("{reply:?}\n{}", self.log()))
    }

    /// `wattctl` with a command and this daemon's socket.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wattctl"));
        command.args(arguments).env("WATTD_SOCKET", &self.socket).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// The folder's configuration.
    pub fn setup(&self) -> &Setup {
        self.setup
    }
}

/// The interpreter that has the clients.
pub fn python() -> PathBuf {
    let python = root().join(".wattd/venv/bin/python");
    assert!(python.exists(), "{}: missing; scripts/setup makes it", python.display());
    python
}

/// Runs a program that must succeed; what it printed.
pub fn run_well(program: impl AsRef<OsStr>, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts a daemon under a shell command in a mount namespace of its own, where `$DIR` stands for the folder of
/// the set-up and `"$@"` for the daemon. `None`, said aloud, where this user may not make one.
pub fn start_in_namespace<'a>(setup: &'a Setup, shell: &str) -> Option<Daemon<'a>> {
    let unshare = ["--mount", "--propagation", "private"];
    let may = Command::new("unshare").args(unshare).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        println!("not tested: no mount namespace of one's own can be had here");
        return None;
    }
    setup.write();
    let log = setup.path("log");
    let to = || File::options().create(true).append(true).open(&log).unwrap();
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-ec", shell, "sh", env!("CARGO_BIN_EXE_wattd"), "--config"]);
    command.arg(setup.file()).env("DIR", setup.dir.path()).stdin(Stdio::null()).stdout(to()).stderr(to());
    let process = Guarded(command.spawn().unwrap());
    Some(Daemon { process, setup, socket: setup.socket(), log })
}

/// Copies a folder of plain files and folders.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
