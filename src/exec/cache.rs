//! The cache of optimised graphs: what ONNX Runtime makes of a model for this machine.
//!
//! Optimising takes most of a session's creation. An entry is named by a hash over all that the result
//! depends on (the model's SHA-256, the runtime's version and build, the provider, the processor and its
//! features), so a change of any of them finds no entry. Inside, the entry repeats its key and carries the
//! SHA-256 of its content: a stale, foreign, truncated or corrupt one is removed and built anew, never
//! trusted. Threads do not matter: they do not change the graph. The folder belongs to the daemon's user
//! alone. Whatever goes wrong with it (a full disk, say) costs time, never a session.

use nix::sys::time::TimeSpec;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// First bytes of an entry; the number is the version of its layout.
const MAGIC: &[u8; 8] = b"WATTDGR1";
/// Magic, key, SHA-256 of the graph, length of the graph (little-endian).
const HEADER: usize = 8 + 32 + 32 + 8;

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder cannot be made or read.
    #[error("graph cache {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Someone else could put graphs there.
    #[error(
        "graph cache {path}: owner {owner}, mode {mode:o}; it must belong to this user ({user}) and nobody else may write to it"
    )]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permissions.
        mode: u32,
        /// Who runs this process.
        user: u32,
    },
}

/// Names an entry: a hash over everything that the optimised graph depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    fn file_name(&self) -> String {
        format!("{}.graph", hex::encode(self.0))
    }
}

/// A folder of optimised graphs of bounded size, least recently used out first.
#[derive(Debug)]
pub struct GraphCache {
    folder: PathBuf,
    max_bytes: u64,
    machine: String,
    drafts: AtomicU64,
}

impl GraphCache {
    /// Opens the folder and makes it if need be. Leftovers of an interrupted run are removed.
    ///
    /// # Errors
    /// If it cannot be made or read, or others may write to it.
    pub fn open(folder: &Path, max_bytes: u64) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Io { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let metadata = fs::metadata(folder).map_err(failed)?;
        let (owner, mode, user) = (metadata.uid(), metadata.mode() & 0o7777, nix::unistd::geteuid().as_raw());
        if owner != user || mode & 0o022 != 0 {
            return Err(CacheError::Unsafe { path: folder.to_owned(), owner, mode, user });
        }
        for entry in fs::read_dir(folder).map_err(failed)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("draft-") {
                let _ = fs::remove_file(entry.path());
            }
        }
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Ok(Self {
            folder: folder.to_owned(),
            max_bytes,
            machine: machine(&cpuinfo),
            drafts: AtomicU64::new(0),
        })
    }

    /// The key of a model (its SHA-256) under a build of the runtime and a provider, on this machine.
    #[must_use]
    pub fn key(&self, model_sha256: &str, runtime_build: &str, provider: &str) -> CacheKey {
        let mut hash = Sha256::new();
        for part in [model_sha256, runtime_build, provider, &self.machine] {
            // Length first, so that no two lists of parts run into the same bytes.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        CacheKey(hash.finalize().into())
    }

    /// The graph under that key, if it is there and sound. A bad entry is removed.
    #[must_use]
    pub fn get(&self, key: &CacheKey) -> Option<Vec<u8>> {
        let path = self.folder.join(key.file_name());
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cached graph unreadable");
                return None;
            }
        };
        match self.read_entry(&mut file, key) {
            Ok(graph) => {
                // Marks it as used; failing that, it only goes sooner.
                let _ = nix::sys::stat::futimens(&file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW);
                Some(graph)
            }
            Err(problem) => {
                tracing::warn!(path = %path.display(), %problem, "cached graph is not sound; building it anew");
                self.remove(key);
                None
            }
        }
    }

    fn read_entry(&self, file: &mut File, key: &CacheKey) -> Result<Vec<u8>, String> {
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(|error| format!("header: {error}"))?;
        let (magic, rest) = header.split_at(MAGIC.len());
        let (named, rest) = rest.split_at(32);
        let (sum, length) = rest.split_at(32);
        if magic != MAGIC {
            return Err("not an entry of this version".to_owned());
        }
        if named != key.0 {
            return Err("an entry of another key".to_owned());
        }
        let length = length.try_into().map_or(u64::MAX, u64::from_le_bytes);
        if length > self.max_bytes {
            return Err(format!("claims {length} bytes; the cache holds at most {}", self.max_bytes));
        }
        // Claimed, but not there: no room is made for that.
        let held = file.metadata().map_or(0, |metadata| metadata.len());
        let mut graph = super::ort::memory::buffer(length.min(held))?;
        file.take(length + 1).read_to_end(&mut graph).map_err(|error| error.to_string())?;
        if graph.len() as u64 != length {
            return Err(format!("claims {length} bytes, but has another number"));
        }
        if Sha256::digest(&graph)[..] != *sum {
            return Err("its checksum does not match".to_owned());
        }
        Ok(graph)
    }

    /// Forgets an entry.
    pub fn remove(&self, key: &CacheKey) {
        let path = self.folder.join(key.file_name());
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cached graph cannot be removed");
        }
    }

    /// A place for the runtime to save a graph to; `None` if a graph could not be kept anyway.
    #[must_use]
    pub fn draft(&self, key: &CacheKey) -> Option<Draft> {
        if self.max_bytes == 0 || !self.folder.is_dir() {
            return None;
        }
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        // The ending makes ONNX Runtime write its own format, which loads without parsing.
        let name = format!("draft-{}-{number}-{}.ort", std::process::id(), &hex::encode(&key.0[..8]));
        Some(Draft(self.folder.join(name)))
    }

    /// Makes a saved graph the entry of its key, and makes room; says whether it is there now. Failure is
    /// logged and costs only time.
    pub fn publish(&self, key: &CacheKey, draft: Draft) -> bool {
        match self.try_publish(key, &draft) {
            Ok(true) => {
                self.evict();
                return true;
            }
            Ok(false) => tracing::info!("graph larger than the whole cache; not kept"),
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "graph not cached; going on without");
            }
        }
        false
    }

    fn try_publish(&self, key: &CacheKey, draft: &Draft) -> io::Result<bool> {
        let length = fs::metadata(&draft.0)?.len();
        if length.saturating_add(HEADER as u64) > self.max_bytes {
            return Ok(false);
        }
        let graph = fs::read(&draft.0)?;
        let entry = Draft(draft.0.with_extension("entry"));
        let mut file = File::create(&entry.0)?;
        file.write_all(MAGIC)?;
        file.write_all(&key.0)?;
        file.write_all(&Sha256::digest(&graph))?;
        file.write_all(&(graph.len() as u64).to_le_bytes())?;
        file.write_all(&graph)?;
        file.flush()?;
        // Whole or not at all. Not synced: a crash that loses bytes breaks the checksum.
        fs::rename(&entry.0, self.folder.join(key.file_name()))?;
        Ok(true)
    }

    /// Removes the least recently used entries until the rest fits.
    fn evict(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let entries =
            entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(".graph"));
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .collect();
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, length, _)| length).sum();
        for (_, length, path) in entries {
            if total <= self.max_bytes {
                break;
            }
            if fs::remove_file(&path).is_ok() {
                total -= length;
            }
        }
    }
}

/// A file that the runtime writes a graph to; gone when dropped.
#[derive(Debug)]
pub struct Draft(PathBuf);

impl Draft {
    /// Where to write.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Published, or never written: then it is not there.
        let _ = fs::remove_file(&self.0);
    }
}

/// What of the processor a graph's layout depends on: architecture, model and instruction sets, of every
/// kind of core.
fn machine(cpuinfo: &str) -> String {
    const FIELDS: [&str; 10] = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "flags",
        "Features",
        "CPU implementer",
        "CPU part",
        "CPU variant",
        "isa",
    ];
    let lines = cpuinfo.lines().filter_map(|line| {
        let (field, value) = line.split_once(':')?;
        let field = field.trim();
        FIELDS.contains(&field).then(|| format!("{field}={}", value.trim()))
    });
    let lines: BTreeSet<String> = lines.collect();
    let lines: Vec<String> = lines.into_iter().collect();
    format!("{}\n{}", std::env::consts::ARCH, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Fixture {
        cache: GraphCache,
        folder: tempfile::TempDir,
    }

    fn fixture(max_bytes: u64) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let cache = GraphCache::open(&folder.path().join("graphs"), max_bytes).unwrap();
        Fixture { cache, folder }
    }

    fn put(cache: &GraphCache, key: &CacheKey, graph: &[u8]) {
        let draft = cache.draft(key).unwrap();
        fs::write(draft.path(), graph).unwrap();
        let fits = graph.len() as u64 + HEADER as u64 <= cache.max_bytes;
        assert_eq!(cache.publish(key, draft), fits);
    }

    #[test]
    fn a_graph_comes_back_under_its_key_only() {
        let Fixture { cache, folder: _folder } = fixture(1 << 20);
        let key = cache.key("aa", "1.28.0", "CPU");
        put(&cache, &key, b"graph");
        assert_eq!(cache.get(&key).as_deref(), Some(&b"graph"[..]));
        for other in [
            cache.key("ab", "1.28.0", "CPU"),
            cache.key("aa", "1.28.1", "CPU"),
            cache.key("aa", "1.28.0", "GPU"),
        ] {
            assert_eq!(cache.get(&other), None);
        }
        assert_ne!(cache.key("a", "a1", ""), cache.key("aa", "1", ""));
        let left = fs::read_dir(&cache.folder).unwrap().count();
        assert_eq!(left, 1, "drafts are gone");
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_found_and_removed() {
        let Fixture { cache, folder: _folder } = fixture(1 << 20);
        let key = cache.key("aa", "v", "CPU");
        put(&cache, &key, b"some graph");
        let path = cache.folder.join(key.file_name());
        let sound = fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut bad = sound.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            assert_eq!(cache.get(&key), None, "byte {at} flipped");
            assert!(!path.exists());
            fs::write(&path, &sound[..at]).unwrap();
            assert_eq!(cache.get(&key), None, "cut at {at}");
        }
        fs::write(&path, [&sound[..], b"more"].concat()).unwrap();
        assert_eq!(cache.get(&key), None);
    }

    #[test]
    fn an_entry_renamed_to_another_key_is_foreign() {
        let Fixture { cache, folder: _folder } = fixture(1 << 20);
        let (one, two) = (cache.key("1", "v", "CPU"), cache.key("2", "v", "CPU"));
        put(&cache, &one, b"graph one");
        fs::rename(cache.folder.join(one.file_name()), cache.folder.join(two.file_name())).unwrap();
        assert_eq!(cache.get(&two), None);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        // Room for two entries of 100 bytes and their headers, not for three.
        let Fixture { cache, folder: _folder } = fixture(2 * (100 + HEADER as u64) + 50);
        let keys: Vec<CacheKey> = (0..3).map(|n| cache.key(&n.to_string(), "v", "CPU")).collect();
        for (age, key) in [(30, &keys[0]), (20, &keys[1])] {
            put(&cache, key, &[0; 100]);
            let old = TimeSpec::new(1_000_000 - age, 0);
            let file = File::open(cache.folder.join(key.file_name())).unwrap();
            nix::sys::stat::futimens(&file, &old, &old).unwrap();
        }
        assert!(cache.get(&keys[0]).is_some(), "now the older one was used last");
        put(&cache, &keys[2], &[0; 100]);
        let left: Vec<bool> = keys.iter().map(|key| cache.folder.join(key.file_name()).exists()).collect();
        assert_eq!(left, [true, false, true]);
    }

    #[test]
    fn a_graph_larger_than_the_cache_is_not_kept() {
        let Fixture { cache, folder: _folder } = fixture(100);
        let key = cache.key("1", "v", "CPU");
        put(&cache, &key, &[0; 101]);
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 0);
    }

    #[test]
    fn a_vanished_folder_costs_nothing_but_time() {
        let Fixture { cache, folder: _folder } = fixture(1000);
        let key = cache.key("1", "v", "CPU");
        let draft = cache.draft(&key).unwrap();
        fs::remove_dir_all(&cache.folder).unwrap();
        assert!(!cache.publish(&key, draft));
        assert_eq!(cache.get(&key), None);
        assert!(cache.draft(&key).is_none());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let Fixture { folder, .. } = fixture(1000);
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let error = GraphCache::open(&open, 1000).unwrap_err().to_string();
        assert!(error.contains("777"), "{error}");
    }

    #[test]
    fn leftovers_of_an_interrupted_run_are_removed() {
        let Fixture { cache, folder } = fixture(1000);
        let draft = cache.draft(&cache.key("1", "v", "CPU")).unwrap();
        fs::write(draft.path(), b"half a gra").unwrap();
        std::mem::forget(draft);
        let cache = GraphCache::open(&folder.path().join("graphs"), 1000).unwrap();
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 0);
    }

    #[test]
    fn the_machine_is_its_processors_not_their_clocks() {
        let one =
            "model name : A\nflags : x y\ncpu MHz : 1000\n\nmodel name : A\nflags : x y\ncpu MHz : 2000\n";
        let two = "model name : A\nflags : x y\ncpu MHz : 3000\n";
        assert_eq!(machine(one), machine(two));
        assert_ne!(machine(two), machine("model name : A\nflags : x y z\n"));
    }
}
