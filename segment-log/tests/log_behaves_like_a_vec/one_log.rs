//! One log on real files, which commits by itself.

use std::path::PathBuf;

use proptest::prelude::*;
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::log::{OpenError, OpenSpec, Opening, PartitionLog, drive_open};
use tidelog_segment_log::recovery::RecoveryOptions;

use crate::common::cases::hold_for_each;
use crate::common::logs::{close, open, settle};
use crate::common::seeds::Seeds;
use crate::model::{Change, Holds, Host, Left, Model, change};
use crate::spec;

/// Cases of a run, where the environment asks for no other number.
const CASES: u64 = 48;

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Settle,
    Tick {
        ms: i64,
    },
    CloseAndOpen,
    /// See [`Model::truncation`].
    Truncate {
        share: usize,
        by_epoch: bool,
    },
    /// With the newest checkpoint, one written at the last open, or none.
    Kill {
        settles: bool,
        checkpoint: Evidence,
    },
}

#[derive(Clone, Copy, Debug)]
enum Evidence {
    Newest,
    Older,
    None,
}

fn step() -> impl Strategy<Value = Step> {
    let evidence = prop_oneof![
        Just(Evidence::Newest),
        Just(Evidence::Older),
        Just(Evidence::None)
    ];
    prop_oneof![
        19 => change().prop_map(Step::Change),
        3 => Just(Step::Settle),
        1 => (1i64..20_000).prop_map(|ms| Step::Tick { ms }),
        1 => Just(Step::CloseAndOpen),
        1 => (prop_oneof![0usize..=1_000, 900usize..=1_000], any::<bool>())
            .prop_map(|(share, by_epoch)| Step::Truncate { share, by_epoch }),
        1 => (any::<bool>(), evidence).prop_map(|(settles, checkpoint)| Step::Kill { settles, checkpoint }),
    ]
}

struct OneLog {
    directory: PathBuf,
    disk: StdDisk,
    log: Option<Box<PartitionLog>>,
    older: PartitionCheckpoint,
    now_ms: i64,
    starts: u64,
}

impl Host for OneLog {
    type Disk = StdDisk;

    fn parts(&mut self) -> (&mut PartitionLog, &mut StdDisk) {
        (self.log.as_mut().expect("it is open"), &mut self.disk)
    }

    fn now_ms(&self) -> i64 {
        self.now_ms
    }

    fn settle(&mut self) -> Holds {
        let now_ms = self.now_ms;
        let (log, disk) = self.parts();
        settle(log, disk, now_ms);
        prop_assert_eq!(log.durable_offset(), log.log_end_offset());
        Ok(())
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms;
        let (log, disk) = self.parts();
        log.tick(now_ms, disk);
    }

    fn segment_files(&mut self) -> usize {
        let files = std::fs::read_dir(&self.directory).unwrap().flatten();
        let is_segment = |file: &std::fs::DirEntry| file.path().extension().is_some_and(|end| end == "log");
        files.filter(is_segment).count()
    }
}

impl OneLog {
    fn new(directory: PathBuf) -> Self {
        let mut disk = StdDisk::new();
        let (log, _) = open(&mut disk, spec(&directory, None, false, true));
        Self {
            directory,
            disk,
            older: log.checkpoint(),
            log: Some(log),
            now_ms: 1_000_000,
            starts: 2,
        }
    }

    fn take(&mut self) -> Box<PartitionLog> {
        self.log.take().expect("it is open")
    }

    fn put(&mut self, log: Box<PartitionLog>) {
        self.older = log.checkpoint();
        self.log = Some(log);
    }

    fn close_and_open(&mut self, model: &mut Model) -> Holds {
        let log = self.take();
        let checkpoint = close(log, &mut self.disk, self.now_ms);
        let again = spec(&self.directory, Some(checkpoint), true, false);
        let (mut log, report) = open(&mut self.disk, again);
        model.reopened(&mut log, &mut self.disk, &report, Left::InOrder)?;
        self.put(log);
        Ok(())
    }

    fn kill(&mut self, model: &mut Model, checkpoint: Evidence, left: Left) -> Holds {
        let log = self.take();
        let evidence = match checkpoint {
            Evidence::Newest => Some(log.checkpoint()),
            Evidence::Older => Some(self.older.clone()),
            Evidence::None => None,
        };
        drop(log);
        self.starts += 1;
        let again = OpenSpec {
            start_counter: self.starts,
            ..spec(&self.directory, evidence, false, false)
        };
        let (mut log, report) = open(&mut self.disk, again);
        model.reopened(&mut log, &mut self.disk, &report, left)?;
        self.put(log);
        Ok(())
    }

    fn truncate(&mut self, model: &mut Model, share: usize, by_epoch: bool) -> Holds {
        self.settle()?;
        let log = self.take();
        model.observe(&log);
        let cut = model.truncation(&log, share, by_epoch);
        let checkpoint = close(log, &mut self.disk, self.now_ms);
        let clean = spec(&self.directory, Some(checkpoint), true, false);
        let options = RecoveryOptions::default();
        let truncating = Opening::truncating(clean.clone(), options, Some(cut.to));
        let log = match drive_open(&mut self.disk, truncating) {
            Err(OpenError::CutBelowLogStart {
                end_offset,
                log_start,
            }) => {
                model.refused(&cut, end_offset, log_start)?;
                let (mut log, report) = open(&mut self.disk, clean);
                model.reopened(&mut log, &mut self.disk, &report, Left::InOrder)?;
                log
            }
            opened => {
                let (mut log, report) = opened.unwrap();
                prop_assert!(report.clean || report.truncated.is_some(), "{report:?}");
                model.truncated(&mut log, &mut self.disk, &report, &cut)?;
                log.confirm_term();
                log
            }
        };
        self.put(log);
        Ok(())
    }
}

fn is_a_list(steps: &[Step]) -> Holds {
    let root = tempfile::tempdir().unwrap();
    let mut host = OneLog::new(root.path().join("partition"));
    let mut model = Model::default();
    model.opened(host.parts().0);
    for step in steps {
        match step {
            Step::Change(change) => model.change(&mut host, change)?,
            Step::Settle => host.settle()?,
            Step::Tick { ms } => {
                host.now_ms += ms;
                host.tick();
            }
            Step::CloseAndOpen => {
                host.settle()?;
                model.observe(host.parts().0);
                host.close_and_open(&mut model)?;
            }
            Step::Truncate { share, by_epoch } => host.truncate(&mut model, *share, *by_epoch)?,
            Step::Kill { settles, checkpoint } => {
                if *settles {
                    host.settle()?;
                    model.observe(host.parts().0);
                }
                let left = if *settles { Left::AtRest } else { Left::Killed };
                host.kill(&mut model, *checkpoint, left)?;
            }
        }
        model.observe(host.parts().0);
    }
    host.settle()?;
    let now_ms = host.now_ms;
    let (log, disk) = host.parts();
    model.observe(log);
    prop_assert!(model.is_durable());
    model.compare(log, disk, 1)?;
    model.check_times(log, now_ms - 1_000)
}

#[test]
fn a_log_is_a_list_of_batches() {
    let steps = prop::collection::vec(step(), 1..40);
    hold_for_each(Seeds::asked(CASES), &steps, |steps| is_a_list(&steps));
}
