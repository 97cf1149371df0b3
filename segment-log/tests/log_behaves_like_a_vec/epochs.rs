//! Epochs, and what an open makes of them.

use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::ids::{LeaderEpoch, Offset};
use tidelog_segment_log::log::{AppendError, Opening, drive_open, remove_partition_directory};

use crate::common::batches::plain;
use crate::common::logs::{open, settle};
use crate::spec;

#[test]
fn epochs_end_where_the_next_begins() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(&directory, None, false, true));
    assert_eq!(log.leader_epoch(), LeaderEpoch(0));
    log.append(1, &mut disk, &plain(2, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    let checkpoint = log.checkpoint();
    drop(log);
    let (mut log, _) = open(&mut disk, spec(&directory, Some(checkpoint), false, false));
    assert_eq!(log.leader_epoch(), LeaderEpoch(1));
    log.append(1, &mut disk, &plain(1, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    assert_eq!(log.epoch_end_offset(LeaderEpoch(0)), (LeaderEpoch(0), Offset(2)));
    assert_eq!(log.epoch_end_offset(LeaderEpoch(1)), (LeaderEpoch(1), Offset(3)));
    assert_eq!(
        log.epoch_end_offset(LeaderEpoch(9)),
        (LeaderEpoch(-1), Offset(-1))
    );
    drop(log);
    // No checkpoint of the last start speaks for it: above all terms of earlier starts.
    let (log, _) = open(&mut disk, spec(&directory, None, false, false));
    assert_eq!(log.leader_epoch(), LeaderEpoch(2_048));
}

#[test]
fn a_raised_term_takes_no_append_before_its_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    drop(open(&mut disk, spec(&directory, None, false, true)));
    let (mut log, report) =
        drive_open(&mut disk, Opening::new(spec(&directory, None, false, false))).unwrap();
    assert_eq!(report.raised_term, Some(log.leader_epoch()));
    let refused = log.append(1, &mut disk, &plain(1, 10, 1));
    assert!(matches!(refused, Err(AppendError::TermNotDurable)));
    log.confirm_term();
    log.append(1, &mut disk, &plain(1, 10, 1)).unwrap();
}

#[test]
fn a_stale_clean_flag_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(&directory, None, false, true));
    log.append(1, &mut disk, &plain(1, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    let stale = log.checkpoint();
    log.append(1, &mut disk, &plain(1, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    drop(log);
    let (log, report) = open(&mut disk, spec(&directory, Some(stale), true, false));
    assert!(report.clean_flag_was_stale && !report.clean);
    assert_eq!(log.log_end_offset(), Offset(2));
}

#[test]
fn a_deleted_partition_leaves_no_directory() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    drop(open(&mut disk, spec(&directory, None, false, true)));
    assert!(directory.exists());
    remove_partition_directory(3, directory.clone())
        .drive(&mut disk)
        .unwrap();
    assert!(!directory.exists());
    remove_partition_directory(3, directory).drive(&mut disk).unwrap();
}
