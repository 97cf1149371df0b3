//! How a simulated broker starts, and how it opens a fenced log again.

use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::data_directory::DataDirectory;
use tidelog_segment_log::disk::{Completion, Disk};
use tidelog_segment_log::journal::{GroupConfig, JournalBug, JournalConfig};
use tidelog_segment_log::log::{OpenProgress, OpenSpec, Opening};
use tidelog_segment_log::recovery::{
    ExamineSpec, Examined, Quarantined, RecoveryBug, RecoveryOptions, RecoveryReport, examine,
};

use super::super::Verdict;
use super::super::disk::Stepping;
use super::super::shards::{LOG_SPACE, directory, key, take_directory};
use super::{Journals, REMOVAL_SPACE, STARTS_MAX, STEPS_MAX, World};

/// A partition that a start opened.
struct Opened {
    at: usize,
    /// Its files could be there.
    existed: bool,
    report: RecoveryReport,
}

impl World {
    /// Takes the data directory and opens all logs, as a process that starts does.
    pub(super) fn start(&mut self) -> Verdict {
        for _ in 0..STARTS_MAX {
            self.data = None;
            self.lives += 1;
            let bug = self
                .scenario
                .journals
                .map_or(JournalBug::None, |journals| journals.bug);
            let Ok(data) = take_directory(&mut Stepping(&mut self.disk.sim), bug) else {
                self.events.note("a start that the disk refused", 1);
                continue;
            };
            let damage = data.journals().damage().to_vec();
            if !damage.is_empty() {
                return Err(format!("journal damage where none was done: {damage:?}"));
            }
            let Some(opened) = self.open_all(&data)? else {
                drop(data);
                self.shards.logs.0.clear();
                self.disk.sim.process_kill();
                self.was_cut = self.rng.index(3) == 0;
                if self.was_cut {
                    self.disk.sim.power_cut();
                }
                continue;
            };
            for Opened { at, existed, report } in opened {
                self.note_opening(at, &report, existed);
                self.check(at, &report)?;
            }
            if let Some(journals) = self.scenario.journals {
                self.begin_groups(&data, &journals);
                self.removal = Some(data.remove_replayed_journals(REMOVAL_SPACE));
            }
            self.data = Some(data);
            self.step_removal(Vec::new());
            return Ok(());
        }
        Err("the logs never open".into())
    }

    /// Opens each partition. `None`: one did not open.
    fn open_all(&mut self, data: &DataDirectory) -> Result<Option<Vec<Opened>>, String> {
        let mut opened = Vec::new();
        let all = 0..self.scenario.partitions;
        let looks: Vec<Option<Examined>> = all.map(|at| self.look(at, data)).collect();
        for at in 0..self.scenario.partitions {
            let evidence = data.evidence(&key(at));
            let existed = self.sends[at].created;
            let is_current = data.checkpoints().iter().any(|found| {
                let named = found.checkpoint.partition(&key(at));
                !found.is_previous && found.shard == 0 && named == evidence.checkpoint.as_ref()
            });
            let has_one = evidence.checkpoint.is_some();
            self.events.note_if(
                has_one && !is_current,
                "an opening from the older checkpoint generation or another shard's",
            );
            self.events.note_if(
                existed && !has_one && !data.was_clean(),
                "an unclean opening without a checkpoint",
            );
            let options = self.options(evidence.options);
            let spec = self.spec(at, data);
            // From here on the partition's files may be there.
            self.sends[at].created = true;
            match self.open(at, Opening::with_options(spec, options))? {
                Some(report) => {
                    if let Some(Some(look)) = looks.get(at)
                        && report.unreadable.is_empty()
                    {
                        self.agree(at, look, &report)?;
                    }
                    opened.push(Opened { at, existed, report });
                }
                None => return Ok(None),
            }
        }
        Ok(Some(opened))
    }

    /// What a tool says of a partition before it is opened. `None`: the disk refused, or the
    /// recovery is wrong on purpose.
    fn look(&mut self, at: usize, data: &DataDirectory) -> Option<Examined> {
        let is_sound = self.scenario.recovery_bug == RecoveryBug::None;
        if !is_sound || !self.was_cut || !self.sends[at].created {
            return None;
        }
        let evidence = data.evidence(&key(at));
        let spec = ExamineSpec {
            directory: directory(at),
            key: key(at),
            checkpoint: evidence.checkpoint,
            journal: evidence.options.journal,
            only: None,
            batch_bytes: 0,
        };
        let disk = &mut Stepping(&mut self.disk.sim);
        let looked = examine(disk, &spec, &mut |_, _, _, _| true).ok();
        looked.filter(|looked| looked.unreadable.is_empty())
    }

    /// What was said is what the start made of it.
    fn agree(&mut self, at: usize, look: &Examined, report: &RecoveryReport) -> Verdict {
        let log_end = self.shards.logs.at(at).map(|log| log.log_end_offset());
        let lost: Vec<&Quarantined> = look.damage.iter().map(|damage| &damage.quarantined).collect();
        let found: Vec<&Quarantined> = report.quarantined.iter().collect();
        let is_alike =
            log_end == Some(look.next.1) && look.from_journal == report.from_journal && lost == found;
        self.events.note("a look before an opening", 1);
        match is_alike {
            true => Ok(()),
            false => Err(format!(
                "partition {at}: a look says {:?}, {} from journals, {lost:?}; the start made {log_end:?} of it: {report:?}",
                look.next, look.from_journal
            )),
        }
    }

    fn spec(&self, at: usize, data: &DataDirectory) -> OpenSpec {
        OpenSpec {
            clean: data.was_clean(),
            created: !self.sends[at].created,
            ..self.spec_with(at, data.evidence(&key(at)).checkpoint, data.start_counter())
        }
    }

    /// Of a partition that is there.
    pub(super) fn spec_with(
        &self,
        at: usize,
        checkpoint: Option<PartitionCheckpoint>,
        start_counter: u64,
    ) -> OpenSpec {
        OpenSpec {
            directory: directory(at),
            key: key(at),
            config: self.scenario.log,
            token_space: LOG_SPACE + at as u32,
            checkpoint,
            clean: false,
            start_counter,
            created: false,
        }
    }

    /// With what the scenario plants.
    pub(super) fn options(&mut self, options: RecoveryOptions) -> RecoveryOptions {
        RecoveryOptions {
            incarnation_seed: Some(self.rng.next_u64()),
            index_part_bytes: Some(9_000),
            bug: self.scenario.recovery_bug,
            removal_bug: self.scenario.removal_bug,
            spares: self.spares.clone(),
            write_bug: self.scenario.write_bug,
            ..options
        }
    }

    /// `None`: it failed, as it may on such a disk.
    pub(super) fn open(&mut self, at: usize, mut opening: Opening) -> Result<Option<RecoveryReport>, String> {
        let mut completions = Vec::new();
        for _ in 0..STEPS_MAX {
            let own = std::mem::take(&mut completions);
            match opening.step(self.now_ms, &mut self.disk.sim, own) {
                OpenProgress::Ready(log, report) => {
                    self.events
                        .note("an entry taken from a journal", report.from_journal);
                    self.shards.logs.0.insert(key(at), log);
                    return Ok(Some(report));
                }
                OpenProgress::Failed(_) => {
                    self.events.note("an opening that failed", 1);
                    return Ok(None);
                }
                OpenProgress::Pending => {
                    self.disk.sim.advance();
                    let mut all = Vec::new();
                    self.disk.sim.take_completions(&mut all);
                    let space = u64::from(LOG_SPACE) + at as u64;
                    let is_own = |completion: &Completion| completion.token.0 >> 32 == space;
                    let (mine, others) = all.into_iter().partition(is_own);
                    completions = mine;
                    // Others go on meanwhile.
                    self.route(others);
                }
            }
        }
        Err("an opening does not end".into())
    }

    pub(super) fn note_opening(&mut self, at: usize, report: &RecoveryReport, existed: bool) {
        let is_new_segment = self.shards.logs.at(at).is_some_and(|log| {
            let named = log.checkpoint().segments;
            named
                .last()
                .is_some_and(|last| last.durable_index < last.base_index)
        });
        let events = &mut self.events;
        events.note_if(existed, "a recovery");
        events.note_if(existed && report.clean, "a clean opening");
        events.note_if(report.torn_entries_seen, "a torn tail with entries behind it");
        events.note_if(!report.set_aside.is_empty(), "a file set aside");
        events.note_if(
            report.torn_entries_seen && is_new_segment,
            "a log that went on in a new segment behind a cut",
        );
    }

    pub(super) fn check(&mut self, at: usize, report: &RecoveryReport) -> Verdict {
        let Some(log) = self.shards.logs.at(at) else {
            return Err("no log".into());
        };
        self.sends[at]
            .check_after_open(log, &mut self.disk.sim, report)
            .map_err(|error| format!("partition {at}: {error}"))
    }

    fn begin_groups(&mut self, data: &DataDirectory, journals: &Journals) {
        for shard in 0..1 + self.rng.index(journals.shards_max) {
            let config = JournalConfig {
                shard: shard as u32,
                start_counter: data.start_counter(),
                file_bytes: journals.file_bytes,
                max_bytes: journals.max_bytes,
                id_seed: Some(self.rng.next_u64()),
                bug: journals.bug,
            };
            let commits = GroupConfig {
                dirty_files_min: 1 + self.rng.index(2),
                bytes_per_file_max: 20 << 10,
                direct_while_making_max: self.rng.index(3),
                trim_above_bytes: match self.rng.index(4) {
                    _ if journals.trims_always => 0,
                    // Never: it becomes full.
                    0 => u64::MAX,
                    some => some as u64 * journals.file_bytes,
                },
            };
            self.shards.add_group(config, commits);
        }
        let shards = self.shards.groups.len();
        let before = std::mem::replace(&mut self.shards_before, shards);
        self.events.note_if(
            before != 0 && before != shards,
            "a start with another number of shards",
        );
        self.shards.join();
    }

    /// Opens fenced logs again, unless a journal has something of them in flight.
    pub(super) fn reopen_fenced(&mut self) -> Verdict {
        for at in 0..self.scenario.partitions {
            if !self.is_fenced(at) || self.shards.is_in_flight(at) {
                continue;
            }
            self.disk.release();
            let Some(log) = self.shards.logs.0.remove(&key(at)) else {
                continue;
            };
            self.events.note("a fence", 1);
            let (retry, floor) = (log.checkpoint(), log.leader_epoch());
            let live = self.shards.live_journal(at);
            let mut opening = log.into_reopening_with(live.clone());
            let report = loop {
                if let Some(report) = self.open(at, opening)? {
                    break report;
                }
                self.events.note("a reopening that failed", 1);
                let options = self.options(RecoveryOptions {
                    term_floor: floor,
                    continue_in_new_file: true,
                    journal: live.clone(),
                    ..RecoveryOptions::default()
                });
                let Some(data) = &self.data else {
                    return Err("no data directory".into());
                };
                let spec = self.spec_with(at, Some(retry.clone()), data.start_counter());
                opening = Opening::with_options(spec, options);
            };
            drop(live);
            self.note_opening(at, &report, true);
            self.check(at, &report)?;
            self.shards.rejoin(at);
            self.hear()?;
        }
        Ok(())
    }
}
