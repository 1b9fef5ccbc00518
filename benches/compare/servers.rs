//! The servers that are compared, and their processor time.

use crate::bare::Bare;
use crate::client::{self, Figures, Load, Way, closed_loop};
use crate::harness::{Daemon, Guarded, Setup, eventually};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use wattd::time::{Clock, MonotonicClock};

/// Where a server listens.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

/// A daemon's name and configuration, by the binary that runs it.
pub(crate) type Named = (String, Setup);

/// One configuration for this build's daemon, and one for each `NAME=BINARY` besides.
pub(crate) fn setups(models: &Path, binaries: &[&str]) -> Vec<Named> {
    let own = std::iter::once(("wattd".to_owned(), None));
    let others = binaries.iter().map(|named| {
        let (name, path) = named.split_once('=').unwrap();
        (name.to_owned(), Some(path))
    });
    own.chain(others).map(|(name, binary)| (name, setup(models, binary))).collect()
}

/// The real board of this machine, measured profiles, everything resident.
fn setup(models: &Path, binary: Option<&str>) -> Setup {
    let mut setup = Setup::bare(models);
    setup.set("models.load", vec!["mlp".to_owned(), "mobile5ms".to_owned(), "large-input".to_owned()]);
    if let Some(binary) = binary {
        setup.binary(binary);
    }
    setup
}

enum Kind<'a> {
    InProcess(BTreeMap<&'static str, Mutex<Bare>>),
    Child { _child: Guarded, pid: u32 },
    Wattd(Daemon<'a>),
    Elsewhere { pid: u32 },
}

/// A server.
pub(crate) struct Server<'a> {
    pub(crate) name: String,
    address: Address,
    ways: Vec<Way>,
    models: Vec<String>,
    kind: Kind<'a>,
    runtime: Runtime,
    _dir: Option<tempfile::TempDir>,
}

const ALL_MODELS: [&str; 3] = ["mlp", "mobile5ms", "large-input"];

impl<'a> Server<'a> {
    fn new(name: &str, address: Address, ways: &[Way], kind: Kind<'a>) -> Self {
        Self {
            name: name.to_owned(),
            address,
            ways: ways.to_vec(),
            models: ALL_MODELS.map(str::to_owned).to_vec(),
            kind,
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            _dir: None,
        }
    }

    /// No server: the runtime through `ort` in this process.
    pub(crate) fn in_process(models: &Path) -> Self {
        let open = ALL_MODELS.map(|name| (name, Mutex::new(Bare::open(models, name))));
        let kind = Kind::InProcess(open.into());
        Self::new("in process, bare ort", Address::Tcp(String::new()), &[Way::Grpc], kind)
    }

    /// Bare tonic and hyper.
    pub(crate) fn bare(models: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bare.sock");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--serve-bare").arg(&socket).arg("--models").arg(models);
        let child = Guarded(command.spawn().unwrap());
        eventually("the bare server", || std::os::unix::net::UnixStream::connect(&socket).ok());
        let pid = child.0.id();
        let ways = [Way::Grpc, Way::Http];
        let kind = Kind::Child { _child: child, pid };
        let server = Self::new("bare tonic, inference inline", Address::Unix(socket), &ways, kind);
        Self { _dir: Some(dir), ..server }
    }

    /// The daemon, once its profiles are measured.
    pub(crate) fn wattd((name, setup): &'a Named) -> Self {
        let daemon = setup.start();
        eventually("profiles", || {
            let page = daemon.get("/wattd/v1/models");
            (!page.contains("conservative") && page.contains("measured")).then_some(())
        });
        let address = Address::Unix(daemon.socket.clone());
        Self::new(name, address, &[Way::Grpc, Way::Shared, Way::Http, Way::Json], Kind::Wattd(daemon))
    }

    /// A server that runs already: `NAME=PID,HOST:PORT,WAYS[,MODEL...]`, where `WAYS` are letters of `gshj`:
    /// gRPC, shared memory, HTTP binary, HTTP JSON.
    pub(crate) fn peer(text: &str) -> Self {
        let (name, rest) = text.split_once('=').unwrap();
        let parts: Vec<&str> = rest.split(',').collect();
        let ways = [('g', Way::Grpc), ('s', Way::Shared), ('h', Way::Http), ('j', Way::Json)];
        let ways: Vec<Way> =
            ways.into_iter().filter(|(letter, _)| parts[2].contains(*letter)).map(|(_, way)| way).collect();
        let kind = Kind::Elsewhere { pid: parts[0].parse().unwrap() };
        let mut server = Self::new(name, Address::Tcp(parts[1].to_owned()), &ways, kind);
        if parts.len() > 3 {
            server.models = parts[3..].iter().map(|&model| model.to_owned()).collect();
        }
        server
    }

    pub(crate) fn can(&self, load: &Load) -> bool {
        self.ways.contains(&load.way) && self.models.iter().any(|model| model == load.model)
    }

    /// One round.
    pub(crate) fn run(&self, load: &Load) -> Figures {
        let before = processor_time(self.pid());
        let (latencies, span) = match &self.kind {
            Kind::InProcess(models) => {
                let mut model = models[load.model].lock().unwrap();
                let (clock, input) = (MonotonicClock::start(), load.input());
                let span = u64::try_from(Duration::from_secs(1).as_nanos()).unwrap();
                let latencies = closed_loop!(span, drop(model.run(load.shape(), &input)));
                (latencies, Duration::from_nanos(clock.now().0))
            }
            _ => self.runtime.block_on(client::run(load, &self.address)),
        };
        Figures::of(latencies, span, processor_time(self.pid()) - before)
    }

    fn pid(&self) -> u32 {
        match &self.kind {
            Kind::InProcess(_) => std::process::id(),
            Kind::Child { pid, .. } | Kind::Elsewhere { pid } => *pid,
            Kind::Wattd(daemon) => daemon.pid(),
        }
    }
}

/// Time on a processor of all threads of a process and its children.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let mut sum = Duration::ZERO;
    for task in tasks.flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let nanos = read("schedstat").split_whitespace().next().and_then(|text| text.parse().ok());
        sum += Duration::from_nanos(nanos.unwrap_or(0));
        for child in read("children").split_whitespace().filter_map(|text| text.parse().ok()) {
            if child != pid && pid != std::process::id() {
                sum += processor_time(child);
            }
        }
    }
    sum
}
