//! Boards as text: the nodes that a kernel shows, one a line, laid out as plain files or served over FUSE with the
//! semantics of the kernel and with faults.
//!
//! A line is `path mode content`. The path is relative to the root, with `sys`, `proc`, `etc`, `dev` and `var` below
//! it; the mode is octal as the driver sets it. Two words stand in place of a mode: `link`, and then the content is
//! where it leads; and `error`, and then it is what the kernel answers to a read (`EAGAIN`), with the mode behind it if
//! that is not 444. In path and content `\n`, `\0`, `\\` and `\xNN` mean what they do elsewhere. A line's end is added, as
//! most attributes have one, unless the content is empty or ends in `\0`, as texts of a device tree do. Lines that begin
//! with `#` are comments.

use super::faults::matches;
use super::live::Live;
use super::tree::NodeId;
use super::{fuse, mount};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use super::faults::NodeFault;

/// Longest attribute that is taken, in bytes: a page.
const MAX_CONTENT: usize = 4096;
/// Most nodes.
const MAX_NODES: usize = 20_000;

/// Why a text is no board, or a script no script.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct FixtureError {
    /// The text.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong with it and what would be right.
    pub message: String,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    File { mode: u16, content: Vec<u8> },
    Link(String),
    Error { mode: u16, errno: Errno },
}

/// A board as text.
#[derive(Debug, Clone, Default)]
pub struct Fixture {
    pub(super) entries: Vec<(String, Entry)>,
}

impl Fixture {
    /// Parses a text; `file` is only named in errors.
    ///
    /// # Errors
    /// [`FixtureError`] names the line and what would be right.
    pub fn parse(text: &str, file: &str) -> Result<Self, FixtureError> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |message: String| FixtureError { file: file.to_owned(), line: index + 1, message };
            if entries.len() == MAX_NODES {
                return Err(wrong(format!("expected at most {MAX_NODES} nodes")));
            }
            entries.push(entry(line).map_err(wrong)?);
        }
        Ok(Self { entries })
    }

    /// Makes plain files of it below a directory. A node that cannot be read becomes a directory, which cannot
    /// either.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn lay_out(&self, root: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        for (path, entry) in &self.entries {
            let path = root.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            match entry {
                Entry::File { mode, content } => {
                    std::fs::write(&path, content)?;
                    std::fs::set_permissions(&path, std::fs::Permissions::from_mode((*mode).into()))?;
                }
                Entry::Link(target) => std::os::unix::fs::symlink(target, &path)?,
                Entry::Error { .. } => std::fs::create_dir_all(&path)?,
            }
        }
        Ok(())
    }
}

fn entry(line: &str) -> Result<(String, Entry), String> {
    let mut parts = line.splitn(3, ' ');
    let path = parts.next().filter(|path| !path.starts_with('/')).ok_or("expected a relative path")?;
    // Some kernels' names have a space; they are written as \x20.
    let path = String::from_utf8(unescaped(path)?).map_err(|error| error.to_string())?;
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(format!("{path:?}: expected names between the slashes"));
    }
    let mode = parts.next().ok_or("expected a mode behind the path")?;
    let content = parts.next().unwrap_or_default();
    let entry = match mode {
        "link" => Entry::Link(content.to_owned()),
        "error" => {
            let (name, mode) = content.split_once(' ').unwrap_or((content, "444"));
            Entry::Error { mode: octal(mode)?, errno: errno(name)? }
        }
        _ => {
            let mode = octal(mode)?;
            let mut content = unescaped(content)?;
            if !matches!(content.last(), None | Some(0)) {
                content.push(b'\n');
            }
            if content.len() > MAX_CONTENT {
                return Err(format!("{} bytes: expected at most {MAX_CONTENT}", content.len()));
            }
            Entry::File { mode, content }
        }
    };
    Ok((path, entry))
}

fn octal(mode: &str) -> Result<u16, String> {
    u16::from_str_radix(mode, 8).map_err(|_| "expected an octal mode, `link` or `error`".to_owned())
}

/// An error by its name.
pub(super) fn errno(name: &str) -> Result<Errno, String> {
    let known = [
        Errno::EAGAIN,
        Errno::EBUSY,
        Errno::EINVAL,
        Errno::EIO,
        Errno::ENODATA,
        Errno::ENODEV,
        Errno::EACCES,
        Errno::EROFS,
    ];
    let found = known.into_iter().find(|errno| format!("{errno:?}").eq_ignore_ascii_case(name));
    found.ok_or_else(|| format!("{name:?}: expected an error such as EAGAIN, EBUSY, EIO or ENODATA"))
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'n') => bytes.push(b'\n'),
            Some(b'0') => bytes.push(0),
            Some(b'\\') => bytes.push(b'\\'),
            Some(b'x') => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                let byte = u8::from_str_radix(&digits, 16);
                bytes.push(byte.map_err(|_| format!("\\x{digits}: expected two hex digits"))?);
            }
            other => return Err(format!("\\{:?}: expected n, 0, \\ or xNN", other.map(char::from))),
        }
    }
    Ok(bytes)
}

/// A board of text that lives: its bounds are clamped, its faults come and go.
pub struct FixtureBoard {
    live: Arc<Live>,
    session: Option<fuser::BackgroundSession>,
    mount: PathBuf,
}

impl std::fmt::Debug for FixtureBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FixtureBoard").field("mount", &self.mount).finish_non_exhaustive()
    }
}

impl FixtureBoard {
    /// Mounts a board at a directory, which is made if it is not there.
    ///
    /// # Errors
    /// If there is no FUSE, or the directory cannot be used.
    pub fn mount(fixture: &Fixture, at: &Path) -> io::Result<Self> {
        mount::prepare(at)?;
        let live = Arc::new(Live::of(fixture));
        let session = fuse::mount(Arc::clone(&live), at)?;
        Ok(Self { live, session: Some(session), mount: at.to_owned() })
    }

    /// Begins, or with `None` ends, a fault on every node that `pattern` fits (`*` is any text); how many these are.
    pub fn fault(&self, pattern: &str, fault: Option<&NodeFault>) -> usize {
        let mut count = 0;
        for (path, &id) in &self.live.by_path {
            if self.live.leaf(id).is_some() && matches(pattern, path) {
                self.live.faults.set(id, fault.cloned(), || self.live.held(id));
                count += 1;
            }
        }
        count
    }

    /// Begins the faults of a script: lines of `pattern fault [argument]`, as [`NodeFault::parse`] takes them; how
    /// many nodes they are on.
    ///
    /// # Errors
    /// [`FixtureError`] names the line and what would be right.
    pub fn play(&self, script: &str, file: &str) -> Result<usize, FixtureError> {
        let mut hit = 0;
        for (index, line) in script.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |message: String| FixtureError { file: file.to_owned(), line: index + 1, message };
            let (pattern, fault) =
                line.split_once(' ').ok_or_else(|| wrong("expected `pattern fault`".to_owned()))?;
            match NodeFault::parse(fault).map_err(wrong)? {
                NodeFault::Becomes(value) => hit += self.put(pattern, &value),
                fault => hit += self.fault(pattern, Some(&fault)),
            }
        }
        Ok(hit)
    }

    /// Someone else writes `value` to every node that `pattern` fits; how many these are.
    pub fn put(&self, pattern: &str, value: &str) -> usize {
        let mut state = self.live.state();
        let fitting = self.live.by_path.iter().filter(|(path, _)| matches(pattern, path));
        let mut count = 0;
        for (_, id) in fitting {
            if let Some(Ok(held)) = state.held.get_mut(id) {
                *held = format!("{value}\n").into_bytes();
                count += 1;
            }
        }
        count
    }

    /// What every node holds that `pattern` fits and that reads as text, whatever faults show.
    #[must_use]
    pub fn held(&self, pattern: &str) -> BTreeMap<String, String> {
        let state = self.live.state();
        let fitting = self.live.by_path.iter().filter(|(path, _)| matches(pattern, path));
        let text = |(path, id): (&String, &NodeId)| {
            let held = state.held.get(id)?.as_ref().ok()?;
            Some((path.clone(), String::from_utf8_lossy(held).trim().to_owned()))
        };
        fitting.filter_map(text).collect()
    }

    /// Ends all faults and lets reads return that hang.
    pub fn heal(&self) {
        self.live.faults.heal();
    }

    /// As it was at first, without faults.
    pub fn reset(&self) {
        self.heal();
        let mut state = self.live.state();
        state.held = state.original.clone();
    }
}

impl Drop for FixtureBoard {
    fn drop(&mut self) {
        self.heal();
        self.live.faults.settle();
        if let Err(error) = mount::detach(&self.mount) {
            tracing::warn!(%error, "the tree of a board of text is not taken down");
            return;
        }
        if let Some(session) = self.session.take().filter(|session| session.guard.is_finished()) {
            // Its end was asked for.
            let _ = session.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_board_is_named_with_its_line() {
        for (text, expected) in [
            ("# a comment\n/sys/a 444 1", "board:2: expected a relative path"),
            ("sys/../a 444 1", "board:1: \"sys/../a\": expected names between the slashes"),
            ("sys/a", "board:1: expected a mode"),
            ("sys/a rw 1", "board:1: expected an octal mode, `link` or `error`"),
            ("sys/a error EHOT", "board:1: \"EHOT\": expected an error such as EAGAIN"),
            ("sys/a 444 \\xg1", "board:1: \\xg1: expected two hex digits"),
        ] {
            let error = Fixture::parse(text, "board").unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    /// The dialects of the kernel, on a mount of its own where there is one to be had.
    #[test]
    fn a_board_of_text_answers_as_a_kernel_does() {
        let policy = "sys/devices/system/cpu/cpufreq/policy0";
        let gpu = "sys/devices/platform/1.gpu/devfreq/1.gpu";
        let text = format!(
            "{policy}/scaling_available_frequencies 444 100 200 300\n{policy}/scaling_max_freq 644 300\n\
             {policy}/scaling_min_freq 644 100\n{policy}/scaling_governor 644 schedutil\n\
             {policy}/scaling_setspeed 644 <unsupported>\n{policy}/scaling_cur_freq 444 100\n\
             {policy}/scaling_available_governors 444 schedutil userspace\n\
             {gpu}/available_frequencies 444 1000000 2000000\n{gpu}/max_freq 644 2000000\n{gpu}/min_freq 644 1000000\n\
             sys/class/devfreq/1.gpu link ../../devices/platform/1.gpu/devfreq/1.gpu\n\
             sys/temp error EAGAIN"
        );
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("board");
        let board = match FixtureBoard::mount(&Fixture::parse(&text, "board").unwrap(), &at) {
            Ok(board) => board,
            Err(error) => return println!("skipped: no FUSE here: {error}"),
        };
        let read = |node: &str| std::fs::read_to_string(at.join(node)).map(|text| text.trim().to_owned());
        let write = |node: &str, value: &str| {
            std::fs::write(at.join(node), value)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()))
        };
        let (max, min) = (format!("{policy}/scaling_max_freq"), format!("{policy}/scaling_min_freq"));
        write(&max, "250").unwrap();
        assert_eq!(read(&max).unwrap(), "200", "cpufreq clamps to its table");
        assert_eq!(write(&max, "fast"), Err(Errno::EINVAL));
        write(&min, "300").unwrap();
        assert_eq!(read(&min).unwrap(), "200", "the upper bound wins");
        write("sys/class/devfreq/1.gpu/max_freq", "1500000").unwrap();
        assert_eq!(
            read(&format!("{gpu}/max_freq")).unwrap(),
            "1500000",
            "devfreq takes what is no operating point"
        );
        write("sys/class/devfreq/1.gpu/max_freq", "0x10").unwrap();
        assert_eq!(read(&format!("{gpu}/max_freq")).unwrap(), "2000000", "0 and no limit");
        let speed = format!("{policy}/scaling_setspeed");
        assert_eq!(write(&speed, "100"), Err(Errno::EINVAL), "another governor");
        assert_eq!(write(&format!("{policy}/scaling_governor"), "turbo"), Err(Errno::EINVAL));
        write(&format!("{policy}/scaling_governor"), "userspace").unwrap();
        write(&speed, "100").unwrap();
        assert_eq!(write(&format!("{policy}/scaling_cur_freq"), "1"), Err(Errno::EACCES), "root too");
        assert_eq!(read("sys/temp").unwrap_err().raw_os_error(), Some(Errno::EAGAIN as i32));
        assert_eq!(board.play("*/policy0/scaling_*_freq ebusy", "script").unwrap(), 3);
        assert_eq!(read(&max).unwrap_err().raw_os_error(), Some(Errno::EBUSY as i32));
        board.fault("*/scaling_max_freq", Some(&NodeFault::Vanish));
        assert_eq!(read(&max).unwrap_err().kind(), io::ErrorKind::NotFound);
        board.reset();
        assert_eq!((read(&max).unwrap(), read(&min).unwrap()), ("300".to_owned(), "100".to_owned()));
    }
}
