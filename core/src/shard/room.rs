//! Where a partition's bytes go: the file system of a data directory, or the memory that is set aside for records.
//!
//! Owned by the partition; what it shares is read by itself. Says whether a client's batch is taken, and why not.

use std::sync::Arc;

use tidelog_net::ErrorCode;
use tidelog_segment_log::disk::heap::HeapPool;

use super::append::Refusal;
use crate::directory_space::DirectorySpace;
use crate::settings::format_size;

/// See the file's head.
#[derive(Clone, Debug)]
pub(super) enum Room {
    /// Files in a data directory.
    Directory(Arc<DirectorySpace>),
    /// Files in memory.
    Memory(Arc<HeapPool>),
}

impl Room {
    /// Whether a batch of so many bytes may be appended. `unreserved_bytes`: of the batches before it, what no room
    /// was found for yet.
    ///
    /// # Errors
    /// What the client is told; it tries again.
    pub(super) fn check(&self, unreserved_bytes: u64, batch_bytes: usize) -> Result<(), Refusal> {
        match self {
            Room::Directory(space) if space.has_failed() => {
                let text = "its data directory has failed; see the broker's log";
                Err(Refusal::new(ErrorCode::KafkaStorageError, text))
            }
            Room::Directory(space) if !space.takes_writes() => Err(self.refusal()),
            Room::Directory(_) => Ok(()),
            Room::Memory(pool) if !pool.has_room_for(unreserved_bytes + batch_bytes as u64) => {
                Err(self.refusal())
            }
            Room::Memory(_) => Ok(()),
        }
    }

    /// There is too little of it: clients try again.
    pub(super) fn refusal(&self) -> Refusal {
        let text = match self {
            Room::Directory(space) => {
                let free = match u64::try_from(space.usable_bytes()) {
                    Ok(bytes) => format_size(bytes),
                    Err(_) => "an unknown number of bytes".to_owned(),
                };
                format!(
                    "the disk is full: {free} are free, less than storage.min_free or what this needs; try again when there is room"
                )
            }
            Room::Memory(pool) => format!(
                "topics with storage=memory hold all of storage.memory_max ({}), but for {}: try again when retention or DeleteRecords has made room, or raise it",
                format_size(pool.limit_bytes()),
                format_size(pool.free_bytes())
            ),
        };
        Refusal::new(ErrorCode::KafkaStorageError, text)
    }

    /// Something found no space there.
    pub(super) fn note_full(&self) {
        // Memory tells by itself how much of it is left.
        if let Room::Directory(space) = self {
            space.note_full_disk();
        }
    }

    /// Whether it is memory.
    pub(super) fn is_memory(&self) -> bool {
        matches!(self, Room::Memory(_))
    }

    /// Whether nothing is written there any more.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self, Room::Directory(space) if space.has_failed())
    }
}
