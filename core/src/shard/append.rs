//! What a partition's owner checks before it appends a client's batch, as Kafka does, and the append.

use bytes::Bytes;
use tidelog_net::ErrorCode;
use tidelog_segment_log::batch::{BatchError, BatchHeader, set_log_append_time, validate_crc};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::{AppendError, PartitionLog};
use tidelog_segment_log::producer_state::SequenceCheck;

use super::Now;
use super::compacted::check_keys;
use super::partition::PartitionAnswer;
use super::room::Room;
use crate::metrics::ShardCells;
use crate::topic_config::{TimestampType, TopicConfig};

/// Why a client's request changes nothing.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) text: String,
    /// Positions in their batch of the records at fault, where these are known.
    pub(super) records: Vec<i32>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            records: Vec::new(),
        }
    }

    /// As a partition answers it.
    pub(super) fn into_answer(self) -> PartitionAnswer {
        if self.records.is_empty() {
            PartitionAnswer::Failed(self.code, self.text)
        } else {
            PartitionAnswer::RecordsRefused(self.text, self.records)
        }
    }
}

/// What the log does not take, as clients are told.
pub(super) fn refused_append(error: &AppendError) -> Refusal {
    let code = match error {
        AppendError::Batch(_)
        | AppendError::Length { .. }
        | AppendError::OffsetTaken { .. }
        | AppendError::EpochFalls { .. }
        | AppendError::OffsetsUsedUp => ErrorCode::InvalidRecord,
        AppendError::NoSpace | AppendError::Fenced => ErrorCode::KafkaStorageError,
        AppendError::Backlogged
        | AppendError::Closing
        | AppendError::TermNotDurable
        | AppendError::Incarnation(_) => ErrorCode::NotLeaderOrFollower,
    };
    Refusal::new(code, error.to_string())
}

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
    Refusal::new(code, error.to_string())
}

/// What an append has to go by besides the log.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) config: &'a TopicConfig,
    pub(super) room: &'a Room,
    pub(super) metrics: &'a ShardCells,
}

/// Checks a client's batch as Kafka does, and appends it.
pub(super) fn produce(
    now: Now,
    disk: &mut dyn Disk,
    log: &mut PartitionLog,
    owner: Owner<'_>,
    batch: Bytes,
) -> Result<(Offset, PartitionAnswer), Refusal> {
    let Owner {
        config,
        room,
        metrics,
    } = owner;
    let header = BatchHeader::parse(&batch).map_err(refused)?;
    if header.total_len() != batch.len() {
        return Err(Refusal::new(
            ErrorCode::InvalidRecord,
            "exactly one record batch is taken per partition",
        ));
    }
    if batch.len() > config.max_message_bytes as usize {
        let text = format!(
            "the batch has {} bytes, max.message.bytes is {}",
            batch.len(),
            config.max_message_bytes
        );
        return Err(Refusal::new(ErrorCode::MessageTooLarge, text));
    }
    validate_crc(&batch).map_err(refused)?;
    if header.is_control() {
        return Err(Refusal::new(
            ErrorCode::InvalidRecord,
            "clients may not write control batches",
        ));
    }
    if header.is_transactional() {
        return Err(Refusal::new(
            ErrorCode::InvalidTxnState,
            "transactions are not served yet",
        ));
    }
    header.validate_new().map_err(refused)?;
    if config.cleanup_policy.compact {
        check_keys(&batch)?;
    }
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
                return Err(Refusal::new(ErrorCode::InvalidTimestamp, text));
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
                return Err(Refusal::new(
                    ErrorCode::DuplicateSequenceNumber,
                    "an older duplicate",
                ));
            }
            SequenceCheck::OutOfOrder => {
                return Err(Refusal::new(
                    ErrorCode::OutOfOrderSequenceNumber,
                    "the sequence number leaves a gap",
                ));
            }
            SequenceCheck::OldEpoch => {
                return Err(Refusal::new(
                    ErrorCode::InvalidProducerEpoch,
                    "a newer epoch of this producer has written",
                ));
            }
        }
    }
    if let Err(refusal) = room.check(log.unreserved_bytes(), batch.len()) {
        if !room.has_failed() {
            metrics.produce_refused_full.increment();
        }
        return Err(refusal);
    }
    match log.append(now.wall_ms, disk, &batch) {
        Ok(appended) => {
            if room.is_memory() {
                // The next batch is to find what this one takes; nothing is gained by gathering.
                log.flush(now.wall_ms, disk);
            }
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
        Err(AppendError::NoSpace) => {
            metrics.produce_refused_full.increment();
            Err(room.refusal())
        }
        Err(error) => Err(refused_append(&error)),
    }
}
