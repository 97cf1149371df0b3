//! Several logs under group commits with journals, on a simulated disk: started again and again with other numbers of
//! shards, after orderly stops, kills and cuts of power.
//!
//! Each start reads the journals of all shards there ever were. The test at the end shows that it has to: where those of
//! shards that are no more are not read, something is lost.

use std::cell::RefCell;

use proptest::prelude::*;

use crate::broker::Broker;
use crate::common::cases::{first_failure, hold_for_each};
use crate::common::events::Events;
use crate::common::seeds::Seeds;
use crate::model::{Change, Holds, change};

/// Cases of a run, where the environment asks for no other number.
const CASES: u64 = 64;
pub const PARTITIONS: usize = 4;
const SHARDS_MAX: usize = 4;

#[derive(Clone, Debug)]
pub enum Step {
    Change(usize, Change),
    EndOfTurn,
    /// The disk gets on.
    Pump(usize),
    Settle,
    Tick {
        ms: i64,
    },
    /// A step of letting files of a journal go.
    Trim {
        shard: usize,
    },
    Checkpoint,
    /// See [`Model::truncation`].
    Truncate {
        at: usize,
        share: usize,
        by_epoch: bool,
    },
    Restart {
        end: End,
        shards: usize,
    },
}

/// How a life of the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Maybe the power fails behind it.
    Stop {
        power_fails: bool,
    },
    Kill,
    PowerCut,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        1 => any::<bool>().prop_map(|power_fails| End::Stop { power_fails }),
        1 => Just(End::Kill),
        2 => Just(End::PowerCut),
    ];
    prop_oneof![
        24 => (0..PARTITIONS, change()).prop_map(|(at, change)| Step::Change(at, change)),
        16 => Just(Step::EndOfTurn),
        12 => (1usize..30).prop_map(Step::Pump),
        2 => Just(Step::Settle),
        1 => (1i64..20_000).prop_map(|ms| Step::Tick { ms }),
        5 => (0..SHARDS_MAX).prop_map(|shard| Step::Trim { shard }),
        1 => Just(Step::Checkpoint),
        1 => (0..PARTITIONS, prop_oneof![0usize..=1_000, 900usize..=1_000], any::<bool>())
            .prop_map(|(at, share, by_epoch)| Step::Truncate { at, share, by_epoch }),
        2 => (end, 1..=SHARDS_MAX).prop_map(|(end, shards)| Step::Restart { end, shards }),
    ]
}

/// What happens to several logs.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    /// Of the first start.
    pub shards: usize,
    /// Dirty files from which on a commit goes through the journal.
    pub dirty_files_min: usize,
    pub steps: Vec<Step>,
}

fn case() -> impl Strategy<Value = Case> {
    let steps = prop::collection::vec(step(), 1..240);
    (any::<u64>(), 1..=SHARDS_MAX, 1usize..3, steps).prop_map(|(seed, shards, dirty_files_min, steps)| Case {
        seed,
        shards,
        dirty_files_min,
        steps,
    })
}

/// What the test is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    /// A start reads the journals of the shards that it has, and of no others.
    OwnShardsOnly,
}

fn run(case: Case, planted: Planted, events: &RefCell<Events>) -> Holds {
    let mut broker = Broker::new(case, planted);
    let held = broker.run();
    events.borrow_mut().add(&broker.events);
    held
}

#[test]
fn logs_under_group_commits_are_lists_of_batches_with_any_number_of_shards() {
    let events = RefCell::new(Events::default());
    let seeds = Seeds::asked(CASES);
    hold_for_each(seeds, &case(), |case| run(case, Planted::Nothing, &events));
    let events = events.into_inner();
    println!("{events}");
    events.expect_more("a commit by the journal", seeds.count());
    events.expect_more("an entry taken from a journal", seeds.count());
    events.expect_more("a start with another number of shards", seeds.count());
    events.expect_each(&[
        "a commit by direct syncs",
        "a truncation",
        "a stop in order",
        "a kill",
        "a power cut",
        "a journal file trimmed",
    ]);
}

#[test]
fn journals_of_shards_that_are_no_more_are_needed() {
    let events = RefCell::new(Events::default());
    let seeds = Seeds::asked(CASES);
    let failure = first_failure(seeds, &case(), "are lost", |case| {
        run(case, Planted::OwnShardsOnly, &events)
    });
    println!("{failure:?}");
    assert!(
        failure.is_some(),
        "a planted fault must be found out\n{}",
        events.borrow()
    );
}
