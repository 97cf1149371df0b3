//! A full disk: what waits for space, and asking for it again.
//!
//! Runs on the partition's shard thread. A segment that found no space for its next extent or its making says
//! so until it has some; nothing of what was appended is lost meanwhile, and reads go on. Invariant: while it
//! waits, no append is taken that does not fit into what it has.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use super::segment::{Creation, Segment};
use super::{PartitionLog, Purpose};
use crate::disk::{Disk, DiskOp};
use crate::ids::{EntryIndex, Offset};

impl PartitionLog {
    /// Whether space was asked for and there was none, since it was last asked for in vain.
    pub fn has_met_full_disk(&self) -> bool {
        self.unsynced().any(|segment| segment.is_disk_full)
    }

    /// From which offset and index on appended entries wait for space that the disk does not have. They stay in
    /// the log's order and are written when there is space, so whoever waits for one may be told, and one who
    /// comes back with the same batch finds it.
    pub fn waits_for_space_from(&self) -> Option<(Offset, EntryIndex)> {
        let waits = |segment: &&Segment| {
            let is_made = segment.creation == Creation::Ready;
            segment.is_disk_full
                && (!is_made || segment.staged_bytes > 0 && segment.page_end() > segment.allocated)
        };
        let segment = self.unsynced().find(waits)?;
        let written = segment.written;
        Some((written.next_offset, EntryIndex(written.index.0 + 1)))
    }

    fn unsynced(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().skip(self.first_unsynced)
    }

    /// Asks for the space that there was not, a little at a time.
    pub(super) fn ask_for_space_again(&mut self, disk: &mut dyn Disk) {
        for at in self.first_unsynced..self.segments.len() {
            let Some(segment) = self.segments.get_mut(at).filter(|segment| segment.no_space) else {
                continue;
            };
            let id = segment.id;
            if segment.creation != Creation::Ready {
                let is_asking = self
                    .in_flight
                    .values()
                    .any(|purpose| *purpose == Purpose::Create(id));
                if !is_asking {
                    self.go_on_creating(id, disk);
                }
                continue;
            }
            let Some(file) = segment.file.clone().filter(|_| segment.allocating.is_none()) else {
                continue;
            };
            let end = segment.least_extent_end();
            segment.allocating = Some(end);
            let range = segment.allocated..end;
            self.submit(disk, Purpose::Extend(id), DiskOp::Fallocate { file, range });
        }
    }
}
