//! The journal: every event that the core saw, so that a day can be replayed.
//!
//! A file of JSON lines. The first is the [`Header`]: what there was to choose from and the budgets. Each
//! further line is an event with its time, or a check: the digest of all effects so far, by which a replay
//! proves that it decides as the daemon did.

use crate::core::Core;
use crate::core::catalog::Catalog;
use crate::core::energy::Budgets;
use crate::core::event::{Effect, Event, RequestId};
use crate::core::explain::Sight;
use crate::core::tuning::Tuning;
use crate::time::Timestamp;
use crate::units::Nanos;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;

/// Version of the format; a journal of another version is refused.
const FORMAT: u32 = 1;
/// Events between two checks.
const CHECK_EVERY: u64 = 256;
/// Events that may wait for the disk.
const BACKLOG: usize = 8192;
/// Most time of events that is not in the file yet while more of them come.
const FLUSH_EVERY: Nanos = Nanos::from_secs(1);
/// Longest line that a replay reads.
const MAX_LINE: u64 = 64 << 20;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format.
    pub format: u32,
    /// When the daemon started, seconds since the Unix epoch.
    pub started_unix_s: u64,
    /// The core's time at its start.
    pub start: Timestamp,
    /// What there was to choose from.
    pub catalog: Catalog,
    /// The budgets at the start.
    pub budgets: Budgets,
    /// Parts of the planner that are turned off; left out where none is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tuning: Tuning,
}

fn is_default(tuning: &Tuning) -> bool {
    *tuning == Tuning::default()
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Event { at: Timestamp, event: Event },
    Check { events: u64, digest: u64 },
}

/// What the writer is told.
#[derive(Debug)]
enum Order {
    Write(Line),
    /// Bring everything before this into the file, and say so.
    Flush(oneshot::Sender<()>),
}

/// Why a journal cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line that is no line of a journal.
    #[error("{path}, line {line}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        message: String,
    },
    /// The replay decided differently.
    #[error(
        "{path}, line {line}: after {events} events the effects differ from those recorded: it was changed, or recorded \
         by another version of wattd"
    )]
    Diverged {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Events replayed.
        events: u64,
    },
}

/// Digest over all effects so far, in order.
#[derive(Debug, Clone, Default)]
struct Digest(DefaultHasher);

impl Digest {
    fn add(&mut self, effect: &Effect) {
        effect.hash(&mut self.0);
    }

    fn value(&self) -> u64 {
        self.0.finish()
    }
}

/// Records events. Never blocks: when the disk cannot keep up, or the size limit is reached, recording
/// ends and says so, since a journal with gaps would replay to something that never happened.
#[derive(Debug)]
pub struct Recorder {
    lines: Option<SyncSender<Order>>,
    writer: Option<std::thread::JoinHandle<()>>,
    digest: Digest,
    events: u64,
    path: PathBuf,
}

impl Recorder {
    /// Starts a journal at `path`; the one before it is kept as `path` with `.1` appended.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path, limit_bytes: u64, header: &Header) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        if path.exists() {
            let mut kept = path.as_os_str().to_owned();
            kept.push(".1");
            std::fs::rename(path, kept).map_err(io)?;
        }
        let mut file = BufWriter::new(File::create(path).map_err(io)?);
        write_line(&mut file, header).map_err(io)?;
        let (lines, received) = sync_channel(BACKLOG);
        let name = path.to_owned();
        let writer = std::thread::Builder::new()
            .name("wattd-journal".to_owned())
            .spawn(move || write_all(&received, file, limit_bytes, &name))
            .map_err(io)?;
        Ok(Self {
            lines: Some(lines),
            writer: Some(writer),
            digest: Digest::default(),
            events: 0,
            path: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
        })
    }

    /// Records an event before the core handles it.
    pub fn event(&mut self, at: Timestamp, event: &Event) {
        if self.lines.is_none() {
            return;
        }
        if self.events > 0 && self.events.is_multiple_of(CHECK_EVERY) {
            self.send(Line::Check { events: self.events, digest: self.digest.value() });
        }
        self.events += 1;
        self.send(Line::Event { at, event: event.clone() });
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

    fn send(&mut self, line: Line) {
        let Some(lines) = &self.lines else { return };
        if let Err(error) = lines.try_send(Order::Write(line)) {
            if matches!(error, TrySendError::Full(_)) {
                tracing::warn!(path = %self.path.display(), "journal: the disk cannot keep up, recording ends here");
            }
            self.lines = None;
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.send(Line::Check { events: self.events, digest: self.digest.value() });
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

fn write_all(orders: &Receiver<Order>, mut file: BufWriter<File>, limit_bytes: u64, path: &Path) {
    let (mut written, mut flushed_at) = (0, Timestamp::ZERO);
    while let Ok(order) = orders.recv() {
        let result = match order {
            Order::Flush(done) => file.flush().inspect(|()| {
                // Whoever asked may have gone.
                let _ = done.send(());
            }),
            Order::Write(line) => write_line(&mut file, &line).and_then(|bytes| {
                written += bytes;
                match line {
                    Line::Event { at, .. } if at.since(flushed_at) > FLUSH_EVERY => {
                        flushed_at = at;
                        file.flush()
                    }
                    _ => Ok(()),
                }
            }),
        };
        if let Err(error) = result {
            tracing::warn!(path = %path.display(), %error, "journal: recording ends here");
            return;
        }
        if written > limit_bytes {
            tracing::warn!(path = %path.display(), limit_bytes, "journal: size limit reached, recording ends here");
            break;
        }
    }
    if let Err(error) = file.flush() {
        tracing::warn!(path = %path.display(), %error, "journal: the end could not be written");
    }
}

/// What a replay found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Replayed {
    /// Events handled.
    pub events: u64,
    /// Effects that came of them.
    pub effects: u64,
    /// Checks that agreed.
    pub checks: u64,
    /// The last line was cut off, as after a power loss; everything before it was replayed.
    pub torn: bool,
}

/// The one key of a header that all versions have.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// A journal that is read line by line.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    text: String,
    number: u64,
    torn: bool,
}

impl Lines {
    fn open(path: &Path) -> Result<(Header, Self), JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let reader = BufReader::new(File::open(path).map_err(io)?);
        let mut lines = Self { path: path.to_owned(), reader, text: String::new(), number: 1, torn: false };
        read_line(&mut lines.reader, &mut lines.text).map_err(io)?;
        let version = serde_json::from_str::<Version>(&lines.text)
            .map_err(|error| lines.malformed(format!("not the first line of a journal: {error}")))?;
        if version.format != FORMAT {
            return Err(lines.malformed(format!("format {}, this program reads {FORMAT}", version.format)));
        }
        let header: Header =
            serde_json::from_str(&lines.text).map_err(|error| lines.malformed(error.to_string()))?;
        if header.budgets.classes.is_empty() {
            return Err(lines.malformed("budgets without a class".to_owned()));
        }
        Ok((header, lines))
    }

    fn malformed(&self, message: String) -> JournalError {
        JournalError::Malformed { path: self.path.clone(), line: self.number, message }
    }

    /// The next line; `None` at the end, which may be torn.
    fn next(&mut self) -> Result<Option<Line>, JournalError> {
        let read = read_line(&mut self.reader, &mut self.text);
        if read.map_err(|source| JournalError::Io { path: self.path.clone(), source })? == 0 {
            return Ok(None);
        }
        self.number += 1;
        match serde_json::from_str(&self.text) {
            Ok(line) => Ok(Some(line)),
            Err(_) if !self.text.ends_with('\n') => {
                self.torn = true;
                Ok(None)
            }
            Err(error) => Err(self.malformed(error.to_string())),
        }
    }
}

/// A journal that is replayed through a fresh core, an event at a time, with the effects compared with those recorded.
#[derive(Debug)]
pub struct Replay {
    lines: Lines,
    core: Core,
    digest: Digest,
    replayed: Replayed,
    started_unix_s: u64,
    start: Timestamp,
}

impl Replay {
    /// Reads the header.
    ///
    /// # Errors
    /// If the file cannot be read or is no journal of this version.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let (header, lines) = Lines::open(path)?;
        Ok(Self {
            core: Core::tuned(header.catalog, header.budgets, header.tuning, header.start),
            lines,
            digest: Digest::default(),
            replayed: Replayed::default(),
            started_unix_s: header.started_unix_s,
            start: header.start,
        })
    }

    /// The next event, to be given to [`Replay::handle`]; `None` at the end. Checks on the way are made.
    ///
    /// # Errors
    /// If a line cannot be read, or the effects so far differ from those recorded.
    pub fn event(&mut self) -> Result<Option<(Timestamp, Event)>, JournalError> {
        loop {
            match self.lines.next()? {
                Some(Line::Event { at, event }) => return Ok(Some((at, event))),
                Some(Line::Check { events, digest }) => self.check(events, digest)?,
                None => {
                    self.replayed.torn = self.lines.torn;
                    return Ok(None);
                }
            }
        }
    }

    fn check(&mut self, events: u64, digest: u64) -> Result<(), JournalError> {
        if events != self.replayed.events || digest != self.digest.value() {
            let (path, events) = (self.lines.path.clone(), self.replayed.events);
            return Err(JournalError::Diverged { path, line: self.lines.number, events });
        }
        self.replayed.checks += 1;
        Ok(())
    }

    /// Lets the core handle an event; `see` is shown what comes of it.
    pub fn handle(&mut self, at: Timestamp, event: Event, mut see: impl FnMut(&Effect)) {
        self.replayed.events += 1;
        self.core.handle(at, event);
        while let Some(effect) = self.core.poll_effect() {
            self.replayed.effects += 1;
            self.digest.add(&effect);
            see(&effect);
        }
    }

    /// The core as it is now.
    #[must_use]
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// Has the core watch a request: see [`Core::watch`].
    pub fn watch(&mut self, request: RequestId) {
        self.core.watch(request);
    }

    /// See [`Core::take_sights`].
    pub fn take_sights(&mut self) -> Vec<Sight> {
        self.core.take_sights()
    }

    /// What was found so far.
    #[must_use]
    pub const fn replayed(&self) -> Replayed {
        self.replayed
    }

    /// Seconds since the Unix epoch at a moment, as good as the second at which the daemon started is known.
    #[must_use]
    pub const fn unix_s(&self, at: Timestamp) -> u64 {
        self.started_unix_s.saturating_add(at.since(self.start).as_micros() / 1_000_000)
    }
}

/// Replays a whole journal.
///
/// # Errors
/// If the file cannot be read, is no journal, or the effects differ.
pub fn replay(path: &Path, mut see: impl FnMut(Timestamp, &Effect)) -> Result<Replayed, JournalError> {
    let mut replay = Replay::open(path)?;
    while let Some((at, event)) = replay.event()? {
        replay.handle(at, event, |effect| see(at, effect));
    }
    Ok(replay.replayed())
}

/// Reads the events of a journal, in order, without a core.
///
/// # Errors
/// If the file cannot be read, or is no journal.
pub fn read(path: &Path, mut see: impl FnMut(&Header, Timestamp, Event)) -> Result<Header, JournalError> {
    let (header, mut lines) = Lines::open(path)?;
    while let Some(line) = lines.next()? {
        if let Line::Event { at, event } = line {
            see(&header, at, event);
        }
    }
    Ok(header)
}

fn read_line(reader: &mut impl BufRead, text: &mut String) -> std::io::Result<usize> {
    text.clear();
    std::io::Read::take(reader, MAX_LINE).read_line(text)
}

/// The header of a journal that starts now.
#[must_use]
pub fn header(start: Timestamp, catalog: Catalog, budgets: Budgets) -> Header {
    let (started_unix_s, tuning) = (crate::time::unix_seconds(), Tuning::default());
    Header { format: FORMAT, started_unix_s, start, catalog, budgets, tuning }
}

#[cfg(test)]
mod tests {
    use crate::core::catalog::Roofline;
    use proptest::prelude::*;

    proptest! {
        /// A last digit that is off in a profile turns a decision sooner or later.
        #[test]
        fn numbers_come_back_as_they_were_recorded(times in proptest::array::uniform6(proptest::num::f64::POSITIVE)) {
            let [compute_s_ghz, memory_s, p, overhead_s, marginal, memory_elasticity] = times;
            let recorded = Roofline { compute_s_ghz, memory_s, p, overhead_s, marginal, memory_elasticity };
            let text = serde_json::to_string(&recorded).unwrap();
            prop_assert_eq!(serde_json::from_str::<Roofline>(&text).unwrap(), recorded);
        }
    }
}
