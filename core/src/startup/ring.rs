//! Advice for a ring that could not be made. Pure: the reactor tries, this explains.

use std::io;

use super::StartupError;

/// Errno values, the same on every Linux.
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOSYS: i32 = 38;

/// What else is known when a ring was refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingProbe {
    /// `/proc/sys/kernel/io_uring_disabled`, when it can be read: 0 allowed, 1 group only, 2 off.
    pub io_uring_disabled: Option<u8>,
    /// A seccomp filter is on this process (`Seccomp: 2` in its status).
    pub seccomp: bool,
}

impl RingProbe {
    /// Reads both from `/proc`.
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(
            &read("/proc/sys/kernel/io_uring_disabled"),
            &read("/proc/self/status"),
        )
    }

    fn parse(disabled: &str, status: &str) -> Self {
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        RingProbe {
            io_uring_disabled: disabled.trim().parse().ok(),
            seccomp: seccomp.is_some_and(|mode| mode.trim() == "2"),
        }
    }
}

/// True when the set-up may succeed a little later: a killed process's locked memory is released late.
pub fn is_ring_out_of_memory(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ENOMEM)
}

/// The sentence for the error of a ring with SINGLE_ISSUER, DEFER_TASKRUN and TASKRUN_FLAG.
pub fn io_uring_unavailable(error: &io::Error, probe: RingProbe) -> StartupError {
    StartupError::machine(match error.raw_os_error() {
        Some(EPERM | EACCES) if matches!(probe.io_uring_disabled, Some(1 | 2)) => {
            "io_uring is switched off on this host; allow it with `sysctl kernel.io_uring_disabled=0`".to_owned()
        }
        Some(EPERM | EACCES) if probe.seccomp => {
            "io_uring is refused by this container's seccomp profile; run it with a profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register (Docker: --security-opt seccomp=unconfined)"
                .to_owned()
        }
        Some(EPERM | EACCES) => {
            "io_uring is refused to this process; allow io_uring_setup in its security profile (seccomp, SELinux, \
             AppArmor)"
                .to_owned()
        }
        Some(ENOMEM) => {
            "the locked-memory limit is too small for the shards' rings; raise it with `ulimit -l`, \
             LimitMEMLOCK= in the systemd unit or --ulimit memlock= in Docker, or lower --shards"
                .to_owned()
        }
        Some(EMFILE) => {
            "this process is out of descriptors for its rings; raise `ulimit -n`, LimitNOFILE= in the systemd unit \
             or --ulimit nofile= in Docker"
                .to_owned()
        }
        Some(ENFILE) => {
            "this host is out of descriptors; raise `sysctl fs.file-max` or stop what holds them".to_owned()
        }
        Some(EINVAL) => {
            "this kernel's io_uring lacks SINGLE_ISSUER, DEFER_TASKRUN or TASKRUN_FLAG, which the shards need; run \
             a kernel that has them (mainline since 6.1)"
                .to_owned()
        }
        Some(ENOSYS) if probe.seccomp => {
            "io_uring is hidden by this container's seccomp profile; run it with a profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register (Docker: --security-opt seccomp=unconfined)"
                .to_owned()
        }
        Some(ENOSYS) => {
            "this kernel has no io_uring; run one that is built with CONFIG_IO_URING (mainline 6.1 or later)".to_owned()
        }
        _ => format!("io_uring cannot be set up: {error}; see what the kernel log says of it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(errno: i32, probe: RingProbe) -> String {
        let error = io_uring_unavailable(&io::Error::from_raw_os_error(errno), probe);
        assert_eq!(error.exit_code, 1);
        assert!(
            !error.sentence.contains('\n') && !error.sentence.contains("  "),
            "{error}"
        );
        error.sentence
    }

    #[test]
    fn each_cause_has_its_advice() {
        let plain = RingProbe::default();
        let seccomp = RingProbe {
            seccomp: true,
            ..plain
        };
        let sysctl = RingProbe {
            io_uring_disabled: Some(2),
            seccomp: true,
        };
        assert!(advice(EPERM, sysctl).contains("kernel.io_uring_disabled=0"));
        assert!(advice(EPERM, seccomp).contains("seccomp=unconfined"));
        assert!(advice(EPERM, plain).contains("SELinux"));
        assert!(advice(ENOSYS, seccomp).contains("seccomp profile"));
        assert!(advice(ENOSYS, plain).contains("CONFIG_IO_URING"));
        assert!(advice(ENOMEM, plain).contains("ulimit -l"));
        assert!(advice(EMFILE, plain).contains("ulimit -n"));
        assert!(advice(ENFILE, plain).contains("fs.file-max"));
        assert!(advice(EINVAL, plain).contains("DEFER_TASKRUN"));
        assert!(advice(5, plain).contains("cannot be set up"));
        assert!(is_ring_out_of_memory(&io::Error::from_raw_os_error(ENOMEM)));
        assert!(!is_ring_out_of_memory(&io::Error::from_raw_os_error(EPERM)));
    }

    #[test]
    fn proc_is_read() {
        let probe = RingProbe::parse("2\n", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n");
        assert_eq!(
            probe,
            RingProbe {
                io_uring_disabled: Some(2),
                seccomp: true
            }
        );
        assert_eq!(RingProbe::parse("", "Seccomp:\t0\n"), RingProbe::default());
    }
}
