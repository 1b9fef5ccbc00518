//! The accelerator socket's language: one JSON object a line, in both directions.
//!
//! A connection carries one run at a time; each request but `cancel` has one answer. `cancel` names the run,
//! so that one that comes too late hits no later run.

use crate::board::sim::accelerator::SimResult;
use crate::board::sim::plant::PlantStats;
use crate::board::sim::work::Work;
use crate::core::catalog::UnitId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read, Write};

/// Version of the language.
pub(super) const VERSION: u32 = 2;
/// Longest line, in bytes: a disturbance script fits.
pub(super) const LONGEST_LINE: u64 = 256 * 1024;

/// To the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Ask {
    /// First on every connection.
    Hello { version: u32 },
    /// Start a run.
    Begin { unit: UnitId, work: Work },
    /// End it early.
    Cancel { run: u64 },
    /// What the board has been through.
    Stats,
    /// Play a disturbance script, as TOML, from now on.
    Play { script: String },
}

/// From the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answer {
    /// Which board this is, and how many times as fast as on a real one its heat flows.
    Welcome { board: String, units: Vec<String>, thermal_speedup: f64 },
    /// The run has begun.
    Begun { run: u64 },
    /// The request cannot be done.
    Refused { reason: String },
    /// The run has finished.
    Finished { run: u64, result: SimResult },
    /// The run was ended early.
    Cancelled { run: u64 },
    /// What the board has been through.
    Stats(PlantStats),
    /// The script plays.
    Playing,
}

/// Writes one message in one call, so that two writers' lines do not mix within a short line.
pub(super) fn send(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one message; `None` at the end of the stream.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        let what = format!("a line cut off or longer than {LONGEST_LINE} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::sim::work::Precision;

    #[test]
    fn messages_survive_the_wire() {
        let work = Work::of_size(u64::MAX, 1, Precision::Int8, 3);
        let mut wire = Vec::new();
        let sent = [
            Ask::Hello { version: 1 },
            Ask::Begin { unit: UnitId(2), work },
            Ask::Cancel { run: 9 },
            Ask::Stats,
        ];
        for ask in &sent {
            send(&mut wire, ask).unwrap();
        }
        let mut reader = io::Cursor::new(wire);
        for ask in sent {
            assert_eq!(receive::<Ask>(&mut reader).unwrap(), Some(ask));
        }
        assert_eq!(receive::<Ask>(&mut reader).unwrap(), None);
    }

    #[test]
    fn nonsense_and_endless_lines_are_errors() {
        let mut nonsense = io::Cursor::new(b"{\"hello\":{\"version\":1,\"extra\":2}}\n".to_vec());
        assert!(receive::<Ask>(&mut nonsense).is_err());
        let mut cut = io::Cursor::new(b"{\"stats\"".to_vec());
        assert!(receive::<Ask>(&mut cut).is_err());
        let mut endless = io::BufReader::new(io::repeat(b'x'));
        assert!(receive::<Ask>(&mut endless).unwrap_err().to_string().contains("longer than"));
    }
}
