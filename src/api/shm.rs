//! System shared memory: tensors by reference instead of by wire.
//!
//! A region is a POSIX shared memory object that belongs to the client's own user. It is opened once,
//! at registration, and read and written with `pread` and `pwrite` only: never mapped, because a client
//! that shrinks a mapped object kills the process that touches it (SIGBUS), and one that writes while
//! it is validated makes checked data unchecked. Regions belong to one connection; what another one
//! registered is as unknown as what nobody did. Errors name regions as the client did, never objects.

use super::backend::Peer;
use super::params::clip;
use super::request::Reference;
use super::status::ApiError;
use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::shm_open;
use nix::sys::stat::{Mode, SFlag, fstat};
use parking::{PAGE, Slots};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::{JoinError, spawn_blocking};

/// Longest name of a region or object.
const LONGEST_NAME: usize = 255;

/// A registered region.
#[derive(Debug)]
pub(super) struct Region {
    file: File,
    writable: bool,
    key: String,
    offset: u64,
    size: u64,
}

/// A region as its status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegionStatus {
    pub(super) name: String,
    pub(super) key: String,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// The regions of one connection.
#[derive(Debug)]
pub(super) struct Regions {
    most: usize,
    known: Mutex<BTreeMap<String, Arc<Region>>>,
    buffers: Arc<Slots>,
}

impl Regions {
    /// No regions yet, and never more than `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { most, known: Mutex::default(), buffers: Arc::default() }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Region>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens an object of the client's and makes it known as `name`.
    pub(super) fn register(
        &self,
        peer: &Peer,
        name: &str,
        key: &str,
        offset: u64,
        size: u64,
    ) -> Result<(), ApiError> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(refused(format!(
                "a region's name has 1 to {LONGEST_NAME} bytes, not {}",
                name.len()
            )));
        }
        let mut known = self.known();
        if known.contains_key(name) {
            return Err(refused(format!("region {:?} is registered already", clip(name))));
        }
        if known.len() >= self.most {
            let message = format!("this connection has registered {} regions, as many as it may", self.most);
            return Err(ApiError::new(tonic::Code::ResourceExhausted, "shared_memory", message));
        }
        let region = Region::open(peer, name, key, offset, size)?;
        known.insert(name.to_owned(), Arc::new(region));
        Ok(())
    }

    /// Forgets one region, or all of them if the name is empty. Forgetting an unknown one is no error.
    pub(super) fn unregister(&self, name: &str) {
        let mut known = self.known();
        if name.is_empty() { known.clear() } else { drop(known.remove(name)) }
    }

    /// One region, or all of them if the name is empty.
    pub(super) fn status(&self, name: &str) -> Result<Vec<RegionStatus>, ApiError> {
        let known = self.known();
        if !name.is_empty() && !known.contains_key(name) {
            return Err(unknown(name));
        }
        let asked = known.iter().filter(|(key, _)| name.is_empty() || key.as_str() == name);
        let show = |(name, region): (&String, &Arc<Region>)| RegionStatus {
            name: name.clone(),
            key: region.key.clone(),
            offset: region.offset,
            size: region.size,
        };
        Ok(asked.map(show).collect())
    }

    /// The region that a tensor refers to, with the place of the tensor in the object.
    pub(super) fn resolve(&self, tensor: &str, reference: &Reference) -> Result<Place, ApiError> {
        let region =
            self.known().get(&reference.region).cloned().ok_or_else(|| unknown(&reference.region))?;
        let end = reference.offset.checked_add(reference.size).filter(|&end| end <= region.size);
        let start = region.offset.checked_add(reference.offset);
        let (Some(_), Some(start)) = (end, start) else {
            let Reference { region: name, offset, size } = reference;
            let has = region.size;
            let message = format!(
                "{tensor}: {size} bytes at {offset} lie outside region {:?} of {has} bytes",
                clip(name)
            );
            return Err(refused(message));
        };
        Ok(Place { region, start, name: reference.region.clone(), buffers: Arc::clone(&self.buffers) })
    }
}

fn refused(message: String) -> ApiError {
    ApiError::new(tonic::Code::InvalidArgument, "shared_memory", message)
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found(
        "shared_memory",
        format!("region {:?} is not registered on this connection", clip(name)),
    )
}

impl Region {
    fn open(peer: &Peer, name: &str, key: &str, offset: u64, size: u64) -> Result<Self, ApiError> {
        let Some(owner) = peer.uid else {
            let message = "shared memory needs the Unix socket: over TCP it is not known whose it would be";
            return Err(ApiError::new(tonic::Code::FailedPrecondition, "shared_memory", message));
        };
        // One answer to all: whether an object of someone else's exists is none of the client's business.
        let missing = || {
            let message = format!(
                "region {:?}: no shared memory object of that key that this user owns and the daemon may open",
                clip(name)
            );
            ApiError::not_found("shared_memory", message)
        };
        let object = key.strip_prefix('/').unwrap_or(key);
        if object.is_empty()
            || object.len() > LONGEST_NAME
            || object.contains(['/', '\0'])
            || object.starts_with('.')
        {
            return Err(missing());
        }
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let open = |mode| shm_open(format!("/{object}").as_str(), mode | flags, Mode::empty());
        let (fd, writable) = match open(OFlag::O_RDWR) {
            Err(Errno::EACCES) => (open(OFlag::O_RDONLY), false),
            other => (other, true),
        };
        let file = File::from(fd.map_err(|_| missing())?);
        let stat = fstat(&file).map_err(|_| missing())?;
        let regular = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        if stat.st_uid != owner || !regular {
            return Err(missing());
        }
        let has = u64::try_from(stat.st_size).unwrap_or(0);
        if size == 0 || offset.checked_add(size).is_none_or(|end| end > has) {
            let message = format!(
                "region {:?}: {size} bytes at {offset} lie outside the object's {has} bytes",
                clip(name)
            );
            return Err(refused(message));
        }
        Ok(Self { file, writable, key: key.to_owned(), offset, size })
    }
}

/// Where a tensor lies in shared memory.
#[derive(Debug)]
pub(super) struct Place {
    region: Arc<Region>,
    start: u64,
    name: String,
    buffers: Arc<Slots>,
}

impl Place {
    /// Reads the tensor into private memory. Blocks for as long as a copy takes.
    pub(super) fn read(&self, bytes: usize) -> Result<Bytes, ApiError> {
        let mut buffer = self.buffers.take(bytes);
        self.fill(0, &mut buffer)?;
        Ok(self.buffers.lend(buffer))
    }

    /// The same for a large tensor, in halves on two threads: the kernel copies slower than memory is. Blocks neither.
    pub(super) async fn read_aside(self, bytes: usize) -> Result<Bytes, ApiError> {
        let mut buffer = self.buffers.take(bytes);
        let (place, half) = (Arc::new(self), bytes / 2 / PAGE * PAGE);
        let fill = |at: usize, mut part: BytesMut| {
            let place = Arc::clone(&place);
            spawn_blocking(move || place.fill(at, &mut part).map(|()| part))
        };
        let second = fill(half, buffer.split_off(half));
        let (first, second) = tokio::join!(fill(0, buffer), second);
        let mut buffer = done(first)?;
        buffer.unsplit(done(second)?);
        Ok(place.buffers.lend(buffer))
    }

    /// Reads a part of the tensor from `at` on.
    fn fill(&self, at: usize, part: &mut [u8]) -> Result<(), ApiError> {
        let start = self.start + at as u64;
        self.region.file.read_exact_at(part, start).map_err(|_| self.shrunk())
    }

    /// Writes an output. Blocks for as long as a copy takes.
    pub(super) fn write(&self, data: &[u8]) -> Result<(), ApiError> {
        if !self.region.writable {
            return Err(refused(format!("region {:?}: the daemon may not write to it", clip(&self.name))));
        }
        self.region.file.write_all_at(data, self.start).map_err(|_| self.shrunk())
    }

    /// The same for a large output, on a thread for such work.
    pub(super) async fn write_aside(self, data: Bytes) -> Result<(), ApiError> {
        done(spawn_blocking(move || self.write(&data)).await)
    }

    fn shrunk(&self) -> ApiError {
        refused(format!("region {:?} is smaller than it was when it was registered", clip(&self.name)))
    }
}

/// What work on another thread came to. Only the end of the daemon stops it.
fn done<T>(work: Result<Result<T, ApiError>, JoinError>) -> Result<T, ApiError> {
    work.unwrap_or_else(|_| Err(ApiError::stopping()))
}

/// Buffers that outlive their tensors, so that large inputs do not fault in fresh pages every time.
mod parking {
    use super::{Arc, Bytes, BytesMut, Mutex, PoisonError};
    use bytes::Buf;

    /// Buffers kept per connection.
    const MOST: usize = 4;
    /// Smaller ones are not worth keeping.
    const LEAST: usize = 64 * 1024;
    const CACHE_LINE: usize = 64;
    pub(super) const PAGE: usize = 4096;

    #[derive(Debug, Default)]
    pub(super) struct Slots(Mutex<Vec<BytesMut>>);

    /// Aligned memory: to pages if it is large. Where the kernel copies by `rep movsb`, a target a few
    /// bytes beyond its source's place in the page (as `malloc` likes to give: 16) takes five times as
    /// long on some processors (AMD Zen 3 and 4), and execution providers like aligned tensors as well.
    fn aligned(length: usize) -> BytesMut {
        let alignment = if length < LEAST { CACHE_LINE } else { PAGE };
        let mut buffer = BytesMut::zeroed(length + alignment - 1);
        let start = buffer.as_ptr().align_offset(alignment).min(alignment - 1);
        buffer.advance(start);
        buffer.truncate(length);
        buffer
    }

    struct Lent {
        buffer: BytesMut,
        slots: Arc<Slots>,
    }

    impl AsRef<[u8]> for Lent {
        fn as_ref(&self) -> &[u8] {
            &self.buffer
        }
    }

    impl Drop for Lent {
        fn drop(&mut self) {
            let mut parked = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
            parked.push(std::mem::take(&mut self.buffer));
            if parked.len() > MOST {
                let smallest = (0..parked.len()).min_by_key(|&at| parked[at].capacity());
                smallest.map(|at| parked.swap_remove(at));
            }
        }
    }

    impl Slots {
        /// A buffer of that many bytes, of whatever content.
        pub(super) fn take(&self, bytes: usize) -> BytesMut {
            if bytes < LEAST {
                return aligned(bytes);
            }
            let mut parked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = |buffer: &BytesMut| buffer.capacity() >= bytes;
            let Some(fitting) = parked.iter().position(fits) else { return aligned(bytes) };
            let mut buffer = parked.swap_remove(fitting);
            buffer.resize(bytes, 0);
            buffer
        }

        /// The buffer as shared bytes; it comes back when the last of them is gone.
        pub(super) fn lend(self: &Arc<Self>, buffer: BytesMut) -> Bytes {
            if buffer.len() < LEAST {
                return buffer.freeze();
            }
            Bytes::from_owner(Lent { buffer, slots: Arc::clone(self) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::AppId;

    /// A shared memory object that is gone after the test.
    struct Object(String, File);

    impl Object {
        fn new(test: &str, bytes: &[u8]) -> Self {
            let name = format!("/wattd_{test}_{}", std::process::id());
            let flags = OFlag::O_CREAT | OFlag::O_RDWR | OFlag::O_TRUNC;
            let file = File::from(shm_open(name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR).unwrap());
            file.write_all_at(bytes, 0).unwrap();
            Self(name, file)
        }
    }

    impl Drop for Object {
        fn drop(&mut self) {
            let _ = nix::sys::mman::shm_unlink(self.0.as_str());
        }
    }

    fn peer(uid: Option<u32>) -> Peer {
        Peer { app: AppId(uid.unwrap_or(0)), uid, pid: None }
    }

    fn owner() -> Peer {
        peer(Some(nix::unistd::Uid::effective().as_raw()))
    }

    fn part(offset: u64, size: u64) -> Reference {
        Reference { region: "r".into(), offset, size }
    }

    #[test]
    fn tensors_are_read_and_written_where_they_are() {
        let object = Object::new("rw", b"0123456789");
        let regions = Regions::new(4);
        regions.register(&owner(), "r", &object.0, 2, 8).unwrap();
        // Offset 3 in a region that begins at 2: octet 5 of the object.
        assert_eq!(regions.resolve("x", &part(3, 4)).unwrap().read(4).unwrap().as_ref(), b"5678");
        regions.resolve("x", &part(0, 2)).unwrap().write(b"ab").unwrap();
        let mut seen = [0; 10];
        object.1.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"01ab456789");
    }

    #[tokio::test]
    async fn large_tensors_are_put_together_where_they_belong() {
        // Not a whole number of pages, and every page tells its place.
        let bytes: Vec<u8> =
            (0..3_000_007_u32).map(|at| u8::try_from((at / 4096 + at % 5) % 251).unwrap()).collect();
        let object = Object::new("large", &bytes);
        let regions = Regions::new(4);
        regions.register(&owner(), "r", &object.0, 0, bytes.len() as u64).unwrap();
        let mut place: *const u8 = std::ptr::null();
        for length in [3_000_007, 1_000_001, 2_999_999] {
            let read =
                regions.resolve("x", &part(0, length as u64)).unwrap().read_aside(length).await.unwrap();
            assert!(read == bytes[..length], "{length}");
            assert!(place.is_null() || place == read.as_ptr(), "the halves are one buffer again");
            place = read.as_ptr();
        }
        let turned: Bytes = bytes.iter().rev().copied().collect();
        let all = || regions.resolve("x", &part(0, bytes.len() as u64)).unwrap();
        all().write_aside(turned.clone()).await.unwrap();
        assert_eq!(all().read_aside(bytes.len()).await.unwrap(), turned);
        object.1.set_len(2_000_000).unwrap();
        let error = all().read_aside(bytes.len()).await.unwrap_err();
        assert!(error.message.contains("smaller than it was"), "{error}");
    }

    #[test]
    fn nothing_outside_a_region_can_be_reached() {
        let object = Object::new("bounds", &[0; 16]);
        let regions = Regions::new(4);
        for (offset, size) in [(0, 17), (16, 1), (1, 16), (u64::MAX, 1), (1, u64::MAX), (0, 0)] {
            let error = regions.register(&owner(), "r", &object.0, offset, size).unwrap_err();
            assert!(error.message.contains("lie outside the object's 16 bytes"), "{error}");
        }
        regions.register(&owner(), "r", &object.0, 8, 8).unwrap();
        for (offset, size) in [(0, 9), (8, 1), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            assert!(regions.resolve("x", &part(offset, size)).is_err(), "{offset} {size}");
        }
    }

    #[test]
    fn a_region_that_shrinks_is_an_error_and_not_a_crash() {
        let object = Object::new("shrink", &[1; 4096]);
        let regions = Regions::new(4);
        regions.register(&owner(), "r", &object.0, 0, 4096).unwrap();
        object.1.set_len(100).unwrap();
        let error = regions.resolve("x", &part(0, 4096)).unwrap().read(4096).unwrap_err();
        assert!(error.message.contains("smaller than it was"), "{error}");
    }

    #[test]
    fn what_is_not_there_and_what_is_not_ones_own_look_alike() {
        let object = Object::new("owner", &[0; 16]);
        let regions = Regions::new(4);
        let stranger = peer(Some(owner().uid.unwrap().wrapping_add(1)));
        let foreign = regions.register(&stranger, "r", &object.0, 0, 16).unwrap_err();
        assert!(!foreign.message.contains("wattd_owner"), "no key in {foreign}");
        for key in ["/wattd_no_such_object", "/../etc/passwd", "/a/b", "", "/", ".", "/.."] {
            assert_eq!(regions.register(&owner(), "r", key, 0, 16).unwrap_err(), foreign, "{key}");
        }
        let tcp = regions.register(&peer(None), "r", &object.0, 0, 16).unwrap_err();
        assert_eq!(tcp.code, tonic::Code::FailedPrecondition);
    }

    #[test]
    fn registrations_are_bounded_and_forgotten() {
        let object = Object::new("count", &[0; 16]);
        let regions = Regions::new(2);
        regions.register(&owner(), "a", &object.0, 0, 16).unwrap();
        assert!(regions.register(&owner(), "a", &object.0, 0, 16).is_err(), "twice");
        regions.register(&owner(), "b", &object.0, 0, 16).unwrap();
        let full = regions.register(&owner(), "c", &object.0, 0, 16).unwrap_err();
        assert_eq!(full.code, tonic::Code::ResourceExhausted);
        regions.unregister("a");
        assert!(regions.status("a").is_err());
        assert_eq!(regions.status("").unwrap().len(), 1);
        regions.unregister("");
        assert_eq!(regions.status("").unwrap(), []);
    }

    #[test]
    fn large_buffers_are_used_again() {
        let slots = Arc::new(Slots::default());
        let first = slots.lend(slots.take(1 << 20));
        let place = first.as_ptr();
        drop(first);
        assert_eq!(place.align_offset(4096), 0);
        assert_eq!(slots.lend(slots.take(1 << 19)).as_ptr(), place, "a smaller tensor fits as well");
        let larger = slots.lend(slots.take(1 << 21));
        assert_eq!((larger.len(), larger.as_ptr().align_offset(4096)), (1 << 21, 0));
        assert_eq!(slots.lend(slots.take(100)).as_ptr().align_offset(64), 0);
    }
}
