//! A data directory: its lock, its identity, its clean flag and its checkpoints.
//!
//! Opened once at start-up, on one thread, which it blocks; afterwards the shards write their
//! checkpoints through [`write_checkpoint`] without blocking. Invariants:
//! - one process at a time: the lock is held as long as the [`DataDirectory`] lives;
//! - the clean flag is gone, durably, before anything else changes, and the start counter is raised,
//!   durably, before anything is appended;
//! - at any moment one generation of each shard's checkpoint is whole.
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | locked, empty |
//! | `identity` | [`Identity`] |
//! | `clean` | [`CleanFlag`], only between an orderly stop and the next start |
//! | `checkpoint-<shard>` | the newest [`Checkpoint`] of that shard |
//! | `checkpoint-<shard>.previous` | the one before it |
//! | `journal/` | the commit journals, see [`crate::journal`] |

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use thiserror::Error;

use crate::disk::std_disk::newest_change_ms;
use crate::disk::{DirectoryLock, Disk};
use crate::durable_replace::{durable_remove, durable_replace};
use crate::identity::{CleanFlag, DirectoryUuid, Identity, IdentityError};
use crate::ids::PartitionKey;
use crate::journal::{FoundJournals, JournalBug, JournalError};
use crate::log::machine::{Machine, TokenCounter};

mod checkpoints;
mod read;
mod start;

use checkpoints::checkpoint_name;
pub use checkpoints::{
    FoundCheckpoint, PartitionEvidence, evidence_of, parse_checkpoint_name, write_checkpoint,
};
pub use start::make_identity_anew;
use start::start;

const IDENTITY_FILE: &str = "identity";
const CLEAN_FILE: &str = "clean";
const CHECKPOINT_PREFIX: &str = "checkpoint-";
const PREVIOUS_SUFFIX: &str = ".previous";

/// What a directory's identity is made of at its first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIdentity {
    /// The broker's node id, not negative.
    pub node_id: i32,
    /// Kafka's cluster id.
    pub cluster_id: String,
    /// The node's rack.
    pub rack: Option<String>,
    /// The directory's own id, random; taken also where an identity has none.
    pub directory_id: DirectoryUuid,
}

/// Why a data directory cannot be used. All end the start-up.
#[derive(Debug, Error)]
pub enum DataDirectoryError {
    /// Stop the other process, or choose another directory.
    #[error("{path} is in use by another process")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Look at the disk and the permissions.
    #[error("{doing} {path}: {cause}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// What the disk said.
        cause: io::Error,
    },
    /// Restore the identity file from a backup; nothing was changed.
    #[error("{path} is damaged: {cause}")]
    Identity {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        cause: IdentityError,
    },
    /// Its journals cannot be read; the text says what to do.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Restore the identity file from a backup, or have a new one made; nothing was changed. A start
    /// that counted as the first one would give out leader epochs again, under another cluster id.
    #[error(
        "{path} is gone, and {held} beside it says that a broker ran here; restore it from a backup, or make \
         a new one with `tidelog segment repair {directory} --execute --new-identity NODE_ID`"
    )]
    IdentityGone {
        /// The identity file.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
        /// What is there, as a path in the directory.
        held: PathBuf,
    },
    /// Use a newer version of this program; nothing was changed.
    #[error("the data directory has feature level {found}, this version knows {known}")]
    FeatureLevel {
        /// In the identity file.
        found: u32,
        /// What this program knows.
        known: u32,
    },
}

/// A data directory that this process holds. See the module.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    is_first_start: bool,
    was_clean: bool,
    last_start: u64,
    last_change_ms: Option<i64>,
    found: Vec<FoundCheckpoint>,
    unreadable: Vec<String>,
    /// Until they are removed.
    journals: Mutex<FoundJournals>,
    _lock: DirectoryLock,
}

impl DataDirectory {
    /// Takes the lock, reads what is there, removes the clean flag and raises the start counter.
    ///
    /// Blocks, and uses up all completions of `disk` meanwhile.
    ///
    /// # Errors
    /// The variants say what the operator can do.
    pub fn open(disk: &mut dyn Disk, path: &Path, new: NewIdentity) -> Result<Self, DataDirectoryError> {
        Self::open_with(disk, path, new, JournalBug::None)
    }

    /// As [`DataDirectory::open`], with a fault planted in what is found of journals.
    #[doc(hidden)]
    pub fn open_with(
        disk: &mut dyn Disk,
        path: &Path,
        new: NewIdentity,
        bug: JournalBug,
    ) -> Result<Self, DataDirectoryError> {
        let failed = |doing: &'static str| {
            let path = path.to_path_buf();
            move |cause| DataDirectoryError::Io { doing, path, cause }
        };
        let directory = path.to_path_buf();
        Machine::new(TokenCounter::new(0), |io| async move {
            io.create_dir(&directory).await?;
            match directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => io.sync_dir(parent).await,
                None => Ok(()),
            }
        })
        .drive(disk)
        .map_err(failed("creating"))?;
        let lock = disk.lock_directory(path).map_err(|cause| match cause.kind() {
            io::ErrorKind::WouldBlock => DataDirectoryError::Locked {
                path: path.to_path_buf(),
            },
            _ => DataDirectoryError::Io {
                doing: "locking",
                path: path.to_path_buf(),
                cause,
            },
        })?;
        let last_change_ms = newest_change_ms(path, &[CHECKPOINT_PREFIX, CLEAN_FILE]);
        let directory = path.to_path_buf();
        let start = Machine::new(TokenCounter::new(0), |io| start(io, directory, new)).drive(disk)?;
        let journals = FoundJournals::find_with(0, path, bug).drive(disk)?;
        Ok(Self {
            path: path.to_path_buf(),
            identity: start.identity,
            is_first_start: start.is_first,
            was_clean: start.was_clean,
            last_start: start.last_start,
            last_change_ms,
            found: start.found,
            unreadable: start.unreadable,
            journals: Mutex::new(journals),
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity, with this start's counter.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What tells it from other directories, wherever it is mounted.
    pub fn id(&self) -> DirectoryUuid {
        self.identity.directory_id
    }

    /// This start's counter, from 1 on.
    pub fn start_counter(&self) -> u64 {
        self.identity.start_counter
    }

    /// Whether it had no identity before.
    pub fn is_first_start(&self) -> bool {
        self.is_first_start
    }

    /// Whether the last start on it ended in order.
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// By the clock of that time, in ms since 1970: when the last start before this one wrote a checkpoint.
    /// Of files outside a simulation only; no evidence of anything but a clock.
    pub fn last_change_ms(&self) -> Option<i64> {
        self.last_change_ms
    }

    /// All checkpoints that could be read.
    pub fn checkpoints(&self) -> &[FoundCheckpoint] {
        &self.found
    }

    /// Names of checkpoint files that could not be read.
    pub fn unreadable_checkpoints(&self) -> &[String] {
        &self.unreadable
    }

    /// What the checkpoints say of a partition.
    pub fn evidence(&self, key: &PartitionKey) -> PartitionEvidence {
        let mut evidence = evidence_of(&self.found, self.last_start, key);
        evidence.options.journal = self.journals().evidence(key);
        evidence
    }

    /// The journals found, as far as they are still needed.
    pub fn journals(&self) -> MutexGuard<'_, FoundJournals> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The work of removing the journals found: those whose partitions were all opened since, or are dead.
    pub fn remove_replayed_journals(&self, token_space: u32) -> Machine<io::Result<()>> {
        self.journals().remove_replayed(token_space)
    }

    /// Marks the directory as shut down in order. Only after every shard's last checkpoint is
    /// durable. Blocks.
    ///
    /// # Errors
    /// The directory then counts as not clean.
    pub fn mark_clean(&self, disk: &mut dyn Disk) -> io::Result<()> {
        let directory = self.path.clone();
        let flag = CleanFlag {
            start_counter: self.start_counter(),
        };
        let content = Bytes::from(flag.encode());
        Machine::new(TokenCounter::new(0), |io| async move {
            durable_replace(&io, &directory, CLEAN_FILE, content).await
        })
        .drive(disk)
    }

    /// The work of removing checkpoints of shards that are no more. Only after *every* shard wrote
    /// its first new one.
    pub fn remove_surplus_checkpoints(&self, token_space: u32, shards: u32) -> Machine<io::Result<()>> {
        let directory = self.path.clone();
        let mut names: Vec<String> = self
            .found
            .iter()
            .filter(|found| found.shard >= shards)
            .map(|found| checkpoint_name(found.shard, found.is_previous))
            .collect();
        names.extend(
            self.unreadable
                .iter()
                .filter(|name| parse_checkpoint_name(name).is_some_and(|(shard, _)| shard >= shards))
                .cloned(),
        );
        Machine::new(TokenCounter::new(token_space), |io| async move {
            for name in names {
                io.unlink_if_present(&directory.join(name)).await?;
            }
            io.sync_dir(&directory).await
        })
    }
}

/// Removes the clean flag durably, before files are changed by hand. Blocks.
///
/// # Errors
/// The directory may count as clean then.
pub fn remove_clean_flag(disk: &mut dyn Disk, directory: &Path) -> io::Result<()> {
    let directory = directory.to_path_buf();
    Machine::new(TokenCounter::new(0), |io| async move {
        durable_remove(&io, &directory, CLEAN_FILE).await
    })
    .drive(disk)
}
