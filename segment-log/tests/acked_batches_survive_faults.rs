//! The promise: a batch whose offset passed the durable offset is there, under its offset and with
//! its bytes, after any sequence of power cuts, process kills, failed writes and failed syncs, unless the
//! log start was moved above it; a log start that was durable is there; nothing is served that was not
//! appended; and no offset is given out twice under one leader epoch.
//!
//! One seed decides everything of a run. `TIDELOG_SIM_SEEDS` sets the number of seeds (200).
//! The tests at the end show that the oracle can fail: with syncs that do nothing, and with faults
//! planted in recovery.

mod common;

use common::events::Events;
use common::seeds::Seeds;
use common::world::{Action, FaultRates, Scenario, must_be_found_out, run};
use tidelog_segment_log::log::{Durability, LogConfig, RemovalBug, WriteBug};
use tidelog_segment_log::recovery::RecoveryBug;

const SOUND: Scenario = Scenario {
    steps: 400,
    actions: &[
        (Action::Append, 37),
        (Action::Delete, 3),
        (Action::EndOfTurn, 15),
        (Action::Pump, 30),
        (Action::Tick, 3),
        (Action::Checkpoint, 3),
        (Action::Read, 6),
        (Action::Truncate, 1),
        (Action::Stop, 1),
        (Action::Crash, 2),
    ],
    partitions: 1,
    log: LogConfig {
        segment_bytes: 96 << 10,
        segment_ms: 60_000,
        durability: Durability::Fsync,
    },
    value_bytes: &[(20_000..50_000, 1), (3_000..9_000, 4), (0..600, 15)],
    burst_max: 1,
    pump_max: 6,
    faults: FaultRates {
        rare_ppm: 3_000,
        failed_sync_ppm: 15_000,
        failed_writeback_ppm: 60_000,
        writeback_ppm: [200_000; 2],
    },
    journals: None,
    damages_index_files: true,
    names_lag: false,
    fdatasync_is_noop: false,
    mirrors: false,
    acks_duplicates_early: false,
    recovery_bug: RecoveryBug::None,
    removal_bug: RemovalBug::None,
    write_bug: WriteBug::None,
};

/// What must have happened in the runs, or they prove nothing about it.
const RARE: &[&str] = &[
    "a start that the disk refused",
    "an opening that failed",
    "an opening from the older checkpoint generation or another shard's",
    "a clean opening",
    "an unclean opening without a checkpoint",
    "a torn tail with entries behind it",
    "a file set aside",
    "a log that went on in a new segment behind a cut",
    "a fence",
    "a truncation",
    "a truncation that failed",
    "a reopening that failed",
    "a stop in order",
    "a stop that ended in a fence",
    "a power cut",
    "a kill",
    "a kill and then a power cut",
    "a crash while a checkpoint was written",
    "a crash while a segment was begun",
    "a crash with operations of the log in flight",
    "a crash with batches that were not acknowledged",
    "a crash with a log start that was not durable",
    "an append that found the disk full",
    "an append before the term was durable",
    "a log start above the high watermark",
    "a short write",
    "a write that would have stalled",
    "a failed sync",
    "a page marked clean that is not on the disk",
    "a failed write-back",
    "a full disk",
    "an operation done at a crash",
    "an operation dropped at a crash",
    "an older sector kept at a power cut",
    "an unsynced sector kept at a power cut",
    "a torn page",
    "a file that became shorter",
    "a name that was lost",
    "an unsynced name that was kept",
    "a read from the device",
];

fn seeds() -> Seeds {
    Seeds::asked(200)
}

#[test]
fn nothing_acked_is_lost_and_nothing_wrong_is_served() {
    let mut events = Events::default();
    for seed in seeds().range() {
        let outcome = run(seed, SOUND);
        assert_eq!(outcome.verdict, Ok(()));
        events.add(&outcome.events);
    }
    println!("{events}");
    let count = seeds().count();
    events.expect_more("a batch acked", 20 * count);
    events.expect_more("a recovery", 3 * count);
    events.expect_more("a fence", count / 10);
    events.expect_more("a log start that moved", 3 * count);
    events.expect_more("a clean opening", count);
    events.expect_more("an index file damaged", count);
    events.expect_each(RARE);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        assert_eq!(run(seed, SOUND), run(seed, SOUND), "seed {seed}");
    }
    assert_ne!(run(1, SOUND).trace, run(2, SOUND).trace);
}

#[test]
fn without_fdatasync_acked_batches_are_lost() {
    let scenario = Scenario {
        fdatasync_is_noop: true,
        ..SOUND
    };
    must_be_found_out(seeds().range(), scenario, "is lost");
}

fn a_bug_of_recovery_is_found_out(recovery_bug: RecoveryBug) {
    let scenario = Scenario {
        recovery_bug,
        ..SOUND
    };
    must_be_found_out(seeds().range(), scenario, "");
}

#[test]
fn a_recovery_that_does_not_check_payloads_is_found_out() {
    a_bug_of_recovery_is_found_out(RecoveryBug::TrustPayload);
}

#[test]
fn a_recovery_that_believes_the_page_cache_is_found_out() {
    a_bug_of_recovery_is_found_out(RecoveryBug::ReadFromCache);
}

#[test]
fn a_recovery_that_trusts_index_files_is_found_out() {
    a_bug_of_recovery_is_found_out(RecoveryBug::TrustIndex);
}

#[test]
fn a_recovery_that_keeps_the_term_is_found_out() {
    a_bug_of_recovery_is_found_out(RecoveryBug::KeepTerm);
}

#[test]
fn a_write_beside_another_of_the_same_segment_is_found_out() {
    let scenario = Scenario {
        write_bug: WriteBug::BesideAnother,
        ..SOUND
    };
    must_be_found_out(seeds().range(), scenario, "does not verify");
}
