//! The journals that a start finds, and what they hold of each partition.
//!
//! Read once, before partitions are opened, by whoever owns the data directory; then shared by the shards, which
//! only read. Invariants:
//! - files count in the order of (start counter, sequence), whatever shard wrote them and under whatever name
//!   they lie: of two records about the same index the later one counts;
//! - what a truncation has made dead counts no more, in whatever order files are found;
//! - a file is removed only when each partition it holds something of was opened with it, or is dead.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::format::{FrameError, FrameNumber, JournalPage, JournalPageError};
use super::frames::{FRAMES_END_MAX, JournalEvidence, PartitionFrames};
use super::numbers::Numbers;
use super::scan::{ScanError, Scanned, scan, settle};
use super::writer::{JOURNAL_SUFFIX, JournalBug, journal_directory};
use crate::disk::{FileHandle, ReadSource};
use crate::ids::PartitionKey;
use crate::limits::JOURNAL_FILES_MAX;
use crate::log::machine::{Io, Machine, TokenCounter};
use crate::recovery::unreadable::{READ_ALIGN, read_around};

/// Ends the name of a file whose first page is damaged: it is kept, and read no more.
const DAMAGED_SUFFIX: &str = ".damaged";

/// Why the journals of a data directory cannot be read. Nothing was changed.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Look at the disk; the start may be tried again.
    #[error("reading {path}: {cause}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        cause: io::Error,
    },
    /// Use the version of this program that wrote it.
    #[error("{path} was written by another version: {cause}")]
    Page {
        /// The file.
        path: PathBuf,
        /// What is not understood.
        cause: JournalPageError,
    },
    /// Use the version of this program that wrote it.
    #[error("{path}, byte {position}, was written by another version: {cause}")]
    Frame {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        position: u64,
        /// What is not understood.
        cause: FrameError,
    },
    /// Move it away: no version of this program wrote it.
    #[error("{path} is {bytes} bytes long, at most {FRAMES_END_MAX} are read of a journal file")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How long it is.
        bytes: u64,
    },
    /// Move files away that are not needed.
    #[error("{path} has {files} files, at most {JOURNAL_FILES_MAX} are read")]
    TooMany {
        /// The directory.
        path: PathBuf,
        /// How many.
        files: usize,
    },
}

/// What of a journal was durable and is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalDamage {
    /// Frames that a later one says were durable.
    Frames {
        /// The start that wrote them.
        start_counter: u64,
        /// The shard that wrote them.
        shard: u32,
        /// The first number missing.
        first: FrameNumber,
        /// How many are.
        count: u64,
    },
    /// A file whose first page does not verify.
    Page {
        /// Its name.
        name: String,
        /// What is wrong.
        cause: JournalPageError,
    },
}

/// One journal file that counts.
#[derive(Clone, Debug)]
pub struct FoundFile {
    /// Its name in the journal's directory.
    pub name: String,
    /// What it says of itself.
    pub page: JournalPage,
    handle: FileHandle,
    partitions: BTreeSet<PartitionKey>,
}

/// All that a start finds. See the module.
#[derive(Debug, Default)]
pub struct FoundJournals {
    directory: PathBuf,
    files: Vec<FoundFile>,
    unfinished: Vec<String>,
    damage: Vec<JournalDamage>,
    partitions: HashMap<PartitionKey, Arc<PartitionFrames>>,
}

impl FoundJournals {
    /// The work of reading all journals of a data directory.
    pub fn find(token_space: u32, data_directory: &Path) -> Machine<Result<Self, JournalError>> {
        Self::find_with(token_space, data_directory, JournalBug::None)
    }

    /// As [`FoundJournals::find`], with a fault planted.
    #[doc(hidden)]
    pub fn find_with(
        token_space: u32,
        data_directory: &Path,
        bug: JournalBug,
    ) -> Machine<Result<Self, JournalError>> {
        let directory = journal_directory(data_directory);
        Machine::new(TokenCounter::new(token_space), move |io| find(io, directory, bug))
    }

    /// The files that count, in their order.
    pub fn files(&self) -> &[FoundFile] {
        &self.files
    }

    /// What was durable in them and is lost.
    pub fn damage(&self) -> &[JournalDamage] {
        &self.damage
    }

    /// The partitions they hold something of.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionKey> {
        self.partitions.keys()
    }

    /// What they hold of a partition.
    pub fn evidence(&self, key: &PartitionKey) -> JournalEvidence {
        match self.partitions.get(key) {
            Some(frames) => JournalEvidence::Found(Arc::clone(frames)),
            None => JournalEvidence::None,
        }
    }

    /// The highest start counter that any file names.
    pub fn start_counter(&self) -> u64 {
        let files = self.files.iter();
        files.map(|file| file.page.start_counter).max().unwrap_or(0)
    }

    /// Partitions that were not opened since, and so keep files.
    pub fn waiting(&self) -> Vec<PartitionKey> {
        let waiting = self.partitions.iter().filter(|(_, frames)| !frames.is_replayed());
        waiting.map(|(key, _)| *key).collect()
    }

    /// Partitions whose deletion is recorded keep nothing.
    pub fn forget_dead(&self, is_dead: impl Fn(&PartitionKey) -> bool) {
        let dead = self.partitions.iter().filter(|(key, _)| is_dead(key));
        dead.for_each(|(_, frames)| frames.mark_replayed());
    }

    /// The work of removing what is of no more use: oldest first, each removal durable before the next. Forgets
    /// what the files held.
    pub fn remove_replayed(&mut self, token_space: u32) -> Machine<io::Result<()>> {
        let waiting: BTreeSet<PartitionKey> = self.waiting().into_iter().collect();
        let files = std::mem::take(&mut self.files);
        let (kept, done): (Vec<FoundFile>, Vec<FoundFile>) = files
            .into_iter()
            .partition(|file| file.partitions.iter().any(|key| waiting.contains(key)));
        self.files = kept;
        self.partitions.retain(|key, _| waiting.contains(key));
        let mut names = std::mem::take(&mut self.unfinished);
        names.extend(done.into_iter().map(|file| file.name));
        let damaged: Vec<String> = self.damage.iter().filter_map(damaged_name).collect();
        let directory = self.directory.clone();
        Machine::new(TokenCounter::new(token_space), |io| {
            remove(io, directory, names, damaged)
        })
    }
}

fn damaged_name(damage: &JournalDamage) -> Option<String> {
    match damage {
        JournalDamage::Page { name, .. } => Some(name.clone()),
        JournalDamage::Frames { .. } => None,
    }
}

async fn remove(io: Io, directory: PathBuf, names: Vec<String>, damaged: Vec<String>) -> io::Result<()> {
    for name in damaged {
        let aside = directory.join(format!("{name}{DAMAGED_SUFFIX}"));
        match io.rename(&directory.join(&name), &aside).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        io.sync_dir(&directory).await?;
    }
    for name in names {
        io.unlink_if_present(&directory.join(name)).await?;
        io.sync_dir(&directory).await?;
    }
    Ok(())
}

async fn find(io: Io, directory: PathBuf, bug: JournalBug) -> Result<FoundJournals, JournalError> {
    let failed = |path: PathBuf| move |cause| JournalError::Io { path, cause };
    let mut found = FoundJournals {
        directory: directory.clone(),
        ..FoundJournals::default()
    };
    let names = io
        .names_if_present(&directory)
        .await
        .map_err(failed(directory.clone()))?;
    let names: Vec<String> = names
        .into_iter()
        .filter(|name| name.ends_with(JOURNAL_SUFFIX))
        .collect();
    if names.len() > JOURNAL_FILES_MAX {
        return Err(JournalError::TooMany {
            path: directory,
            files: names.len(),
        });
    }
    // First the pages, then file by file in their order: only one file's frames are in memory as they are.
    for name in names {
        let path = directory.join(&name);
        let handle = io.open(&path).await.map_err(failed(path.clone()))?;
        settle(&io, &handle).await.map_err(failed(path.clone()))?;
        let bytes = io.len(&handle).await.map_err(failed(path.clone()))?;
        if bytes > FRAMES_END_MAX {
            return Err(JournalError::TooLong { path, bytes });
        }
        let page = read_around(&io, &handle, 0, READ_ALIGN as usize, ReadSource::Device).await;
        match JournalPage::decode(&page.map_err(failed(path.clone()))?) {
            Ok(page) => found.files.push(FoundFile {
                name,
                page,
                handle,
                partitions: BTreeSet::new(),
            }),
            Err(cause) if cause.is_unsupported() => return Err(JournalError::Page { path, cause }),
            // Never finished, or trimmed.
            Err(JournalPageError::Truncated(_) | JournalPageError::Magic) => found.unfinished.push(name),
            Err(cause) => found.damage.push(JournalDamage::Page { name, cause }),
        }
    }
    found
        .files
        .sort_by_key(|file| (file.page.start_counter, file.page.sequence, file.page.shard));
    if bug == JournalBug::OldestLast {
        found.files.reverse();
    }
    if let JournalBug::OnlyShardsBelow(shards) = bug {
        found.files.retain(|file| file.page.shard < shards);
    }
    let mut partitions: HashMap<PartitionKey, PartitionFrames> = HashMap::new();
    let mut numbers: BTreeMap<(u64, u32), Numbers> = BTreeMap::new();
    for file in &mut found.files {
        let path = directory.join(&file.name);
        let page = file.page;
        let numbers = numbers.entry((page.start_counter, page.shard)).or_default();
        let take_in = |frame: Scanned| {
            numbers.note(frame.header.number, frame.header.durable);
            let key = frame.header.key();
            file.partitions.insert(key);
            let partition = partitions.entry(key).or_default();
            partition.take_in((&file.handle, page.file_id), &frame);
        };
        match scan(&io, &file.handle, None, take_in).await {
            Ok(()) => {}
            Err(ScanError::Io(cause)) => return Err(JournalError::Io { path, cause }),
            Err(ScanError::Page(cause)) => return Err(JournalError::Page { path, cause }),
            Err(ScanError::Frame(position, cause)) => {
                return Err(JournalError::Frame {
                    path,
                    position,
                    cause,
                });
            }
        };
    }
    found.damage.extend(missing(&numbers));
    found.partitions = partitions
        .into_iter()
        .map(|(key, mut frames)| {
            frames.finish();
            (key, Arc::new(frames))
        })
        .collect();
    Ok(found)
}

/// What is missing of each journal.
fn missing(numbers: &BTreeMap<(u64, u32), Numbers>) -> impl Iterator<Item = JournalDamage> {
    numbers.iter().filter_map(|((start_counter, shard), numbers)| {
        let (first, count) = numbers.missing()?;
        Some(JournalDamage::Frames {
            start_counter: *start_counter,
            shard: *shard,
            first,
            count,
        })
    })
}

#[cfg(test)]
mod tests;
