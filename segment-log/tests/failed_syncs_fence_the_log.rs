//! The promise: after a failed write or sync nothing more is appended or acknowledged until the log
//! was opened again from the device; a full disk is no such failure, and passes by itself.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimDisk, SimFaults};
use tidelog_segment_log::ids::{LeaderEpoch, Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    AppendError, CloseProgress, Durability, LogConfig, LogStatus, OpenProgress, OpenSpec, Opening,
    PartitionLog,
};

const CONFIG: LogConfig = LogConfig {
    segment_bytes: 1 << 20,
    segment_ms: i64::MAX,
    durability: Durability::Fsync,
};

fn open(disk: &mut SimDisk, mut opening: Opening) -> Box<PartitionLog> {
    let mut completions = Vec::new();
    loop {
        match opening.step(1, disk, std::mem::take(&mut completions)) {
            OpenProgress::Ready(log, _) => return log,
            OpenProgress::Failed(error) => panic!("{error}"),
            OpenProgress::Pending => {
                assert!(disk.advance(), "it waits for something");
                disk.take_completions(&mut completions);
            }
        }
    }
}

fn create(disk: &mut SimDisk, config: LogConfig) -> Box<PartitionLog> {
    let spec = OpenSpec {
        directory: PathBuf::from("/sim/p"),
        key: PartitionKey {
            topic: TopicId([2; 16]),
            partition: 1,
        },
        config,
        token_space: 5,
        checkpoint: None,
        clean: false,
        start_counter: 1,
        created: true,
    };
    open(disk, Opening::new(spec))
}

fn settle(log: &mut PartitionLog, disk: &mut SimDisk) {
    log.flush(1, disk);
    while disk.advance() {
        let mut completions = Vec::new();
        disk.take_completions(&mut completions);
        for completion in completions {
            assert_eq!(completion.token.0 >> 32, 5, "tokens are of the log's space");
            log.on_completion(1, disk, completion);
        }
    }
}

fn batch() -> Bytes {
    Bytes::from(build_batch(&BatchSpec::default(), &[b"value"]))
}

fn failing(kind: OpKind, fault: Fault) -> ScriptedFault {
    ScriptedFault { kind, nth: 1, fault }
}

fn fenced_by(kind: OpKind) {
    let mut disk = SimDisk::new(SimConfig::default());
    let mut log = create(&mut disk, CONFIG);
    log.append(1, &mut disk, &batch()).unwrap();
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(1));

    disk.script(failing(kind, Fault::Eio));
    log.append(1, &mut disk, &batch()).unwrap();
    settle(&mut log, &mut disk);
    assert_eq!(log.status(), LogStatus::Fenced);
    assert!(log.fence_cause().is_some());
    assert_eq!(log.durable_offset(), Offset(1), "nothing more is acknowledged");
    assert!(matches!(
        log.append(1, &mut disk, &batch()),
        Err(AppendError::Fenced)
    ));
    assert!(matches!(log.close(1, &mut disk), CloseProgress::Fenced));

    let mut log = open(&mut disk, log.into_reopening());
    assert_eq!(log.leader_epoch(), LeaderEpoch(1));
    assert_eq!(log.segment_count(), 2, "the tail goes on in a new file");
    assert!(log.durable_offset() >= Offset(1), "what was durable stays");
    assert!(matches!(
        log.append(1, &mut disk, &batch()),
        Err(AppendError::TermNotDurable)
    ));
    log.confirm_term();
    let next = log.log_end_offset();
    assert_eq!(log.append(1, &mut disk, &batch()).unwrap().base_offset, next);
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset().0, next.0 + 1);
}

#[test]
fn a_failed_sync_fences() {
    fenced_by(OpKind::Sync);
}

#[test]
fn a_failed_write_fences() {
    fenced_by(OpKind::WriteNow);
}

#[test]
fn a_full_disk_refuses_and_passes() {
    let mut disk = SimDisk::new(SimConfig::default());
    let mut log = create(&mut disk, CONFIG);
    disk.script(failing(OpKind::Fallocate, Fault::NoSpace));
    // Taken before the disk was known to be full: it waits.
    log.append(1, &mut disk, &batch()).unwrap();
    settle(&mut log, &mut disk);
    assert_eq!(log.status(), LogStatus::Open);
    assert_eq!(log.high_watermark(), Offset(0));
    assert!(matches!(
        log.append(1, &mut disk, &batch()),
        Err(AppendError::NoSpace)
    ));
    log.tick(2, &mut disk);
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(1));
    log.append(2, &mut disk, &batch()).unwrap();
}

/// A roll meets a full disk at some step of making the next segment.
fn a_full_disk_delays_a_roll(fault: ScriptedFault) {
    let mut disk = SimDisk::new(SimConfig::default());
    let config = LogConfig {
        segment_bytes: 1,
        ..CONFIG
    };
    let mut log = create(&mut disk, config);
    log.append(1, &mut disk, &batch()).unwrap();
    settle(&mut log, &mut disk);
    assert_eq!(log.segment_count(), 1);

    disk.script(fault);
    // Taken before the disk was known to be full: it waits.
    log.append(1, &mut disk, &batch()).unwrap();
    settle(&mut log, &mut disk);
    assert_eq!(log.status(), LogStatus::Open, "{:?}", log.fence_cause());
    assert_eq!(disk.events().no_space, 1, "the fault happened");
    assert_eq!((log.segment_count(), log.durable_offset()), (2, Offset(1)));
    assert!(matches!(
        log.append(1, &mut disk, &batch()),
        Err(AppendError::NoSpace)
    ));
    assert!(!log.is_waiting_for_disk(), "nothing is tried before a tick");

    // Still full.
    disk.script(fault);
    log.tick(2, &mut disk);
    settle(&mut log, &mut disk);
    assert_eq!((log.status(), log.durable_offset()), (LogStatus::Open, Offset(1)));
    assert!(matches!(log.close(2, &mut disk), CloseProgress::Pending));

    log.tick(3, &mut disk);
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(2));
    assert!(
        matches!(log.close(3, &mut disk), CloseProgress::Pending),
        "the index file"
    );
    settle(&mut log, &mut disk);
    assert!(matches!(log.close(3, &mut disk), CloseProgress::Closed(_)));
}

#[test]
fn a_full_disk_at_the_creation_of_a_segment_passes() {
    a_full_disk_delays_a_roll(failing(OpKind::Create, Fault::NoSpace));
}

#[test]
fn a_full_disk_at_the_header_of_a_segment_passes() {
    a_full_disk_delays_a_roll(failing(OpKind::Write, Fault::NoSpace));
}

#[test]
fn a_full_disk_at_the_first_extent_of_a_segment_passes() {
    a_full_disk_delays_a_roll(failing(OpKind::Fallocate, Fault::NoSpace));
}

#[test]
fn a_full_disk_in_the_middle_of_a_header_passes() {
    let mut disk = SimDisk::new(SimConfig::default());
    let config = LogConfig {
        segment_bytes: 1,
        ..CONFIG
    };
    let mut log = create(&mut disk, config);
    log.append(1, &mut disk, &batch()).unwrap();
    settle(&mut log, &mut disk);
    disk.script(failing(OpKind::Write, Fault::ShortWrite));
    disk.script(ScriptedFault {
        kind: OpKind::Write,
        nth: 2,
        fault: Fault::NoSpace,
    });
    log.append(1, &mut disk, &batch()).unwrap();
    settle(&mut log, &mut disk);
    assert_eq!(log.status(), LogStatus::Open);
    log.tick(2, &mut disk);
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(2));
}

/// A process without a descriptor left: nothing was done, so nothing is fenced, and a later tick goes on.
#[test]
fn without_a_descriptor_an_append_waits() {
    for kind in [OpKind::Fallocate, OpKind::WriteNow] {
        let mut disk = SimDisk::new(SimConfig::default());
        let mut log = create(&mut disk, CONFIG);
        disk.script(failing(kind, Fault::NoDescriptor));
        log.append(1, &mut disk, &batch()).unwrap();
        // A write is tried again at the next flush, which may be the next completion's.
        log.flush(1, &mut disk);
        assert_eq!(log.status(), LogStatus::Open, "{kind:?}");
        settle(&mut log, &mut disk);
        log.tick(2, &mut disk);
        settle(&mut log, &mut disk);
        assert_eq!(disk.events().no_descriptor, 1, "the fault happened");
        assert_eq!(
            (log.status(), log.durable_offset()),
            (LogStatus::Open, Offset(1)),
            "{kind:?}"
        );
    }
}

#[test]
fn without_a_descriptor_a_roll_waits_at_any_step() {
    for kind in [OpKind::Create, OpKind::Write, OpKind::SyncDir] {
        let mut disk = SimDisk::new(SimConfig::default());
        let config = LogConfig {
            segment_bytes: 1,
            ..CONFIG
        };
        let mut log = create(&mut disk, config);
        log.append(1, &mut disk, &batch()).unwrap();
        settle(&mut log, &mut disk);
        disk.script(failing(kind, Fault::NoDescriptor));
        log.append(1, &mut disk, &batch()).unwrap();
        settle(&mut log, &mut disk);
        assert_eq!(disk.events().no_descriptor, 1, "the fault happened: {kind:?}");
        assert_eq!(log.durable_offset(), Offset(1), "{kind:?}");
        log.tick(2, &mut disk);
        settle(&mut log, &mut disk);
        assert_eq!(
            (log.status(), log.durable_offset()),
            (LogStatus::Open, Offset(2)),
            "{kind:?}"
        );
    }
}

#[test]
fn a_full_disk_at_a_write_of_an_entry_fences() {
    for (kind, stall_ppm) in [(OpKind::WriteNow, 0), (OpKind::Write, 1_000_000)] {
        let mut disk = SimDisk::new(SimConfig::default());
        let mut log = create(&mut disk, CONFIG);
        disk.set_faults(SimFaults {
            would_stall_ppm: stall_ppm,
            ..SimFaults::default()
        });
        disk.script(failing(kind, Fault::NoSpace));
        log.append(1, &mut disk, &batch()).unwrap();
        settle(&mut log, &mut disk);
        assert_eq!(log.status(), LogStatus::Fenced);
    }
}

#[test]
fn an_io_error_at_the_creation_of_a_segment_fences() {
    for kind in [OpKind::Create, OpKind::SyncDir] {
        let mut disk = SimDisk::new(SimConfig::default());
        let config = LogConfig {
            segment_bytes: 1,
            ..CONFIG
        };
        let mut log = create(&mut disk, config);
        log.append(1, &mut disk, &batch()).unwrap();
        settle(&mut log, &mut disk);
        disk.script(failing(kind, Fault::Eio));
        log.append(1, &mut disk, &batch()).unwrap();
        settle(&mut log, &mut disk);
        assert_eq!(log.status(), LogStatus::Fenced, "{kind:?}");
    }
}

#[test]
fn durability_decides_the_high_watermark() {
    let mut disk = SimDisk::new(SimConfig::default());
    let mut log = create(
        &mut disk,
        LogConfig {
            durability: Durability::Os,
            ..CONFIG
        },
    );
    log.append(1, &mut disk, &batch()).unwrap();
    assert_eq!(log.high_watermark(), Offset(0), "appended, not written");
    settle(&mut log, &mut disk);
    assert_eq!(
        (log.high_watermark(), log.durable_offset()),
        (Offset(1), Offset(0))
    );
    log.set_config(CONFIG);
    assert_eq!(log.high_watermark(), Offset(1), "what was served stays served");
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(1));

    log.set_config(LogConfig {
        durability: Durability::Interval { interval_ms: 500 },
        ..CONFIG
    });
    log.append(1, &mut disk, &batch()).unwrap();
    settle(&mut log, &mut disk);
    assert_eq!(
        (log.high_watermark(), log.durable_offset()),
        (Offset(2), Offset(1))
    );
    log.tick(501, &mut disk);
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(2));
}
