//! What a recovery of a partition would find now, without changing anything: for tools.
//!
//! Blocks its caller. It is recovery's own walk, so the two cannot differ. It may run beside a broker
//! that is writing: then what it says is true of some moment while it ran, and an entry that was being
//! written when it was looked at is looked at again before it is called damaged.
//!
//! Invariants: files are only read; the visitor sees each accepted entry once, in the order of the log.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::known::Known;
use super::replay::{Replay, make_lost_segments};
use super::scan::Window;
use super::unreadable::read_around;
use super::walk::{Ending, Visit, WalkError, WalkInput, Walked, walk};
use super::{
    FindError, FoundFiles, Quarantined, RecoveryBug, Unreadable, find_files, find_named, lost_front,
    lost_whole,
};
use crate::batch::BatchHeader;
use crate::checkpoint::PartitionCheckpoint;
use crate::disk::overlay::OverlayDisk;
use crate::disk::{Disk, ReadSource};
use crate::entry::{ENTRY_HEADER_LEN, EntryHeader};
use crate::ids::{EntryIndex, Offset, PartitionKey};
use crate::journal::JournalEvidence;
use crate::log::UnsupportedEntry;
use crate::log::machine::{Io, drive_here};
use crate::log::segment::Segment;
use crate::log::state::LogState;
use crate::segment_header::{SEGMENT_HEADER_LEN, SegmentHeader, SegmentHeaderError, decode_copies};

/// What is examined.
#[derive(Clone, Debug)]
pub struct ExamineSpec {
    /// The partition's own directory.
    pub directory: PathBuf,
    /// Which partition it is.
    pub key: PartitionKey,
    /// What the newest checkpoint found says of it; read before, if a broker is running.
    pub checkpoint: Option<PartitionCheckpoint>,
    /// What journals hold of it.
    pub journal: JournalEvidence,
    /// Only this file is walked; the others are looked at for where it ends, and for what they prove.
    pub only: Option<String>,
    /// Bytes of each batch that the visitor is shown, at most.
    pub batch_bytes: usize,
}

/// Why nothing can be said.
#[derive(Debug, Error)]
pub enum ExamineError {
    /// The disk refused. Of a file that is gone: it may have been removed meanwhile; examine again.
    #[error("reading {directory}: {cause}")]
    Io {
        /// The partition's directory.
        directory: PathBuf,
        /// What the disk said.
        cause: io::Error,
    },
    /// Another version of this program wrote a segment.
    #[error("segment {name} cannot be read by this version: {cause}")]
    Unsupported {
        /// File name of the segment.
        name: String,
        /// What is not understood.
        cause: SegmentHeaderError,
    },
    /// Another version of this program wrote an entry.
    #[error("segment {name}, byte {position}: {cause}")]
    UnsupportedEntry {
        /// File name of the segment.
        name: String,
        /// Where the entry begins.
        position: u64,
        /// What is not understood.
        cause: UnsupportedEntry,
    },
    /// The visitor asked for it.
    #[error("ended by the caller")]
    Stopped,
}

/// A segment that belongs to the log, or lies behind its end.
#[derive(Clone, Debug)]
pub struct ExaminedSegment {
    /// Its file name.
    pub name: String,
    /// Its header.
    pub header: SegmentHeader,
    /// What is wrong with a copy of its header.
    pub header_faults: Vec<String>,
    /// Where its accepted entries end.
    pub end: u64,
    /// Bytes of the file.
    pub file_len: u64,
    /// The offset behind its last entry.
    pub next_offset: Offset,
    /// Of the segment that the log ends in: what of the bytes behind that end is wrong, unless they are
    /// zero. Nothing proves them durable; recovery cuts them.
    pub torn: Option<String>,
}

/// A file with the name of a segment that is no part of the log.
#[derive(Clone, Debug)]
pub struct OtherFile {
    /// Its file name.
    pub name: String,
    /// Its header, if a copy verifies: then a later generation took its place, or it is another
    /// partition's.
    pub header: Option<SegmentHeader>,
    /// What is wrong with a copy of its header.
    pub header_faults: Vec<String>,
    /// It holds nothing but zeros where its header should be: it was being created.
    pub is_blank: bool,
    /// Bytes of the file.
    pub file_len: u64,
}

/// Damage, and what the first of its bytes fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExaminedDamage {
    /// As recovery reports it.
    pub quarantined: Quarantined,
    /// Why there is no entry.
    pub why: String,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The segments of the log, in order.
    pub segments: Vec<ExaminedSegment>,
    /// Segments behind the end of the log: nothing proves that they were durable. Recovery sets them aside.
    pub behind: Vec<ExaminedSegment>,
    /// Files that recovery sets aside for what they are.
    pub others: Vec<OtherFile>,
    /// What was durable and does not verify, in the order recovery reports it.
    pub damage: Vec<ExaminedDamage>,
    /// Bytes that the device does not give back.
    pub unreadable: Vec<Unreadable>,
    /// The lowest offset that is served.
    pub log_start: Offset,
    /// The index and the offset that the log goes on with.
    pub next: (EntryIndex, Offset),
    /// Entries that only a journal holds: recovery writes them to the segments, and the visitor has seen them.
    pub from_journal: u64,
    /// Whether damage reaches to the end of the log: then it goes on in a new segment.
    pub ends_in_damage: bool,
}

impl Examined {
    /// Names that recovery would set aside, sorted.
    pub fn set_aside(&self) -> Vec<String> {
        let others = self.others.iter().map(|other| &other.name);
        let behind = self.behind.iter().map(|segment| &segment.name);
        let mut names: Vec<String> = others.chain(behind).cloned().collect();
        names.sort();
        names
    }
}

/// Walks the partition as recovery does and shows each accepted entry to `visit`: file name, position,
/// header, payload (of batches only as much as was asked for). It ends the walk by answering false.
///
/// # Errors
/// The variants say what to do.
pub fn examine(
    disk: &mut dyn Disk,
    spec: &ExamineSpec,
    visit: &mut Visit<'_>,
) -> Result<Examined, ExamineError> {
    let directory = &spec.directory;
    let mut overlay;
    let disk: &mut dyn Disk = match &spec.journal {
        JournalEvidence::None => disk,
        // What recovery would write is seen, and not written.
        _ => {
            overlay = OverlayDisk::new(disk);
            &mut overlay
        }
    };
    drive_here(disk, |io| async move { run(&io, spec, visit).await }).map_err(|failure| failure.of(directory))
}

/// As it comes out of the steps.
pub(super) enum ExamineFailure {
    Io(io::Error),
    Find(FindError),
    Walk(WalkError),
}

impl From<io::Error> for ExamineFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl ExamineFailure {
    /// For the caller: of the partition in this directory.
    pub(super) fn of(self, directory: &Path) -> ExamineError {
        match self {
            Self::Io(cause) | Self::Find(FindError::Io(cause)) | Self::Walk(WalkError::Io(cause)) => {
                ExamineError::Io {
                    directory: directory.to_path_buf(),
                    cause,
                }
            }
            Self::Find(FindError::Unsupported { name, cause }) => ExamineError::Unsupported { name, cause },
            Self::Walk(WalkError::Unsupported {
                segment,
                position,
                cause,
            }) => ExamineError::UnsupportedEntry {
                name: segment,
                position,
                cause,
            },
            Self::Walk(WalkError::Stopped) => ExamineError::Stopped,
        }
    }
}

/// What the visitor is told as the file of entries that recovery will write to a segment of their own.
pub const IN_JOURNAL: &str = "(journal)";

const SOURCE: ReadSource = ReadSource::Cached;

async fn run(io: &Io, spec: &ExamineSpec, visit: &mut Visit<'_>) -> Result<Examined, ExamineFailure> {
    let mut found = find(io, spec).await?;
    let replay = replay_of(io, spec, &mut found, true).await?;
    let (segments, others) = (found.segments, found.others);
    let names: Vec<String> = segments.iter().map(Segment::name).collect();
    let log_start = spec.checkpoint.as_ref().map_or(Offset(0), |c| c.log_start);
    let mut show =
        |name: &str, position, header: &EntryHeader, payload: &[u8]| visit(name, position, header, payload);
    let input = WalkInput {
        replay,
        tail_in_new_file: false,
        io,
        source: SOURCE,
        verify_payload: true,
        checkpoint: spec.checkpoint.as_ref(),
        known: Known::default(),
        bug: RecoveryBug::None,
        batch_bytes: spec.batch_bytes,
        visit: Some(&mut show),
        only_first: spec.only.is_some(),
    };
    let walk = walk(input, segments, LogState::new(log_start)).await;
    let mut walked = walk.map_err(ExamineFailure::Walk)?;
    if spec.only.is_none()
        && let Some(checkpoint) = &spec.checkpoint
    {
        lost_front(checkpoint, &mut walked);
        lost_whole(checkpoint, &mut walked);
    }
    if spec.only.is_none() {
        take_tail(io, spec, &mut walked, Some(visit)).await?;
    }
    describe(io, spec, &walked, &names, others)
        .await
        .map_err(ExamineFailure::Io)
}

/// What journals hold of the partition, for a walk. `over`: the disk is one that nothing reaches, so that segments
/// which are lost with their names are made again there.
pub(super) async fn replay_of(
    io: &Io,
    spec: &ExamineSpec,
    found: &mut FoundFiles,
    over: bool,
) -> io::Result<Replay> {
    let Some(frames) = spec.journal.read(io, &spec.key).await? else {
        return Ok(Replay::default());
    };
    if over && spec.only.is_none() {
        make_lost_segments(io, &spec.directory, found, &frames, SOURCE).await?;
    }
    let mut truncations = found.truncations.clone();
    frames.segments().for_each(|segment| truncations.note(segment));
    Ok(Replay::new(Some(frames), truncations))
}

/// Goes on with what only a journal holds behind everything else, as recovery does in a segment of its own.
pub(super) async fn take_tail(
    io: &Io,
    spec: &ExamineSpec,
    walked: &mut Walked,
    mut visit: Option<&mut Visit<'_>>,
) -> Result<(), ExamineFailure> {
    // Behind damage the next segment begins with the producers' states, unless the journal goes on there.
    let begins_empty = walked.ending == Ending::Here
        && walked.quarantined.is_empty()
        && walked.segments.last().is_none_or(Segment::is_empty);
    if !walked.tail_in_journal && !begins_empty {
        return Ok(());
    }
    while let Some(entry) = walked.replay.next(io, &walked.state).await? {
        let len = entry.header.payload_len as usize;
        let payload = entry.bytes.slice(ENTRY_HEADER_LEN..ENTRY_HEADER_LEN + len);
        let batch = match entry.header.is_plain_data() {
            true => BatchHeader::parse(&payload).ok(),
            false => None,
        };
        if walked
            .state
            .accept(&entry.header, batch.as_ref(), &payload)
            .is_err()
        {
            break;
        }
        walked.replay.taken += 1;
        let shown = match entry.header.kind.is_batch() {
            true => payload.get(..spec.batch_bytes).unwrap_or(&payload),
            false => &payload,
        };
        if let Some(visit) = visit.as_mut()
            && !visit(IN_JOURNAL, entry.position, &entry.header, shown)
        {
            return Err(ExamineFailure::Walk(WalkError::Stopped));
        }
    }
    Ok(())
}

/// The files, and of one file alone those that follow it.
async fn find(io: &Io, spec: &ExamineSpec) -> Result<FoundFiles, ExamineFailure> {
    let (directory, key) = (&spec.directory, spec.key);
    let Some(only) = &spec.only else {
        let found = find_files(io, directory, key, SOURCE, false, RecoveryBug::None).await;
        return found.map_err(ExamineFailure::Find);
    };
    let found = find_files(io, directory, key, SOURCE, false, RecoveryBug::None).await;
    let mut found = found.map_err(ExamineFailure::Find)?;
    match found.segments.iter().position(|segment| segment.name() == *only) {
        Some(at) => drop(found.segments.drain(..at)),
        None => {
            // No part of the log, and asked for all the same.
            let alone = vec![only.clone()];
            found = find_named(io, directory, alone, key, SOURCE, false, RecoveryBug::None)
                .await
                .map_err(ExamineFailure::Find)?;
        }
    }
    found.others.retain(|name| name == only);
    Ok(found)
}

/// What is said of a walk.
pub(super) async fn describe(
    io: &Io,
    spec: &ExamineSpec,
    walked: &Walked,
    names: &[String],
    others: Vec<String>,
) -> io::Result<Examined> {
    let mut segments = Vec::new();
    for segment in &walked.segments {
        segments.push(describe_segment(io, &spec.directory, segment).await?);
    }
    let mut behind = Vec::new();
    for segment in walked.set_aside.iter().filter(|_| spec.only.is_none()) {
        behind.push(describe_segment(io, &spec.directory, segment).await?);
    }
    if walked.ending == Ending::Here
        && let (Some(segment), Some(last)) = (walked.segments.last(), segments.last_mut())
        && let Some(mut window) = segment.window(io, SOURCE)
        && !is_dead_behind(walked, names)
        && window.is_torn_from(segment.tail.position).await?
    {
        last.torn = Some(window.explain(segment.tail.position).await?);
    }
    let mut damage = Vec::new();
    for quarantined in &walked.quarantined {
        let segment = walked
            .segments
            .iter()
            .find(|segment| segment.name() == quarantined.segment);
        let why = match segment.and_then(|segment| segment.window(io, SOURCE)) {
            Some(mut window) => window.explain(quarantined.position.start).await?,
            None => {
                "the checkpoint names this segment, and it is not there with a header that verifies".into()
            }
        };
        damage.push(ExaminedDamage {
            quarantined: quarantined.clone(),
            why,
        });
    }
    let mut other_files = Vec::new();
    for name in others {
        other_files.push(describe_other(io, &spec.directory, name).await?);
    }
    Ok(Examined {
        segments,
        behind,
        others: other_files,
        damage,
        unreadable: io.with_unreadable(|pages| pages.ranges()),
        log_start: walked.state.log_start(),
        next: (walked.state.next_index(), walked.state.next_offset()),
        from_journal: walked.replay.taken,
        ends_in_damage: walked.ending != Ending::Here,
    })
}

/// Whether the log ends in a segment whose end is where another one begins: what lies behind is dead.
fn is_dead_behind(walked: &Walked, names: &[String]) -> bool {
    walked.set_aside.is_empty() && names.len() > walked.segments.len()
        || walked.segments.len() == 1 && names.len() > 1
}

async fn describe_segment(io: &Io, directory: &Path, segment: &Segment) -> io::Result<ExaminedSegment> {
    let name = segment.name();
    let (_, header_faults, _) = header_of(io, &directory.join(&name)).await?;
    Ok(ExaminedSegment {
        name,
        header: segment.header,
        header_faults,
        end: segment.tail.position,
        file_len: segment.file_len,
        next_offset: segment.tail.next_offset,
        torn: None,
    })
}

async fn describe_other(io: &Io, directory: &Path, name: String) -> io::Result<OtherFile> {
    let path = directory.join(&name);
    let (header, header_faults, is_blank) = header_of(io, &path).await?;
    let file = io.open(&path).await?;
    let file_len = io.len(&file).await?;
    Ok(OtherFile {
        name,
        header,
        header_faults,
        is_blank,
        file_len,
    })
}

/// The header, what is wrong with its copies, and whether there is nothing but zeros in its place.
pub(super) async fn header_of(
    io: &Io,
    path: &Path,
) -> io::Result<(Option<SegmentHeader>, Vec<String>, bool)> {
    let file = io.open(path).await?;
    let bytes = read_around(io, &file, 0, SEGMENT_HEADER_LEN, SOURCE).await?;
    let [first, second] = decode_copies(&bytes);
    let fault = |which: &str, copy: Result<SegmentHeader, SegmentHeaderError>| {
        copy.err().map(|error| format!("{which} header copy: {error}"))
    };
    let faults = [fault("first", first), fault("second", second)];
    let header = SegmentHeader::decode(&bytes).ok();
    let is_blank = bytes.iter().all(|byte| *byte == 0);
    Ok((header, faults.into_iter().flatten().collect(), is_blank))
}

impl Window<'_> {
    /// Why the bytes at `position` are no entry that could come next.
    async fn explain(&mut self, position: u64) -> io::Result<String> {
        match self.probe(position, 0, true).await? {
            super::scan::Probe::Entry { header, .. } => Ok(format!(
                "an entry with index {}, offset {} and term {} does not fit here",
                header.index, header.base_offset, header.term
            )),
            super::scan::Probe::Unsupported(cause) => Ok(cause.to_string()),
            _ => self.fault(position).await,
        }
    }
}
