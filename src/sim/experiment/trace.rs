//! A recorded trace of arrivals: CSV with a header line and the columns `arrival_us` (microseconds from the start of
//! the stream) and `class`. Further columns are let be, so that the schedule of a run is a trace too.

use crate::config::document::{Problem, open_regular};
use crate::units::Nanos;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

/// Largest trace, bytes.
const MAX_BYTES: u64 = 1 << 30;
/// Latest arrival: ten years.
const LATEST_US: u64 = 320_000_000_000_000;

/// Moments by the name of their class, ascending, counted from the start of the stream.
pub(super) type Trace = BTreeMap<String, Vec<Nanos>>;

/// Reads a trace. Rows must ascend in time.
///
/// # Errors
/// The first line that is wrong, and how.
pub(super) fn read(file: &Path) -> Result<Trace, Problem> {
    let fault = |message: String| Problem::of_file(file, message);
    let open = open_regular(file).map_err(|error| fault(format!("cannot be read: {error}")))?;
    let length = open.metadata().map_or(0, |data| data.len());
    if length > MAX_BYTES {
        return Err(fault(format!("{length} bytes: a trace has at most {MAX_BYTES}")));
    }
    parse(file, open.take(MAX_BYTES))
}

fn parse(file: &Path, text: impl std::io::Read) -> Result<Trace, Problem> {
    let at = |line: u64, message: String| Problem {
        line: usize::try_from(line).ok(),
        ..Problem::of_file(file, message)
    };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let heads = reader.headers().map_err(|error| at(1, plain(&error)))?.clone();
    let column = |name: &str| {
        heads.iter().position(|head| head == name).ok_or_else(|| {
            let found = heads.iter().collect::<Vec<_>>().join(",");
            at(1, format!("no column `{name}` in the header `{found}`; wanted `arrival_us,class`"))
        })
    };
    let (arrival, class) = (column("arrival_us")?, column("class")?);
    let mut trace = Trace::new();
    let (mut before, mut record) = (0, csv::StringRecord::new());
    while reader.read_record(&mut record).map_err(|error| {
        let line = error.position().map_or_else(|| 0, csv::Position::line);
        at(line, plain(&error))
    })? {
        let line = record.position().map_or(0, csv::Position::line);
        let text = record.get(arrival).unwrap_or_default();
        let us = text.parse::<u64>().ok().filter(|us| *us <= LATEST_US).ok_or_else(|| {
            at(line, format!("arrival_us = `{text}`; wanted whole microseconds from 0 to {LATEST_US}"))
        })?;
        if us < before {
            return Err(at(line, format!("arrival_us = {us} after {before}; wanted ascending moments")));
        }
        before = us;
        let class = record.get(class).unwrap_or_default();
        if class.is_empty() {
            return Err(at(line, "class is empty; wanted the name of a [[class]]".to_owned()));
        }
        match trace.get_mut(class) {
            Some(moments) => moments.push(Nanos::from_micros(us)),
            None => {
                trace.insert(class.to_owned(), vec![Nanos::from_micros(us)]);
            }
        }
    }
    Ok(trace)
}

fn plain(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields; the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8 text".to_owned(),
        csv::ErrorKind::Io(error) => format!("cannot be read: {error}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        parse(Path::new("t.csv"), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn rows_are_sorted_by_class() {
        let text = "arrival_us,class\n0,camera\n 10 , audio\n10,camera\n";
        let trace = parse(Path::new("t.csv"), text.as_bytes()).unwrap();
        let us = |list: &[u64]| list.iter().map(|us| Nanos::from_micros(*us)).collect::<Vec<_>>();
        assert_eq!(trace["camera"], us(&[0, 10]));
        assert_eq!(trace["audio"], us(&[10]));
    }

    #[test]
    fn further_columns_are_let_be() {
        let text = "class,arrival_us,outcome\ncamera,7,served\n";
        let trace = parse(Path::new("t.csv"), text.as_bytes()).unwrap();
        assert_eq!(trace["camera"], [Nanos::from_micros(7)]);
    }

    #[test]
    fn a_malformed_line_is_named() {
        for (text, wanted) in [
            ("time,class\n", "t.csv:1: no column `arrival_us` in the header `time,class`"),
            ("arrival_us,class\n1,a\nx,a\n", "t.csv:3: arrival_us = `x`"),
            ("arrival_us,class\n1,a\n-2,a\n", "t.csv:3: arrival_us = `-2`"),
            ("arrival_us,class\n5,a\n4,a\n", "t.csv:3: arrival_us = 4 after 5"),
            ("arrival_us,class\n5,a\n6\n", "t.csv:3: 1 fields; the header has 2"),
            ("arrival_us,class\n5,\n", "t.csv:2: class is empty"),
            ("arrival_us,class\n99999999999999999999,a\n", "t.csv:2: arrival_us = `99999999999999999999`"),
        ] {
            let found = complaint(text);
            assert!(found.starts_with(wanted), "{found:?}, wanted {wanted:?}");
        }
    }
}
