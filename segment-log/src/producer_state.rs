//! What each idempotent producer last wrote to one partition: the check for repeats and gaps.
//!
//! Owned by the partition's shard. Invariants:
//! - at most five batches per producer id and a bounded number of ids; when full, the id
//!   whose last batch lies lowest in the log is forgotten, so a replay of the same log
//!   gives the same state;
//! - a producer without state is accepted at any sequence, else idle producers would die
//!   with retention.
//!
//! The payload of a `producer_state` entry is {u16 schema 0, 6 zero bytes} and the archive
//! {log_start: i64, producers: array, sorted by id, of {producer_id i64, epoch i16,
//! older_forgotten bool, last_offset i64, last_timestamp i64, batches: array, oldest first,
//! of {first_sequence i32, last_sequence i32, base_offset i64, last_offset i64,
//! timestamp i64}}}. The payload of a `log_start` entry is the same prefix and {log_start: i64}.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

pub use crate::sealed::SealedError;

use crate::ids::Offset;
use crate::limits::{PRODUCER_BATCHES_MAX, PRODUCER_STATE_BYTES_MAX, PRODUCERS_PER_PARTITION_MAX};
use crate::sealed::{at_most, from_internal_payload, internal_payload};

/// The schema of `producer_state` payloads that this program writes.
pub const PRODUCER_STATE_SCHEMA: u16 = 0;
/// The schema of `log_start` payloads that this program writes.
pub const LOG_START_SCHEMA: u16 = 0;

const LOG_START_BYTES_MAX: usize = 64;

/// One batch of a producer, as remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ProducerBatch {
    /// Sequence of its first record; negative for a transaction marker.
    pub first_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Its max timestamp, in ms; a repeat is answered with it under log-append time.
    pub timestamp: i64,
}

/// What to do with a batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// Append it.
    Accept,
    /// One of the last five again: answer success with these, once the original is durable.
    Duplicate {
        /// Offset of the original's first record.
        base_offset: Offset,
        /// Offset of the original's last record.
        last_offset: Offset,
        /// The original's max timestamp, in ms.
        timestamp: i64,
    },
    /// A repeat of something older: error 46, DUPLICATE_SEQUENCE_NUMBER.
    DuplicateTooOld,
    /// A gap: error 45, OUT_OF_ORDER_SEQUENCE_NUMBER.
    OutOfOrder,
    /// The producer was fenced: error 47, INVALID_PRODUCER_EPOCH.
    OldEpoch,
}

/// Why a payload was refused; the entry's checksum held, so a faulty program wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProducerStateError {
    /// The payload is not framed or archived as it should be.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// Producers are not sorted or a number is out of range.
    #[error("producer state contradicts itself")]
    Contradiction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    /// Whether batches of this epoch older than the first of `batches` may exist.
    older_forgotten: bool,
    last_offset: Offset,
    last_timestamp: i64,
    /// Oldest first.
    batches: Vec<ProducerBatch>,
}

#[derive(Archive, Serialize, Deserialize)]
struct ProducerV0 {
    producer_id: i64,
    epoch: i16,
    older_forgotten: bool,
    last_offset: Offset,
    last_timestamp: i64,
    batches: Vec<ProducerBatch>,
}

#[derive(Archive, Serialize, Deserialize)]
struct SnapshotV0 {
    log_start: Offset,
    producers: Vec<ProducerV0>,
}

#[derive(Archive, Serialize, Deserialize)]
struct LogStartV0 {
    log_start: Offset,
}

const _: () = {
    assert!(size_of::<ArchivedSnapshotV0>() == 16);
    assert!(size_of::<ArchivedProducerV0>() == 40);
    assert!(size_of::<ArchivedProducerBatch>() == 32);
    assert!(size_of::<ArchivedLogStartV0>() == 8);
};

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerStates {
    producers: BTreeMap<i64, Producer>,
    /// (last offset, producer id) of each: who is forgotten first.
    by_last_offset: BTreeSet<(Offset, i64)>,
}

impl ProducerStates {
    /// No producers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of producer ids remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The epoch remembered for a producer.
    pub fn epoch(&self, producer_id: i64) -> Option<i16> {
        self.producers.get(&producer_id).map(|producer| producer.epoch)
    }

    /// The batches remembered for a producer, oldest first.
    pub fn batches(&self, producer_id: i64) -> &[ProducerBatch] {
        self.producers
            .get(&producer_id)
            .map_or(&[], |producer| &producer.batches)
    }

    /// What to do with a batch with these sequences. Batches without a producer id (-1)
    /// are always accepted.
    pub fn check(
        &self,
        producer_id: i64,
        epoch: i16,
        base_sequence: i32,
        last_sequence: i32,
    ) -> SequenceCheck {
        if producer_id < 0 {
            return SequenceCheck::Accept;
        }
        if base_sequence < 0 || last_sequence < 0 {
            return SequenceCheck::OutOfOrder;
        }
        let Some(producer) = self.producers.get(&producer_id) else {
            return SequenceCheck::Accept;
        };
        if epoch < producer.epoch {
            return SequenceCheck::OldEpoch;
        }
        if epoch > producer.epoch {
            return if base_sequence == 0 {
                SequenceCheck::Accept
            } else {
                SequenceCheck::OutOfOrder
            };
        }
        let repeated = producer
            .batches
            .iter()
            .rev()
            .find(|batch| batch.first_sequence == base_sequence && batch.last_sequence == last_sequence);
        if let Some(batch) = repeated {
            return SequenceCheck::Duplicate {
                base_offset: batch.base_offset,
                last_offset: batch.last_offset,
                timestamp: batch.timestamp,
            };
        }
        let (Some(oldest), Some(newest)) = (producer.batches.first(), producer.batches.last()) else {
            return SequenceCheck::Accept;
        };
        if base_sequence == sequence_after(newest.last_sequence, 1) {
            return SequenceCheck::Accept;
        }
        if producer.older_forgotten && is_before(last_sequence, oldest.first_sequence) {
            return SequenceCheck::DuplicateTooOld;
        }
        SequenceCheck::OutOfOrder
    }

    /// Takes note of a batch that was appended, or read again from the log.
    ///
    /// A transaction marker (negative sequence) carries an epoch and no sequence. Batches
    /// are recorded in log order; one at or below the last recorded offset is ignored,
    /// so reading on from a snapshot may begin before it.
    pub fn record(&mut self, producer_id: i64, epoch: i16, batch: ProducerBatch) {
        if producer_id < 0 {
            return;
        }
        let is_marker = batch.first_sequence < 0;
        let producer = self.producers.entry(producer_id).or_insert(Producer {
            epoch,
            older_forgotten: !is_marker && batch.first_sequence != 0,
            last_offset: Offset(-1),
            last_timestamp: batch.timestamp,
            batches: Vec::new(),
        });
        if batch.last_offset <= producer.last_offset {
            return;
        }
        if epoch > producer.epoch {
            producer.epoch = epoch;
            producer.older_forgotten = false;
            producer.batches.clear();
        }
        if !is_marker {
            if producer.batches.is_empty() && batch.first_sequence != 0 {
                producer.older_forgotten = true;
            }
            if producer.batches.len() == PRODUCER_BATCHES_MAX {
                producer.batches.remove(0);
                producer.older_forgotten = true;
            }
            producer.batches.push(batch);
        }
        self.by_last_offset.remove(&(producer.last_offset, producer_id));
        self.by_last_offset.insert((batch.last_offset, producer_id));
        producer.last_offset = batch.last_offset;
        producer.last_timestamp = producer.last_timestamp.max(batch.timestamp);
        if self.producers.len() > PRODUCERS_PER_PARTITION_MAX
            && let Some((_, forgotten)) = self.by_last_offset.pop_first()
        {
            self.producers.remove(&forgotten);
        }
    }

    /// Forgets producers whose newest timestamp is below `timestamp_ms`. Returns how many.
    pub fn expire(&mut self, timestamp_ms: i64) -> usize {
        let before = self.producers.len();
        let by_last_offset = &mut self.by_last_offset;
        self.producers.retain(|id, producer| {
            let keep = producer.last_timestamp >= timestamp_ms;
            if !keep {
                by_last_offset.remove(&(producer.last_offset, *id));
            }
            keep
        });
        before - self.producers.len()
    }

    /// The payload of a `producer_state` entry, which also carries the log start.
    pub fn encode(&self, log_start: Offset) -> Vec<u8> {
        let producers = self.producers.iter().map(|(id, producer)| ProducerV0 {
            producer_id: *id,
            epoch: producer.epoch,
            older_forgotten: producer.older_forgotten,
            last_offset: producer.last_offset,
            last_timestamp: producer.last_timestamp,
            batches: producer.batches.clone(),
        });
        let snapshot = SnapshotV0 {
            log_start,
            producers: producers.collect(),
        };
        internal_payload(PRODUCER_STATE_SCHEMA, &snapshot)
    }

    /// The states in a `producer_state` payload, and the log start it carries.
    pub fn decode(payload: &[u8]) -> Result<(Self, Offset), ProducerStateError> {
        let snapshot: SnapshotV0 =
            from_internal_payload(PRODUCER_STATE_SCHEMA, payload, PRODUCER_STATE_BYTES_MAX)?;
        at_most(snapshot.producers.len(), PRODUCERS_PER_PARTITION_MAX)?;
        let sorted = snapshot
            .producers
            .array_windows()
            .all(|[a, b]| a.producer_id < b.producer_id);
        if !sorted || snapshot.log_start.0 < 0 {
            return Err(ProducerStateError::Contradiction);
        }
        let mut states = Self::new();
        for producer in snapshot.producers {
            at_most(producer.batches.len(), PRODUCER_BATCHES_MAX)?;
            let in_range = |batch: &ProducerBatch| {
                batch.first_sequence >= 0
                    && batch.last_sequence >= 0
                    && 0 <= batch.base_offset.0
                    && batch.base_offset <= batch.last_offset
                    && batch.last_offset <= producer.last_offset
            };
            let ascending = producer
                .batches
                .array_windows()
                .all(|[a, b]| a.last_offset < b.base_offset);
            let valid = producer.producer_id >= 0
                && producer.last_offset.0 >= 0
                && ascending
                && producer.batches.iter().all(in_range);
            if !valid {
                return Err(ProducerStateError::Contradiction);
            }
            states
                .by_last_offset
                .insert((producer.last_offset, producer.producer_id));
            let state = Producer {
                epoch: producer.epoch,
                older_forgotten: producer.older_forgotten,
                last_offset: producer.last_offset,
                last_timestamp: producer.last_timestamp,
                batches: producer.batches,
            };
            states.producers.insert(producer.producer_id, state);
        }
        Ok((states, snapshot.log_start))
    }
}

/// The payload of a `log_start` entry.
pub fn encode_log_start(log_start: Offset) -> Vec<u8> {
    internal_payload(LOG_START_SCHEMA, &LogStartV0 { log_start })
}

/// The log start in a `log_start` payload.
pub fn decode_log_start(payload: &[u8]) -> Result<Offset, ProducerStateError> {
    let value: LogStartV0 = from_internal_payload(LOG_START_SCHEMA, payload, LOG_START_BYTES_MAX)?;
    if value.log_start.0 < 0 {
        return Err(ProducerStateError::Contradiction);
    }
    Ok(value.log_start)
}

/// The sequence `count` records after `sequence`: sequences wrap from 2^31-1 to 0.
pub fn sequence_after(sequence: i32, count: i32) -> i32 {
    sequence.wrapping_add(count) & i32::MAX
}

/// Whether `a` lies before `b` on the circle of sequences, by less than half of it.
fn is_before(a: i32, b: i32) -> bool {
    let distance = b.wrapping_sub(a) & i32::MAX;
    distance != 0 && distance < 1 << 30
}
