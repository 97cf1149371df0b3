//! Gathers records into a batch for each partition.
//!
//! Invariants: the records of one partition leave in the order they came; a batch is larger than
//! `batch_bytes` only when its one record is; all of them together take about
//! [`BATCHED_BYTES_MAX`] at most.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidelog_bench::client::{Compression, partition_of_key};
use tidelog_net::records::{BATCH_HEADER_BYTES, BatchBuilder, BuildError};

use crate::limits::BATCHED_BYTES_MAX;

/// Headers of a record as a batch takes them.
pub type Headers<'a> = [(&'a str, Option<&'a [u8]>)];

/// A batch that is to leave, and its partition.
pub type Leaving = (i32, BatchBuilder);

/// Bytes a record takes beside its key, value and headers: lengths, deltas and counts, rounded up.
const RECORD_OVERHEAD_BYTES: usize = 36;
/// Bytes a header takes beside its name and value, rounded up.
const HEADER_OVERHEAD_BYTES: usize = 10;

/// Records that wait for their batch to fill.
#[derive(Debug)]
pub struct Batcher {
    fixed_partition: Option<i32>,
    partition_count: i32,
    batch_bytes: usize,
    compression: Compression,
    waiting: BTreeMap<i32, Waiting>,
    waiting_bytes: usize,
    /// The partition that records without a key go to until its batch left.
    sticky: i32,
}

#[derive(Debug)]
struct Waiting {
    batch: BatchBuilder,
    since: Instant,
}

impl Batcher {
    /// A batcher for a topic of `partition_count` partitions, or for one fixed partition of it.
    /// Records without a key begin at `first_partition`, taken modulo the count: a random number
    /// spreads the records of many short runs.
    pub fn new(
        fixed_partition: Option<i32>,
        partition_count: i32,
        batch_bytes: usize,
        compression: Compression,
        first_partition: u32,
    ) -> Self {
        let sticky = first_partition % u32::try_from(partition_count.max(1)).unwrap_or(1);
        Batcher {
            fixed_partition,
            partition_count,
            batch_bytes,
            compression,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            sticky: i32::try_from(sticky).unwrap_or(0),
        }
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How long the oldest batch has waited.
    pub fn age(&self) -> Duration {
        let oldest = self.waiting.values().map(|waiting| waiting.since).min();
        oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Adds a record, and gives the batches that must leave for it to have room.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers<'_>,
    ) -> Result<Vec<Leaving>, BuildError> {
        let record_bytes = size_bytes(key, value, headers);
        let mut leaving = Vec::new();
        if self.waiting_bytes.saturating_add(record_bytes) > BATCHED_BYTES_MAX {
            leaving = self.take_all();
        }
        let mut partition = self.partition_of(key);
        if self.has_no_room(partition, record_bytes) {
            leaving.extend(self.take(partition));
            partition = self.partition_of(key);
            if self.has_no_room(partition, record_bytes) {
                leaving.extend(self.take(partition));
            }
        }
        let compression = self.compression;
        let new = || Waiting {
            batch: BatchBuilder::new(compression),
            since: Instant::now(),
        };
        let batch = &mut self.waiting.entry(partition).or_insert_with(new).batch;
        let bytes_before = batch.size_bytes();
        batch.append(timestamp_ms, key, value, headers)?;
        self.waiting_bytes += batch.size_bytes() - bytes_before;
        Ok(leaving)
    }

    /// Everything that waits, one batch for each partition.
    pub fn take_all(&mut self) -> Vec<Leaving> {
        self.waiting_bytes = 0;
        self.advance_sticky();
        std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(partition, waiting)| (partition, waiting.batch))
            .collect()
    }

    fn take(&mut self, partition: i32) -> Option<Leaving> {
        if partition == self.sticky {
            self.advance_sticky();
        }
        let batch = self.waiting.remove(&partition)?.batch;
        let bytes = batch.size_bytes() - BATCH_HEADER_BYTES;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        Some((partition, batch))
    }

    fn partition_of(&self, key: Option<&[u8]>) -> i32 {
        match (self.fixed_partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of_key(key, self.partition_count),
            (None, None) => self.sticky,
        }
    }

    fn has_no_room(&self, partition: i32, record_bytes: usize) -> bool {
        self.waiting
            .get(&partition)
            .is_some_and(|waiting| waiting.batch.size_bytes().saturating_add(record_bytes) > self.batch_bytes)
    }

    fn advance_sticky(&mut self) {
        self.sticky = (self.sticky + 1) % self.partition_count.max(1);
    }
}

/// Bytes a record takes in a batch, rounded up.
fn size_bytes(key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers<'_>) -> usize {
    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let headers = headers
        .iter()
        .map(|(name, value)| name.len() + length(*value) + HEADER_OVERHEAD_BYTES)
        .sum::<usize>();
    length(key) + length(value) + headers + RECORD_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batcher(fixed_partition: Option<i32>, partition_count: i32, batch_bytes: usize) -> Batcher {
        Batcher::new(
            fixed_partition,
            partition_count,
            batch_bytes,
            Compression::None,
            0,
        )
    }

    fn push(batcher: &mut Batcher, key: Option<&str>, value: &[u8]) -> Vec<(i32, usize)> {
        let leaving = batcher
            .push(0, key.map(str::as_bytes), Some(value), &[])
            .expect("small");
        counts(leaving)
    }

    fn counts(leaving: Vec<Leaving>) -> Vec<(i32, usize)> {
        leaving
            .iter()
            .map(|(p, batch)| (*p, batch.record_count()))
            .collect()
    }

    #[test]
    fn a_batch_leaves_before_it_outgrows_its_size() {
        let mut batcher = batcher(Some(2), 4, 1_000);
        let mut sizes = Vec::new();
        for _ in 0..50 {
            let leaving = batcher.push(0, None, Some(&[b'a'; 300]), &[]).expect("small");
            sizes.extend(leaving.iter().map(|(_, batch)| batch.size_bytes()));
        }
        assert!(sizes.len() > 10, "{sizes:?}");
        assert!(sizes.iter().all(|size| (600..=1_000).contains(size)), "{sizes:?}");
    }

    #[test]
    fn any_number_gives_a_first_partition() {
        for (first, expected) in [(0, 0), (5, 2), (u32::MAX, 0)] {
            let mut batcher = Batcher::new(None, 3, 1_000, Compression::None, first);
            push(&mut batcher, None, b"x");
            assert_eq!(counts(batcher.take_all()), [(expected, 1)]);
        }
    }

    #[test]
    fn a_large_record_goes_alone() {
        let mut batcher = batcher(Some(0), 1, 1_000);
        assert!(push(&mut batcher, None, b"small").is_empty());
        assert_eq!(push(&mut batcher, None, &[b'x'; 5_000]), [(0, 1)]);
        assert_eq!(push(&mut batcher, None, b"small"), [(0, 1)]);
        assert_eq!(counts(batcher.take_all()), [(0, 1)]);
        assert!(batcher.is_empty() && batcher.take_all().is_empty());
    }

    #[test]
    fn keys_stay_together_and_the_rest_is_spread() {
        let mut batcher = batcher(None, 3, 1_000_000);
        for _ in 0..5 {
            push(&mut batcher, Some("user1"), b"x");
        }
        assert_eq!(counts(batcher.take_all()), [(partition_of_key(b"user1", 3), 5)]);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            push(&mut batcher, None, b"x");
            seen.extend(counts(batcher.take_all()).iter().map(|(partition, _)| *partition));
        }
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn full_batches_of_records_without_a_key_go_round() {
        let mut batcher = batcher(None, 3, 1_000);
        let mut left = Vec::new();
        for _ in 0..30 {
            left.extend(push(&mut batcher, None, &[b'x'; 600]));
        }
        let partitions: Vec<i32> = left.iter().map(|(partition, _)| *partition).collect();
        assert_eq!(partitions[..6], [0, 1, 2, 0, 1, 2], "{partitions:?}");
    }

    #[test]
    fn many_partitions_do_not_take_more_memory_than_allowed() {
        let mut batcher = batcher(None, 10_000, 1_000_000);
        let value = vec![b'x'; 100_000];
        let mut most_bytes = 0;
        for n in 0..2_000 {
            push(&mut batcher, Some(&n.to_string()), &value);
            let held: usize = batcher.waiting.values().map(|w| w.batch.size_bytes()).sum();
            most_bytes = most_bytes.max(held);
        }
        assert!(most_bytes > BATCHED_BYTES_MAX / 2, "{most_bytes}");
        assert!(
            most_bytes <= BATCHED_BYTES_MAX + 10_000 * BATCH_HEADER_BYTES,
            "{most_bytes}"
        );
    }
}
