//! What the host gives: memory and cores, as the cgroup (v1 or v2) bounds them.
//!
//! Read once at start. The parsers are pure; a file that is missing or odd counts as "no bound".

use std::path::Path;

/// Memory and cores of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// Memory the cgroup allows, when it bounds it.
    pub cgroup_memory_bytes: Option<u64>,
    /// `MemTotal`.
    pub total_memory_bytes: u64,
    /// Cores in the affinity mask.
    pub affinity_cpus: u16,
    /// Whole cores that the cgroup's quota needs, when it has one.
    pub quota_cpus: Option<u16>,
}

impl HostFacts {
    /// Asks the system.
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let groups = read("/proc/self/cgroup").unwrap_or_default();
        let affinity = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
        HostFacts {
            cgroup_memory_bytes: cgroup_memory_bytes(&groups, Path::new("/sys/fs/cgroup")),
            total_memory_bytes: read("/proc/meminfo")
                .and_then(|t| parse_meminfo_total_bytes(&t))
                .unwrap_or(1 << 30),
            affinity_cpus: u16::try_from(affinity).unwrap_or(u16::MAX).max(1),
            quota_cpus: cgroup_quota_cpus(&groups, Path::new("/sys/fs/cgroup")),
        }
    }

    /// Default of `memory.limit`: half of what the cgroup allows, else half of the host.
    pub fn default_memory_bytes(&self) -> u64 {
        self.cgroup_memory_bytes
            .map_or(self.total_memory_bytes, |b| b.min(self.total_memory_bytes))
            / 2
    }

    /// Default of `shards`: min(affinity, ceil(quota)), at least 1.
    pub fn default_shards(&self) -> u16 {
        let cpus = self
            .quota_cpus
            .map_or(self.affinity_cpus, |q| q.min(self.affinity_cpus));
        cpus.clamp(1, crate::limits::SHARDS_MAX)
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
pub fn parse_meminfo_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// Whole cores that a quota of `quota` per `period` (both in microseconds) needs; `None` when unbounded.
pub fn cpu_count_from_quota(quota: i64, period: i64) -> Option<u16> {
    if quota <= 0 || period <= 0 {
        return None;
    }
    let cpus = quota.saturating_add(period - 1) / period;
    Some(u16::try_from(cpus).unwrap_or(u16::MAX).max(1))
}

/// The path of this process in the v2 hierarchy (`controller` empty) or in a v1 controller's.
pub(crate) fn group_path<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|c| c == controller).then_some(path)
    })
}

/// The directory of `path` below `mount` and each one above it; a bound may stand at any level.
fn levels(mount: &Path, path: &str) -> Vec<std::path::PathBuf> {
    let below = mount.join(path.trim_start_matches('/'));
    below
        .ancestors()
        .take_while(|dir| dir.starts_with(mount))
        .map(Path::to_owned)
        .collect()
}

fn cgroup_memory_bytes(groups: &str, mount: &Path) -> Option<u64> {
    let bound = |dir: &Path, file: &str| -> Option<u64> {
        let value: u64 = std::fs::read_to_string(dir.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        // v1 writes "no bound" as a number near 2^63.
        (value < 1 << 60).then_some(value)
    };
    let v2 = group_path(groups, "").and_then(|path| {
        levels(mount, path)
            .iter()
            .filter_map(|dir| bound(dir, "memory.max"))
            .min()
    });
    let v1 = group_path(groups, "memory").and_then(|path| {
        let levels = levels(&mount.join("memory"), path);
        levels
            .iter()
            .filter_map(|dir| bound(dir, "memory.limit_in_bytes"))
            .min()
    });
    v2.into_iter().chain(v1).min()
}

fn cgroup_quota_cpus(groups: &str, mount: &Path) -> Option<u16> {
    let number = |dir: &Path, file: &str| -> Option<i64> {
        std::fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
    };
    let v2 = |dir: &Path| -> Option<u16> {
        let text = std::fs::read_to_string(dir.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        cpu_count_from_quota(quota.parse().ok()?, period.parse().ok()?)
    };
    let v1 = |dir: &Path| -> Option<u16> {
        cpu_count_from_quota(
            number(dir, "cpu.cfs_quota_us")?,
            number(dir, "cpu.cfs_period_us")?,
        )
    };
    let from_v2 =
        group_path(groups, "").and_then(|path| levels(mount, path).iter().filter_map(|d| v2(d)).min());
    let from_v1 = group_path(groups, "cpu").and_then(|path| {
        levels(&mount.join("cpu"), path)
            .iter()
            .filter_map(|d| v1(d))
            .min()
    });
    from_v2.into_iter().chain(from_v1).min()
}

/// Trees that look like the system's, for tests.
#[cfg(test)]
pub(crate) mod tree {
    use std::path::Path;

    pub(crate) fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::tree::write;
    use super::*;

    #[test]
    fn v2_takes_the_tightest_level() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "a/b/memory.max", "max\n");
        write(root.path(), "a/memory.max", "1073741824\n");
        write(root.path(), "a/b/cpu.max", "150000 100000\n");
        write(root.path(), "a/cpu.max", "max 100000\n");
        let groups = "0::/a/b\n";
        assert_eq!(cgroup_memory_bytes(groups, root.path()), Some(1 << 30));
        assert_eq!(cgroup_quota_cpus(groups, root.path()), Some(2));
        assert_eq!(cgroup_memory_bytes("0::/elsewhere\n", root.path()), None);
    }

    #[test]
    fn v1_is_understood() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "memory/c/memory.limit_in_bytes", "536870912\n");
        write(
            root.path(),
            "memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        write(root.path(), "cpu/c/cpu.cfs_quota_us", "-1\n");
        write(root.path(), "cpu/cpu.cfs_quota_us", "300000\n");
        write(root.path(), "cpu/cpu.cfs_period_us", "100000\n");
        let groups = "5:memory:/c\n4:cpu,cpuacct:/c\n";
        assert_eq!(cgroup_memory_bytes(groups, root.path()), Some(512 << 20));
        assert_eq!(cgroup_quota_cpus(groups, root.path()), Some(3));
    }

    #[test]
    fn parsers() {
        assert_eq!(
            parse_meminfo_total_bytes("MemTotal:       16 kB\nMemFree: 1 kB\n"),
            Some(16_384)
        );
        assert_eq!(parse_meminfo_total_bytes("MemFree: 1 kB\n"), None);
        assert_eq!(cpu_count_from_quota(-1, 100_000), None);
        assert_eq!(cpu_count_from_quota(1, 100_000), Some(1));
        assert_eq!(cpu_count_from_quota(200_001, 100_000), Some(3));
        assert_eq!(cpu_count_from_quota(5, 0), None);
    }

    #[test]
    fn defaults() {
        let host = HostFacts {
            cgroup_memory_bytes: Some(1 << 30),
            total_memory_bytes: 8 << 30,
            affinity_cpus: 8,
            quota_cpus: Some(2),
        };
        assert_eq!(
            (host.default_memory_bytes(), host.default_shards()),
            (512 << 20, 2)
        );
        let free = HostFacts {
            cgroup_memory_bytes: None,
            quota_cpus: None,
            ..host
        };
        assert_eq!((free.default_memory_bytes(), free.default_shards()), (4 << 30, 8));
        let here = HostFacts::detect();
        assert!(here.default_shards() >= 1 && here.default_memory_bytes() > 0);
    }
}
