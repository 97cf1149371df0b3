//! Whether a data directory has failed, by the errors of its partitions' segments.
//!
//! Shared by the shards; locked only where an error was met. A failed write or sync fences one partition, which is
//! read again from the device and goes on; this module tells a bad sector from a device that is going. Invariants: a
//! directory that has failed stays so until a restart, with the reason that was told first; an error that says
//! nothing of the device (no space, no descriptors, no memory) is not counted.
//!
//! The rule: two files share no sector, and a file is one partition's, so a bad sector is met by one partition,
//! however often. What three of them meet within five minutes is the device's. An event that is over at once (a path
//! that was switched, a cable) is met by many partitions in the same moment, and then by none: so the errors must
//! also go on for ten seconds. A file system that became read-only, or a device that is not there any more, says it of
//! all files with one error.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use tidelog_segment_log::ids::PartitionKey;

/// An error counts for so long, milliseconds.
const WINDOW_MS: u64 = 300_000;
/// Partitions that met errors within the window.
const PARTITIONS: usize = 3;
/// And from the first to the last of these errors it took so long at least, milliseconds.
const GOES_ON_MS: u64 = 10_000;

const _: () = assert!(GOES_ON_MS < WINDOW_MS);

/// What an error says of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// Nothing.
    Nothing,
    /// One place of the device does not work, or more.
    OnePlace,
    /// Nothing in it can be written any more.
    AllOfIt,
}

impl Says {
    fn by(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::ROFS | Errno::NODEV | Errno::NXIO | Errno::SHUTDOWN | Errno::NOTCONN) => {
                Self::AllOfIt
            }
            Some(
                Errno::IO
                | Errno::UCLEAN
                | Errno::BADMSG
                | Errno::NODATA
                | Errno::ILSEQ
                | Errno::REMOTEIO
                | Errno::NOLINK
                | Errno::TIMEDOUT
                | Errno::STALE,
            ) => Self::OnePlace,
            _ => Self::Nothing,
        }
    }
}

/// When a partition met errors.
#[derive(Clone, Copy, Debug)]
struct Met {
    first_ms: u64,
    last_ms: u64,
}

/// The errors that count now; of each partition the first and the last.
#[derive(Debug, Default)]
struct Recent(BTreeMap<PartitionKey, Met>);

impl Recent {
    /// One more. True: they are more than a bad sector.
    fn note(&mut self, now_ms: u64, partition: PartitionKey) -> bool {
        self.0
            .retain(|_, met| now_ms.saturating_sub(met.last_ms) < WINDOW_MS);
        let met = self.0.entry(partition).or_insert(Met {
            first_ms: now_ms,
            last_ms: now_ms,
        });
        // Shards' clocks begin a moment apart.
        met.last_ms = met.last_ms.max(now_ms);
        let first_ms = self.0.values().map(|met| met.first_ms).min().unwrap_or(now_ms);
        self.0.len() >= PARTITIONS && now_ms.saturating_sub(first_ms) >= GOES_ON_MS
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct DirectoryHealth {
    has_failed: AtomicBool,
    failure: OnceLock<String>,
    errors: AtomicI64,
    recent: Mutex<Recent>,
}

impl DirectoryHealth {
    /// A write or a sync of a segment of this partition failed, or its log could not be opened. `now_ms`: monotonic.
    /// Why the directory is to be given up, if it is; [`DirectoryHealth::fail`] does it.
    pub fn note_error(&self, now_ms: u64, partition: PartitionKey, error: &io::Error) -> Option<String> {
        let says = Says::by(error);
        if says == Says::Nothing {
            return None;
        }
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.note(now_ms, partition) {
            let partitions = recent.0.len();
            let minutes = WINDOW_MS / 60_000;
            return Some(format!(
                "writes or syncs of {partitions} partitions failed within {minutes} minutes, the last with: {error}"
            ));
        }
        (says == Says::AllOfIt).then(|| format!("a write or a sync failed with: {error}"))
    }

    /// The directory is given up. True: nobody has said so before.
    pub fn fail(&self, reason: &str) -> bool {
        self.failure.get_or_init(|| reason.to_owned());
        !self.has_failed.swap(true, Ordering::Relaxed)
    }

    /// Whether the directory has failed; then nothing is written there any more.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Why it has.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Errors that counted, since the start.
    pub fn errors(&self) -> i64 {
        self.errors.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelog_segment_log::ids::TopicId;

    fn partition(partition: i32) -> PartitionKey {
        PartitionKey {
            topic: TopicId([7; 16]),
            partition,
        }
    }

    fn error(errno: Errno) -> io::Error {
        io::Error::from(errno)
    }

    /// Partitions and times of errors; whether the last one, and no other, fails the directory.
    fn fails(errors: &[(i32, u64)]) -> bool {
        let health = DirectoryHealth::default();
        let verdicts: Vec<bool> = errors
            .iter()
            .map(|(at, ms)| {
                health
                    .note_error(*ms, partition(*at), &error(Errno::IO))
                    .is_some()
            })
            .collect();
        assert_eq!(health.errors(), errors.len() as i64);
        let (last, before) = verdicts.split_last().unwrap();
        assert!(before.iter().all(|verdict| !verdict), "{verdicts:?}");
        *last
    }

    #[test]
    fn a_bad_sector_is_met_by_one_partition_however_often() {
        let often: Vec<(i32, u64)> = (0..200).map(|round| (1, round * 1_000)).collect();
        assert!(!fails(&often));
        let two: Vec<(i32, u64)> = (0..200).map(|round| (round as i32 % 2, round * 1_000)).collect();
        assert!(!fails(&two));
    }

    #[test]
    fn errors_of_three_partitions_that_go_on_fail_it() {
        assert!(fails(&[(1, 0), (2, 5_000), (3, 10_000)]));
        assert!(fails(&[(1, 0), (2, 1), (3, 2), (1, 10_000)]));
        assert!(fails(&[(1, 0), (2, 250_000), (3, 299_999)]));
    }

    #[test]
    fn what_all_meet_in_one_moment_and_then_no_more_does_not() {
        let burst: Vec<(i32, u64)> = (0..50).map(|at| (at, at as u64 * 199)).collect();
        assert!(!fails(&burst));
        // One long after says nothing of the burst.
        assert!(!fails(&[(1, 0), (2, 0), (3, 0), (1, 300_000)]));
    }

    #[test]
    fn errors_far_apart_are_not_added_up() {
        assert!(!fails(&[(1, 0), (2, 200_000), (3, 300_000)]));
        assert!(!fails(&[(1, 0), (2, 300_000), (3, 600_000), (4, 900_000)]));
    }

    #[test]
    fn a_clock_a_little_behind_another_is_no_matter() {
        assert!(!fails(&[(1, 5), (2, 0), (3, 4)]));
        assert!(fails(&[(1, 5), (2, 0), (3, 10_000)]));
    }

    #[test]
    fn a_read_only_file_system_and_a_device_that_is_gone_fail_it_at_once() {
        for errno in [Errno::ROFS, Errno::NODEV, Errno::NXIO, Errno::NOTCONN] {
            let health = DirectoryHealth::default();
            let reason = health
                .note_error(0, partition(0), &error(errno))
                .expect("it failed");
            assert!(reason.contains(&error(errno).to_string()), "{reason}");
        }
    }

    #[test]
    fn what_says_nothing_of_the_device_is_not_counted() {
        let health = DirectoryHealth::default();
        for round in 0..100 {
            let at = partition(round);
            let ms = round as u64 * 1_000;
            for errno in [
                Errno::NOSPC,
                Errno::DQUOT,
                Errno::MFILE,
                Errno::NFILE,
                Errno::NOMEM,
                Errno::ACCESS,
            ] {
                assert_eq!(health.note_error(ms, at, &error(errno)), None, "{errno}");
            }
            assert_eq!(health.note_error(ms, at, &io::ErrorKind::WriteZero.into()), None);
            assert_eq!(health.note_error(ms, at, &io::Error::other("out of order")), None);
        }
        assert_eq!(health.errors(), 0);
    }

    #[test]
    fn it_stays_failed_with_the_first_reason() {
        let health = DirectoryHealth::default();
        assert_eq!((health.has_failed(), health.failure()), (false, None));
        assert!(health.fail("first"));
        assert!(!health.fail("second"));
        assert_eq!((health.has_failed(), health.failure()), (true, Some("first")));
    }
}
