//! Checkpoints.

use proptest::prelude::*;
use tidelog_segment_log::checkpoint::{Checkpoint, CheckpointError, PartitionCheckpoint, SegmentCheckpoint};
use tidelog_segment_log::ids::{
    EntryIndex, FilePosition, Incarnation, LeaderEpoch, Offset, PartitionKey, TopicId,
};
use tidelog_segment_log::limits::{
    CHECKPOINT_PRODUCER_STATE_BYTES_MAX, ENTRY_INDEX_MAX, PRODUCER_STATE_BYTES_MAX,
};

use crate::reseal;

fn any_checkpoint() -> impl Strategy<Value = Checkpoint> {
    let segment = (any::<[u8; 16]>(), 0..=ENTRY_INDEX_MAX, any::<u32>(), any::<u64>()).prop_map(
        |(incarnation, index, generation, length)| SegmentCheckpoint {
            incarnation: Incarnation(incarnation),
            base_index: EntryIndex(index),
            generation,
            length: FilePosition(length),
            crc_chain_end: generation.rotate_left(7),
            durable_index: EntryIndex(length.rotate_left(9) & ENTRY_INDEX_MAX),
        },
    );
    let rest = (
        0..=i32::MAX,
        0..=i64::MAX,
        0..=ENTRY_INDEX_MAX,
        proptest::collection::vec(any::<u8>(), 0..40),
    );
    let partition = (any::<[u8; 16]>(), rest, proptest::collection::vec(segment, 0..4)).prop_map(
        |(topic, (term, offset, index, producer_state), segments)| PartitionCheckpoint {
            key: PartitionKey {
                topic: TopicId(topic),
                partition: term,
            },
            term: LeaderEpoch(term),
            log_start: Offset(offset / 2),
            recovery_point: EntryIndex(index / 3),
            raft_base: EntryIndex(index / 2),
            durable_index: EntryIndex(index),
            next_offset: Offset(offset),
            producer_state,
            segments,
        },
    );
    (any::<u64>(), proptest::collection::vec(partition, 0..4)).prop_map(|(start_counter, partitions)| {
        Checkpoint {
            start_counter,
            partitions,
        }
    })
}

proptest! {
    #[test]
    fn a_changed_checkpoint_with_a_right_checksum_never_panics(
        checkpoint in any_checkpoint(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = checkpoint.encode();
        for (at, value) in changes {
            let at = 32 + at.index(bytes.len() - 32);
            bytes[at] = value;
        }
        reseal(&mut bytes);
        // A change may make another valid checkpoint; then it encodes to something valid again.
        if let Ok(changed) = Checkpoint::decode(&bytes) {
            prop_assert_eq!(Checkpoint::decode(&changed.encode()), Ok(changed));
        }
    }

    #[test]
    fn a_checkpoint_comes_back_and_every_flipped_bit_of_it_is_seen(
        checkpoint in any_checkpoint(), step in 1_usize..9,
    ) {
        let bytes = checkpoint.encode();
        let decoded = Checkpoint::decode(&bytes);
        prop_assert_eq!(decoded.as_ref(), Ok(&checkpoint));
        for bit in (0..bytes.len() * 8).step_by(step) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Checkpoint::decode(&flipped).is_err(), "bit {bit}");
        }
        for len in (0..bytes.len()).step_by(step) {
            prop_assert!(Checkpoint::decode(&bytes[..len]).is_err(), "length {len}");
        }
    }
}

#[test]
fn a_checkpoint_leaves_out_caches_that_do_not_fit() {
    let partition = |number| PartitionCheckpoint {
        key: PartitionKey {
            topic: TopicId([1; 16]),
            partition: number,
        },
        producer_state: vec![1; PRODUCER_STATE_BYTES_MAX],
        ..PartitionCheckpoint::default()
    };
    let fitting = (CHECKPOINT_PRODUCER_STATE_BYTES_MAX / PRODUCER_STATE_BYTES_MAX) as i32;
    let checkpoint = Checkpoint {
        start_counter: 1,
        partitions: (0..=fitting).map(partition).collect(),
    };
    let decoded = Checkpoint::decode(&checkpoint.encode()).expect("valid");
    let cached: Vec<bool> = decoded
        .partitions
        .iter()
        .map(|found| !found.producer_state.is_empty())
        .collect();
    assert_eq!(cached.iter().filter(|cached| **cached).count(), fitting as usize);
    assert_eq!(cached.last(), Some(&false));
}

#[test]
fn a_checkpoint_that_names_a_partition_twice_is_refused() {
    let partition = PartitionCheckpoint::default();
    let checkpoint = Checkpoint {
        start_counter: 1,
        partitions: vec![partition.clone(), partition],
    };
    assert_eq!(
        Checkpoint::decode(&checkpoint.encode()),
        Err(CheckpointError::Contradiction)
    );
}
