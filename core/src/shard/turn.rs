//! The shard's loop from inside: timers, disk completions, the end of a turn, and stopping.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use tidelog_segment_log::disk::{Completion, Disk};
use tidelog_segment_log::log::PartitionLog;

use super::background::Job;
use super::{Now, Pending, Shard, ShardAnswer, ShardReady, ShardRequest, Timer, cold, control, partitions};

/// How often partitions are ticked (age rolls, interval durability), milliseconds.
pub(super) const TICK_MS: u64 = 50;

impl Shard {
    /// The shard's earliest deadline on its monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// The engine wants a turn then.
    pub fn wake_at(&mut self, at_ms: u64) {
        self.timers.set(at_ms, Timer::Wake);
    }

    /// A deadline has come.
    pub fn on_timers(&mut self, now: Now, disk: &mut dyn Disk) {
        let mut due = Vec::new();
        self.timers.fire(now.monotonic_ms, &mut due);
        for timer in due {
            match timer {
                Timer::Wake => {}
                Timer::FetchDeadline(pending) => self.on_fetch_deadline(now, disk, pending),
                Timer::FetchRetry(pending) => self.on_fetch_retry(now, disk, pending),
                Timer::Tick => {
                    self.partitions.tick_checkpoint(disk, now.monotonic_ms);
                    self.partitions.begin_round(now);
                    self.jobs.want(Job::TickPartitions);
                    if self.partitions.is_retention_due(now) && !self.stopping {
                        self.jobs.want(Job::Retain);
                    }
                    self.jobs.want(Job::LookAtConnections);
                    if let Some(control) = &mut self.control
                        && control.tick(now, disk)
                    {
                        self.partitions.home().space.note_full_disk();
                    }
                    self.fetch_sessions.tick(now.monotonic_ms);
                    self.look_for_silence(now, disk);
                    self.return_leases(now);
                    self.expire_deletions(now);
                    self.publish_metrics();
                    if !self.stopped {
                        self.timers.set(now.monotonic_ms + TICK_MS, Timer::Tick);
                    }
                }
                Timer::DrainDeadline => {
                    if !self.stopped {
                        tracing::warn!(shard = self.own, "the drain was cut short by its deadline");
                        self.partitions.cut_short();
                    }
                }
            }
        }
        self.deliver(now, disk);
    }

    /// A disk operation has ended.
    pub fn on_disk(&mut self, now: Now, disk: &mut dyn Disk, completion: Completion) {
        let space = (completion.token.0 >> 32) as u32;
        match space {
            cold::TOKEN_SPACE => self.on_cold_read(now, disk, completion),
            space if partitions::SWEEP_SPACES.contains(&space) => {
                self.on_directories_listed(disk, space, completion)
            }
            control::TOKEN_SPACE | control::READ_SPACE => {
                if let Some(control) = &mut self.control {
                    control.on_completion(now, disk, completion);
                }
            }
            space => self.partitions.on_completion(now, disk, space, completion),
        }
    }

    /// Ends a turn: staged appends are written, what is durable is answered, full rings retried.
    pub fn end_of_turn(&mut self, now: Now, disk: &mut dyn Disk) {
        self.endpoint.beat();
        self.deliver(now, disk);
        self.partitions
            .end_of_turn(now, disk, &mut self.answers, &mut self.wakes, &self.metrics);
        self.tell_opened();
        if self.partitions.may_apply_again() {
            self.jobs.want(Job::ApplyImage);
        }
        self.control_end_of_turn(now, disk);
        // What was created while stopping is answered as well, which takes a checkpoint.
        let may_checkpoint = self.has_image && !(self.stopping && self.all_quiet());
        if may_checkpoint && self.partitions.maintain() {
            self.jobs.want(Job::Checkpoint);
        }
        if self.partitions.wants_trim() {
            self.jobs.want(Job::TrimJournal);
        }
        if let Some(control) = &mut self.control
            && self.partitions.covers_group_zero()
        {
            control.confirm_term();
        }
        if self.has_image && self.partitions.all_open() {
            self.on_all_open(now, disk);
        }
        self.deliver(now, disk);
        self.withhold_for_records();
        self.ask_for_leases(now);
        self.send_kept();
        if self.stopping && !self.stopped {
            self.go_on_stopping(now, disk);
        }
    }

    /// Tells all shards the leader epochs of what was opened in this turn.
    pub(super) fn tell_opened(&mut self) {
        let opened = self.partitions.take_opened();
        if opened.is_empty() {
            return;
        }
        self.leader_epochs.extend(opened.iter().copied());
        let own = usize::from(self.own);
        for shard in (0..self.endpoint.shards()).filter(|shard| *shard != own) {
            self.send(shard, ShardRequest::Opened(opened.clone()));
        }
    }

    /// What the newest image asks of this shard is open, and its terms are on the disk.
    pub(super) fn on_all_open(&mut self, now: Now, disk: &mut dyn Disk) {
        for (from, version) in std::mem::take(&mut self.images_owed) {
            self.endpoint
                .answer(from, ShardAnswer::ImageApplied(version, self.own));
        }
        if let Some(version) = self.own_image_pending.take() {
            self.on_image_applied(now, disk, self.own, version);
        }
        self.say_ready();
    }

    pub(super) fn say_ready(&mut self) {
        self.serving = true;
        if let Some(ready) = self.ready.take() {
            // The receiver is gone only when the process is ending.
            let _ = ready.send(ShardReady {
                topics: self.image.topic_count(),
            });
        }
    }

    pub(super) fn publish_metrics(&mut self) {
        self.metrics.connections.set(self.connections.len() as i64);
        self.publish_memory();
        self.metrics.partitions.set(self.partitions.len() as i64);
        self.metrics
            .partitions_opening
            .set(self.partitions.opening() as i64);
        self.metrics
            .partitions_at_start
            .set(self.partitions.at_start() as i64);
        self.metrics
            .partitions_unavailable
            .set(self.partitions.unavailable() as i64);
        self.metrics
            .partitions_failed
            .set(self.partitions.failed() as i64);
        self.metrics.segments.set(self.partitions.segments() as i64);
        self.partitions.publish_commits(&self.metrics);
        self.metrics.fetch_sessions.set(self.fetch_sessions.len() as i64);
        self.metrics
            .fetch_sessions_used_bytes
            .set(self.fetch_sessions.used_bytes() as i64);
        self.metrics.fetches_parked.set(self.looks.counted_parked as i64);
        // The control thread copies under this lock; a shard never waits for it.
        if let Ok(mut out) = self.metrics_out.try_lock() {
            *out = self.metrics.snapshot();
        }
    }

    /// Drain: no new requests, what is under way ends, logs are closed cleanly.
    pub fn on_stop(&mut self, now: Now, _disk: &mut dyn Disk) {
        self.stopping = true;
        self.timers.set(
            now.monotonic_ms + self.settings.drain_timeout_ms,
            Timer::DrainDeadline,
        );
        let waiting: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| matches!(pending, Pending::Fetch(_)))
            .map(|(id, _)| id)
            .collect();
        for pending in waiting {
            self.timers.set(now.monotonic_ms, Timer::FetchDeadline(pending));
        }
    }

    /// Whether no shard has a request of its connections left.
    pub(super) fn all_quiet(&self) -> bool {
        self.quiet_shards.load(Ordering::Acquire) >= self.endpoint.shards()
    }

    pub(super) fn go_on_stopping(&mut self, now: Now, disk: &mut dyn Disk) {
        if !self.quiet && self.pending.is_empty() && self.backlog.iter().all(VecDeque::is_empty) {
            self.quiet = true;
            self.quiet_shards.fetch_add(1, Ordering::AcqRel);
        }
        // Until then this shard's partitions are still needed by the requests of other shards.
        if self.all_quiet() || self.partitions.is_cut_short() {
            let group_zero = match &mut self.control {
                None => None,
                Some(control) => {
                    if !control.close(now, disk) {
                        return;
                    }
                    control.log().map(PartitionLog::checkpoint)
                }
            };
            if self.partitions.close_all(now, disk, group_zero) {
                self.stopped = true;
            }
        }
    }

    /// The thread ends; the last figures are left behind.
    pub fn on_stopped(&mut self) {
        self.publish_metrics();
    }
}
