//! The parts of a request that waits: one per partition, answered by its owner once.
//!
//! Invariant: a part counts as missing until it is answered for the first time; what comes later for it is dropped.

use smallvec::SmallVec;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::partition::PartitionOp;
use super::{Now, ReplyTo, Shard};

/// One partition of a request, and its place in the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) topic_at: usize,
    pub(super) partition_at: usize,
    key: PartitionKey,
    answered: bool,
}

/// What is asked of the owners of a request's partitions, in the order of its parts.
pub(super) type Asks = SmallVec<[(PartitionKey, PartitionOp); 1]>;

/// All parts of a request. Most requests have one.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: SmallVec<[Part; 1]>,
    missing: usize,
}

impl Parts {
    /// Adds the part that is answered at this place; its number is the number of parts before it.
    pub(super) fn push(&mut self, topic_at: usize, partition_at: usize, key: PartitionKey) {
        self.missing += 1;
        self.parts.push(Part {
            topic_at,
            partition_at,
            key,
            answered: false,
        });
    }

    /// Marks a part as answered. None: it was already, and a late answer is to be dropped.
    pub(super) fn take(&mut self, at: u32) -> Option<Part> {
        let part = self.parts.get_mut(at as usize)?;
        if std::mem::replace(&mut part.answered, true) {
            return None;
        }
        self.missing -= 1;
        Some(*part)
    }

    /// Whether no owner has to answer any more.
    pub(super) fn are_complete(&self) -> bool {
        self.missing == 0
    }

    /// The parts that are not answered.
    pub(super) fn waiting(&self) -> Vec<(u32, PartitionKey)> {
        let parts = (0..).zip(&self.parts).filter(|(_, part)| !part.answered);
        parts.map(|(at, part)| (at, part.key)).collect()
    }
}

impl Shard {
    /// Asks the owners for the parts of a pending request.
    pub(super) fn ask_owners(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        pending: u64,
        asks: impl IntoIterator<Item = (PartitionKey, PartitionOp)>,
    ) {
        for (part, (key, op)) in (0..).zip(asks) {
            let reply = ReplyTo {
                shard: self.own,
                pending,
                part,
            };
            self.ask_partition(now, disk, reply, key, op);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidelog_segment_log::ids::TopicId;

    use super::*;

    #[test]
    fn a_part_is_answered_once() {
        let key = |partition| PartitionKey {
            topic: TopicId([7; 16]),
            partition,
        };
        let mut parts = Parts::default();
        assert!(parts.are_complete());
        parts.push(0, 0, key(4));
        parts.push(0, 1, key(5));
        assert_eq!(parts.waiting(), [(0, key(4)), (1, key(5))]);
        assert_eq!(parts.take(1).map(|part| part.partition_at), Some(1));
        assert!(parts.take(1).is_none() && parts.take(2).is_none() && !parts.are_complete());
        assert_eq!(parts.waiting(), [(0, key(4))]);
        assert!(parts.take(0).is_some() && parts.are_complete());
    }
}
