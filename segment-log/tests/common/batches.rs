//! Batches as a producer sends them and as a log stores them.

use bytes::Bytes;
use tidelog_segment_log::batch::patch_prefix;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::ids::{LeaderEpoch, Offset};

/// A batch of so many records of `len` bytes, of no producer that is told apart.
pub fn plain(records: usize, len: usize, timestamp_ms: i64) -> Bytes {
    let value = vec![(len % 251) as u8; len];
    let values: Vec<&[u8]> = (0..records).map(|_| value.as_slice()).collect();
    let spec = BatchSpec {
        timestamp_ms,
        ..BatchSpec::default()
    };
    Bytes::from(build_batch(&spec, &values))
}

/// A batch of an idempotent producer in its first epoch.
pub fn sequenced(producer_id: i64, sequence: i32, timestamp_ms: i64, values: &[&[u8]]) -> Bytes {
    let spec = BatchSpec {
        producer_id,
        producer_epoch: 0,
        base_sequence: sequence,
        timestamp_ms,
        ..BatchSpec::default()
    };
    Bytes::from(build_batch(&spec, values))
}

/// The batch as it is stored at an offset under an epoch.
pub fn stored(batch: &Bytes, base_offset: Offset, epoch: LeaderEpoch) -> Bytes {
    let mut bytes = batch.to_vec();
    let prefix = patch_prefix(batch, base_offset, epoch);
    bytes[..prefix.len()].copy_from_slice(&prefix);
    Bytes::from(bytes)
}
