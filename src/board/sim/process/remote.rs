//! The daemon's side of the accelerator socket.

use super::wire::{Answer, Ask, VERSION, receive, send};
use crate::board::sim::accelerator::{Accelerator, SimCancel, SimError, SimResult, SimRun};
use crate::board::sim::plant::PlantStats;
use crate::board::sim::work::Work;
use crate::core::catalog::UnitId;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A board on the same machine answers at once; longer than this it is gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections kept.
const MAX_IDLE: usize = 8;

/// A simulated board in another process.
pub struct RemoteAccelerator {
    path: PathBuf,
    board: String,
    units: Vec<String>,
    thermal_speedup: f64,
    idle: Arc<Mutex<Vec<Connection>>>,
}

struct Connection {
    reader: BufReader<UnixStream>,
    writer: Arc<Mutex<UnixStream>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RemoteAccelerator {
    /// Connects to the socket of a board that must be the one named, with these units in this order.
    ///
    /// # Errors
    /// [`SimError::Lost`] if nobody answers there, [`SimError::Refused`] if it is another board.
    pub fn connect(path: &Path, board: &str, units: &[String]) -> Result<Self, SimError> {
        let mut remote = Self {
            path: path.to_owned(),
            board: board.to_owned(),
            units: units.to_vec(),
            thermal_speedup: 1.0,
            idle: Arc::default(),
        };
        let (first, thermal_speedup) = remote.dial()?;
        remote.thermal_speedup = thermal_speedup;
        lock(&remote.idle).push(first);
        Ok(remote)
    }

    /// How many times as fast as on a real board its heat flows.
    #[must_use]
    pub const fn thermal_speedup(&self) -> f64 {
        self.thermal_speedup
    }

    /// What the board has been through since its power-on.
    ///
    /// # Errors
    /// [`SimError::Lost`] if the board is gone.
    pub fn stats(&self) -> Result<PlantStats, SimError> {
        match self.ask(&Ask::Stats)? {
            (Answer::Stats(stats), connection) => {
                keep(&self.idle, connection);
                Ok(stats)
            }
            (other, _) => Err(self.unexpected(&other)),
        }
    }

    /// Has the board play a disturbance script, in TOML, from now on.
    ///
    /// # Errors
    /// [`SimError::Refused`] with what is wrong in the script, [`SimError::Lost`] if the board is gone.
    pub fn play(&self, script: &str) -> Result<(), SimError> {
        match self.ask(&Ask::Play { script: script.to_owned() })? {
            (Answer::Playing, connection) => {
                keep(&self.idle, connection);
                Ok(())
            }
            (Answer::Refused { reason }, connection) => {
                keep(&self.idle, connection);
                Err(SimError::Refused(reason))
            }
            (other, _) => Err(self.unexpected(&other)),
        }
    }

    fn lost(&self, error: &io::Error) -> SimError {
        SimError::Lost(format!("{}: {error}", self.path.display()))
    }

    fn unexpected(&self, answer: &Answer) -> SimError {
        SimError::Lost(format!("{}: unexpected answer {answer:?}", self.path.display()))
    }

    /// A new connection, and the board's thermal speed-up.
    fn dial(&self) -> Result<(Connection, f64), SimError> {
        let open = || -> io::Result<Connection> {
            let stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            let writer = Arc::new(Mutex::new(stream.try_clone()?));
            Ok(Connection { reader: BufReader::new(stream), writer })
        };
        let mut connection = open().map_err(|error| self.lost(&error))?;
        match connection.exchange(&Ask::Hello { version: VERSION }).map_err(|error| self.lost(&error))? {
            Answer::Welcome { board, units, thermal_speedup }
                if board == self.board && units == self.units && thermal_speedup >= 1.0 =>
            {
                Ok((connection, thermal_speedup))
            }
            Answer::Welcome { board, units, .. } => Err(SimError::Refused(format!(
                "{} is board {board} with units {}; wanted {} with {}",
                self.path.display(),
                units.join(", "),
                self.board,
                self.units.join(", "),
            ))),
            Answer::Refused { reason } => Err(SimError::Refused(reason)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Asks on an idle connection, or on a new one if there is none or the idle one has died.
    fn ask(&self, ask: &Ask) -> Result<(Answer, Connection), SimError> {
        let idle = lock(&self.idle).pop();
        if let Some(mut connection) = idle
            && let Ok(answer) = connection.exchange(ask)
        {
            return Ok((answer, connection));
        }
        // The board may have been restarted: its old connections are all dead.
        lock(&self.idle).clear();
        let (mut connection, _) = self.dial()?;
        let answer = connection.exchange(ask).map_err(|error| self.lost(&error))?;
        Ok((answer, connection))
    }
}

fn keep(idle: &Mutex<Vec<Connection>>, connection: Connection) {
    let mut idle = lock(idle);
    if idle.len() < MAX_IDLE {
        idle.push(connection);
    }
}

impl Connection {
    fn exchange(&mut self, ask: &Ask) -> io::Result<Answer> {
        send(&*lock(&self.writer), ask)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Answer> {
        receive(&mut self.reader)?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    /// Waits for an answer however long it takes; the board's going is an error, not a wait.
    fn long_answer(&mut self) -> io::Result<Answer> {
        self.reader.get_ref().set_read_timeout(None)?;
        let answer = self.answer()?;
        self.reader.get_ref().set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(answer)
    }

    fn readable(&self) -> bool {
        if !self.reader.buffer().is_empty() {
            return true;
        }
        let mut fds = [PollFd::new(self.reader.get_ref().as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl Accelerator for RemoteAccelerator {
    fn begin(&self, unit: UnitId, work: Work) -> Result<Box<dyn SimRun>, SimError> {
        match self.ask(&Ask::Begin { unit, work })? {
            (Answer::Begun { run }, connection) => Ok(Box::new(RemoteRun {
                run,
                path: self.path.clone(),
                idle: Arc::clone(&self.idle),
                connection: Some(connection),
            })),
            (Answer::Refused { reason }, connection) => {
                keep(&self.idle, connection);
                Err(SimError::Refused(reason))
            }
            (other, _) => Err(self.unexpected(&other)),
        }
    }
}

struct RemoteRun {
    run: u64,
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    /// Taken when the run's answer has come.
    connection: Option<Connection>,
}

impl SimRun for RemoteRun {
    fn wait(mut self: Box<Self>) -> Result<SimResult, SimError> {
        let lost =
            |error: &dyn std::fmt::Display| SimError::Lost(format!("{}: {error}", self.path.display()));
        let Some(mut connection) = self.connection.take() else {
            return Err(lost(&"no connection"));
        };
        let answer = connection.long_answer().map_err(|error| lost(&error))?;
        match answer {
            Answer::Finished { run, result } if run == self.run => {
                keep(&self.idle, connection);
                Ok(result)
            }
            Answer::Cancelled { run } if run == self.run => {
                keep(&self.idle, connection);
                Err(SimError::Cancelled)
            }
            other => Err(lost(&format!("unexpected answer {other:?}"))),
        }
    }

    fn canceller(&self) -> Arc<dyn SimCancel> {
        let writer = self.connection.as_ref().map(|connection| Arc::clone(&connection.writer));
        Arc::new(RemoteCancel { run: self.run, writer })
    }

    fn finished(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::readable)
    }
}

impl Drop for RemoteRun {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The board aborts the run of a connection that closes.
            let _ = connection.reader.get_ref().shutdown(Shutdown::Both);
        }
    }
}

struct RemoteCancel {
    run: u64,
    writer: Option<Arc<Mutex<UnixStream>>>,
}

impl SimCancel for RemoteCancel {
    fn cancel(&self) {
        if let Some(writer) = &self.writer {
            // If the board is gone, whoever waits for the run learns it.
            let _ = send(&*lock(writer), &Ask::Cancel { run: self.run });
        }
    }
}
