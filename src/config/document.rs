//! A TOML file with positions, so that every complaint names file, line, key and value.
//!
//! Reading goes on after an error: the offending entry is noted and taken out, and the rest is read
//! again, so that one run shows all that is wrong.

use serde::de::DeserializeOwned;
use std::fmt;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most errors that are looked for in one file.
const MAX_PROBLEMS: usize = 64;

/// Longest piece of a file that a message quotes, in characters.
const MAX_QUOTE: usize = 60;

/// Something wrong in a file, for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1, where it is known.
    pub line: Option<usize>,
    /// Path of the key, such as `class[1].latency_ms` (indices from 0); empty if none is to blame.
    pub key: String,
    /// The value as written; `None` if there is none.
    pub value: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem with a file as a whole.
    #[must_use]
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, key: String::new(), value: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        match (self.key.as_str(), &self.value) {
            ("", _) => write!(f, " {}", self.message),
            (key, None) => write!(f, " {key}: {}", self.message),
            (key, Some(value)) => write!(f, " {key} = {value}: {}", self.message),
        }
    }
}

/// All that is wrong with a file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Reads a text file of at most `limit` bytes. Only regular files: a pipe or device could block.
///
/// # Errors
/// If it cannot be read, is too long, or is not UTF-8.
pub fn read_text(file: &Path, limit: u64) -> Result<String, Problem> {
    let fault = |message: String| Problem::of_file(file, message);
    let open = open_regular(file).map_err(|e| fault(format!("cannot be read: {e}")))?;
    let mut bytes = Vec::new();
    open.take(limit + 1).read_to_end(&mut bytes).map_err(|e| fault(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > limit {
        return Err(fault(format!("is longer than {limit} bytes: no such file is meant to be")));
    }
    String::from_utf8(bytes).map_err(|e| fault(format!("is not UTF-8 text ({e})")))
}

/// Opens a file for reading, refusing whatever is not a regular file and never waiting for a writer.
pub(crate) fn open_regular(file: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let open = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(file)?;
    if open.metadata()?.is_file() {
        Ok(open)
    } else {
        Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// A parsed TOML file that collects what is wrong with it.
#[derive(Debug)]
pub struct Document<'t> {
    file: PathBuf,
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    problems: Vec<Problem>,
}

impl<'t> Document<'t> {
    /// Parses `text`; syntax errors are among the problems.
    #[must_use]
    pub fn parse(file: &Path, text: &'t str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Self { file: file.to_owned(), text, root, problems: Vec::new() };
        for error in errors.into_iter().take(MAX_PROBLEMS) {
            let line = error.span().map(|span| document.line_at(span.start));
            let message = format!("not TOML: {}", error.message());
            document.problems.push(Problem { line, ..Problem::of_file(file, message) });
        }
        document
    }

    /// Reads the whole file as `T`. On an error the entry to blame is noted, taken out, and reading
    /// starts again; `None` if nothing could be made of it in the end.
    pub fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        if !self.problems.is_empty() {
            return None;
        }
        let mut root = self.root.clone();
        let mut removed: Vec<String> = Vec::new();
        for _ in 0..MAX_PROBLEMS {
            let error = match T::deserialize(toml::de::Deserializer::from(root.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let missing = quoted(error.message(), "missing field `");
            if missing.is_some_and(|name| removed.iter().any(|r| r == name)) {
                return None; // It is there, but was taken out for another error.
            }
            let blame = error.span().and_then(|span| blame(self.root.get_ref(), &span));
            self.note_shape_error(&error, blame.as_deref());
            let path = blame?;
            removed.push(path.last().map(Segment::to_string).unwrap_or_default());
            if missing.is_some() || !remove(root.get_mut(), &path) {
                return None;
            }
        }
        None
    }

    fn note_shape_error(&mut self, error: &toml::de::Error, blame: Option<&[Segment]>) {
        let message = in_plain_words(error.message());
        let line = error.span().map(|span| self.line_at(span.start));
        let (key, value) = match blame {
            Some(path) => (display(path), self.quote(path)),
            None => (String::new(), None),
        };
        self.problems.push(Problem { file: self.file.clone(), line, key, value, message });
    }

    /// Notes that the value at `key` will not do.
    pub fn complain(&mut self, key: &str, message: impl Into<String>) {
        let path = parse_path(key);
        let problem = Problem {
            file: self.file.clone(),
            line: self.line_of(key),
            value: self.quote(&path),
            key: key.to_owned(),
            message: message.into(),
        };
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// What is wrong so far.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The value, or all that was wrong on the way to it.
    ///
    /// # Errors
    /// If anything was wrong.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Problems> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ if self.problems.is_empty() => {
                Err(Problems(vec![Problem::of_file(&self.file, "could not be understood")]))
            }
            _ => Err(Problems(self.problems)),
        }
    }

    /// Line of a key, from 1, or of the closest table above it that is in the file.
    #[must_use]
    pub fn line_of(&self, key: &str) -> Option<usize> {
        let mut path = parse_path(key);
        while !path.is_empty() {
            if let Some(span) = self.find(&path) {
                return Some(self.line_at(span.start));
            }
            path.pop();
        }
        None
    }

    fn line_at(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|b| *b == b'\n').count()
    }

    fn find(&self, path: &[Segment]) -> Option<Range<usize>> {
        value_at(self.root.get_ref(), path).map(|value| value.span())
    }

    /// A value as written, cut to one short line; tables are not quoted.
    fn quote(&self, path: &[Segment]) -> Option<String> {
        let value = value_at(self.root.get_ref(), path)?;
        if value.get_ref().is_table() {
            return None;
        }
        let text = self.text.get(value.span())?;
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.chars().count() <= MAX_QUOTE {
            return Some(line);
        }
        Some(line.chars().take(MAX_QUOTE).chain("...".chars()).collect())
    }
}

/// One step on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Key(String),
    Index(usize),
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

fn display(path: &[Segment]) -> String {
    let mut out = String::new();
    for segment in path {
        if matches!(segment, Segment::Key(_)) && !out.is_empty() {
            out.push('.');
        }
        out.push_str(&segment.to_string());
    }
    out
}

fn parse_path(key: &str) -> Vec<Segment> {
    let mut path = Vec::new();
    for part in key.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        path.push(Segment::Key(pieces.next().unwrap_or_default().to_owned()));
        path.extend(pieces.filter_map(|p| p.trim_end_matches(']').parse().ok()).map(Segment::Index));
    }
    path
}

fn value_at<'a, 't>(root: &'a DeTable<'t>, path: &[Segment]) -> Option<&'a Spanned<DeValue<'t>>> {
    let (first, rest) = path.split_first()?;
    let Segment::Key(key) = first else { return None };
    let mut value = root.get(key.as_str())?;
    for segment in rest {
        value = match segment {
            Segment::Key(key) => value.get_ref().get(key.as_str())?,
            Segment::Index(index) => value.get_ref().get(*index)?,
        };
    }
    Some(value)
}

/// The entry whose key or value most closely encloses `span`.
fn blame(root: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<Segment>> {
    let mut best: Option<(usize, Vec<Segment>)> = None;
    let mut path = Vec::new();
    visit_table(root, &mut path, &mut |candidate, path| {
        let encloses = candidate.start <= span.start && span.end <= candidate.end;
        let width = candidate.len();
        if encloses && best.as_ref().is_none_or(|(least, _)| width <= *least) {
            best = Some((width, path.to_vec()));
        }
    });
    best.map(|(_, path)| path)
}

type Visitor<'v> = dyn FnMut(Range<usize>, &[Segment]) + 'v;

fn visit_table(table: &DeTable<'_>, path: &mut Vec<Segment>, visit: &mut Visitor<'_>) {
    for (key, value) in table {
        path.push(Segment::Key(key.get_ref().to_string()));
        visit(key.span(), path);
        visit_value(value, path, visit);
        path.pop();
    }
}

/// Recursion is as deep as the parser lets values nest, which it bounds.
fn visit_value(value: &Spanned<DeValue<'_>>, path: &mut Vec<Segment>, visit: &mut Visitor<'_>) {
    visit(value.span(), path);
    match value.get_ref() {
        DeValue::Table(table) => visit_table(table, path, visit),
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                path.push(Segment::Index(index));
                visit_value(value, path, visit);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Takes the entry at `path` out. Array elements stay, or the indices of later messages would shift: the
/// key that holds the array goes instead.
fn remove(root: &mut DeTable<'_>, path: &[Segment]) -> bool {
    let Some(last_key) = path.iter().rposition(|s| matches!(s, Segment::Key(_))) else { return false };
    let mut table = root;
    let mut steps = path[..last_key].iter();
    while let Some(Segment::Key(key)) = steps.next() {
        let Some(value) = table.get_mut(key.as_str()) else { return false };
        let mut value = value.get_mut();
        while let Some(Segment::Index(index)) = steps.as_slice().first() {
            steps.next();
            let DeValue::Array(array) = value else { return false };
            let Some(element) = array.get_mut(*index) else { return false };
            value = element.get_mut();
        }
        let DeValue::Table(inner) = value else { return false };
        table = inner;
    }
    match &path[last_key] {
        Segment::Key(key) => table.remove(key.as_str()).is_some(),
        Segment::Index(_) => false,
    }
}

fn quoted<'m>(message: &'m str, before: &str) -> Option<&'m str> {
    message.strip_prefix(before)?.split('`').next()
}

/// Replaces Rust's type names in the deserialiser's messages.
fn in_plain_words(message: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("expected a sequence", "expected a list [...]"),
    ];
    let found = WORDS.iter().find(|(rust, _)| message.ends_with(rust));
    found.map_or_else(|| message.to_owned(), |(rust, plain)| message.replace(rust, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read by the deserialiser")]
    struct Shape {
        #[serde(default)]
        a: u32,
        #[serde(default)]
        list: Vec<Row>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read by the deserialiser")]
    struct Row {
        name: String,
        #[serde(default)]
        n: f64,
    }

    fn problems(text: &str) -> Vec<String> {
        let mut document = Document::parse(Path::new("f.toml"), text);
        let value = document.read::<Shape>();
        document.finish(value).map_or_else(|p| p.0.iter().map(ToString::to_string).collect(), |_| Vec::new())
    }

    #[test]
    fn several_shape_errors_are_reported_together_with_line_key_and_value() {
        let found =
            problems("b = 1\na = -3\n\n[[list]]\nname = \"x\"\nn = \"y\"\n[[list]]\nname = \"z\"\nm = 1\n");
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found.iter().any(|p| p.starts_with("f.toml:1: b = 1: unknown field `b`")), "{found:#?}");
        assert!(
            found.iter().any(|p| p.starts_with("f.toml:2: a = -3: ") && p.contains("from 0 to 4294967295")),
            "{found:#?}"
        );
        assert!(found.iter().any(|p| p.starts_with("f.toml:6: list[0].n = \"y\": ")), "{found:#?}");
        assert!(found.iter().any(|p| p.starts_with("f.toml:9: list[1].m = 1: ")), "{found:#?}");
    }

    #[test]
    fn a_missing_key_is_reported_once_and_not_for_a_key_that_was_wrong() {
        let found = problems("[[list]]\nn = 1.0\n");
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("missing field `name`") && found[0].contains("list[0]"), "{found:#?}");
        let found = problems("[[list]]\nname = 5\n");
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("f.toml:2: list[0].name = 5: "), "{found:#?}");
    }

    #[test]
    fn syntax_errors_have_lines() {
        let found = problems("a = 1\nb = = 2\n");
        assert!(found[0].starts_with("f.toml:2: not TOML"), "{found:#?}");
    }

    #[test]
    fn a_complaint_about_a_missing_key_points_at_its_table() {
        let text = "a = 1\n[[list]]\nname = \"x\"\n";
        let mut document = Document::parse(Path::new("f.toml"), text);
        document.complain("list[0].n", "must be there");
        assert_eq!(document.problems()[0].to_string(), "f.toml:2: list[0].n: must be there");
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_text(dir.path(), 10).unwrap_err().message.contains("not a regular file"));
        let file = dir.path().join("x");
        std::fs::write(&file, "0123456789").unwrap();
        assert_eq!(read_text(&file, 10).unwrap(), "0123456789");
        assert!(read_text(&file, 9).unwrap_err().message.contains("longer than 9 bytes"));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read_text(&fifo, 9).is_err());
    }
}
