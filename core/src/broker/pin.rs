//! Which core each shard runs on alone, if any.
//!
//! Read once at start, on the main thread. `auto` pins when nobody else can be on the cores, because the cpuset is
//! exclusive; an affinity mask alone does not say that (two brokers may have the same one, and their shards would
//! share a core). Invariants: no core is given twice, and none that the process may not run on.

use std::path::Path;

use crate::settings::{RuntimePin, group_path};
use crate::startup::StartupError;

/// CPU numbers that an affinity mask is looked through for.
const CPUS_MAX: usize = 1_024;

/// What the system says of this process's cores.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cores {
    /// Those it may run on.
    allowed: Vec<usize>,
    /// Its cpuset is its own.
    is_exclusive: bool,
}

impl Cores {
    fn detect() -> Self {
        let allowed = rustix::thread::sched_getaffinity(None).map_or_else(
            |_| Vec::new(),
            |set| (0..CPUS_MAX).filter(|cpu| set.is_set(*cpu)).collect(),
        );
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::read(allowed, &groups, Path::new("/sys"))
    }

    fn read(allowed: Vec<usize>, groups: &str, sys: &Path) -> Self {
        Self {
            allowed,
            is_exclusive: is_exclusive(groups, &sys.join("fs/cgroup")),
        }
    }
}

/// Whether this process's cpuset is a partition of its own (v2), or exclusive (v1, where the root always is).
fn is_exclusive(groups: &str, mount: &Path) -> bool {
    let says = |dir: &Path, path: &str, file: &str, words: &[&str]| {
        let text = std::fs::read_to_string(dir.join(path.trim_start_matches('/')).join(file));
        text.is_ok_and(|text| words.contains(&text.trim()))
    };
    let v2 = group_path(groups, "")
        .is_some_and(|path| says(mount, path, "cpuset.cpus.partition", &["root", "isolated"]));
    let v1 = group_path(groups, "cpuset")
        .filter(|path| *path != "/")
        .is_some_and(|path| says(&mount.join("cpuset"), path, "cpuset.cpu_exclusive", &["1"]));
    v2 || v1
}

/// One core per shard; empty: shards are not pinned.
///
/// # Errors
/// When shards must be pinned and there are too few cores.
pub(super) fn choose(pin: RuntimePin, shards: usize) -> Result<Vec<usize>, StartupError> {
    choose_among(pin, shards, &Cores::detect())
}

fn choose_among(pin: RuntimePin, shards: usize, cores: &Cores) -> Result<Vec<usize>, StartupError> {
    let available = cores.allowed.len();
    let wanted = match pin {
        RuntimePin::Never => false,
        RuntimePin::Always => true,
        RuntimePin::Auto => shards <= available && cores.is_exclusive,
    };
    if wanted && shards > available {
        return Err(StartupError::usage(format!(
            "runtime.pin = always needs a core for each of {shards} shards, and this process may run on {available}; \
             give --shards {}, allow it more cores (taskset, CPUAffinity=, --cpuset-cpus), or set runtime.pin = auto",
            available.max(1)
        )));
    }
    let taken = if wanted { shards } else { 0 };
    Ok(cores.allowed.iter().copied().take(taken).collect())
}

/// For the ready line.
pub(super) fn describe(cores: &[usize]) -> String {
    match cores {
        [] => "not pinned".to_owned(),
        [core] => format!("pinned to core {core}"),
        cores => {
            let names: Vec<String> = cores.iter().map(usize::to_string).collect();
            format!("pinned to cores {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::host_tree::write;

    fn cores(allowed: &[usize], is_exclusive: bool) -> Cores {
        Cores {
            allowed: allowed.to_vec(),
            is_exclusive,
        }
    }

    #[test]
    fn exclusive_cpusets_are_told_apart() {
        let sys = tempfile::tempdir().unwrap();
        let cgroup = "fs/cgroup";
        write(
            sys.path(),
            &format!("{cgroup}/own/cpuset.cpus.partition"),
            "isolated\n",
        );
        write(
            sys.path(),
            &format!("{cgroup}/root/cpuset.cpus.partition"),
            "root\n",
        );
        write(
            sys.path(),
            &format!("{cgroup}/shared/cpuset.cpus.partition"),
            "member\n",
        );
        write(
            sys.path(),
            &format!("{cgroup}/bad/cpuset.cpus.partition"),
            "root invalid (x)\n",
        );
        write(
            sys.path(),
            &format!("{cgroup}/cpuset/cpuset.cpu_exclusive"),
            "1\n",
        );
        write(
            sys.path(),
            &format!("{cgroup}/cpuset/own/cpuset.cpu_exclusive"),
            "1\n",
        );
        write(
            sys.path(),
            &format!("{cgroup}/cpuset/shared/cpuset.cpu_exclusive"),
            "0\n",
        );
        for (groups, exclusive) in [
            ("0::/own\n", true),
            ("0::/root\n", true),
            ("0::/shared\n", false),
            ("0::/bad\n", false),
            ("0::/missing\n", false),
            ("4:cpuset:/own\n", true),
            ("4:cpuset:/shared\n", false),
            ("4:cpuset:/\n", false),
            ("", false),
        ] {
            let read = Cores::read(vec![1, 2], groups, sys.path());
            assert_eq!(read, cores(&[1, 2], exclusive), "{groups:?}");
        }
    }

    #[test]
    fn cores_are_chosen_from_the_mask() {
        use RuntimePin::{Always, Auto, Never};
        for (pin, shards, cores, chosen) in [
            (Auto, 2, cores(&[3, 5, 7], false), &[][..]),
            (Auto, 2, cores(&[3, 5, 7], true), &[3, 5]),
            (Auto, 4, cores(&[3, 5, 7], true), &[]),
            (Auto, 1, cores(&[], true), &[]),
            (Always, 3, cores(&[3, 5, 7], false), &[3, 5, 7]),
            (Never, 1, cores(&[3, 5, 7], true), &[]),
        ] {
            assert_eq!(
                choose_among(pin, shards, &cores).unwrap(),
                chosen,
                "{pin:?} {shards} {cores:?}"
            );
        }
        let refused = choose_among(Always, 3, &cores(&[1, 2], true)).unwrap_err();
        assert_eq!(refused.exit_code, 2);
        assert!(refused.sentence.contains("--shards 2"), "{refused}");
        assert_eq!(describe(&[]), "not pinned");
        assert_eq!(describe(&[4]), "pinned to core 4");
        assert_eq!(describe(&[4, 6]), "pinned to cores 4, 6");
    }
}
