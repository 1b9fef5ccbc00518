//! The journal: every event that the core saw, so that a day can be replayed.
//!
//! A file of JSON lines. The first is the [`Header`]: what there was to choose from and the budgets. Each
//! further line is an event with its time, or a check: the digest of all effects so far, by which a replay
//! proves that it decides as the daemon did.
//!
//! A file that is as long as it may become is kept as `<name>.1`, and a new one goes on. Its header holds the whole
//! state of the core at that moment, so that it replays without the file before it; where that is there, too, a
//! replay of both proves that the state was the one that the core had.

mod record;
mod replay;

pub use record::Recorder;
pub use replay::{Replay, Replayed, replay};

use crate::core::Core;
use crate::core::catalog::Catalog;
use crate::core::energy::Budgets;
use crate::core::event::{Effect, Event};
use crate::core::tuning::Tuning;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Version of the format; a journal of another version is refused.
const FORMAT: u32 = 2;
/// Longest line that a replay reads.
const MAX_LINE: u64 = 64 << 20;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format.
    pub format: u32,
    /// When the file was begun, seconds since the Unix epoch.
    pub started_unix_s: u64,
    /// The core's time then.
    pub start: Timestamp,
    /// What there was to choose from.
    pub catalog: Catalog,
    /// The budgets at the start.
    pub budgets: Budgets,
    /// Parts of the planner that are turned off; left out where none is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tuning: Tuning,
    /// The core at the start, where another file came before; otherwise it was new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<State>,
}

/// The whole state of a core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Of the bytes, lower-case hex.
    sha256: String,
    /// MessagePack in hex: JSON has no infinity, and a state has some.
    core: String,
}

impl State {
    fn of(core: &Core) -> Result<Self, rmp_serde::encode::Error> {
        let bytes = rmp_serde::to_vec_named(core)?;
        Ok(Self { sha256: hex::encode(Sha256::digest(&bytes)), core: hex::encode(bytes) })
    }

    fn core(&self) -> Result<Core, String> {
        let bytes = hex::decode(&self.core).map_err(|error| format!("state: {error}"))?;
        let found = hex::encode(Sha256::digest(&bytes));
        if found != self.sha256 {
            return Err(format!("state: its SHA-256 is {found}, and the line says {}", self.sha256));
        }
        rmp_serde::from_slice(&bytes).map_err(|error| format!("state: {error}"))
    }
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

fn read_line(reader: &mut impl BufRead, text: &mut String) -> std::io::Result<usize> {
    text.clear();
    std::io::Read::take(reader, MAX_LINE).read_line(text)
}

/// An open file, its header read.
type Opened = (Header, Lines);

/// The file, and the one that it goes on with if there was one before it that is kept: in the order of their events.
fn open_with_previous(path: &Path) -> Result<(Opened, Option<Opened>), JournalError> {
    let last = Lines::open(path)?;
    let before = previous(path);
    if last.0.state.is_none() || !before.exists() {
        return Ok((last, None));
    }
    Ok((Lines::open(&before)?, Some(last)))
}

/// Reads the events of a journal and of the file that it goes on from, in order, without a core. The header is that of the
/// first.
///
/// # Errors
/// If a file cannot be read, or is no journal.
pub fn read(path: &Path, mut see: impl FnMut(&Header, Timestamp, Event)) -> Result<Header, JournalError> {
    let ((header, lines), next) = open_with_previous(path)?;
    for mut lines in std::iter::once(lines).chain(next.map(|(_, lines)| lines)) {
        while let Some(line) = lines.next()? {
            if let Line::Event { at, event } = line {
                see(&header, at, event);
            }
        }
    }
    Ok(header)
}

/// Where the file before this one is kept.
#[must_use]
pub fn previous(path: &Path) -> PathBuf {
    let mut kept = path.as_os_str().to_owned();
    kept.push(".1");
    kept.into()
}

/// Whether a file goes on with what the one before it ended with.
///
/// # Errors
/// If the file cannot be read, or is no journal.
pub fn resumes(path: &Path) -> Result<bool, JournalError> {
    Ok(Lines::open(path)?.0.state.is_some())
}

/// The header of a journal that starts now, with a new core.
#[must_use]
pub fn header(start: Timestamp, catalog: Catalog, budgets: Budgets) -> Header {
    let (started_unix_s, tuning) = (crate::time::unix_seconds(), Tuning::default());
    Header { format: FORMAT, started_unix_s, start, catalog, budgets, tuning, state: None }
}

impl Header {
    /// Of a file that goes on with this core.
    fn resuming(core: &Core, start: Timestamp) -> Result<Self, rmp_serde::encode::Error> {
        Ok(Self {
            tuning: core.tuning(),
            state: Some(State::of(core)?),
            ..header(start, core.catalog().clone(), core.budgets().clone())
        })
    }
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
