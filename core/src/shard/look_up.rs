//! Reads of an open log on its owner: what a fetch gets, where a timestamp or a named position is.

use tidelog_net::ErrorCode;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::{NewestRecord, PartitionLog, ReadPlan};

use super::partition::PartitionAnswer;

/// Asks for the record with the largest timestamp.
pub(super) const MAX_TIMESTAMP: i64 = -3;

pub(super) fn check_epoch(log: &PartitionLog, claimed: i32) -> Result<(), ErrorCode> {
    match claimed {
        -1 => Ok(()),
        epoch if epoch < log.leader_epoch().0 => Err(ErrorCode::FencedLeaderEpoch),
        epoch if epoch > log.leader_epoch().0 => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

pub(super) fn fetch(
    disk: &mut dyn Disk,
    log: &mut PartitionLog,
    offset: i64,
    max_bytes: usize,
    epoch: i32,
) -> PartitionAnswer {
    let high_watermark = log.high_watermark();
    let log_start_offset = log.log_start_offset().0;
    let answer = |error, plan| PartitionAnswer::Fetched {
        error,
        plan,
        high_watermark: high_watermark.0,
        log_start_offset,
    };
    if let Err(code) = check_epoch(log, epoch) {
        return answer(code, ReadPlan::default());
    }
    if offset < log_start_offset || offset > log.log_end_offset().0 {
        return answer(ErrorCode::OffsetOutOfRange, ReadPlan::default());
    }
    if offset >= high_watermark.0 {
        return answer(ErrorCode::None, ReadPlan::default());
    }
    match log.read(disk, Offset(offset), high_watermark, max_bytes) {
        Ok(plan) => answer(ErrorCode::None, plan),
        Err(error) => {
            tracing::error!(%error, offset, "a fetch could not be planned");
            answer(ErrorCode::KafkaStorageError, ReadPlan::default())
        }
    }
}

pub(super) fn list_offset(log: &PartitionLog, timestamp: i64, epoch: i32) -> PartitionAnswer {
    if let Err(code) = check_epoch(log, epoch) {
        return PartitionAnswer::Failed(code, String::new());
    }
    let leader_epoch = log.leader_epoch().0;
    let named = |offset: i64| PartitionAnswer::OffsetFound {
        offset,
        timestamp_ms: -1,
        leader_epoch,
    };
    match timestamp {
        -1 => named(log.high_watermark().0),
        -2 | -4 => named(log.log_start_offset().0),
        -5 => PartitionAnswer::OffsetFound {
            offset: -1,
            timestamp_ms: -1,
            leader_epoch: -1,
        },
        MAX_TIMESTAMP => match log.newest_record() {
            NewestRecord { known: None, unknown } if unknown.is_empty() => named(-1),
            newest => PartitionAnswer::ScanNewest(newest, leader_epoch),
        },
        time if time >= 0 => match log.batch_at_or_after_timestamp(time) {
            Some(offset) => PartitionAnswer::ScanFrom {
                offset: offset.0,
                leader_epoch,
            },
            None => named(-1),
        },
        other => {
            let text = format!("{other} names no position");
            PartitionAnswer::Failed(ErrorCode::UnsupportedVersion, text)
        }
    }
}
