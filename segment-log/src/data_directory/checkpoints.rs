//! The checkpoint files of a data directory: written a generation at a time, and what those found say.
//!
//! Written by the shards, read by a start. Invariant: at any moment one generation of each shard's checkpoint is whole.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::read::read_if_readable;
use super::{CHECKPOINT_PREFIX, PREVIOUS_SUFFIX};
use crate::checkpoint::{Checkpoint, PartitionCheckpoint};
use crate::durable_replace::durable_replace;
use crate::ids::{LeaderEpoch, PartitionKey};
use crate::limits::CHECKPOINT_FILE_BYTES_MAX;
use crate::log::machine::{Io, Machine, TokenCounter};
use crate::recovery::RecoveryOptions;

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

pub(super) fn checkpoint_name(shard: u32, is_previous: bool) -> String {
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

pub(super) async fn read_checkpoints(
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
