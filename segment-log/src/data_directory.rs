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

use crate::checkpoint::{Checkpoint, PartitionCheckpoint};
use crate::disk::std_disk::newest_change_ms;
use crate::disk::{DirectoryLock, Disk, DiskOp, ReadSource};
use crate::durable_replace::{UNFINISHED_SUFFIX, durable_remove, durable_replace};
use crate::identity::{CleanFlag, DirectoryUuid, FEATURE_LEVEL, Identity, IdentityError};
use crate::ids::{LeaderEpoch, PartitionKey};
use crate::journal::{FoundJournals, JournalBug, JournalError};
use crate::limits::{
    CHECKPOINT_FILE_BYTES_MAX, IDENTITY_FILE_BYTES_MAX, NAMES_LOOKED_AT_MAX, READ_ATTEMPTS_MAX,
};
use crate::log::machine::{Io, Machine, TokenCounter};
use crate::recovery::RecoveryOptions;
use crate::recovery::unreadable::is_unreadable;
use crate::segment_header::parse_segment_file_name;

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

/// A checkpoint that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCheckpoint {
    /// The shard that wrote it.
    pub shard: u32,
    /// Whether it is the older generation.
    pub is_previous: bool,
    /// What it says.
    pub checkpoint: Checkpoint,
}

/// What the checkpoints found say of one partition.
#[derive(Clone, Debug, Default)]
pub struct PartitionEvidence {
    /// The newest.
    pub checkpoint: Option<PartitionCheckpoint>,
    /// What an opening has to be told besides.
    pub options: RecoveryOptions,
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

/// What these checkpoints say of a partition, if the last start of their directory was `last_start`.
pub fn evidence_of(found: &[FoundCheckpoint], last_start: u64, key: &PartitionKey) -> PartitionEvidence {
    let naming = || {
        found
            .iter()
            .filter_map(|found| Some((found, found.checkpoint.partition(key)?)))
    };
    let newest = naming().max_by_key(|(found, partition)| {
        (
            found.checkpoint.start_counter,
            !found.is_previous,
            partition.durable_index,
        )
    });
    let term_floor = naming()
        .map(|(_, partition)| partition.term)
        .max()
        .unwrap_or(LeaderEpoch(0));
    let is_old = newest.is_some_and(|(found, _)| found.checkpoint.start_counter < last_start);
    // A file may have been put back to an older state: what it says tells, not its name.
    let ahead = |other: &&PartitionCheckpoint| newest.is_some_and(|(_, newest)| is_ahead(other, newest));
    let ahead = naming().map(|(_, partition)| partition).filter(ahead);
    let furthest = ahead.max_by_key(|partition| partition.durable_index);
    PartitionEvidence {
        checkpoint: furthest.or(newest.map(|(_, newest)| newest)).cloned(),
        options: RecoveryOptions {
            term_floor,
            checkpoint_is_old: is_old,
            ..RecoveryOptions::default()
        },
    }
}

/// Whether `one` was written later than `other` on the same course of the log: it proves more, and knows
/// the segment that the other one ends with. After a truncation an older one does not.
fn is_ahead(one: &PartitionCheckpoint, other: &PartitionCheckpoint) -> bool {
    let last = other.segments.last();
    one.durable_index > other.durable_index
        && last.is_some_and(|last| one.segment(&last.incarnation).is_some())
}

/// The work of making a shard's checkpoint durable; the one before it becomes the older generation.
///
/// One at a time for each shard. After an error the older generations still count, and it is to be
/// written again.
pub fn write_checkpoint(
    token_space: u32,
    directory: PathBuf,
    shard: u32,
    checkpoint: &Checkpoint,
) -> Machine<io::Result<()>> {
    let content = Bytes::from(checkpoint.encode());
    Machine::new(TokenCounter::new(token_space), move |io| async move {
        let current = checkpoint_name(shard, false);
        let previous = checkpoint_name(shard, true);
        match io
            .rename(&directory.join(&current), &directory.join(&previous))
            .await
        {
            // Durable before the new one takes the name: one of the two is there at any time.
            Ok(()) => io.sync_dir(&directory).await?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        durable_replace(&io, &directory, &current, content).await
    })
}

fn checkpoint_name(shard: u32, is_previous: bool) -> String {
    let suffix = if is_previous { PREVIOUS_SUFFIX } else { "" };
    format!("{CHECKPOINT_PREFIX}{shard}{suffix}")
}

/// The shard that a checkpoint file is of, and whether it is the older generation; `None` for any other name.
pub fn parse_checkpoint_name(name: &str) -> Option<(u32, bool)> {
    let rest = name.strip_prefix(CHECKPOINT_PREFIX)?;
    let (number, is_previous) = match rest.strip_suffix(PREVIOUS_SUFFIX) {
        Some(number) => (number, true),
        None => (rest, false),
    };
    let shard = number.parse().ok()?;
    (checkpoint_name(shard, is_previous) == name).then_some((shard, is_previous))
}

struct Start {
    identity: Identity,
    is_first: bool,
    was_clean: bool,
    last_start: u64,
    found: Vec<FoundCheckpoint>,
    unreadable: Vec<String>,
}

async fn start(io: Io, directory: PathBuf, new: NewIdentity) -> Result<Start, DataDirectoryError> {
    let failed = |doing: &'static str, name: &str| {
        let path = directory.join(name);
        move |cause| DataDirectoryError::Io { doing, path, cause }
    };
    let names = io.names(&directory).await.map_err(failed("listing", ""))?;
    let stored = match read_small(&io, &directory, IDENTITY_FILE, IDENTITY_FILE_BYTES_MAX).await {
        Ok(Some(bytes)) => {
            let damaged = |cause| DataDirectoryError::Identity {
                path: directory.join(IDENTITY_FILE),
                cause,
            };
            Some(Identity::decode(&bytes).map_err(damaged)?)
        }
        Ok(None) => match held_beside_identity(&io, &directory, &names).await {
            Some(held) => {
                return Err(DataDirectoryError::IdentityGone {
                    path: directory.join(IDENTITY_FILE),
                    directory: directory.clone(),
                    held,
                });
            }
            None => None,
        },
        Err(cause) => return Err(failed("reading", IDENTITY_FILE)(cause)),
    };
    if let Some(identity) = stored
        .as_ref()
        .filter(|identity| identity.feature_level > FEATURE_LEVEL)
    {
        return Err(DataDirectoryError::FeatureLevel {
            found: identity.feature_level,
            known: FEATURE_LEVEL,
        });
    }
    let (found, unreadable) = read_checkpoints(&io, &directory, &names)
        .await
        .map_err(failed("reading checkpoints in", ""))?;
    let flag = match read_if_readable(&io, &directory, CLEAN_FILE, IDENTITY_FILE_BYTES_MAX).await {
        Ok(bytes) => bytes.and_then(|bytes| CleanFlag::decode(&bytes).ok()),
        Err(cause) => return Err(failed("reading", CLEAN_FILE)(cause)),
    };
    let last_start = stored.as_ref().map_or(0, |identity| identity.start_counter);
    let was_clean = stored.is_some() && flag.is_some_and(|flag| flag.start_counter == last_start);

    // The first change is that the directory is no longer clean.
    durable_remove(&io, &directory, CLEAN_FILE)
        .await
        .map_err(failed("removing", CLEAN_FILE))?;
    for name in names.iter().filter(|name| name.ends_with(UNFINISHED_SUFFIX)) {
        io.unlink_if_present(&directory.join(name))
            .await
            .map_err(failed("removing", name))?;
    }
    let counted = found
        .iter()
        .map(|found| found.checkpoint.start_counter)
        .max()
        .unwrap_or(0);
    let start_counter = last_start.max(counted).saturating_add(1);
    let is_first = stored.is_none();
    let identity = match stored {
        Some(identity) => Identity {
            start_counter,
            directory_id: if identity.directory_id == [0; 16] {
                new.directory_id
            } else {
                identity.directory_id
            },
            ..identity
        },
        None => Identity {
            start_counter,
            node_id: new.node_id,
            feature_level: FEATURE_LEVEL,
            cluster_id: new.cluster_id,
            rack: new.rack,
            directory_id: new.directory_id,
        },
    };
    durable_replace(&io, &directory, IDENTITY_FILE, Bytes::from(identity.encode()))
        .await
        .map_err(failed("writing", IDENTITY_FILE))?;
    Ok(Start {
        identity,
        is_first,
        was_clean,
        last_start: last_start.max(counted),
        found,
        unreadable,
    })
}

/// What in a directory without an identity was written after one was made: a checkpoint, a clean flag, a
/// segment two levels down. Looks at a bounded number of names.
async fn held_beside_identity(io: &Io, directory: &Path, names: &[String]) -> Option<PathBuf> {
    let is_ours = |name: &&String| parse_checkpoint_name(name).is_some() || *name == CLEAN_FILE;
    if let Some(name) = names.iter().find(is_ours) {
        return Some(PathBuf::from(name));
    }
    let mut left = NAMES_LOOKED_AT_MAX;
    let mut open: Vec<(PathBuf, u32)> = names.iter().map(|name| (PathBuf::from(name), 1)).collect();
    while let Some((path, depth)) = open.pop() {
        // A file has no names in it, and what cannot be listed says nothing.
        let Ok(names) = io.names(&directory.join(&path)).await else {
            continue;
        };
        for name in names.into_iter().take(left) {
            left -= 1;
            if parse_segment_file_name(&name).is_some() {
                return Some(path.join(name));
            }
            if depth < 2 {
                open.push((path.join(name), depth + 1));
            }
        }
    }
    None
}

/// Makes an identity for a directory that lost its own: its start counter is above that of every checkpoint
/// and `start_floor`. Nobody else may have the directory. Blocks.
///
/// # Errors
/// There is one, or the disk refused; nothing counts as changed.
pub fn make_identity_anew(
    disk: &mut dyn Disk,
    directory: &Path,
    new: NewIdentity,
    start_floor: u64,
) -> io::Result<Identity> {
    let directory = directory.to_path_buf();
    Machine::new(TokenCounter::new(0), |io| async move {
        if read_small(&io, &directory, IDENTITY_FILE, IDENTITY_FILE_BYTES_MAX)
            .await?
            .is_some()
        {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let names = io.names(&directory).await?;
        let (found, _) = read_checkpoints(&io, &directory, &names).await?;
        let counted = found.iter().map(|found| found.checkpoint.start_counter).max();
        // The checkpoints found then count as those of an older start, as far as terms go.
        let start_counter = counted.unwrap_or(0).max(start_floor).saturating_add(1);
        let identity = Identity {
            start_counter,
            node_id: new.node_id,
            feature_level: FEATURE_LEVEL,
            cluster_id: new.cluster_id,
            rack: new.rack,
            directory_id: new.directory_id,
        };
        let content = Bytes::from(identity.encode());
        durable_remove(&io, &directory, CLEAN_FILE).await?;
        durable_replace(&io, &directory, IDENTITY_FILE, content).await?;
        Ok(identity)
    })
    .drive(disk)
}

async fn read_checkpoints(
    io: &Io,
    directory: &Path,
    names: &[String],
) -> io::Result<(Vec<FoundCheckpoint>, Vec<String>)> {
    let mut found = Vec::new();
    let mut unreadable = Vec::new();
    for name in names {
        let Some((shard, is_previous)) = parse_checkpoint_name(name) else {
            continue;
        };
        let bytes = read_if_readable(io, directory, name, CHECKPOINT_FILE_BYTES_MAX).await?;
        match bytes.and_then(|bytes| Checkpoint::decode(&bytes).ok()) {
            Some(checkpoint) => found.push(FoundCheckpoint {
                shard,
                is_previous,
                checkpoint,
            }),
            None => unreadable.push(name.clone()),
        }
    }
    Ok((found, unreadable))
}

/// As [`read_small`], and `None` too if its sectors cannot be read: a checkpoint and a clean flag can
/// be done without.
async fn read_if_readable(
    io: &Io,
    directory: &Path,
    name: &str,
    bytes_max: usize,
) -> io::Result<Option<Vec<u8>>> {
    for _ in 0..READ_ATTEMPTS_MAX {
        match read_small(io, directory, name, bytes_max).await {
            Err(error) if is_unreadable(&error) => {}
            other => return other,
        }
    }
    Ok(None)
}

/// A whole file from the device, `None` if it is not there. One that is longer than the bound is
/// read up to it and then does not verify.
async fn read_small(io: &Io, directory: &Path, name: &str, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match io.open(&directory.join(name)).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // What a killed process left in the cache may not be what the device has.
    io.sync(&file).await?;
    io.done(DiskOp::DropCache { file: file.clone() }).await?;
    let len = usize::try_from(io.len(&file).await?)
        .unwrap_or(usize::MAX)
        .min(bytes_max);
    let bytes = io
        .read(&file, 0, len.next_multiple_of(4_096), ReadSource::Device)
        .await?;
    Ok(Some(
        bytes.get(..len.min(bytes.len())).unwrap_or_default().to_vec(),
    ))
}
