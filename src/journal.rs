//! The journal: every event that the core saw, so that a day can be replayed.
//!
//! A file of JSON lines. The first is the [`Header`]: what there was to choose from and the budgets. Each
//! further line is an event with its time, or a check: the digest of all effects so far, by which a replay
//! proves that it decides as the daemon did.

use crate::core::Core;
use crate::core::catalog::Catalog;
use crate::core::energy::Budgets;
use crate::core::event::{Effect, Event};
use crate::core::tuning::Tuning;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Version of the format; a journal of another version is refused.
const FORMAT: u32 = 1;
/// Events between two checks.
const CHECK_EVERY: u64 = 256;
/// Events that may wait for the disk.
const BACKLOG: usize = 8192;
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
    #[error("{path}, line {line}: after {events} events the effects differ from those recorded")]
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
    lines: Option<SyncSender<Line>>,
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
            path: path.to_owned(),
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

    fn send(&mut self, line: Line) {
        let Some(lines) = &self.lines else { return };
        if let Err(error) = lines.try_send(line) {
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

fn write_all(lines: &Receiver<Line>, mut file: BufWriter<File>, limit_bytes: u64, path: &Path) {
    let mut written = 0;
    while let Ok(line) = lines.recv() {
        match write_line(&mut file, &line) {
            Ok(bytes) => written += bytes,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "journal: recording ends here");
                return;
            }
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

/// A journal that is read line by line.
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
        let header: Header =
            serde_json::from_str(&lines.text).map_err(|error| lines.malformed(error.to_string()))?;
        if header.format != FORMAT {
            return Err(lines.malformed(format!("format {}, this program reads {FORMAT}", header.format)));
        }
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

/// Replays a journal through a fresh core and compares the effects with those recorded.
///
/// # Errors
/// If the file cannot be read, is no journal, or the effects differ.
pub fn replay(path: &Path, mut see: impl FnMut(Timestamp, &Effect)) -> Result<Replayed, JournalError> {
    let (header, mut lines) = Lines::open(path)?;
    let mut core = Core::tuned(header.catalog, header.budgets, header.tuning, header.start);
    let (mut digest, mut replayed) = (Digest::default(), Replayed::default());
    while let Some(line) = lines.next()? {
        match line {
            Line::Event { at, event } => {
                replayed.events += 1;
                core.handle(at, event);
                while let Some(effect) = core.poll_effect() {
                    replayed.effects += 1;
                    digest.add(&effect);
                    see(at, &effect);
                }
            }
            Line::Check { events, digest: recorded } => {
                if events != replayed.events || recorded != digest.value() {
                    let events = replayed.events;
                    return Err(JournalError::Diverged { path: lines.path, line: lines.number, events });
                }
                replayed.checks += 1;
            }
        }
    }
    replayed.torn = lines.torn;
    Ok(replayed)
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
