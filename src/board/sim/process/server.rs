//! The board's side of the accelerator socket.

use super::wire::{Answer, Ask, VERSION, receive, send};
use crate::board::sim::accelerator::{Accelerator, SimCancel, SimError, SimRun};
use crate::board::sim::board::SimBoard;
use crate::board::sim::script::Script;
use crate::board::sim::work::Work;
use crate::core::catalog::UnitId;
use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most connections at once: lanes, and a few onlookers.
const MAX_CONNECTIONS: usize = 32;
/// How often the accepting thread looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(20);
/// A client that does not read its answer for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// A listening accelerator socket; closed, and its file removed, on drop.
pub(super) struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    connections: Arc<Connections>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Connections {
    open: Mutex<BTreeMap<u64, UnixStream>>,
    last: AtomicU64,
    last_run: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Listens at `path`, replacing a socket that nobody serves any more.
    pub(super) fn start(board: SimBoard, path: &Path) -> io::Result<Self> {
        let listener = bind(path)?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Connections::default());
        let accepting = {
            let (stop, connections) = (Arc::clone(&stop), Arc::clone(&connections));
            std::thread::Builder::new()
                .name("sim-accept".to_owned())
                .spawn(move || accept(&listener, &board, &stop, &connections))?
        };
        Ok(Self { path: path.to_owned(), stop, connections, accepting: Some(accepting) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            // A panic of that thread has been printed already.
            let _ = accepting.join();
        }
        for stream in lock(&self.connections.open).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            let message = format!("{} exists and is not a socket", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        if UnixStream::connect(path).is_ok() {
            let message = format!("{} is served by another process", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

fn accept(listener: &UnixListener, board: &SimBoard, stop: &AtomicBool, connections: &Arc<Connections>) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = welcome(stream, board, connections) {
                    tracing::warn!(%error, "an accelerator client could not be served");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(STOP_INTERVAL),
            Err(error) => {
                tracing::warn!(%error, "accepting an accelerator client failed");
                std::thread::sleep(STOP_INTERVAL);
            }
        }
    }
}

fn welcome(stream: UnixStream, board: &SimBoard, connections: &Arc<Connections>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut open = lock(&connections.open);
    if open.len() >= MAX_CONNECTIONS {
        let reason = format!("{MAX_CONNECTIONS} connections are open already");
        return send(&stream, &Answer::Refused { reason });
    }
    let id = connections.last.fetch_add(1, Ordering::Relaxed);
    open.insert(id, stream.try_clone()?);
    drop(open);
    let (board, shared) = (board.clone(), Arc::clone(connections));
    let serve = move || {
        if let Err(error) = serve(&stream, &board, &shared) {
            tracing::debug!(%error, "an accelerator client was cut off");
        }
        let _ = stream.shutdown(Shutdown::Both);
        lock(&shared.open).remove(&id);
    };
    std::thread::Builder::new().name(format!("sim-client-{id}")).spawn(serve)?;
    Ok(())
}

/// The run of a connection.
#[derive(Default)]
struct Slot {
    run: u64,
    cancel: Option<Arc<dyn SimCancel>>,
}

impl Slot {
    fn cancel(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel.cancel();
        }
    }
}

/// What the threads of one connection share.
struct Client<'a> {
    stream: Mutex<&'a UnixStream>,
    slot: Mutex<Slot>,
}

impl Client<'_> {
    fn answer(&self, answer: &Answer) -> io::Result<()> {
        send(*lock(&self.stream), answer)
    }
}

/// One waits for requests, the other for the run to finish. When the client goes, its run is aborted.
fn serve(stream: &UnixStream, board: &SimBoard, connections: &Connections) -> io::Result<()> {
    let client = Client { stream: Mutex::new(stream), slot: Mutex::default() };
    let (runs, begun) = sync_channel::<(u64, Box<dyn SimRun>)>(1);
    let shared = &client;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("sim-wait".to_owned())
            .spawn_scoped(scope, move || await_runs(shared, &begun))?;
        // Owned here, so that the other thread ends with it.
        let runs = runs;
        let result = requests(stream, board, connections, shared, &runs);
        lock(&shared.slot).cancel();
        result
    })
}

fn await_runs(client: &Client<'_>, begun: &Receiver<(u64, Box<dyn SimRun>)>) {
    for (run, simulated) in begun {
        let answer = match simulated.wait() {
            Ok(result) => Answer::Finished { run, result },
            Err(SimError::Cancelled) => Answer::Cancelled { run },
            Err(error) => Answer::Refused { reason: error.to_string() },
        };
        // Free before the answer is out: the client may begin the next run at once.
        lock(&client.slot).cancel = None;
        if client.answer(&answer).is_err() {
            let _ = lock(&client.stream).shutdown(Shutdown::Both);
            return;
        }
    }
}

fn requests(
    stream: &UnixStream,
    board: &SimBoard,
    connections: &Connections,
    client: &Client<'_>,
    runs: &SyncSender<(u64, Box<dyn SimRun>)>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut known = false;
    while let Some(ask) = receive::<Ask>(&mut reader)? {
        match ask {
            Ask::Hello { version: VERSION } => {
                known = true;
                let spec = board.spec();
                let units = spec.units.iter().map(|unit| unit.name.clone()).collect();
                let thermal_speedup = spec.thermal_speedup;
                client.answer(&Answer::Welcome { board: spec.board.clone(), units, thermal_speedup })?;
            }
            Ask::Hello { version } => {
                let reason = format!("version {version}; this board speaks {VERSION}");
                return client.answer(&Answer::Refused { reason });
            }
            _ if !known => {
                return client.answer(&Answer::Refused { reason: "hello must come first".to_owned() });
            }
            Ask::Begin { unit, work } => begin(board, connections, client, runs, unit, work)?,
            Ask::Cancel { run } => {
                let mut slot = lock(&client.slot);
                if slot.run == run {
                    slot.cancel();
                }
            }
            Ask::Stats => client.answer(&Answer::Stats(board.stats()))?,
            Ask::Play { script } => client.answer(&play(board, &script))?,
        }
    }
    Ok(())
}

fn begin(
    board: &SimBoard,
    connections: &Connections,
    client: &Client<'_>,
    runs: &SyncSender<(u64, Box<dyn SimRun>)>,
    unit: UnitId,
    work: Work,
) -> io::Result<()> {
    let refuse = |reason: String| client.answer(&Answer::Refused { reason });
    if lock(&client.slot).cancel.is_some() {
        return refuse("a run is in progress on this connection".to_owned());
    }
    let simulated = match board.begin(unit, work) {
        Ok(simulated) => simulated,
        Err(SimError::Refused(reason)) => return refuse(reason),
        Err(error) => return refuse(error.to_string()),
    };
    let run = connections.last_run.fetch_add(1, Ordering::Relaxed) + 1;
    *lock(&client.slot) = Slot { run, cancel: Some(simulated.canceller()) };
    client.answer(&Answer::Begun { run })?;
    runs.send((run, simulated)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
}

fn play(board: &SimBoard, text: &str) -> Answer {
    match Script::parse(text, "script", &board.spec()) {
        Ok(script) => {
            board.play(&script);
            Answer::Playing
        }
        Err(error) => Answer::Refused { reason: error.to_string() },
    }
}
