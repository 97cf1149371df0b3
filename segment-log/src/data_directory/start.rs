//! What a start reads and changes in a data directory before anything is opened there.
//!
//! Invariant: the clean flag is gone, durably, before anything else changes, and the start counter is raised, durably,
//! before anything is appended.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::checkpoints::{FoundCheckpoint, parse_checkpoint_name, read_checkpoints};
use super::read::{read_if_readable, read_small};
use super::{CLEAN_FILE, DataDirectoryError, IDENTITY_FILE, NewIdentity};
use crate::disk::Disk;
use crate::durable_replace::{UNFINISHED_SUFFIX, durable_remove, durable_replace};
use crate::identity::{CleanFlag, FEATURE_LEVEL, Identity};
use crate::limits::{IDENTITY_FILE_BYTES_MAX, NAMES_LOOKED_AT_MAX};
use crate::log::machine::{Io, Machine, TokenCounter};
use crate::segment_header::parse_segment_file_name;

pub(super) struct Start {
    pub(super) identity: Identity,
    pub(super) is_first: bool,
    pub(super) was_clean: bool,
    pub(super) last_start: u64,
    pub(super) found: Vec<FoundCheckpoint>,
    pub(super) unreadable: Vec<String>,
}

pub(super) async fn start(io: Io, directory: PathBuf, new: NewIdentity) -> Result<Start, DataDirectoryError> {
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
