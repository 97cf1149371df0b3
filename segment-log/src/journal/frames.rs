//! What journals hold of one partition: each append by its place, and the look-up of an entry.
//!
//! Made once by a start, for all partitions, then only read: by the openings, on the shards. Of journals of any size
//! all of this is in memory outside of the budgets, so a frame takes 24 bytes here; a test measures it. Invariants:
//! - of two frames with one index that which was written later counts: files in their order, and places in a file;
//! - frames are sorted by their first index once all are in, and none is asked for before;
//! - a frame that is looked up is read and verified again.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::format::{FRAME_ALIGN, FileId, FrameHeader, JournalPage};
use super::scan::{LiveJournal, ScanError, Scanned, entries, scan};
use crate::disk::{FileHandle, ReadSource};
use crate::entry::EntryHeader;
use crate::ids::{EntryIndex, Incarnation, LeaderEpoch, PartitionKey};
use crate::log::machine::Io;
use crate::log::segment::Segment;
use crate::recovery::truncations::Truncations;
use crate::recovery::unreadable::{READ_ALIGN, read_around};
use crate::segment_header::SegmentHeader;

/// An append, by its place.
#[derive(Clone, Copy, Debug)]
struct FrameRef {
    first: u64,
    /// In units of [`FRAME_ALIGN`] bytes.
    at: u32,
    len: u32,
    count: u32,
    /// File and segment, by its place in `places`.
    place: u32,
}

const _: () = assert!(size_of::<FrameRef>() == 24);

/// The longest file whose frames can be named.
pub(super) const FRAMES_END_MAX: u64 = u32::MAX as u64 * FRAME_ALIGN as u64;

/// Where frames lie, and of which segment they are: by their places in `files` and `segments`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    file: u32,
    segment: u32,
}

/// The highest index that entries of a term, in segments made after a number of truncations, say was durable.
#[derive(Clone, Copy, Debug)]
struct Claim {
    term: LeaderEpoch,
    truncations: u32,
    index: EntryIndex,
}

impl FrameRef {
    fn last(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count).saturating_sub(1))
    }

    fn at(&self) -> u64 {
        u64::from(self.at) * FRAME_ALIGN as u64
    }
}

/// What journals hold of one partition, in the order of their first indices.
#[derive(Debug, Default)]
pub struct PartitionFrames {
    files: Vec<(FileHandle, FileId)>,
    segments: Vec<SegmentHeader>,
    /// Segments all of whose entries are here: by their places in `segments`.
    whole: BTreeSet<u32>,
    places: Vec<Place>,
    frames: Vec<FrameRef>,
    /// Entries of the frame that has most.
    count_max: u32,
    term_max: LeaderEpoch,
    claims: Vec<Claim>,
    replayed: AtomicBool,
}

/// Where an opening finds what journals hold of its partition.
#[derive(Clone, Debug, Default)]
pub enum JournalEvidence {
    /// There is no journal.
    #[default]
    None,
    /// As a start found it.
    Found(Arc<PartitionFrames>),
    /// To be read by the opening itself, from a journal that is being written.
    Live(LiveJournal),
}

/// One entry out of a journal; it verifies.
#[derive(Clone, Debug)]
pub(crate) struct JournalEntry {
    pub(crate) header: EntryHeader,
    pub(crate) incarnation: Incarnation,
    /// Where it lay in its segment.
    pub(crate) position: u64,
    pub(crate) bytes: Bytes,
}

impl PartitionFrames {
    /// Frames with entries.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// The highest term of any entry.
    pub fn term_max(&self) -> LeaderEpoch {
        self.term_max
    }

    /// What it holds is durable in segments now, or is not wanted.
    pub fn mark_replayed(&self) {
        self.replayed.store(true, Ordering::Release);
    }

    pub(super) fn is_replayed(&self) -> bool {
        self.replayed.load(Ordering::Acquire)
    }

    /// The highest index that was durable as far as entries of `term` or a later one say, of indices that are
    /// not dead.
    pub(crate) fn proven(&self, term: LeaderEpoch, truncations: &Truncations) -> EntryIndex {
        let claims = self.claims.iter().filter(|claim| claim.term >= term);
        let alive = claims.map(|claim| match truncations.dead_from(claim.truncations) {
            Some(from) => claim.index.min(EntryIndex(from.0.saturating_sub(1))),
            None => claim.index,
        });
        alive.max().unwrap_or_default()
    }

    /// Whether it says anything of the log.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The segments that its frames name.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.segments.iter()
    }

    /// The lowest index above one that is held and not dead.
    pub(crate) fn first_above(&self, index: EntryIndex, truncations: &Truncations) -> Option<EntryIndex> {
        let reach = u64::from(self.count_max);
        let from = self
            .frames
            .partition_point(|frame| frame.first.saturating_add(reach) <= index.0.saturating_add(1));
        let above = self.frames.get(from..).unwrap_or_default().iter();
        let above = above.filter(|frame| frame.last() > index.0);
        // By their first indices, so the first one that is held is the lowest.
        let mut above = above.map(|frame| EntryIndex(frame.first.max(index.0 + 1)));
        above.find(|above| !self.frames_of(*above, truncations).is_empty())
    }

    /// Segments that may have been lost with their names: no file of theirs needs to be there, since all of
    /// their entries are here.
    pub(crate) fn whole_segments(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.whole.iter().filter_map(|at| self.segments.get(*at as usize))
    }

    /// Frames that hold an index that is not dead in them, the one that counts first.
    fn frames_of(&self, index: EntryIndex, truncations: &Truncations) -> Vec<FrameRef> {
        let reach = u64::from(self.count_max);
        let from = self
            .frames
            .partition_point(|frame| frame.first.saturating_add(reach) <= index.0);
        let near = self.frames.get(from..).unwrap_or_default().iter();
        let near = near.take_while(|frame| frame.first <= index.0);
        let mut found: Vec<FrameRef> = near
            .filter(|frame| frame.last() >= index.0 && self.is_alive(frame, index, truncations))
            .copied()
            .collect();
        found.sort_unstable_by_key(|frame| std::cmp::Reverse(self.written(frame)));
        found
    }

    fn is_alive(&self, frame: &FrameRef, index: EntryIndex, truncations: &Truncations) -> bool {
        let segment = self.segment_of(frame);
        segment.is_some_and(|segment| !truncations.kills(segment.truncations, index))
    }

    fn place_of(&self, frame: &FrameRef) -> Option<Place> {
        self.places.get(frame.place as usize).copied()
    }

    fn segment_of(&self, frame: &FrameRef) -> Option<&SegmentHeader> {
        self.segments.get(self.place_of(frame)?.segment as usize)
    }

    /// When it was written, among all.
    fn written(&self, frame: &FrameRef) -> (u32, u32) {
        let file = self.place_of(frame).map_or(0, |place| place.file);
        (file, frame.at)
    }

    fn segment_id(&mut self, segment: SegmentHeader) -> u32 {
        let known = self.segments.iter().rposition(|known| *known == segment);
        known.unwrap_or_else(|| {
            self.segments.push(segment);
            self.segments.len() - 1
        }) as u32
    }

    /// Takes in a frame of the file that was begun last. Files come in the order in which they count.
    pub(super) fn take_in(&mut self, file: (&FileHandle, FileId), scanned: &Scanned) {
        if self.files.last().is_none_or(|(_, id)| *id != file.1) {
            self.files.push((file.0.clone(), file.1));
        }
        let (header, run) = (scanned.header.segment, scanned.run);
        let segment = self.segment_id(header);
        if run.first == header.base_index && scanned.header.position.0 == Segment::FIRST_ENTRY {
            self.whole.insert(segment);
        }
        let place = Place {
            file: self.files.len() as u32 - 1,
            segment,
        };
        if self.places.last() != Some(&place) {
            self.places.push(place);
        }
        let count = run.last.0.saturating_sub(run.first.0).saturating_add(1);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.count_max = self.count_max.max(count);
        self.frames.push(FrameRef {
            first: run.first.0,
            at: u32::try_from(scanned.at / FRAME_ALIGN as u64).unwrap_or(u32::MAX),
            len: u32::try_from(scanned.len).unwrap_or(u32::MAX),
            count,
            place: self.places.len() as u32 - 1,
        });
        self.term_max = self.term_max.max(run.term_max);
        self.claim(Claim {
            term: run.claim.1,
            truncations: header.truncations,
            index: run.claim.0,
        });
    }

    /// All are in.
    pub(super) fn finish(&mut self) {
        let places = std::mem::take(&mut self.places);
        let file = |frame: &FrameRef| places.get(frame.place as usize).map_or(0, |place| place.file);
        self.frames
            .sort_unstable_by_key(|frame| (frame.first, file(frame), frame.at));
        self.frames.shrink_to_fit();
        self.places = places;
        self.places.shrink_to_fit();
    }

    /// Notes what was durable; the highest claim of each kind is enough.
    fn claim(&mut self, claim: Claim) {
        let is_like = |known: &&mut Claim| known.term == claim.term && known.truncations == claim.truncations;
        match self.claims.iter_mut().find(is_like) {
            Some(known) => known.index = known.index.max(claim.index),
            None => self.claims.push(claim),
        }
    }
}

/// Looks entries up for one opening; the frame it looked at last stays in memory.
#[derive(Debug, Default)]
pub(crate) struct EntryLookUp {
    loaded: Option<((u32, u32), Bytes)>,
}

impl EntryLookUp {
    /// The entry that counts for an index: the last one written, of those whose term and offset may follow.
    pub(crate) async fn entry(
        &mut self,
        io: &Io,
        frames: &PartitionFrames,
        truncations: &Truncations,
        index: EntryIndex,
        may_follow: impl Fn(&EntryHeader) -> bool,
    ) -> io::Result<Option<JournalEntry>> {
        for frame in frames.frames_of(index, truncations) {
            let Some(segment) = frames.segment_of(&frame) else {
                continue;
            };
            let Some((position, record)) = self.load(io, frames, &frame).await? else {
                continue;
            };
            for entry in entries(&record, segment.incarnation) {
                let Some((header, range)) = entry else { break };
                if header.index == index && header.kind.has_index() && may_follow(&header) {
                    return Ok(Some(JournalEntry {
                        header,
                        incarnation: segment.incarnation,
                        position: position + range.start as u64,
                        bytes: record.slice(range),
                    }));
                }
            }
        }
        Ok(None)
    }

    /// The entries of a frame and where they begin in their segment; `None` if it verifies no more.
    async fn load(
        &mut self,
        io: &Io,
        frames: &PartitionFrames,
        frame: &FrameRef,
    ) -> io::Result<Option<(u64, Bytes)>> {
        let written = frames.written(frame);
        let Some((file, id)) = frames.files.get(written.0 as usize) else {
            return Ok(None);
        };
        if self.loaded.as_ref().is_none_or(|(loaded, _)| *loaded != written) {
            let start = frame.at() - frame.at() % READ_ALIGN;
            let skip = (frame.at() - start) as usize;
            let wanted = (skip + frame.len as usize).next_multiple_of(READ_ALIGN as usize);
            let bytes = read_around(io, file, start, wanted, ReadSource::Device).await?;
            let bytes = bytes.get(skip..).unwrap_or_default();
            self.loaded = Some((written, Bytes::copy_from_slice(bytes)));
        }
        let Some((_, bytes)) = &self.loaded else {
            return Ok(None);
        };
        let Ok((header, record)) = FrameHeader::decode(bytes, id) else {
            return Ok(None);
        };
        Ok(Some((header.position.0, bytes.slice_ref(record))))
    }
}

impl JournalEvidence {
    /// What there is of a partition; a live journal is read for it now.
    pub(crate) async fn read(&self, io: &Io, key: &PartitionKey) -> io::Result<Option<Arc<PartitionFrames>>> {
        let live = match self {
            Self::None => return Ok(None),
            Self::Found(found) => return Ok(Some(Arc::clone(found))),
            Self::Live(live) => live,
        };
        let mut files = Vec::new();
        for file in &live.files {
            let bytes = read_around(io, file, 0, READ_ALIGN as usize, ReadSource::Device).await?;
            // Its own writer made it: what cannot be read now holds nothing that was durable.
            if let Ok(page) = JournalPage::decode(&bytes) {
                files.push((page, file));
            }
        }
        files.sort_by_key(|(page, _)| (page.start_counter, page.sequence));
        let mut found = PartitionFrames::default();
        for (page, file) in files {
            let take_in = |frame: Scanned| found.take_in((file, page.file_id), &frame);
            match scan(io, file, Some(key), take_in).await {
                Ok(()) | Err(ScanError::Page(_) | ScanError::Frame(..)) => {}
                Err(ScanError::Io(error)) => return Err(error),
            }
        }
        found.finish();
        Ok(Some(Arc::new(found)))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::super::format::FrameNumber;
    use super::super::scan::Run;
    use super::*;
    use crate::ids::{FilePosition, Offset, TopicId};
    use crate::segment_header::SEGMENT_FORMAT_VERSION;

    fn scanned(file: u8, at: u64, first: u64, count: u64, truncations: u32) -> Scanned {
        let header = FrameHeader {
            file_id: FileId([file; 16]),
            number: FrameNumber(1),
            durable: FrameNumber(0),
            segment: SegmentHeader {
                format_version: SEGMENT_FORMAT_VERSION,
                features: 0,
                incarnation: Incarnation([truncations as u8; 16]),
                topic: TopicId([9; 16]),
                partition: 3,
                generation: 0,
                base_offset: Offset(0),
                base_index: EntryIndex(1),
                replaced: None,
                key_reference: None,
                truncations,
            },
            position: FilePosition(8_192),
        };
        let run = Run {
            first: EntryIndex(first),
            last: EntryIndex(first + count - 1),
            term_max: LeaderEpoch(1),
            claim: (EntryIndex(0), LeaderEpoch(1)),
        };
        Scanned {
            at,
            len: 200,
            header,
            run,
        }
    }

    /// A look-up finds what looking at all frames would, the last one written first.
    #[test]
    fn each_index_is_found_in_all_frames_that_hold_it() {
        let mut random = 7_u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        let mut cuts = Truncations::default();
        let mut cut = scanned(0, 0, 30, 1, 1).header.segment;
        cut.base_index = EntryIndex(30);
        cuts.note(&cut);
        for _ in 0..200 {
            let mut frames = PartitionFrames::default();
            let mut all = Vec::new();
            for file in 0..3 {
                let handle = FileHandle::simulated(u64::from(file), format!("/j/{file}").into());
                for nth in 0..below(8) {
                    let (first, count, truncations) = (1 + below(60), 1 + below(9), below(2) as u32);
                    let at = 4_096 + nth * 200;
                    let frame = scanned(file, at, first, count, truncations);
                    frames.take_in((&handle, FileId([file; 16])), &frame);
                    all.push((file, at, first..first + count, truncations));
                }
            }
            frames.finish();
            let holds = |index: u64| {
                let alive = |of: u32| !(of == 0 && index >= 30);
                let holding = all.iter().rev();
                let holding =
                    holding.filter(move |(_, _, indices, of)| indices.contains(&index) && alive(*of));
                holding.map(|(file, at, _, _)| (*file, *at)).collect::<Vec<_>>()
            };
            for index in 0..75 {
                let found = frames.frames_of(EntryIndex(index), &cuts);
                let found: Vec<(u8, u64)> = found
                    .iter()
                    .map(|frame| (frames.files[frames.written(frame).0 as usize].1.0[0], frame.at()))
                    .collect();
                assert_eq!(found, holds(index), "index {index} of {all:?}");
                let above = (index + 1..75).find(|above| !holds(*above).is_empty());
                let found = frames.first_above(EntryIndex(index), &cuts);
                assert_eq!(found.map(|found| found.0), above, "above {index} of {all:?}");
            }
        }
    }
}
