//! Log starts: when they are durable, and how many may wait.

use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::limits::LOG_STARTS_PENDING_MAX;
use tidelog_segment_log::log::{AppendError, Durability, LogConfig, LogStartError, OpenSpec, PartitionLog};

use crate::common::batches::plain;
use crate::common::logs::{open, settle};
use crate::spec;

/// Moves the log start and waits until it is durable.
fn delete_to(log: &mut PartitionLog, disk: &mut StdDisk, now_ms: i64, to: Offset) {
    let index = log.append_log_start(now_ms, disk, to).unwrap();
    settle(log, disk, now_ms);
    assert!(log.durable_index() >= index, "a commit has run");
}

#[test]
fn a_log_start_is_durable_by_its_own_commit_and_never_above_the_high_watermark() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let lazy = |checkpoint, created| OpenSpec {
        config: LogConfig {
            durability: Durability::Os,
            ..spec(&directory, None, false, false).config
        },
        ..spec(&directory, checkpoint, false, created)
    };
    let (mut log, _) = open(&mut disk, lazy(None, true));
    for _ in 0..10 {
        log.append(1, &mut disk, &plain(2, 10, 1)).unwrap();
    }
    settle(&mut log, &mut disk, 1);
    assert_eq!(
        (log.durable_offset(), log.high_watermark()),
        (Offset(0), Offset(20))
    );
    let above = log.append_log_start(1, &mut disk, Offset(21));
    assert!(matches!(above, Err(LogStartError::AboveHighWatermark { .. })));

    let index = log.append_log_start(1, &mut disk, Offset(7)).unwrap();
    assert_eq!(log.log_start_offset(), Offset(7), "in force at once");
    assert!(log.durable_index() < index, "and not durable");
    assert_eq!(
        log.checkpoint().log_start,
        Offset(0),
        "nothing below it is durable either"
    );
    // A second one, at or below it, waits for the same commit and appends nothing.
    assert_eq!(log.append_log_start(1, &mut disk, Offset(3)).unwrap(), index);
    settle(&mut log, &mut disk, 1);
    assert!(log.durable_index() >= index);
    assert_eq!(log.checkpoint().log_start, Offset(7));
    // Batches that follow wait for the operating system as before.
    log.append(1, &mut disk, &plain(2, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    assert_eq!(log.durable_offset(), Offset(20));
    drop(log);
    let (log, _) = open(&mut disk, lazy(None, false));
    assert_eq!(log.log_start_offset(), Offset(7));
}

#[test]
fn log_starts_that_wait_for_the_disk_are_bounded() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(&directory, None, false, true));
    for _ in 0..=LOG_STARTS_PENDING_MAX {
        log.append(1, &mut disk, &plain(1, 1, 1)).unwrap();
    }
    settle(&mut log, &mut disk, 1);
    let last = Offset(LOG_STARTS_PENDING_MAX as i64 + 1);
    for start in 1..last.0 {
        log.append_log_start(1, &mut disk, Offset(start)).unwrap();
    }
    let refused = log.append_log_start(1, &mut disk, last);
    assert!(matches!(
        refused,
        Err(LogStartError::Append(AppendError::Backlogged))
    ));
    assert_eq!(log.log_start_offset(), Offset(last.0 - 1), "nothing was changed");
    delete_to(&mut log, &mut disk, 1, Offset(1));
    delete_to(&mut log, &mut disk, 1, last);
    assert_eq!(log.checkpoint().log_start, last);
}
