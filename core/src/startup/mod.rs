//! Start-up probes: what is missing, in one sentence that says what to do.
//!
//! Main thread, before the first shard. They probe features by using them, never kernel versions. The ring
//! itself is tried by the reactor; its error is turned into advice here.
#![forbid(unsafe_code)]

mod directory;
mod ring;

use std::path::Path;

pub use directory::{
    DirectoryFacts, directory_locked, filesystem_name, give_up_reserve, probe_data_directory,
};
pub use ring::{RingProbe, io_uring_unavailable, is_ring_out_of_memory};

use crate::limits::{
    CONNECTIONS_MIN, DESCRIPTORS_MIN, DESCRIPTORS_OF_PROCESS, DESCRIPTORS_PER_SHARD, DESCRIPTORS_RECOMMENDED,
    DESCRIPTORS_UNLIMITED, OPEN_FILES_PER_SHARD_MIN,
};

/// Why the broker does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct StartupError {
    /// What is missing and what to do.
    pub sentence: String,
    /// 1: the machine; 2: usage or configuration.
    pub exit_code: u8,
}

impl StartupError {
    /// The machine does not let it (exit code 1).
    pub fn machine(sentence: impl Into<String>) -> Self {
        StartupError {
            sentence: sentence.into(),
            exit_code: 1,
        }
    }

    /// What was asked for is wrong (exit code 2).
    pub fn usage(sentence: impl Into<String>) -> Self {
        StartupError {
            sentence: sentence.into(),
            exit_code: 2,
        }
    }
}

impl From<crate::settings::SettingsError> for StartupError {
    fn from(error: crate::settings::SettingsError) -> Self {
        StartupError::usage(error.to_string())
    }
}

/// The descriptor limit after it was raised as far as allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// Descriptors this process may have; `None` is no limit.
    pub limit: Option<u64>,
    /// A sentence to log when the limit is low.
    pub warning: Option<String>,
}

/// Raises the soft descriptor limit to the hard one and checks that it is enough.
///
/// # Errors
/// When even the hard limit is below [`DESCRIPTORS_MIN`].
pub fn raise_descriptor_limit() -> Result<DescriptorLimit, StartupError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    // A failure leaves the soft limit as it was, which is then judged.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: now.maximum,
            maximum: now.maximum,
        },
    );
    judge_descriptor_limit(getrlimit(Resource::Nofile).current)
}

fn judge_descriptor_limit(limit: Option<u64>) -> Result<DescriptorLimit, StartupError> {
    let advice = "raise it with `ulimit -n`, LimitNOFILE= in the systemd unit or --ulimit nofile= in Docker";
    match limit {
        Some(few) if few < DESCRIPTORS_MIN => Err(StartupError::machine(format!(
            "this process may open only {few} descriptors and needs at least {DESCRIPTORS_MIN}; {advice}"
        ))),
        Some(few) if few < DESCRIPTORS_RECOMMENDED => Ok(DescriptorLimit {
            limit,
            warning: Some(format!(
                "this process may open only {few} descriptors, which bounds connections and segments; {advice}"
            )),
        }),
        _ => Ok(DescriptorLimit { limit, warning: None }),
    }
}

/// How the descriptors of the process are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorShares {
    /// Log files that each shard keeps open.
    pub files_per_shard: usize,
    /// Connections of all shards.
    pub connections: usize,
}

/// Divides the descriptors of the process between log files and connections. `files_wanted`: the setting
/// `log.open_files_max`, 0 = half of what is left.
///
/// # Errors
/// The setting does not fit the limit.
pub fn divide_descriptors(
    limit: Option<u64>,
    shards: u16,
    files_wanted: u64,
) -> Result<DescriptorShares, StartupError> {
    let shards = u64::from(shards.max(1));
    let kept = DESCRIPTORS_OF_PROCESS + shards * DESCRIPTORS_PER_SHARD;
    let files_min = shards * OPEN_FILES_PER_SHARD_MIN;
    let limit = limit.unwrap_or(DESCRIPTORS_UNLIMITED);
    let left = limit.saturating_sub(kept);
    if left < files_min + CONNECTIONS_MIN {
        let needed = kept + files_min + CONNECTIONS_MIN;
        return Err(StartupError::machine(format!(
            "this process may open only {limit} descriptors, and {shards} shards need at least {needed}; raise `ulimit -n`, or lower --shards"
        )));
    }
    let files_max = left - CONNECTIONS_MIN;
    if files_wanted > files_max {
        return Err(StartupError::usage(format!(
            "log.open_files_max = {files_wanted} does not fit: the limit is {limit} descriptors, of which {kept} are kept for other things and {CONNECTIONS_MIN} for connections; set at most {files_max}, or raise `ulimit -n`"
        )));
    }
    let files = if files_wanted == 0 { left / 2 } else { files_wanted }.max(files_min);
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Ok(DescriptorShares {
        files_per_shard: size(files / shards),
        connections: size(left - files),
    })
}

/// The sentence for a listener that cannot be bound.
pub fn bind_failed(listener: &str, address: &str, error: &std::io::Error) -> StartupError {
    use std::io::ErrorKind;
    StartupError::machine(match error.kind() {
        ErrorKind::AddrInUse => format!(
            "listener {listener} cannot bind {address}: the port is in use; stop what uses it (`ss -ltnp`) or choose another"
        ),
        ErrorKind::AddrNotAvailable => format!(
            "listener {listener} cannot bind {address}: this host has no such address; bind one of its own and advertise the other"
        ),
        ErrorKind::PermissionDenied => format!(
            "listener {listener} cannot bind {address}: ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher port"
        ),
        _ => format!("listener {listener} cannot bind {address}: {error}"),
    })
}

/// The sentence for a disk error that stops start-up.
pub fn disk_failed(path: &Path, doing: &str, error: &std::io::Error) -> StartupError {
    directory::sentence_for(path, doing, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn descriptor_limits() {
        let refused = judge_descriptor_limit(Some(64)).unwrap_err();
        assert!(
            refused.exit_code == 1 && refused.sentence.contains("ulimit -n"),
            "{refused}"
        );
        assert!(
            judge_descriptor_limit(Some(1_024))
                .unwrap()
                .warning
                .unwrap()
                .contains("1024")
        );
        assert_eq!(judge_descriptor_limit(None).unwrap().warning, None);
        assert_eq!(judge_descriptor_limit(Some(1 << 20)).unwrap().warning, None);
        let raised = raise_descriptor_limit().unwrap();
        let after = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!((raised.limit, after.current), (after.current, after.maximum));
    }

    #[test]
    fn descriptors_are_divided() {
        let shares = divide_descriptors(Some(1_024), 2, 0).unwrap();
        assert_eq!((shares.files_per_shard, shares.connections), (236, 472));
        let shares = divide_descriptors(Some(1_024), 2, 900).unwrap();
        assert_eq!((shares.files_per_shard, shares.connections), (450, 44));
        // A small wish is raised to what a shard cannot do without.
        let shares = divide_descriptors(Some(256), 2, 1).unwrap();
        assert_eq!((shares.files_per_shard, shares.connections), (8, 160));
        let refused = divide_descriptors(Some(1_024), 2, 929).unwrap_err();
        assert!(
            refused.exit_code == 2 && refused.sentence.contains("at most 928"),
            "{refused}"
        );
        let refused = divide_descriptors(Some(256), 64, 0).unwrap_err();
        assert!(
            refused.exit_code == 1 && refused.sentence.contains("--shards"),
            "{refused}"
        );
        assert!(divide_descriptors(None, 64, 0).unwrap().connections > 100_000);
    }

    #[test]
    fn ports() {
        for (kind, part) in [
            (ErrorKind::AddrInUse, "in use"),
            (ErrorKind::AddrNotAvailable, "no such address"),
            (ErrorKind::PermissionDenied, "higher port"),
            (ErrorKind::Other, "127.0.0.1:1"),
        ] {
            let error = bind_failed("PLAINTEXT", "127.0.0.1:1", &Error::from(kind));
            assert!(error.exit_code == 1 && error.sentence.contains(part), "{error}");
        }
        assert_eq!(StartupError::usage("x").exit_code, 2);
    }
}
