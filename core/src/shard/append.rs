//! What a partition's owner checks before it appends a client's batch, as Kafka does, and the append.

use bytes::Bytes;
use tidelog_net::ErrorCode;
use tidelog_segment_log::batch::{BatchError, BatchHeader, set_log_append_time, validate_crc};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::{AppendError, PartitionLog};
use tidelog_segment_log::producer_state::SequenceCheck;

use super::Now;
use super::partition::PartitionAnswer;
use crate::metrics::ShardCells;
use crate::topic_config::{TimestampType, TopicConfig};

pub(super) type Refusal = (ErrorCode, String);

/// Bytes that are damaged are told apart from batches that say something we do not take.
fn refused(error: BatchError) -> Refusal {
    let code = match error {
        BatchError::Truncated { .. } | BatchError::Length(_) | BatchError::Crc { .. } => {
            ErrorCode::CorruptMessage
        }
        BatchError::Magic(_) | BatchError::Counts { .. } | BatchError::Compression(_) => {
            ErrorCode::InvalidRecord
        }
    };
    (code, error.to_string())
}

/// Checks a client's batch as Kafka does, and appends it.
pub(super) fn produce(
    now: Now,
    disk: &mut dyn Disk,
    log: &mut PartitionLog,
    config: &TopicConfig,
    batch: Bytes,
    metrics: &ShardCells,
) -> Result<(Offset, PartitionAnswer), Refusal> {
    let header = BatchHeader::parse(&batch).map_err(refused)?;
    if header.total_len() != batch.len() {
        return Err((
            ErrorCode::InvalidRecord,
            "exactly one record batch is taken per partition".to_owned(),
        ));
    }
    if batch.len() > config.max_message_bytes as usize {
        let text = format!(
            "the batch has {} bytes, max.message.bytes is {}",
            batch.len(),
            config.max_message_bytes
        );
        return Err((ErrorCode::MessageTooLarge, text));
    }
    validate_crc(&batch).map_err(refused)?;
    if header.is_control() {
        return Err((
            ErrorCode::InvalidRecord,
            "clients may not write control batches".to_owned(),
        ));
    }
    if header.is_transactional() {
        return Err((
            ErrorCode::InvalidTxnState,
            "transactions are not served yet".to_owned(),
        ));
    }
    header.validate_new().map_err(refused)?;
    let mut batch = batch;
    let mut log_append_time_ms = -1;
    match config.timestamp_type {
        TimestampType::LogAppendTime => {
            let mut own = batch.to_vec();
            set_log_append_time(&mut own, now.wall_ms).map_err(refused)?;
            batch = Bytes::from(own);
            log_append_time_ms = now.wall_ms;
        }
        TimestampType::CreateTime => {
            let ahead = header.max_timestamp.saturating_sub(now.wall_ms);
            let behind = now.wall_ms.saturating_sub(header.base_timestamp);
            if header.max_timestamp >= 0
                && (ahead > config.timestamp_after_max_ms || behind > config.timestamp_before_max_ms)
            {
                let text =
                    "the timestamp is outside message.timestamp.before.max.ms / after.max.ms".to_owned();
                return Err((ErrorCode::InvalidTimestamp, text));
            }
        }
    }
    let log_start_offset = log.log_start_offset().0;
    let produced = |base_offset: Offset, time| PartitionAnswer::Produced {
        base_offset: base_offset.0,
        log_append_time_ms: time,
        log_start_offset,
    };
    if header.producer_id >= 0 {
        let last = header.last_sequence();
        match log.producers().check(
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            last,
        ) {
            SequenceCheck::Accept => {}
            // The retry is answered as the original: when that one is durable.
            SequenceCheck::Duplicate {
                base_offset,
                last_offset,
                timestamp,
            } => {
                let time = if log_append_time_ms >= 0 { timestamp } else { -1 };
                return Ok((last_offset, produced(base_offset, time)));
            }
            SequenceCheck::DuplicateTooOld => {
                return Err((
                    ErrorCode::DuplicateSequenceNumber,
                    "an older duplicate".to_owned(),
                ));
            }
            SequenceCheck::OutOfOrder => {
                return Err((
                    ErrorCode::OutOfOrderSequenceNumber,
                    "the sequence number leaves a gap".to_owned(),
                ));
            }
            SequenceCheck::OldEpoch => {
                return Err((
                    ErrorCode::InvalidProducerEpoch,
                    "a newer epoch of this producer has written".to_owned(),
                ));
            }
        }
    }
    match log.append(now.wall_ms, disk, &batch) {
        Ok(appended) => {
            metrics.produced_batches.increment();
            metrics
                .produced_records
                .add(u64::from(header.record_count.unsigned_abs()));
            metrics.produced_bytes.add(batch.len() as u64);
            Ok((
                appended.last_offset,
                produced(appended.base_offset, log_append_time_ms),
            ))
        }
        Err(error @ (AppendError::Batch(_) | AppendError::Length { .. } | AppendError::OffsetsUsedUp)) => {
            Err((ErrorCode::InvalidRecord, error.to_string()))
        }
        Err(error @ (AppendError::NoSpace | AppendError::Fenced)) => {
            Err((ErrorCode::KafkaStorageError, error.to_string()))
        }
        Err(error) => Err((ErrorCode::NotLeaderOrFollower, error.to_string())),
    }
}
