//! Where tests inject faults: an error of the kernel on a path, and the death of the process between
//! any two steps that have an effect. Outside tests nothing of it exists.

#[cfg(not(test))]
pub(crate) use off::{injected, refused, shown, step, torn, writing};
#[cfg(test)]
pub(crate) use on::{injected, refused, shown, step, torn, writing};

#[cfg(not(test))]
mod off {
    use std::io;
    use std::path::Path;

    #[inline]
    #[allow(clippy::unnecessary_wraps, reason = "tests make it fail")]
    pub(crate) fn step() -> io::Result<()> {
        Ok(())
    }

    #[inline]
    pub(crate) fn torn(length: usize) -> usize {
        length
    }

    #[inline]
    pub(crate) fn shown(_: &Path, _: &mut [u8], length: usize) -> usize {
        length
    }

    #[inline]
    #[allow(clippy::unnecessary_wraps, reason = "tests make it fail")]
    pub(crate) fn injected(_: &Path) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    #[allow(clippy::unnecessary_wraps, reason = "tests make it fail")]
    pub(crate) fn refused(_: &Path) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    #[allow(clippy::unnecessary_wraps, reason = "tests make it fail")]
    pub(crate) fn writing(_: &Path, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod on {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::io;
    use std::path::{Path, PathBuf};

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
        static FAULTS: RefCell<BTreeMap<(PathBuf, Access), i32>> = const { RefCell::new(BTreeMap::new()) };
        static CAPS: RefCell<BTreeMap<PathBuf, u64>> = const { RefCell::new(BTreeMap::new()) };
        static WRITES: RefCell<Vec<(PathBuf, String)>> = const { RefCell::new(Vec::new()) };
    }

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Access {
        Read,
        Write,
    }

    /// This thread dies after so many further steps; from then on nothing that it does has an effect.
    pub(crate) fn after(steps: u32) {
        LEFT.set(Some(steps));
    }

    /// A new process: steps have effects again.
    pub(crate) fn revive() {
        LEFT.set(None);
    }

    /// Whether the thread has died.
    pub(crate) fn dead() -> bool {
        LEFT.get() == Some(0)
    }

    /// Reading `path` fails with `errno` on this thread; 0 heals it.
    pub(crate) fn fail(path: impl Into<PathBuf>, errno: i32) {
        set((path.into(), Access::Read), errno);
    }

    /// Writing `path` fails with `errno` on this thread; 0 heals it.
    pub(crate) fn fail_write(path: impl Into<PathBuf>, errno: i32) {
        set((path.into(), Access::Write), errno);
    }

    /// `path` shows at most `most` on this thread, whatever it holds, as under a cap of the kernel.
    pub(crate) fn cap(path: impl Into<PathBuf>, most: Option<u64>) {
        let path = path.into();
        CAPS.with_borrow_mut(|caps| match most {
            Some(most) => caps.insert(path, most),
            None => caps.remove(&path),
        });
    }

    pub(crate) fn shown(path: &Path, buffer: &mut [u8], length: usize) -> usize {
        let Some(most) = CAPS.with_borrow(|caps| caps.get(path).copied()) else { return length };
        let held = std::str::from_utf8(&buffer[..length]).ok().and_then(|text| text.trim().parse().ok());
        let Some(held) = held.filter(|held: &u64| *held > most) else { return length };
        let text = held.min(most).to_string();
        buffer[..text.len()].copy_from_slice(text.as_bytes());
        text.len()
    }

    fn set(key: (PathBuf, Access), errno: i32) {
        FAULTS.with_borrow_mut(|faults| match errno {
            0 => faults.remove(&key),
            _ => faults.insert(key, errno),
        });
    }

    /// The attribute writes of this thread since the last call.
    pub(crate) fn writes() -> Vec<(PathBuf, String)> {
        WRITES.take()
    }

    pub(crate) fn step() -> io::Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("killed by the test")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }

    /// How much of an append gets through if the next step is the last.
    pub(crate) fn torn(length: usize) -> usize {
        if LEFT.get() == Some(1) { length / 2 } else { length }
    }

    pub(crate) fn injected(path: &Path) -> io::Result<()> {
        fault(path, Access::Read)
    }

    pub(crate) fn refused(path: &Path) -> io::Result<()> {
        fault(path, Access::Write)
    }

    pub(crate) fn writing(path: &Path, value: &[u8]) -> io::Result<()> {
        fault(path, Access::Write)?;
        let value = String::from_utf8_lossy(value).into_owned();
        WRITES.with_borrow_mut(|writes| writes.push((path.to_owned(), value)));
        Ok(())
    }

    fn fault(path: &Path, access: Access) -> io::Result<()> {
        let errno = FAULTS.with_borrow(|faults| faults.get(&(path.to_owned(), access)).copied());
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}
