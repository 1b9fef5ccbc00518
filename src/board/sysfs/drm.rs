//! GPU time of this process from the kernel's DRM accounting (`/proc/self/fdinfo`), for processors whose driver shows
//! no load. Other processes' time needs privileges that the daemon does not have: a lower bound.

use super::root::{SysfsError, SysfsRoot};
use crate::time::Timestamp;
use crate::units::{Nanos, Ppm};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most descriptors of this process that are looked at.
const MAX_DESCRIPTORS: usize = 4096;
/// Two readings closer together say little.
const MIN_SPAN: Nanos = Nanos::from_millis(5);

/// Busy nanoseconds by engine, each divided by how many alike there are.
type Engines = BTreeMap<String, u64>;

/// Differentiates the busy time of every engine.
#[derive(Debug)]
pub(crate) struct OwnGpuTime {
    own: PathBuf,
    last: Option<(Timestamp, Engines)>,
    load: Option<Ppm>,
}

impl OwnGpuTime {
    /// Below the directory that stands for `/proc`.
    pub(crate) fn find(proc: &SysfsRoot) -> Option<Self> {
        let own = proc.path("self");
        own.join("fdinfo").is_dir().then_some(Self { own, last: None, load: None })
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        &self.own
    }

    /// The busiest engine's share since the last reading.
    pub(crate) fn sample(&mut self, now: Timestamp) -> Result<Ppm, SysfsError> {
        let not_yet = || SysfsError::NotYet { path: self.own.clone() };
        let Some((then, before)) = &self.last else {
            self.last = Some((now, self.engines()?));
            return Err(not_yet());
        };
        let span = now.since(*then);
        if span < MIN_SPAN {
            return self.load.ok_or_else(not_yet);
        }
        let engines = self.engines()?;
        let spent = |(engine, busy): (&String, &u64)| {
            busy.saturating_sub(before.get(engine).copied().unwrap_or(0)).min(span.0)
        };
        let busiest = engines.iter().map(spent).max().unwrap_or(0);
        let load = Ppm::from_fraction(busiest as f64 / span.as_f64());
        self.last = Some((now, engines));
        self.load = Some(load);
        Ok(load)
    }

    fn engines(&self) -> Result<Engines, SysfsError> {
        let list = self.own.join("fd");
        let entries = std::fs::read_dir(&list).map_err(|source| SysfsError::Read { path: list, source })?;
        let mut clients: BTreeMap<String, Engines> = BTreeMap::new();
        for entry in entries.flatten().take(MAX_DESCRIPTORS) {
            let is_gpu = std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with("/dev/dri"));
            let Some(info) = is_gpu.then(|| self.own.join("fdinfo").join(entry.file_name())) else {
                continue;
            };
            // A descriptor may be closed meanwhile.
            let Ok(text) = std::fs::read_to_string(info) else { continue };
            // Several descriptors of one client show the same time.
            clients.extend(parse(&text));
        }
        let mut sum = Engines::new();
        for (engine, busy) in clients.into_values().flatten() {
            let total = sum.entry(engine).or_insert(0);
            *total = total.saturating_add(busy);
        }
        Ok(sum)
    }
}

/// A descriptor's client, and the busy time of its engines.
fn parse(text: &str) -> Option<(String, Engines)> {
    let lines =
        || text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim()));
    let of = |key: &str| lines().find(|(known, _)| *known == key).map(|(_, value)| value);
    let client = format!("{} {}", of("drm-pdev").unwrap_or_default(), of("drm-client-id")?);
    let engines = lines().filter_map(|(key, value)| {
        let engine = key.strip_prefix("drm-engine-").filter(|engine| !engine.starts_with("capacity-"))?;
        let busy: u64 = value.strip_suffix(" ns")?.parse().ok()?;
        let alike = of(&format!("drm-engine-capacity-{engine}")).and_then(|n| n.parse().ok()).unwrap_or(1);
        Some((engine.to_owned(), busy / std::cmp::max(alike, 1_u64)))
    });
    Some((client, engines.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "pos:\t0\ndrm-driver:\tv3d\ndrm-client-id:\t7\ndrm-engine-render:\t50000000 ns\n\
                        drm-engine-csd:\t20000000 ns\ndrm-engine-capacity-csd:\t2\n";

    #[test]
    fn engines_are_read_and_those_of_several_alike_shared_out() {
        let (client, engines) = parse(INFO).unwrap();
        assert_eq!(client, " 7");
        assert_eq!(engines["render"], 50_000_000);
        assert_eq!(engines["csd"], 10_000_000);
        assert_eq!(parse("pos:\t0\nflags:\t02\n"), None, "no GPU's");
    }

    #[test]
    fn the_rate_is_that_of_the_busiest_engine_and_a_client_counts_once() {
        let tree = tempfile::tempdir().unwrap();
        let own = tree.path().join("self");
        std::fs::create_dir_all(own.join("fd")).unwrap();
        std::fs::create_dir_all(own.join("fdinfo")).unwrap();
        let put = |n: u32, text: &str| std::fs::write(own.join(format!("fdinfo/{n}")), text).unwrap();
        for n in [3, 4] {
            std::os::unix::fs::symlink("/dev/dri/renderD128", own.join(format!("fd/{n}"))).unwrap();
            put(n, INFO);
        }
        std::os::unix::fs::symlink("/dev/null", own.join("fd/5")).unwrap();
        put(5, &INFO.replace("\t7", "\t8"));
        let mut sensor = OwnGpuTime::find(&SysfsRoot::new(tree.path())).unwrap();
        assert!(matches!(sensor.sample(Timestamp(0)), Err(SysfsError::NotYet { .. })));
        for n in [3, 4] {
            put(n, &INFO.replace("50000000", "80000000"));
        }
        // 30 ms of 100.
        assert_eq!(sensor.sample(Timestamp(100_000_000)).unwrap(), Ppm(300_000));
        assert_eq!(
            sensor.sample(Timestamp(100_000_001)).unwrap(),
            Ppm(300_000),
            "too soon: the last rate stands"
        );
    }
}
