//! Takes what fits into the answer, reserves memory for what must be read, and reads it.

use bytes::Bytes;
use tidelog_net::ErrorCode;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::log::ReadPart;

use super::{BATCHES_PER_ANSWER_MAX, MEMORY_RETRY_MS, Phase, part_bytes};
use crate::shard::leases::Pool;
use crate::shard::{Now, Pending, SendPart, Shard, Timer};

impl Shard {
    /// Takes what fits, reserves memory for what must be read, and reads it.
    pub(super) fn load(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        pending.phase = Phase::Loading;
        pending.records = pending.wanted.iter().map(|_| Vec::new()).collect();
        let mut room = pending.max_bytes;
        let mut first = true;
        let mut starved = false;
        let mut batches_left = BATCHES_PER_ANSWER_MAX;
        let mut cold = Vec::new();
        for (at, wanted) in pending.wanted.iter_mut().enumerate() {
            let Some(found) = &mut wanted.found else { continue };
            for part in std::mem::take(&mut found.parts) {
                let bytes = part_bytes(&part);
                match part {
                    ReadPart::Hot(batches) => {
                        for batch in batches {
                            batches_left = batches_left.saturating_sub(1);
                            if (batch.len() > room || batches_left == 0) && !first {
                                room = 0;
                                break;
                            }
                            room = room.saturating_sub(batch.len());
                            first = false;
                            if let Some(records) = pending.records.get_mut(at) {
                                records.push(SendPart::Log(batch, 0));
                            }
                        }
                    }
                    ReadPart::Cold(range) => {
                        if bytes > room && !first {
                            room = 0;
                        } else if self.fetch_budget.reserve(bytes) {
                            room = room.saturating_sub(bytes);
                            first = false;
                            pending.fetch_charge += bytes;
                            pending.loading += 1;
                            cold.push((at, range));
                        } else {
                            self.leases.want(Pool::Fetch, bytes);
                            self.metrics.budget_waits.increment();
                            starved = true;
                            room = 0;
                        }
                    }
                }
                if room == 0 && !first {
                    break;
                }
            }
        }
        if first && starved && !pending.expired && !self.stopping && !pending.has_failed() {
            // There is something, but no memory for it now. An empty answer would have the client ask again
            // at once, and again.
            pending.wait(id, &mut self.timers);
            let at_ms = now.monotonic_ms + MEMORY_RETRY_MS;
            self.timers.set(at_ms, Timer::FetchRetry(id));
            return;
        }
        if cold.is_empty() {
            self.finish_fetch(id);
            return;
        }
        for (at, range) in cold {
            self.cold.read(disk, id, at, range);
        }
    }

    /// A fetch that found no memory tries again.
    pub(in crate::shard) fn on_fetch_retry(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        if let Some(Pending::Fetch(pending)) = self.pending.get(&id)
            && pending.is_waiting()
        {
            self.read_again(now, disk, id);
        }
    }

    /// A cold range is here and verified (or is not).
    pub(in crate::shard) fn on_cold_loaded(
        &mut self,
        id: u64,
        at: usize,
        batches: Result<Vec<Bytes>, ErrorCode>,
    ) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        match batches {
            Ok(batches) => {
                if let Some(records) = pending.records.get_mut(at) {
                    records.extend(batches.into_iter().map(SendPart::Bytes));
                }
            }
            Err(code) => {
                if let Some(found) = pending
                    .wanted
                    .get_mut(at)
                    .and_then(|wanted| wanted.found.as_mut())
                {
                    found.error = code;
                }
            }
        }
        pending.loading -= 1;
        if pending.loading == 0 {
            self.finish_fetch(id);
        }
    }
}
