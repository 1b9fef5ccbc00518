//! Limits on the memory of this process: those of its control group and of the groups around it (cgroup v2).

use super::root::{Attribute, Page, SysfsError, SysfsRoot, garbled};
use crate::units::Bytes;
use std::path::{Component, Path, PathBuf};

/// Most groups around a process that are looked at.
const MAX_DEPTH: usize = 32;

/// A group that may have a limit.
#[derive(Debug)]
struct Group {
    max: Attribute,
    high: Attribute,
    current: Attribute,
    stat: Attribute,
}

/// What the groups leave to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupMemory {
    /// The tightest limit.
    pub(crate) limit: Bytes,
    /// The least that may still be taken before one of them is reached.
    pub(crate) headroom: Bytes,
}

/// The groups of this process, its own first.
#[derive(Debug, Default)]
pub(crate) struct OwnGroups(Vec<Group>);

impl OwnGroups {
    /// `proc` stands for `/proc`, `mount` for `/sys/fs/cgroup`. None where cgroup v2 does not account for memory.
    pub(crate) fn find(proc: &SysfsRoot, mount: &SysfsRoot) -> Self {
        let listed = proc.read("self/cgroup").unwrap_or_default();
        let own = listed.lines().find_map(|line| line.strip_prefix("0::/")).map(Path::new);
        let inside = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        // A process that was moved out of its namespace sees `/../other`.
        let Some(own) = own.filter(inside) else { return Self::default() };
        let group = |folder: &Path| {
            let at = |file: &str| mount.attribute(folder.join(file));
            let limited: PathBuf = folder.join("memory.max");
            mount.exists(limited).then(|| Group {
                max: at("memory.max"),
                high: at("memory.high"),
                current: at("memory.current"),
                stat: at("memory.stat"),
            })
        };
        Self(own.ancestors().take(MAX_DEPTH).filter_map(group).collect())
    }

    /// What the groups leave now; `None` where none has a limit.
    ///
    /// # Errors
    /// A file that cannot be read or makes no sense.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<Option<GroupMemory>, SysfsError> {
        let mut tightest: Option<GroupMemory> = None;
        for group in &mut self.0 {
            let Some(found) = group.sample(buffer)? else { continue };
            tightest = Some(tightest.map_or(found, |other| GroupMemory {
                limit: other.limit.min(found.limit),
                headroom: other.headroom.min(found.headroom),
            }));
        }
        Ok(tightest)
    }
}

impl Group {
    fn sample(&mut self, buffer: &mut Page) -> Result<Option<GroupMemory>, SysfsError> {
        // Beyond `memory.high` the kernel holds the group's tasks back until it has reclaimed enough.
        let limits = [bytes(&mut self.max, buffer)?, bytes(&mut self.high, buffer)?];
        let Some(limit) = limits.into_iter().flatten().min() else { return Ok(None) };
        let current = bytes(&mut self.current, buffer)?.unwrap_or(limit);
        // Files that were read and are not in use count, but go before anything else does.
        let stat = self.stat.text(buffer)?;
        let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
        let cached = cached.and_then(|text| text.trim().parse().ok()).map_or(Bytes::ZERO, Bytes);
        Ok(Some(GroupMemory { limit, headroom: limit.saturating_sub(current.saturating_sub(cached)) }))
    }
}

/// A number of bytes; `None` for `max`.
fn bytes(attribute: &mut Attribute, buffer: &mut Page) -> Result<Option<Bytes>, SysfsError> {
    let text = attribute.text(buffer)?;
    if text == "max" {
        return Ok(None);
    }
    let number = text.parse().map(|bytes| Some(Bytes(bytes)));
    number.map_err(|_| garbled(attribute.path(), text, "a number of bytes, or `max`"))
}

#[cfg(test)]
mod tests {
    use super::super::root::page;
    use super::*;
    use crate::core::event::SensorFault;
    use std::fs;

    const MB: u64 = 1 << 20;

    /// A tree of groups `a/b` with this process in `b`: per group its `max`, `high` and `current` in MiB, 0 for none.
    fn tree(line: &str, groups: &[(&str, [u64; 3])]) -> (tempfile::TempDir, OwnGroups) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        fs::write(dir.path().join("proc/self/cgroup"), format!("4:memory:/old\n{line}\n")).unwrap();
        for (name, [max, high, current]) in groups {
            let folder = dir.path().join("groups").join(name);
            fs::create_dir_all(&folder).unwrap();
            let limit = |mib: u64| if mib == 0 { "max\n".to_owned() } else { format!("{}\n", mib * MB) };
            fs::write(folder.join("memory.max"), limit(*max)).unwrap();
            fs::write(folder.join("memory.high"), limit(*high)).unwrap();
            fs::write(folder.join("memory.current"), format!("{}\n", current * MB)).unwrap();
            fs::write(folder.join("memory.stat"), format!("anon 5\ninactive_file {}\n", 10 * MB)).unwrap();
        }
        let (proc, mount) = (dir.path().join("proc"), dir.path().join("groups"));
        let found = OwnGroups::find(&SysfsRoot::new(proc), &SysfsRoot::new(mount));
        (dir, found)
    }

    fn mib(groups: &mut OwnGroups) -> Option<(u64, u64)> {
        let found = groups.sample(&mut page()).unwrap()?;
        Some((found.limit.0 / MB, found.headroom.0 / MB))
    }

    /// Own: 400 - (150 - 10) = 260 left. Above: 300 - (200 - 10) = 110 left.
    #[test]
    fn the_tightest_of_all_groups_counts_and_cached_files_do_not() {
        let (_dir, mut groups) = tree("0::/a/b", &[("a", [0, 300, 200]), ("a/b", [500, 400, 150])]);
        assert_eq!(mib(&mut groups), Some((300, 110)));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let (_dir, mut groups) = tree("0::/", &[("", [256, 0, 300])]);
        assert_eq!(mib(&mut groups), Some((256, 0)), "over the limit: nothing is left");
    }

    #[test]
    fn without_limits_or_groups_nothing_is_said() {
        for (line, groups) in [
            ("0::/a", vec![("a", [0, 0, 9])]),
            ("0::/b", vec![("a", [1, 1, 1])]),
            ("0::/../a", vec![("a", [1, 1, 1])]),
            ("1:name=systemd:/a", vec![("a", [1, 1, 1])]),
        ] {
            assert_eq!(mib(&mut tree(line, &groups).1), None, "{line}");
        }
    }

    #[test]
    fn what_is_no_number_is_garbled() {
        let (dir, mut groups) = tree("0::/a", &[("a", [9, 9, 9])]);
        fs::write(dir.path().join("groups/a/memory.high"), "-1").unwrap();
        assert_eq!(groups.sample(&mut page()).unwrap_err().fault(), SensorFault::Garbled);
    }
}
