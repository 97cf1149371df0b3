//! Gathers records into a batch for each partition.
//!
//! Invariant: the records of one partition leave in the order they came.

use std::collections::BTreeMap;

use tidelog_bench::client::{Record, partition_of_key};

/// Records that wait for their batch to fill.
#[derive(Debug)]
pub struct Batcher {
    fixed_partition: Option<i32>,
    partition_count: i32,
    batch_bytes: usize,
    waiting: BTreeMap<i32, Waiting>,
    /// The partition that records without a key go to until its batch left.
    sticky: i32,
    full: Option<i32>,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Record>,
    size_bytes: usize,
}

impl Batcher {
    /// A batcher for a topic of `partition_count` partitions, or for one fixed partition of it.
    pub fn new(fixed_partition: Option<i32>, partition_count: i32, batch_bytes: usize) -> Self {
        Batcher {
            fixed_partition,
            partition_count,
            batch_bytes,
            waiting: BTreeMap::new(),
            sticky: 0,
            full: None,
        }
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a record. Call [`Batcher::take_full`] after each.
    pub fn push(&mut self, record: Record) {
        let partition = match (self.fixed_partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of_key(key, self.partition_count),
            (None, None) => self.sticky,
        };
        let waiting = self.waiting.entry(partition).or_default();
        waiting.size_bytes += record.size_bytes();
        waiting.records.push(record);
        if waiting.size_bytes >= self.batch_bytes {
            self.full = Some(partition);
        }
    }

    /// The batch that the last push filled.
    pub fn take_full(&mut self) -> Vec<(i32, Vec<Record>)> {
        let Some(partition) = self.full.take() else {
            return Vec::new();
        };
        self.advance_sticky();
        self.waiting
            .remove(&partition)
            .map(|w| (partition, w.records))
            .into_iter()
            .collect()
    }

    /// Everything that waits, one batch for each partition.
    pub fn take_all(&mut self) -> Vec<(i32, Vec<Record>)> {
        self.full = None;
        self.advance_sticky();
        std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(partition, w)| (partition, w.records))
            .collect()
    }

    fn advance_sticky(&mut self) {
        self.sticky = (self.sticky + 1) % self.partition_count.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&'static str>, value: &'static str) -> Record {
        let key = key.map(Into::into);
        Record {
            offset: 0,
            timestamp_ms: 0,
            key,
            value: Some(value.into()),
            headers: vec![],
        }
    }

    #[test]
    fn a_batch_leaves_when_it_is_full() {
        let mut batcher = Batcher::new(Some(2), 4, 100);
        batcher.push(record(None, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
        assert!(batcher.take_full().is_empty());
        batcher.push(record(None, "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"));
        let full = batcher.take_full();
        assert_eq!((full[0].0, full[0].1.len()), (2, 2));
        assert!(batcher.is_empty() && batcher.take_all().is_empty());
    }

    #[test]
    fn keys_stay_together_and_the_rest_is_spread() {
        let mut batcher = Batcher::new(None, 3, 1_000_000);
        for _ in 0..5 {
            batcher.push(record(Some("user1"), "x"));
        }
        let all = batcher.take_all();
        assert_eq!(
            (all.len(), all[0].0, all[0].1.len()),
            (1, partition_of_key(b"user1", 3), 5)
        );
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            batcher.push(record(None, "x"));
            seen.extend(batcher.take_all().iter().map(|(partition, _)| *partition));
        }
        assert_eq!(seen.len(), 3);
    }
}
