//! The promise of a commit journal: what was acknowledged is there, under its offset and with its bytes, after any
//! sequence of power cuts, kills, failed writes and failed syncs, in every state of journal, trim, checkpoint and
//! roll, whatever the number of shards that wrote and that read; and nothing else is served.
//!
//! One seed decides everything of a run. `TIDELOG_SIM_SEEDS` sets the number of seeds (60). The tests at the end
//! show that the oracle can fail: with faults planted in the journal, and with a broker that answers too early.

#[path = "../common/mod.rs"]
mod common;
mod order;

use common::events::Events;
use common::seeds::{Seeds, only_seed};
use common::world::{Action, FaultRates, Journals, Scenario, must_be_found_out, run};
use tidelog_segment_log::journal::JournalBug;
use tidelog_segment_log::log::{Durability, LogConfig, RemovalBug, WriteBug};
use tidelog_segment_log::recovery::RecoveryBug;

const JOURNALS: Journals = Journals {
    shards_max: 3,
    file_bytes: 28 << 10,
    max_bytes: 4 * (28 << 10),
    trims_always: false,
    bug: JournalBug::None,
};

const LOG: LogConfig = LogConfig {
    segment_bytes: 48 << 10,
    segment_ms: 20_000,
    durability: Durability::Fsync,
};

const SOUND: Scenario = Scenario {
    steps: 700,
    actions: &[
        (Action::Append, 175),
        (Action::Delete, 10),
        (Action::Retry, 30),
        (Action::EndOfTurn, 80),
        (Action::Pump, 120),
        (Action::Tick, 15),
        (Action::Trim, 30),
        (Action::Checkpoint, 15),
        (Action::Read, 15),
        (Action::Truncate, 4),
        (Action::Stop, 2),
        (Action::Crash, 4),
    ],
    partitions: 4,
    log: LOG,
    value_bytes: &[(8_000..24_000, 1), (2_000..5_000, 3), (0..500, 36)],
    burst_max: 4,
    pump_max: 24,
    faults: FaultRates {
        rare_ppm: 1_500,
        failed_sync_ppm: 6_000,
        failed_writeback_ppm: 30_000,
        writeback_ppm: [20_000, 200_000],
    },
    journals: Some(JOURNALS),
    damages_index_files: true,
    names_lag: false,
    fdatasync_is_noop: false,
    mirrors: false,
    acks_duplicates_early: false,
    recovery_bug: RecoveryBug::None,
    removal_bug: RemovalBug::None,
    write_bug: WriteBug::None,
};

/// What must have happened in the runs, besides what is counted below.
const RARE: &[&str] = &[
    "a full journal",
    "a journal file that failed",
    "a name that was lost",
    "a failed sync",
    "a stop that ended in a fence",
    "a crash while a segment was begun",
    "a crash with batches that were not acknowledged",
    "a crash with a log start that was not durable",
    "an index file damaged",
    "a truncation",
    "a truncation that failed",
];

fn seeds() -> Seeds {
    Seeds::asked(60)
}

fn with_bug(scenario: Scenario, bug: JournalBug) -> Scenario {
    let trims_always = scenario.names_lag || bug == JournalBug::TrimBeforeSync;
    Scenario {
        journals: Some(Journals {
            bug,
            trims_always,
            ..JOURNALS
        }),
        ..scenario
    }
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
    let by_journal = events.count("a commit by the journal");
    // The journal is used, and so are direct syncs; commits take several partitions; files are trimmed.
    events.expect_more("a commit by the journal", 10 * count);
    events.expect_more("a commit by direct syncs", 10 * count);
    events.expect_more("a partition committed by the journal", by_journal);
    events.expect_more("a journal file trimmed", count / 2);
    events.expect_more("a batch acked", 20 * count);
    events.expect_more("a recovery", 3 * count);
    events.expect_more("a fence", count / 10);
    events.expect_more("a clean opening", count / 4);
    events.expect_more("an entry taken from a journal", count);
    events.expect_more("a look before an opening", count);
    events.expect_more("a start with another number of shards", count / 4);
    events.expect_more("a batch sent again", count);
    events.expect_more("a segment made of a spare file", count / 10);
    events.expect_each(RARE);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..4 {
        assert_eq!(run(seed, SOUND), run(seed, SOUND), "seed {seed}");
    }
    assert_ne!(run(1, SOUND).trace, run(2, SOUND).trace);
}

fn is_found_out(scenario: Scenario, words: &str) {
    must_be_found_out(seeds().with_count(5 * seeds().count()).range(), scenario, words);
}

#[test]
fn without_fdatasync_acked_batches_are_lost() {
    let scenario = Scenario {
        fdatasync_is_noop: true,
        ..SOUND
    };
    is_found_out(scenario, "is lost");
}

#[test]
fn a_journal_trimmed_before_the_sync_has_ended_is_found_out() {
    is_found_out(with_bug(SOUND, JournalBug::TrimBeforeSync), "");
}

#[test]
fn a_journal_trimmed_before_the_name_of_a_segment_is_durable_is_found_out() {
    let lagging = Scenario {
        names_lag: true,
        log: LogConfig {
            segment_bytes: 24 << 10,
            ..LOG
        },
        ..SOUND
    };
    for seed in seeds().with_count(seeds().count().div_ceil(4)).range() {
        assert_eq!(run(seed, with_bug(lagging, JournalBug::None)).verdict, Ok(()));
    }
    is_found_out(with_bug(lagging, JournalBug::TrimBeforeDirSync), "");
}

#[test]
fn an_open_that_ignores_truncations_is_found_out() {
    let scenario = Scenario {
        recovery_bug: RecoveryBug::IgnoreTruncations,
        ..SOUND
    };
    is_found_out(scenario, "");
}

#[test]
fn a_duplicate_acked_before_its_original_is_durable_is_found_out() {
    let scenario = Scenario {
        acks_duplicates_early: true,
        ..SOUND
    };
    is_found_out(scenario, "is lost");
}

#[test]
fn one_seed() {
    if let Some(seed) = only_seed() {
        assert_eq!(run(seed, SOUND).verdict, Ok(()));
    }
}
