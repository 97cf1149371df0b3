//! The promise of a commit journal: what was acknowledged is there, under its offset and with its bytes, after any
//! sequence of power cuts, kills, failed writes and failed syncs, in every state of journal, trim, checkpoint and
//! roll, whatever the number of shards that wrote and that read; and nothing else is served.
//!
//! One seed decides everything of a run. `TIDELOG_SIM_SEEDS` sets the number of seeds (40). The tests at the end
//! show that the oracle can fail: with faults planted in the journal, and with a broker that answers too early.

mod order;
mod partition;
mod world;

use tidelog_segment_log::disk::sim::SimEvents;
use tidelog_segment_log::journal::{JournalBug, Way};
use world::{Scenario, run};

const SOUND: Scenario = Scenario {
    steps: 700,
    fdatasync_is_noop: false,
    acks_duplicates_early: false,
    bug: JournalBug::None,
    names_lag: false,
};

fn seeds() -> u64 {
    std::env::var("TIDELOG_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(40)
}

#[test]
fn nothing_acked_is_lost_and_nothing_wrong_is_served() {
    let mut way = Way::default();
    let mut sum = world::Counts::default();
    let mut events = SimEvents::default();
    for seed in 0..seeds() {
        let outcome = run(seed, SOUND);
        assert_eq!(outcome.verdict, Ok(()));
        way.by_journal += outcome.way.by_journal;
        way.partitions_by_journal += outcome.way.partitions_by_journal;
        way.direct += outcome.way.direct;
        way.full += outcome.way.full;
        way.trimmed += outcome.way.trimmed;
        sum.add(&outcome.counts);
        events.power_cuts += outcome.events.power_cuts;
        events.lost_names += outcome.events.lost_names;
        events.failed_syncs += outcome.events.failed_syncs;
    }
    let seeds = seeds();
    println!("{way:?} {sum:?} {events:?}");
    assert!(way.by_journal > 10 * seeds, "the journal is used: {way:?}");
    assert!(way.direct > 10 * seeds, "and so are direct syncs: {way:?}");
    assert!(
        way.partitions_by_journal > way.by_journal,
        "commits take several partitions: {way:?}"
    );
    assert!(way.trimmed > seeds / 2, "files are trimmed: {way:?}");
    assert!(way.full > 0, "the journal is full at times: {way:?}");
    assert!(sum.acked > 20 * seeds, "batches are acked: {sum:?}");
    assert!(sum.recoveries > 3 * seeds, "the runs crash: {sum:?}");
    assert!(sum.fences > seeds / 10, "logs are fenced: {sum:?}");
    assert!(sum.clean_opens > seeds / 4, "the runs shut down: {sum:?}");
    assert!(
        sum.from_journal > seeds,
        "entries come back from a journal: {sum:?}"
    );
    assert!(
        sum.second_files > 0,
        "a journal file fails and another takes over: {sum:?}"
    );
    assert!(
        sum.shards_changed > seeds / 4,
        "the number of shards changes: {sum:?}"
    );
    assert!(sum.duplicates > seeds, "duplicates are sent: {sum:?}");
    assert!(
        sum.reused > seeds / 10,
        "files of removed segments are used again: {sum:?}"
    );
    assert!(events.lost_names > 0 && events.failed_syncs > 0, "{events:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..4 {
        assert_eq!(run(seed, SOUND).trace, run(seed, SOUND).trace, "seed {seed}");
    }
    assert_ne!(run(1, SOUND).trace, run(2, SOUND).trace);
}

/// The first seed under which the oracle finds fault.
#[track_caller]
fn must_be_found_out(scenario: Scenario) {
    let failure = (0..5 * seeds()).find_map(|seed| run(seed, scenario).verdict.err());
    println!("{failure:?}");
    assert!(failure.is_some(), "a planted fault must be found out");
}

#[test]
fn without_fdatasync_acked_batches_are_lost() {
    must_be_found_out(Scenario {
        fdatasync_is_noop: true,
        ..SOUND
    });
}

#[test]
fn a_journal_trimmed_before_the_sync_has_ended_is_found_out() {
    must_be_found_out(Scenario {
        bug: JournalBug::TrimBeforeSync,
        ..SOUND
    });
}

#[test]
fn a_journal_trimmed_before_the_name_of_a_segment_is_durable_is_found_out() {
    let lagging = Scenario {
        names_lag: true,
        ..SOUND
    };
    for seed in 0..seeds() / 4 {
        assert_eq!(run(seed, lagging).verdict, Ok(()));
    }
    must_be_found_out(Scenario {
        bug: JournalBug::TrimBeforeDirSync,
        ..lagging
    });
}

#[test]
fn a_duplicate_acked_before_its_original_is_durable_is_found_out() {
    must_be_found_out(Scenario {
        acks_duplicates_early: true,
        ..SOUND
    });
}

#[test]
fn one_seed() {
    if let Some(seed) = std::env::var("TIDELOG_SIM_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        assert_eq!(run(seed, SOUND).verdict, Ok(()));
    }
}
