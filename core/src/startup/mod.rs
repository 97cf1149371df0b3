//! Start-up probes: what is missing, in one sentence that says what to do.
//!
//! Main thread, before the first shard. They probe features by using them, never kernel versions. The ring
//! itself is tried by the reactor; its error is turned into advice here.
#![forbid(unsafe_code)]

mod directory;
mod ring;

use std::path::Path;

pub use directory::{DirectoryFacts, directory_locked, filesystem_name, probe_data_directory};
pub use ring::{RingProbe, io_uring_unavailable, is_ring_out_of_memory};

use crate::limits::{DESCRIPTORS_MIN, DESCRIPTORS_RECOMMENDED};

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
