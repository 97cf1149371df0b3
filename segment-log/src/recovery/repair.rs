//! Mends what damage left behind, so that a partition verifies again: for tools, on a directory that no
//! broker runs on.
//!
//! Blocks its caller. What is lost is lost; repair says what it was, and puts something in its place that
//! reads go over: an empty batch over the offsets, and log starts that move nothing for the other indices.
//! A segment with damage is written anew, under the next generation and with another incarnation id. What
//! it replaces is set aside.
//!
//! Invariants:
//! - nothing is deleted: what a new file takes the place of is renamed into the set-aside directory;
//! - a new file takes its name only when all of it is durable, and the old one goes after that. Whenever it
//!   is cut off, the log reads as before or as repaired, and repair can be run again;
//! - entries that verify keep their index, offsets, term and payload.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use crate::recovery::replay::Replay;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use thiserror::Error;

use super::examine::{ExamineError, ExamineFailure, ExamineSpec, Examined, describe, replay_of, take_tail};
use super::known::Known;
use super::scan::Probe;
use super::walk::{WalkInput, Walked, walk};
use super::{FoundFiles, Quarantined, RecoveryBug, find_files, lost_front, lost_whole, set_aside};
use crate::batch::empty_batch;
use crate::disk::overlay::OverlayDisk;
use crate::disk::{Disk, FileHandle, ReadSource};
use crate::durable_replace::UNFINISHED_SUFFIX;
use crate::entry::{ENTRY_VERSION, EntryHeader, EntryKind, FLAG_ENCRYPTED, payload_crc};
use crate::ids::{EntryIndex, Incarnation, LeaderEpoch, Offset};
use crate::journal::JournalEvidence;
use crate::limits::{REPAIR_FILLERS_MAX, SEGMENT_BYTES_MAX};
use crate::log::machine::{Io, drive_here};
use crate::log::segment::Segment;
use crate::log::state::LogState;
use crate::producer_state::encode_log_start;
use crate::segment_header::{SEGMENT_FORMAT_VERSION, SegmentHeader};

/// Bytes that wait for one write.
const WRITE_BYTES: usize = 1 << 20;

/// One thing that repair does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairStep {
    /// A segment is written anew without its damage.
    Rewrite {
        /// Its file name.
        from: String,
        /// The new one.
        to: String,
    },
    /// A segment takes the place of one that is lost.
    Fill {
        /// Its file name.
        to: String,
    },
    /// A file goes into the set-aside directory.
    SetAside {
        /// Its file name.
        name: String,
    },
}

/// What repair found and does.
#[derive(Clone, Debug)]
pub struct Repair {
    /// As it was found; its damage is what is lost.
    pub found: Examined,
    /// In order.
    pub steps: Vec<RepairStep>,
}

/// Why a partition is not repaired.
#[derive(Debug, Error)]
pub enum RepairError {
    /// It cannot be looked at.
    #[error(transparent)]
    Examine(#[from] ExamineError),
    /// More is lost than repair puts something in the place of. Nothing was changed.
    #[error("{segment}: {indices} entries with {offsets} offsets are lost, more than a repair fills")]
    TooMuch {
        /// File name of the segment.
        segment: String,
        /// Indices lost.
        indices: u64,
        /// Offsets lost.
        offsets: i64,
    },
    /// An entry is encrypted for its segment. Nothing was changed.
    #[error("{segment}: its entries are encrypted, and a repair would have to encrypt them anew")]
    Encrypted {
        /// File name of the segment.
        segment: String,
    },
    /// Journals hold what the segments do not, and a repair would take it for lost: start the broker once. Nothing
    /// was changed.
    #[error("{entries} of its entries are in a commit journal only")]
    InJournal {
        /// How many.
        entries: u64,
    },
    /// Writing failed, or what had verified does not any more. What was there is there; run it again.
    #[error("repairing {directory}: {cause}")]
    Io {
        /// The partition's directory.
        directory: PathBuf,
        /// What the disk said.
        cause: io::Error,
    },
}

/// Says what a repair of the partition would do, or does it. Nobody else may have its files. It is done only once
/// a run that changed nothing has said what it would do, and was not refused.
///
/// # Errors
/// The variants say whether something was changed.
pub fn repair(disk: &mut dyn Disk, spec: &ExamineSpec, execute: bool) -> Result<Repair, RepairError> {
    let directory = spec.directory.clone();
    let mut overlay;
    let disk: &mut dyn Disk = match (&spec.journal, execute) {
        (JournalEvidence::None, _) | (_, true) => disk,
        _ => {
            overlay = OverlayDisk::new(disk);
            &mut overlay
        }
    };
    drive_here(disk, |io| async move {
        let worker = Worker {
            io: &io,
            spec,
            // As recovery: pages may verify and not be on the disk.
            source: match execute {
                true => ReadSource::Device,
                false => ReadSource::Cached,
            },
        };
        worker.run(execute).await
    })
    .map_err(|failure| match failure {
        Failure::Examine(failure) => RepairError::Examine(failure.of(&directory)),
        Failure::Io(cause) => RepairError::Io { directory, cause },
        Failure::Refused(error) => error,
    })
}

enum Failure {
    Examine(ExamineFailure),
    Io(io::Error),
    Refused(RepairError),
}

impl From<ExamineFailure> for Failure {
    fn from(failure: ExamineFailure) -> Self {
        Self::Examine(failure)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A segment that is to be written.
struct Writing {
    /// The one it takes the place of, among those of the walk.
    from: Option<usize>,
    header: SegmentHeader,
    lost: Vec<Quarantined>,
}

/// What the entries before say of the next one.
#[derive(Clone, Copy)]
struct Before {
    term: LeaderEpoch,
    max_timestamp: i64,
}

struct Worker<'a> {
    io: &'a Io,
    spec: &'a ExamineSpec,
    source: ReadSource,
}

impl Worker<'_> {
    async fn run(&self, execute: bool) -> Result<Repair, Failure> {
        let (io, spec) = (self.io, self.spec);
        let found = find_files(
            io,
            &spec.directory,
            spec.key,
            self.source,
            execute,
            RecoveryBug::None,
        )
        .await;
        let mut found = found.map_err(ExamineFailure::Find)?;
        let replay = replay_of(io, spec, &mut found, !execute).await?;
        let FoundFiles {
            segments,
            others,
            mut generations,
            ..
        } = found;
        let names: Vec<String> = segments.iter().map(Segment::name).collect();
        let mut walked = self.walk(segments, replay).await?;
        let writings = self.plan(&walked, &mut generations).await?;
        let steps = steps_of(&walked, &writings, &others);
        if !execute {
            take_tail(io, spec, &mut walked, None).await?;
        }
        let entries = walked.replay.taken;
        if entries > 0 && !steps.is_empty() {
            return Err(Failure::Refused(RepairError::InJournal { entries }));
        }
        let found = describe(io, spec, &walked, &names, others).await;
        let found = found.map_err(ExamineFailure::from)?;
        if execute && !steps.is_empty() {
            self.write(&walked, &writings).await?;
            let aside: Vec<String> = steps.iter().filter_map(RepairStep::goes).collect();
            set_aside(io, &spec.directory, &aside).await?;
        }
        Ok(Repair { found, steps })
    }

    async fn walk(&self, segments: Vec<Segment>, replay: Replay) -> Result<Walked, Failure> {
        let checkpoint = self.spec.checkpoint.as_ref();
        let log_start = checkpoint.map_or(Offset(0), |checkpoint| checkpoint.log_start);
        let input = WalkInput {
            replay,
            tail_in_new_file: false,
            io: self.io,
            source: self.source,
            verify_payload: true,
            checkpoint,
            known: Known::default(),
            bug: RecoveryBug::None,
            batch_bytes: 0,
            visit: None,
            only_first: false,
        };
        let walked = walk(input, segments, LogState::new(log_start)).await;
        let mut walked = walked.map_err(ExamineFailure::Walk)?;
        if let Some(checkpoint) = checkpoint {
            lost_front(checkpoint, &mut walked);
            lost_whole(checkpoint, &mut walked);
        }
        Ok(walked)
    }

    /// The segments to write, by base index.
    async fn plan(
        &self,
        walked: &Walked,
        generations: &mut BTreeMap<EntryIndex, u32>,
    ) -> Result<Vec<Writing>, Failure> {
        let mut writings = Vec::new();
        let mut fillers = 0u64;
        for lost in &walked.quarantined {
            let indices = lost.indices.end.0.saturating_sub(lost.indices.start.0);
            let offsets = lost.offsets.end.0.saturating_sub(lost.offsets.start.0);
            fillers = fillers.saturating_add(indices);
            let fits = fillers <= REPAIR_FILLERS_MAX
                && offsets <= i64::from(i32::MAX)
                && (offsets <= 0 || indices > 0);
            if !fits {
                return Err(Failure::Refused(RepairError::TooMuch {
                    segment: lost.segment.clone(),
                    indices,
                    offsets,
                }));
            }
        }
        let mut next_header = |base_index, base_offset, truncations| -> io::Result<SegmentHeader> {
            let generation = generations.get(&base_index).map_or(0, |used| used + 1);
            generations.insert(base_index, generation);
            Ok(SegmentHeader {
                format_version: SEGMENT_FORMAT_VERSION,
                features: 0,
                incarnation: Incarnation::random()?,
                topic: self.spec.key.topic,
                partition: self.spec.key.partition,
                generation,
                base_offset,
                base_index,
                replaced: None,
                key_reference: None,
                truncations,
            })
        };
        for (at, segment) in walked.segments.iter().enumerate() {
            let name = segment.name();
            let of_it = walked.quarantined.iter().filter(|lost| lost.segment == name);
            let mut lost: Vec<Quarantined> = of_it.cloned().collect();
            lost.sort_by_key(|lost| lost.position.start);
            if !lost.is_empty() || self.has_bad_header(&name).await? {
                writings.push(Writing {
                    from: Some(at),
                    header: next_header(
                        segment.base_index(),
                        segment.base_offset(),
                        segment.header.truncations,
                    )?,
                    lost,
                });
            }
        }
        let is_there = |lost: &Quarantined| {
            walked
                .segments
                .iter()
                .any(|segment| segment.name() == lost.segment)
        };
        for lost in walked.quarantined.iter().filter(|lost| !is_there(lost)) {
            // Those around it are alive with it.
            let is_before = |segment: &&Segment| segment.base_index() < lost.indices.start;
            let before = walked
                .segments
                .iter()
                .rev()
                .find(is_before)
                .or(walked.segments.first());
            let truncations = before.map_or(0, |segment| segment.header.truncations);
            writings.push(Writing {
                from: None,
                header: next_header(lost.indices.start, lost.offsets.start, truncations)?,
                lost: vec![lost.clone()],
            });
        }
        writings.sort_by_key(|writing| writing.header.base_index);
        Ok(writings)
    }

    async fn has_bad_header(&self, name: &str) -> io::Result<bool> {
        let path = self.spec.directory.join(name);
        let (_, faults, _) = super::examine::header_of(self.io, &path).await?;
        Ok(!faults.is_empty())
    }

    async fn write(&self, walked: &Walked, writings: &[Writing]) -> Result<(), Failure> {
        for writing in writings {
            let mut before = Before {
                term: LeaderEpoch(0),
                max_timestamp: -1,
            };
            let base = writing.header.base_index;
            for segment in walked
                .segments
                .iter()
                .filter(|segment| segment.base_index() < base)
            {
                before.term = before.term.max(segment.last_term());
                let newest = segment.max_timestamp().map_or(-1, |(timestamp, _)| timestamp);
                before.max_timestamp = before.max_timestamp.max(newest);
            }
            let mut output = Output::create(self.io, &self.spec.directory, writing.header).await?;
            match writing.from.and_then(|at| walked.segments.get(at)) {
                Some(segment) => self.copy(segment, &writing.lost, &mut output, before).await?,
                None => {
                    for lost in &writing.lost {
                        output.fill(lost, before).await?;
                    }
                }
            }
            output.finish().await?;
        }
        Ok(())
    }

    /// Copies what verifies of a segment, with fillers for what does not.
    async fn copy(
        &self,
        segment: &Segment,
        lost: &[Quarantined],
        output: &mut Output<'_>,
        mut before: Before,
    ) -> Result<(), Failure> {
        let Some(mut window) = segment.window(self.io, self.source) else {
            return Ok(());
        };
        let mut lost = lost.iter().peekable();
        let mut position = Segment::FIRST_ENTRY;
        loop {
            if let Some(gap) = lost.next_if(|gap| gap.position.start == position) {
                output.fill(gap, before).await?;
                position = gap.position.end;
                continue;
            }
            if position >= segment.tail.position {
                return Ok(());
            }
            let Probe::Entry { header, payload } = window.probe(position, usize::MAX, true).await? else {
                return Err(Failure::Io(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{}, byte {position}: it verified and does not any more",
                        segment.name()
                    ),
                )));
            };
            if header.flags & FLAG_ENCRYPTED != 0 {
                return Err(Failure::Refused(RepairError::Encrypted {
                    segment: segment.name(),
                }));
            }
            before.term = before.term.max(header.term);
            before.max_timestamp = before.max_timestamp.max(header.max_timestamp);
            position += header.entry_len() as u64;
            output.append(header, &payload).await?;
        }
    }
}

impl RepairStep {
    /// The file that goes into the set-aside directory.
    fn goes(&self) -> Option<String> {
        match self {
            RepairStep::Rewrite { from, .. } => Some(from.clone()),
            RepairStep::SetAside { name } => Some(name.clone()),
            RepairStep::Fill { .. } => None,
        }
    }
}

fn steps_of(walked: &Walked, writings: &[Writing], others: &[String]) -> Vec<RepairStep> {
    let mut steps = Vec::new();
    for writing in writings {
        let to = writing.header.file_name();
        steps.push(match writing.from.and_then(|at| walked.segments.get(at)) {
            Some(segment) => RepairStep::Rewrite {
                from: segment.name(),
                to,
            },
            None => RepairStep::Fill { to },
        });
    }
    steps.extend(others.iter().cloned().map(|name| RepairStep::SetAside { name }));
    steps
}

/// A segment file that is being written under a name that nobody looks at.
struct Output<'a> {
    io: &'a Io,
    directory: &'a std::path::Path,
    header: SegmentHeader,
    file: FileHandle,
    /// Where `bytes` belong.
    position: u64,
    bytes: Vec<u8>,
    chain: u32,
}

impl<'a> Output<'a> {
    async fn create(io: &'a Io, directory: &'a std::path::Path, header: SegmentHeader) -> io::Result<Self> {
        let path = directory.join(format!("{}{UNFINISHED_SUFFIX}", header.file_name()));
        // Of a repair that was cut off.
        io.unlink_if_present(&path).await?;
        Ok(Self {
            io,
            directory,
            file: io.create(&path).await?,
            position: 0,
            bytes: header.encode(),
            chain: 0,
            header,
        })
    }

    async fn append(&mut self, mut header: EntryHeader, payload: &[u8]) -> io::Result<()> {
        header.prev_crc = self.chain;
        let encoded = header.encode(&self.header.incarnation, payload);
        self.chain = header.header_crc;
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&encoded);
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(begin + header.entry_len(), 0);
        if self.bytes.len() >= WRITE_BYTES {
            self.write().await?;
        }
        Ok(())
    }

    /// Puts an entry in the place of each that is lost; the first one takes the offsets.
    async fn fill(&mut self, lost: &Quarantined, before: Before) -> io::Result<()> {
        for index in lost.indices.start.0..lost.indices.end.0 {
            let has_offsets = index == lost.indices.start.0 && !lost.offsets.is_empty();
            let offsets = lost.offsets.end.0 - lost.offsets.start.0;
            let (kind, base_offset, last_offset_delta, payload) = match has_offsets {
                true => {
                    let delta = i32::try_from(offsets - 1).unwrap_or(i32::MAX);
                    let batch = empty_batch(lost.offsets.start, before.term, delta, before.max_timestamp);
                    (EntryKind::Data, lost.offsets.start, delta, batch)
                }
                false => (
                    EntryKind::LogStart,
                    lost.offsets.end,
                    -1,
                    encode_log_start(Offset(0)),
                ),
            };
            let header = EntryHeader {
                version: ENTRY_VERSION,
                kind,
                flags: 0,
                payload_len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
                payload_crc: payload_crc(kind, 0, &payload),
                term: before.term,
                index: EntryIndex(index),
                base_offset,
                last_offset_delta,
                prev_crc: 0,
                header_crc: 0,
                max_timestamp: before.max_timestamp,
                durable_gap: 1,
            };
            self.append(header, &payload).await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> io::Result<()> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let (position, len) = (self.position, bytes.len() as u64);
        if position + len > SEGMENT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.io.write_all(&self.file, position, bytes).await?;
        self.position += len;
        Ok(())
    }

    /// Makes it durable, then gives it its name.
    async fn finish(mut self) -> io::Result<()> {
        self.write().await?;
        self.io.sync(&self.file).await?;
        let name = self.header.file_name();
        let unfinished = self.directory.join(format!("{name}{UNFINISHED_SUFFIX}"));
        self.io.rename(&unfinished, &self.directory.join(&name)).await?;
        self.io.sync_dir(self.directory).await
    }
}
