//! Recording: a thread of its own writes what the engine hands it.

use super::{Digest, Header, JournalError, Line, previous};
use crate::core::Core;
use crate::core::event::{Effect, Event};
use crate::time::Timestamp;
use crate::units::Nanos;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;

/// Events between two checks.
const CHECK_EVERY: u64 = 256;
/// Events that may wait for the disk.
const BACKLOG: usize = 8192;
/// Most time of events that is not in the file yet while more of them come.
const FLUSH_EVERY: Nanos = Nanos::from_secs(1);

/// What the writer is told.
#[derive(Debug)]
enum Order {
    Write(Line),
    /// Go on in a new file, with the core as it was at that time.
    Roll(Box<Core>, Timestamp),
    /// Bring everything before this into the file, and say so.
    Flush(oneshot::Sender<()>),
}

/// Records events. Never blocks: when the disk cannot keep up, recording ends and says so, since a journal with gaps
/// would replay to something that never happened.
#[derive(Debug)]
pub struct Recorder {
    lines: Option<SyncSender<Order>>,
    writer: Option<std::thread::JoinHandle<()>>,
    digest: Digest,
    events: u64,
    path: PathBuf,
    /// The file is as long as it may become.
    full: Arc<AtomicBool>,
}

impl Recorder {
    /// Starts a journal at `path`, of files of about `limit_bytes`; the one before it is kept as [`previous`].
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path, limit_bytes: u64, header: &Header) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let full = Arc::new(AtomicBool::new(false));
        let mut writer = Writer::create(path, header, limit_bytes, Arc::clone(&full)).map_err(io)?;
        let (lines, received) = sync_channel(BACKLOG);
        let writer = std::thread::Builder::new()
            .name("wattd-journal".to_owned())
            .spawn(move || writer.write_all(&received))
            .map_err(io)?;
        Ok(Self {
            lines: Some(lines),
            writer: Some(writer),
            digest: Digest::default(),
            events: 0,
            path: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            full,
        })
    }

    /// Goes on in a new file if this one is as long as it may become. `core` has handled all that was recorded and
    /// given all its effects. To be called before each event.
    pub fn roll_if_full(&mut self, now: Timestamp, core: &Core) {
        if self.lines.is_none() || !self.full.load(Ordering::Relaxed) {
            return;
        }
        self.full.store(false, Ordering::Relaxed);
        self.send(Order::Write(Line::Check { events: self.events, digest: self.digest.value() }));
        self.send(Order::Roll(Box::new(core.clone()), now));
        (self.events, self.digest) = (0, Digest::default());
    }

    /// Records an event before the core handles it.
    pub fn event(&mut self, at: Timestamp, event: &Event) {
        if self.lines.is_none() {
            return;
        }
        if self.events > 0 && self.events.is_multiple_of(CHECK_EVERY) {
            self.send(Order::Write(Line::Check { events: self.events, digest: self.digest.value() }));
        }
        self.events += 1;
        self.send(Order::Write(Line::Event { at, event: event.clone() }));
    }

    /// Takes in an effect that the core gave.
    pub fn effect(&mut self, effect: &Effect) {
        if self.lines.is_some() {
            self.digest.add(effect);
        }
    }

    /// The file. Absolute, so that whoever is told finds it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether events are recorded still.
    #[must_use]
    pub const fn is_recording(&self) -> bool {
        self.lines.is_some()
    }

    /// Orders everything so far into the file. Ends when that is done, or with an error if it will not be, as when the
    /// backlog is full.
    pub fn flush(&mut self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        if let Some(lines) = &self.lines
            && let Err(TrySendError::Disconnected(_)) = lines.try_send(Order::Flush(done))
        {
            self.lines = None;
        }
        wait
    }

    fn send(&mut self, order: Order) {
        let Some(lines) = &self.lines else { return };
        if let Err(error) = lines.try_send(order) {
            if matches!(error, TrySendError::Full(_)) {
                tracing::warn!(path = %self.path.display(), "journal: the disk cannot keep up, recording ends here");
            }
            self.lines = None;
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.send(Order::Write(Line::Check { events: self.events, digest: self.digest.value() }));
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_line(file: &mut impl Write, line: &impl Serialize) -> std::io::Result<u64> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)?;
    Ok(text.len() as u64)
}

/// The writing thread's side.
struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    limit_bytes: u64,
    written: u64,
    flushed_at: Timestamp,
    full: Arc<AtomicBool>,
}

impl Writer {
    fn create(
        path: &Path,
        header: &Header,
        limit_bytes: u64,
        full: Arc<AtomicBool>,
    ) -> std::io::Result<Self> {
        let file = begin(path, header)?;
        Ok(Self { path: path.to_owned(), file, limit_bytes, written: 0, flushed_at: Timestamp::ZERO, full })
    }

    fn write_all(&mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            if let Err(error) = self.carry_out(order) {
                tracing::warn!(path = %self.path.display(), %error, "journal: recording ends here");
                return;
            }
        }
        if let Err(error) = self.file.flush() {
            tracing::warn!(path = %self.path.display(), %error, "journal: the end could not be written");
        }
    }

    fn carry_out(&mut self, order: Order) -> std::io::Result<()> {
        match order {
            Order::Flush(done) => {
                self.file.flush()?;
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Order::Roll(core, now) => {
                self.file.flush()?;
                let header = Header::resuming(&core, now).map_err(std::io::Error::other)?;
                self.file = begin(&self.path, &header)?;
                // Of the header, too, which may be long, nothing is counted: each file has room for events.
                self.written = 0;
            }
            Order::Write(line) => {
                let had_room = self.written <= self.limit_bytes;
                self.written += write_line(&mut self.file, &line)?;
                if let Line::Event { at, .. } = line
                    && at.since(self.flushed_at) > FLUSH_EVERY
                {
                    self.flushed_at = at;
                    self.file.flush()?;
                }
                // Once for each file: what waits in the backlog must not ask for another.
                if had_room && self.written > self.limit_bytes {
                    self.full.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}

/// A new file with its header; the one that is there is kept.
fn begin(path: &Path, header: &Header) -> std::io::Result<BufWriter<File>> {
    if path.exists() {
        std::fs::rename(path, previous(path))?;
    }
    let mut file = BufWriter::new(File::create(path)?);
    write_line(&mut file, header)?;
    Ok(file)
}
