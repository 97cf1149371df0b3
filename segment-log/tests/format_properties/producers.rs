//! What is remembered of producers.

use proptest::prelude::*;
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::limits::PRODUCERS_PER_PARTITION_MAX;
use tidelog_segment_log::producer_state::{ProducerBatch, ProducerStates, SequenceCheck, sequence_after};

proptest! {
    #[test]
    fn a_producer_that_keeps_its_order_is_accepted_and_its_repeats_are_known(
        start in prop_oneof![Just(0), i32::MAX - 40..=i32::MAX],
        counts in proptest::collection::vec(1_i32..20, 1..30),
    ) {
        let mut states = ProducerStates::new();
        let (mut sequence, mut offset) = (start, 0_i64);
        let mut sent = Vec::new();
        for count in counts {
            let batch = ProducerBatch {
                first_sequence: sequence,
                last_sequence: sequence_after(sequence, count - 1),
                base_offset: Offset(offset),
                last_offset: Offset(offset + i64::from(count) - 1),
                timestamp: offset,
            };
            prop_assert_eq!(
                states.check(5, 0, batch.first_sequence, batch.last_sequence),
                SequenceCheck::Accept
            );
            states.record(5, 0, batch);
            sent.push(batch);
            for (age, old) in sent.iter().rev().enumerate() {
                let answer = states.check(5, 0, old.first_sequence, old.last_sequence);
                let expected = if age < 5 {
                    SequenceCheck::Duplicate {
                        base_offset: old.base_offset, last_offset: old.last_offset, timestamp: old.timestamp,
                    }
                } else {
                    SequenceCheck::DuplicateTooOld
                };
                prop_assert_eq!(answer, expected, "age {}", age);
            }
            sequence = sequence_after(sequence, count);
            offset += i64::from(count);
            let gap = sequence_after(sequence, 1);
            prop_assert_eq!(states.check(5, 0, gap, gap), SequenceCheck::OutOfOrder);
        }
        let bytes = states.encode(Offset(1));
        prop_assert_eq!(ProducerStates::decode(&bytes), Ok((states, Offset(1))));
    }
}

fn one_batch(sequence: i32, offset: i64) -> ProducerBatch {
    ProducerBatch {
        first_sequence: sequence,
        last_sequence: sequence,
        base_offset: Offset(offset),
        last_offset: Offset(offset),
        timestamp: offset,
    }
}

#[test]
fn epochs_fence_and_a_new_one_begins_at_zero() {
    let mut states = ProducerStates::new();
    assert_eq!(states.check(1, 3, 1234, 1234), SequenceCheck::Accept);
    states.record(1, 3, one_batch(1234, 0));
    assert_eq!(states.check(1, 2, 1235, 1235), SequenceCheck::OldEpoch);
    assert_eq!(states.check(1, 4, 1235, 1235), SequenceCheck::OutOfOrder);
    assert_eq!(states.check(1, 4, 0, 0), SequenceCheck::Accept);
    states.record(1, 4, one_batch(0, 1));
    assert_eq!(states.epoch(1), Some(4));
    assert_eq!(states.batches(1), [one_batch(0, 1)]);
    // Nothing of this epoch came before it, so this is no repeat.
    assert_eq!(states.check(1, 4, i32::MAX, i32::MAX), SequenceCheck::OutOfOrder);
    assert_eq!(states.check(-1, -1, -1, -1), SequenceCheck::Accept);
    // A marker of a later epoch fences.
    states.record(1, 5, one_batch(-1, 2));
    assert_eq!(states.check(1, 4, 1, 1), SequenceCheck::OldEpoch);
    assert_eq!(states.check(1, 5, 0, 0), SequenceCheck::Accept);
}

#[test]
fn reading_again_what_a_snapshot_holds_changes_nothing() {
    let mut states = ProducerStates::new();
    for step in 0..8 {
        states.record(1, 0, one_batch(step, i64::from(step)));
    }
    let (mut again, _) = ProducerStates::decode(&states.encode(Offset(0))).expect("valid");
    for step in 0..8 {
        again.record(1, 0, one_batch(step, i64::from(step)));
    }
    assert_eq!(again, states);
}

#[test]
fn producers_are_bounded_and_expire() {
    let mut states = ProducerStates::new();
    let count = PRODUCERS_PER_PARTITION_MAX as i64;
    for id in 0..count {
        states.record(id, 0, one_batch(0, id));
    }
    // Producer 0 writes again, so 1 is the one that wrote longest ago.
    states.record(0, 0, one_batch(1, count));
    states.record(count, 0, one_batch(0, count + 1));
    assert_eq!(states.len(), PRODUCERS_PER_PARTITION_MAX);
    assert_eq!(
        (states.epoch(0), states.epoch(1), states.epoch(2)),
        (Some(0), None, Some(0))
    );
    let (decoded, _) = ProducerStates::decode(&states.encode(Offset(0))).expect("valid");
    assert_eq!(decoded, states);

    assert_eq!(states.expire(count), PRODUCERS_PER_PARTITION_MAX - 2);
    assert_eq!((states.len(), states.is_empty()), (2, false));
}
