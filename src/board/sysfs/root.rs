//! The sysfs root, injected, and the one place where attribute files are read and written.
//!
//! The kernel's rules: one `read()` gives the whole value, one `write()` is one value, and an open
//! descriptor shows the present value whenever it is read at offset 0. `O_TRUNC` means nothing to
//! sysfs, but a tree of plain files needs it, so writing always asks for it and never for `O_CREAT`.

use crate::board::check::MAX_CLOCK_KHZ;
use crate::core::event::SensorFault;
use crate::units::{Kilohertz, Microwatts, MilliCelsius};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// An attribute's value never exceeds a page.
const PAGE: usize = 4096;
/// Most entries of a class directory that are looked at.
const MAX_ENTRIES: usize = 1024;
/// Most characters of an offending text that an error quotes.
const MAX_QUOTE: usize = 64;

/// Room for one attribute's value.
pub(crate) type Page = [u8; PAGE];

/// An empty [`Page`].
pub(crate) const fn page() -> Page {
    [0; PAGE]
}

/// Why an attribute gave no value, or did not take one.
#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// It could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The attribute.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It could not be written.
    #[error("cannot write {value:?} to {}: {source}", path.display())]
    Write {
        /// The attribute.
        path: PathBuf,
        /// The value that was not taken.
        value: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// It was empty.
    #[error("{} is empty: expected {expected}", path.display())]
    Empty {
        /// The attribute.
        path: PathBuf,
        /// What would be right.
        expected: &'static str,
    },
    /// Its text is not what it should be.
    #[error("{} reads {text:?}: expected {expected}", path.display())]
    Garbled {
        /// The attribute.
        path: PathBuf,
        /// The text, cut to 64 characters.
        text: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A number that the quantity cannot have.
    #[error("{} reads {value}: expected {expected}", path.display())]
    Implausible {
        /// The attribute.
        path: PathBuf,
        /// The number.
        value: i64,
        /// What would be right.
        expected: &'static str,
    },
    /// The device has no value yet, such as the rate of a counter that was read once.
    #[error("{} has no value yet", path.display())]
    NotYet {
        /// The attribute.
        path: PathBuf,
    },
    /// The device is suspended: reading it would wake it.
    #[error("{} reads suspended: the device is asleep and is left so", path.display())]
    Asleep {
        /// Its `power/runtime_status`.
        path: PathBuf,
    },
}

impl SysfsError {
    /// The error as the core knows it.
    #[must_use]
    pub fn fault(&self) -> SensorFault {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => fault_of(source),
            Self::Empty { .. } | Self::NotYet { .. } => SensorFault::NoData,
            Self::Garbled { .. } => SensorFault::Garbled,
            Self::Implausible { .. } => SensorFault::Implausible,
            Self::Asleep { .. } => SensorFault::Busy,
        }
    }
}

/// The kernel's error as the core knows it.
#[must_use]
pub fn fault_of(error: &io::Error) -> SensorFault {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO | Errno::ENOTDIR | Errno::ESTALE) => {
            SensorFault::Missing
        }
        Some(Errno::ENODATA | Errno::EAGAIN | Errno::EINTR) => SensorFault::NoData,
        Some(Errno::EBUSY) => SensorFault::Busy,
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => SensorFault::Denied,
        _ => SensorFault::Io,
    }
}

/// The directory that stands for `/sys`.
#[derive(Debug, Clone)]
pub struct SysfsRoot {
    path: PathBuf,
    keep_open: bool,
}

impl SysfsRoot {
    /// The tree at `path`. On sysfs, procfs and FUSE, telemetry keeps its descriptors; a tree of plain files,
    /// where a vanished node stays readable through one, is opened anew for every reading.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        use nix::sys::statfs::{FUSE_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, statfs};
        let path = path.into();
        let lasting = [SYSFS_MAGIC, PROC_SUPER_MAGIC, FUSE_SUPER_MAGIC];
        let keep_open = statfs(&path).is_ok_and(|fs| lasting.contains(&fs.filesystem_type()));
        Self { path, keep_open }
    }

    /// The same tree, with a say in whether telemetry keeps its descriptors.
    #[must_use]
    pub fn keeping_descriptors(mut self, keep: bool) -> Self {
        self.keep_open = keep;
        self
    }

    /// Where a path below the root lies.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path.join(relative)
    }

    /// Whether there is something at a path below the root.
    pub fn exists(&self, relative: impl AsRef<Path>) -> bool {
        self.path(relative).exists()
    }

    /// Names in a directory below the root, sorted; none if it is not there.
    pub fn list(&self, relative: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(relative)) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .take(MAX_ENTRIES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        names
    }

    /// The attribute's text without white space and NUL at its ends.
    ///
    /// # Errors
    /// [`SysfsError`] with path and offending text.
    pub fn read(&self, relative: impl AsRef<Path>) -> Result<String, SysfsError> {
        let mut buffer = page();
        self.attribute(relative).keeping(false).text(&mut buffer).map(str::to_owned)
    }

    /// The attribute as an integer.
    ///
    /// # Errors
    /// As [`SysfsRoot::read`].
    pub fn read_number(&self, relative: impl AsRef<Path>) -> Result<i64, SysfsError> {
        self.attribute(relative).keeping(false).number(&mut page())
    }

    /// Writes a value with one `write()`. The node must exist.
    ///
    /// # Errors
    /// [`SysfsError::Write`] with path and value.
    pub fn write(&self, relative: impl AsRef<Path>, value: &str) -> Result<(), SysfsError> {
        let path = self.path(relative);
        write_once(&path, value.as_bytes()).map_err(|source| SysfsError::Write {
            path,
            value: value.to_owned(),
            source,
        })
    }

    /// Whether this process may write the node: opens it for that and writes nothing, which means nothing to a
    /// kernel's attribute.
    ///
    /// # Errors
    /// [`SysfsError::Write`] with path and the reason.
    pub fn may_write(&self, relative: impl AsRef<Path>) -> Result<(), SysfsError> {
        let path = self.path(relative);
        let opened =
            super::kill::refused(&path).and_then(|()| OpenOptions::new().write(true).open(&path).map(drop));
        opened.map_err(|source| SysfsError::Write { path, value: String::new(), source })
    }

    /// A handle for reading the attribute again and again.
    pub fn attribute(&self, relative: impl AsRef<Path>) -> Attribute {
        Attribute { path: self.path(relative), keep_open: self.keep_open, file: None }
    }
}

fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    super::kill::step()?;
    super::kill::writing(path, bytes)?;
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    let written = file.write(bytes)?;
    if written != bytes.len() {
        let message = format!("the kernel took {written} of {} bytes", bytes.len());
        return Err(io::Error::new(io::ErrorKind::WriteZero, message));
    }
    super::kill::step()
}

/// One attribute that is read often: its path is resolved once, its descriptor kept where that works.
#[derive(Debug)]
pub struct Attribute {
    path: PathBuf,
    keep_open: bool,
    file: Option<File>,
}

impl Attribute {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn keeping(mut self, keep: bool) -> Self {
        self.keep_open = keep;
        self
    }

    /// One read of the whole value. After any error the descriptor is given up, so that the next
    /// reading opens the path anew.
    fn read<'page>(&mut self, buffer: &'page mut Page) -> io::Result<&'page [u8]> {
        super::kill::injected(&self.path)?;
        let file = match self.file.take() {
            Some(file) => file,
            // A pipe that somebody put into an injected tree must not be waited for.
            None => OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&self.path)?,
        };
        if self.keep_open {
            let length = file.read_at(buffer, 0)?;
            self.file = Some(file);
            let length = super::kill::shown(&self.path, buffer, length);
            return Ok(&buffer[..length]);
        }
        let length = (&file).read(buffer)?;
        let length = super::kill::shown(&self.path, buffer, length);
        Ok(&buffer[..length])
    }

    /// The text without white space and NUL at its ends.
    ///
    /// # Errors
    /// [`SysfsError`] with path and offending text.
    pub(crate) fn text<'page>(&mut self, buffer: &'page mut Page) -> Result<&'page str, SysfsError> {
        match self.read(buffer) {
            Ok(bytes) => std::str::from_utf8(bytes)
                .map(trim)
                .map_err(|_| garbled(&self.path, &String::from_utf8_lossy(bytes), "UTF-8 text")),
            Err(source) => Err(SysfsError::Read { path: self.path.clone(), source }),
        }
    }

    /// The value as an integer.
    ///
    /// # Errors
    /// [`SysfsError`] with path and offending text.
    pub(crate) fn number(&mut self, buffer: &mut Page) -> Result<i64, SysfsError> {
        let text = self.text(buffer)?;
        if text.is_empty() {
            return Err(SysfsError::Empty { path: self.path.clone(), expected: "an integer" });
        }
        parse_integer(text).ok_or_else(|| garbled(&self.path, text, "an integer"))
    }

    /// The value if `limits` hold it.
    ///
    /// # Errors
    /// [`SysfsError`] with path and offending text or number.
    pub(crate) fn within(&mut self, limits: &Limits, buffer: &mut Page) -> Result<i64, SysfsError> {
        let value = self.number(buffer)?;
        limits.check(value, &self.path)
    }
}

/// Range in which a quantity is believed.
#[derive(Debug)]
pub(crate) struct Limits {
    least: i64,
    most: i64,
    expected: &'static str,
}

impl Limits {
    /// m°C. Broken sensors typically say -40 °C, or the likes of 2^31.
    pub(crate) const TEMPERATURE: Self =
        Self { least: -39_000, most: 150_000, expected: "between -39000 and 150000 m°C" };
    /// µW.
    pub(crate) const POWER: Self =
        Self { least: -1_000_000_000, most: 1_000_000_000, expected: "between -1 and 1 kW" };
    /// kHz; 0 is a gated clock or, as a bound, none.
    pub(crate) const KILOHERTZ: Self = Self { least: 0, most: 10_000_000, expected: "0 to 10000000 kHz" };
    /// Hz, as [`Limits::KILOHERTZ`].
    pub(crate) const HERTZ: Self = Self { least: 0, most: 10_000_000_000, expected: "0 to 10000000000 Hz" };
    /// Counters and capacities.
    pub(crate) const COUNT: Self = Self { least: 0, most: i64::MAX, expected: "0 or more" };

    /// `value`, if it lies within.
    pub(crate) fn check(&self, value: i64, path: &Path) -> Result<i64, SysfsError> {
        if (self.least..=self.most).contains(&value) {
            Ok(value)
        } else {
            let expected = self.expected;
            Err(SysfsError::Implausible { path: path.to_owned(), value, expected })
        }
    }
}

/// A temperature in m°C that [`Limits::TEMPERATURE`] let through.
pub(crate) fn millicelsius(value: i64) -> MilliCelsius {
    MilliCelsius(i32::try_from(value).unwrap_or(i32::MAX))
}

/// A clock in kHz, clamped to what is believed.
pub(crate) fn kilohertz(khz: i64) -> Kilohertz {
    Kilohertz(u32::try_from(khz.max(0)).unwrap_or(u32::MAX).min(MAX_CLOCK_KHZ))
}

/// A power that is believed, or why not; `path` is where it was read.
pub(crate) fn plausible_power(microwatts: i64, path: &Path) -> Result<Microwatts, SysfsError> {
    Limits::POWER.check(microwatts, path).map(Microwatts)
}

pub(crate) fn garbled(path: &Path, text: &str, expected: &'static str) -> SysfsError {
    SysfsError::Garbled { path: path.to_owned(), text: text.chars().take(MAX_QUOTE).collect(), expected }
}

/// Without white space and NUL at the ends (device-tree strings end in NUL).
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0')
}

/// A decimal integer and nothing else: no `0x`, no unit, no fraction.
pub(crate) fn parse_integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// White-space separated clocks, ascending and each once; what is no plausible clock is left out.
pub(crate) fn parse_clocks(text: &str, limits: &Limits) -> Vec<u64> {
    let mut clocks: Vec<u64> = text
        .split_ascii_whitespace()
        .filter_map(parse_integer)
        .filter(|clock| *clock > 0 && *clock <= limits.most)
        .filter_map(|clock| u64::try_from(clock).ok())
        .collect();
    clocks.sort_unstable();
    clocks.dedup();
    clocks
}
