//! The record of a load run: one JSON object a line, written while it runs and read by the report.
//!
//! Times are microseconds since the run's start, on the load generator's monotonic clock.

use crate::core::catalog::Provenance;
use crate::ctl::status::Status;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// The version that this program writes and reads.
pub const FORMAT: u32 = 1;
/// Longest line that is read.
const LINE_LIMIT: u64 = 4 << 20;
/// Most lines that are read: ten hours at 500 requests a second.
const LINES_LIMIT: usize = 20_000_000;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// The first line: what was run.
    Header(Header),
    /// A request that has ended.
    Request(RequestLine),
    /// The daemon's state.
    Status(StatusLine),
    /// Something that happened to the board.
    Note(NoteLine),
    /// The last line.
    End(EndLine),
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// When, in seconds since the Unix epoch.
    pub started_unix_s: u64,
    /// Title of the scenario.
    pub scenario: String,
    /// Seed of arrivals and choice of inputs.
    pub seed: u64,
    /// Planned length in seconds.
    pub duration_s: f64,
    /// The applications.
    pub apps: Vec<AppHeader>,
    /// The variants that each model has, the most accurate first.
    pub ladders: Vec<Ladder>,
    /// Name of the policy of a simulated run; without one it is the daemon's decision rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// An application of the scenario.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AppHeader {
    /// Name.
    pub name: String,
    /// The model that it asks.
    pub model: String,
    /// Its class, if it names one.
    #[serde(default)]
    pub class: Option<String>,
    /// When it starts, in seconds.
    pub start_s: f64,
    /// When it ends, in seconds.
    pub end_s: f64,
    /// Its deadline, from the scenario or else the class; `null` = none known.
    #[serde(default)]
    pub deadline_ms: Option<f64>,
}

/// The variants of a model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ladder {
    /// The model.
    pub model: String,
    /// Names of the variants, the most accurate first.
    pub variants: Vec<String>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// With an answer.
    Served(ServedLine),
    /// Turned away by the daemon, with its machine-readable reason.
    Rejected {
        /// Name of the reason.
        reason: String,
    },
    /// No valid answer: transport, protocol, or nothing within the client's patience.
    Failed {
        /// What went wrong.
        message: String,
    },
    /// Never sent: the run ended while it waited behind too many outstanding requests.
    Unsent,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServedLine {
    /// The variant that ran.
    pub variant: String,
    /// The unit it ran on.
    pub unit: String,
    /// The unit's clock; 0 = unknown.
    pub clock_khz: u32,
    /// Waiting in the daemon.
    pub queue_us: u64,
    /// The run.
    pub compute_us: u64,
    /// Energy attributed to this request.
    pub energy_uj: u64,
    /// Where that comes from.
    pub energy_source: Option<Provenance>,
    /// Whether a smaller variant answered because the one chosen first took too long.
    #[serde(default)]
    pub rescued: bool,
    /// Items that were scored against a label.
    pub scored: u32,
    /// Of these, the right ones.
    pub correct: u32,
}

/// A request that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// When the application wanted to send it. Latency counts from here.
    pub t_us: u64,
    /// How long after that it was sent.
    pub delay_us: u64,
    /// From the intended arrival to the end, whatever the end.
    pub latency_us: u64,
    /// Name of the application.
    pub app: String,
    /// Items in the request.
    pub items: u32,
    /// Whether an answer came after the deadline.
    pub missed: bool,
    /// The daemon's id of it, for `wattctl explain`; none where it had no answer, and in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<u64>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The daemon's state at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusLine {
    /// When.
    pub t_us: u64,
    /// The state.
    pub status: Box<Status>,
}

/// Something that happened to the board, for the picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteLine {
    /// When.
    pub t_us: u64,
    /// A few words.
    pub text: String,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndLine {
    /// When.
    pub t_us: u64,
    /// Whether it was cut short.
    pub interrupted: bool,
    /// How often the daemon's state could not be had.
    #[serde(default)]
    pub states_missed: u32,
}

/// Why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's words.
        error: std::io::Error,
    },
    /// A line is not what this program writes.
    #[error("{} line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Writes a record.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Writer {
    /// Starts a record, replacing an older one.
    ///
    /// # Errors
    /// If the file cannot be created or written.
    pub fn create(path: &Path, header: &Header) -> Result<Self, RecordError> {
        let file = File::create(path).map_err(|error| RecordError::Io { path: path.to_owned(), error })?;
        let mut writer = Self { path: path.to_owned(), file: BufWriter::new(file) };
        writer.write(&Line::Header(header.clone()))?;
        Ok(writer)
    }

    /// Adds a line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, line: &Line) -> Result<(), RecordError> {
        serde_json::to_writer(&mut self.file, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .map_err(|error| RecordError::Io { path: self.path.clone(), error })
    }

    /// Ends the record and makes sure that it is written.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(mut self, end: EndLine) -> Result<(), RecordError> {
        self.write(&Line::End(end))?;
        self.file.flush().map_err(|error| RecordError::Io { path: self.path.clone(), error })
    }
}

/// A whole record.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Run {
    /// What was run.
    pub header: Header,
    /// Requests in the order in which they ended.
    pub requests: Vec<RequestLine>,
    /// The daemon's states in time order.
    pub statuses: Vec<StatusLine>,
    /// Happenings.
    pub notes: Vec<NoteLine>,
    /// Present unless the generator died.
    pub end: Option<EndLine>,
}

impl Run {
    /// Reads a record. A last line that was cut off in the middle (the generator died) is left out.
    ///
    /// # Errors
    /// If the file cannot be read, has no header, or a line is malformed.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let file = File::open(path).map_err(|error| RecordError::Io { path: path.to_owned(), error })?;
        Self::parse(BufReader::new(file), path)
    }

    /// Reads a record from memory or a pipe; `path` is for messages.
    ///
    /// # Errors
    /// As [`Run::read`].
    pub fn parse(mut input: impl BufRead, path: &Path) -> Result<Self, RecordError> {
        let fail = |line: usize, message: String| RecordError::Line { path: path.to_owned(), line, message };
        let mut run: Option<Self> = None;
        let mut text = Vec::new();
        for number in 1..=LINES_LIMIT {
            text.clear();
            let read = (&mut input)
                .take(LINE_LIMIT)
                .read_until(b'\n', &mut text)
                .map_err(|error| RecordError::Io { path: path.to_owned(), error })?;
            if read == 0 {
                return run.ok_or_else(|| fail(1, "empty: not a record of wattctl load".to_owned()));
            }
            let whole = text.last() == Some(&b'\n');
            if !whole && read as u64 == LINE_LIMIT {
                return Err(fail(number, format!("longer than {LINE_LIMIT} bytes")));
            }
            let line = match serde_json::from_slice::<Line>(&text) {
                Ok(line) => line,
                Err(_) if !whole && run.is_some() => continue,
                Err(error) => return Err(fail(number, format!("not a line of a record: {error}"))),
            };
            match (&mut run, line) {
                (None, Line::Header(header)) if header.format == FORMAT => {
                    run = Some(Self { header, ..Self::default() });
                }
                (None, Line::Header(header)) => {
                    let message = format!("format {}; this wattctl reads format {FORMAT}", header.format);
                    return Err(fail(number, message));
                }
                (None, _) => return Err(fail(number, "the first line must be the header".to_owned())),
                (Some(_), Line::Header(_)) => return Err(fail(number, "a second header".to_owned())),
                (Some(run), line) => run.push(line),
            }
        }
        Err(fail(LINES_LIMIT, format!("more than {LINES_LIMIT} lines")))
    }

    fn push(&mut self, line: Line) {
        match line {
            Line::Header(header) => self.header = header,
            Line::Request(request) => self.requests.push(request),
            Line::Status(status) => self.statuses.push(status),
            Line::Note(note) => self.notes.push(note),
            Line::End(end) => self.end = Some(end),
        }
    }

    /// Length of the run in seconds: to its end, or else to the last thing recorded.
    #[must_use]
    pub fn length_s(&self) -> f64 {
        let last = self
            .end
            .iter()
            .map(|end| end.t_us)
            .chain(self.statuses.last().map(|status| status.t_us))
            .chain(self.requests.iter().map(|request| request.t_us))
            .max();
        last.map_or(0.0, seconds)
    }
}

/// Microseconds as seconds.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "53 bits of microseconds are 285 years")]
pub fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(t_us: u64) -> Line {
        Line::Request(RequestLine {
            t_us,
            delay_us: 3,
            latency_us: 900,
            app: "camera".into(),
            items: 1,
            missed: false,
            request_id: Some(t_us),
            outcome: Outcome::Served(ServedLine {
                variant: "int8".into(),
                energy_source: Some(Provenance::Modelled),
                ..ServedLine::default()
            }),
        })
    }

    fn lines() -> Vec<Line> {
        let rejected = Outcome::Rejected { reason: "too_hot".into() };
        let Line::Request(request) = served(20) else { unreachable!() };
        vec![
            served(10),
            Line::Request(RequestLine { outcome: rejected, ..request }),
            Line::Status(StatusLine { t_us: 30, status: Box::default() }),
            Line::Note(NoteLine { t_us: 40, text: "fan fails".into() }),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let header = Header { format: FORMAT, scenario: "test".into(), seed: 7, ..Header::default() };
        let mut writer = Writer::create(&path, &header).unwrap();
        for line in lines() {
            writer.write(&line).unwrap();
        }
        writer.finish(EndLine { t_us: 50, interrupted: false, states_missed: 0 }).unwrap();

        let mut expected = Run { header, ..Run::default() };
        lines().into_iter().for_each(|line| expected.push(line));
        expected.end = Some(EndLine { t_us: 50, interrupted: false, states_missed: 0 });
        assert_eq!(Run::read(&path).unwrap(), expected);
    }

    #[test]
    fn a_generator_that_died_leaves_a_readable_record() {
        let mut text =
            serde_json::to_string(&Line::Header(Header { format: FORMAT, ..Header::default() })).unwrap();
        text.push('\n');
        text.push_str(&serde_json::to_string(&served(10)).unwrap());
        text.push_str("\n{\"type\":\"reque");
        let run = Run::parse(text.as_bytes(), Path::new("x")).unwrap();
        assert_eq!((run.requests.len(), run.end), (1, None));
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_line() {
        let header =
            serde_json::to_string(&Line::Header(Header { format: FORMAT, ..Header::default() })).unwrap();
        for (text, expected) in [
            (String::new(), "x line 1: empty"),
            ("hello\n".to_owned(), "x line 1: not a line"),
            (format!("{}\n", serde_json::to_string(&served(1)).unwrap()), "x line 1: the first line"),
            (format!("{header}\nnonsense\n{header}\n"), "x line 2: not a line"),
            (format!("{header}\n{header}\n"), "x line 2: a second header"),
            (header.replace("\"format\":1", "\"format\":99"), "x line 1: format 99"),
        ] {
            let error = Run::parse(text.as_bytes(), Path::new("x")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}");
        }
    }
}
