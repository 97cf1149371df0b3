//! The parts of a request that waits: one per partition, answered by its owner once.

use tidelog_segment_log::ids::PartitionKey;

/// One partition of a request, and its place in the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) topic_at: usize,
    pub(super) partition_at: usize,
    key: PartitionKey,
    answered: bool,
}

impl Part {
    pub(super) fn new(topic_at: usize, partition_at: usize, key: PartitionKey) -> Self {
        Self {
            topic_at,
            partition_at,
            key,
            answered: false,
        }
    }
}

/// Marks a part as answered. None: it was already, and a late answer is to be dropped.
pub(super) fn take_waiting(parts: &mut [Part], at: u32) -> Option<Part> {
    let part = parts.get_mut(at as usize)?;
    (!std::mem::replace(&mut part.answered, true)).then_some(*part)
}

/// The parts that are not answered.
pub(super) fn waiting(parts: &[Part]) -> Vec<(u32, PartitionKey)> {
    let parts = (0..).zip(parts).filter(|(_, part)| !part.answered);
    parts.map(|(at, part)| (at, part.key)).collect()
}
