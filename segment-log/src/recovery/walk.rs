//! The walk over a partition's segments that decides what the log holds: which entries are
//! accepted, what is damage, and where a torn tail is cut.
//!
//! Runs inside the future of an opening, on the thread that owns the partition. It only reads, but for entries
//! that only a journal holds, which it writes where it stands.
//! Invariants:
//! - an entry is accepted only if header, chain, payload, term and index hold;
//! - an index that anything proves to have been durable is never cut: it is quarantined;
//! - the first index above every such proof ends the log, and everything behind it is set aside;
//! - evidence (checkpoint, later entries) only ever turns a cut into damage, never the reverse.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod from_journal;

use std::collections::BTreeMap;
use std::io;

use from_journal::FromJournal;

use crate::batch::{BATCH_HEADER_LEN, BatchHeader};
use crate::checkpoint::{PartitionCheckpoint, SegmentCheckpoint};
use crate::disk::ReadSource;
use crate::entry::{EntryError, EntryHeader};
use crate::ids::{EntryIndex, LeaderEpoch, Offset};
use crate::log::UnsupportedEntry;
use crate::log::machine::Io;
use crate::log::segment::{Mark, Segment};
use crate::log::state::LogState;
use crate::producer_state::ProducerStateError;
use crate::recovery::known::Known;
use crate::recovery::replay::Replay;
use crate::recovery::scan::{Found, Probe, Window};
use crate::recovery::{Quarantined, RecoveryBug, zeroed_end};
use crate::sealed::SealedError;
use crate::segment_header::segment_file_name;

/// How the walk reads and what it may believe.
pub(crate) struct WalkInput<'a> {
    pub(crate) io: &'a Io,
    pub(crate) source: ReadSource,
    pub(crate) verify_payload: bool,
    pub(crate) checkpoint: Option<&'a PartitionCheckpoint>,
    pub(crate) known: Known,
    pub(crate) bug: RecoveryBug,
    /// Bytes of each batch that the visitor is shown, at most.
    pub(crate) batch_bytes: usize,
    /// Sees each accepted entry. With one a broker may be writing the files.
    pub(crate) visit: Option<&'a mut Visit<'a>>,
    /// Only the first segment is walked.
    pub(crate) only_first: bool,
    /// What a journal holds of the partition; given back.
    pub(crate) replay: Replay,
    /// What only a journal holds behind everything else goes to a new file (after a fence).
    pub(crate) tail_in_new_file: bool,
}

/// Sees an accepted entry: file name, position, header, payload. False ends the walk.
pub type Visit<'a> = dyn FnMut(&str, u64, &EntryHeader, &[u8]) -> bool + Send + 'a;

/// How the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At the end of the last segment that is kept; it may go on there.
    Here,
    /// After damage at the very end: in a new segment at this index and offset.
    Beyond { index: EntryIndex, offset: Offset },
}

/// Why there is no answer; nothing was decided and nothing changed.
pub(crate) enum WalkError {
    Io(io::Error),
    Unsupported {
        segment: String,
        position: u64,
        cause: UnsupportedEntry,
    },
    /// The visitor asked for it.
    Stopped,
}

impl From<io::Error> for WalkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What the walk found.
pub(crate) struct Walked {
    pub(crate) segments: Vec<Segment>,
    pub(crate) set_aside: Vec<Segment>,
    pub(crate) state: LogState,
    pub(crate) quarantined: Vec<Quarantined>,
    pub(crate) ending: Ending,
    /// The highest term of any header that verifies, accepted or not.
    pub(crate) term_max: LeaderEpoch,
    /// Whether an entry beyond the accepted end verifies.
    pub(crate) successor_seen: bool,
    /// Whether one does in the segment that the log ends in, behind what is zeroed there.
    pub(crate) successor_stays: bool,
    /// Whether any header verifies at or behind the end in the segment that the log ends in.
    pub(crate) found_behind: bool,
    /// The log goes on in a new file with entries from the journal.
    pub(crate) tail_in_journal: bool,
    pub(crate) replay: Replay,
    /// Segments to make again, so that what is dead behind the end of the one before stays dead.
    pub(crate) stand_ins: Vec<StandIn>,
}

/// An empty segment that takes the place of a lost one.
pub(crate) struct StandIn {
    /// Where it belongs among the segments that were kept: behind this one.
    pub(crate) behind: usize,
    pub(crate) base_index: EntryIndex,
    pub(crate) base_offset: Offset,
}

/// What the entries seen so far of the segment that is walked claim to have been durable: for each term
/// the highest index, and an offset behind it. A claim holds as long as no entry of a higher term was
/// accepted, also once the walk went on behind the entry that makes it.
#[derive(Default)]
struct Claims(BTreeMap<LeaderEpoch, (EntryIndex, Offset)>);

impl Claims {
    fn note(&mut self, header: &EntryHeader) {
        let Some(durable) = header.durable_index() else {
            return;
        };
        let behind = if header.index > durable {
            header.base_offset
        } else {
            header.next_offset()
        };
        let highest = self.0.entry(header.term).or_default();
        *highest = (*highest).max((durable, behind));
    }

    /// The highest of those that entries of `term` or a later one make.
    fn highest(&self, term: LeaderEpoch) -> (EntryIndex, Offset) {
        let claims = self.0.range(term..).map(|(_, claim)| *claim);
        claims.max().unwrap_or_default()
    }
}

/// What lies behind the first index that fails.
#[derive(Default)]
struct Later {
    /// The highest index that a later entry proves durable.
    proven: EntryIndex,
    /// The first later entry of the same segment that the walk could go on with, were it alive and what
    /// lies between proven.
    resume: Option<(u64, EntryHeader)>,
    /// Offset of the first later entry above every proof.
    offset_beyond: Option<Offset>,
    seen: bool,
    /// Any header in the same segment verifies, even if it is dead.
    found_here: bool,
    /// Where the last one in the same segment lies.
    last_seen_at: u64,
}

enum Next {
    /// Go on in this segment at the position, with or without a chain to hold to.
    At(u64, Option<u32>),
    /// This segment is done; go on with the next one.
    Segment,
    /// The log ends.
    End(Ending),
}

struct Walk<'a> {
    input: WalkInput<'a>,
    segments: Vec<Segment>,
    state: LogState,
    quarantined: Vec<Quarantined>,
    claims: Claims,
    term_max: LeaderEpoch,
    successor_seen: bool,
    successor_stays: bool,
    found_behind: bool,
    tail_in_journal: bool,
    stand_ins: Vec<StandIn>,
    /// The position that was read again, since a broker may have been writing there.
    read_again: Option<(usize, u64)>,
}

/// Where a segment ends at the latest: where the next one begins.
#[derive(Clone, Copy)]
struct Limit {
    index: EntryIndex,
    /// That one is named by the checkpoint and is not there.
    lost: Option<SegmentCheckpoint>,
}

impl Limit {
    fn is_reached(limit: Option<Self>, index: EntryIndex) -> bool {
        limit.is_some_and(|limit| index >= limit.index)
    }
}

/// Walks `segments` (sorted, their headers verified, one for each base index).
pub(crate) async fn walk(
    input: WalkInput<'_>,
    segments: Vec<Segment>,
    mut state: LogState,
) -> Result<Walked, WalkError> {
    let mut input = input;
    if let (Some(producers), Some(checkpoint)) = (input.known.producers.take(), input.checkpoint) {
        state.adopt_producers(producers, checkpoint.recovery_point);
    }
    let mut walk = Walk {
        input,
        segments,
        state,
        quarantined: Vec::new(),
        claims: Claims::default(),
        term_max: LeaderEpoch(0),
        successor_seen: false,
        successor_stays: false,
        found_behind: false,
        tail_in_journal: false,
        stand_ins: Vec::new(),
        read_again: None,
    };
    let mut ending = Ending::Here;
    let mut kept = walk.segments.len();
    for at in 0..walk.segments.len() {
        if let Some(end) = walk.segment(at).await? {
            ending = end;
            kept = at + 1;
            break;
        }
        if walk.input.only_first {
            kept = 1;
            break;
        }
    }
    let set_aside = walk.segments.split_off(kept.min(walk.segments.len()));
    Ok(Walked {
        segments: walk.segments,
        set_aside,
        state: walk.state,
        quarantined: walk.quarantined,
        ending,
        term_max: walk.term_max,
        successor_seen: walk.successor_seen,
        successor_stays: walk.successor_stays,
        found_behind: walk.found_behind,
        tail_in_journal: walk.tail_in_journal,
        replay: walk.input.replay,
        stand_ins: walk.stand_ins,
    })
}

impl Walk<'_> {
    /// Walks one segment; `Some` when the log ends in it.
    async fn segment(&mut self, at: usize) -> Result<Option<Ending>, WalkError> {
        let io = self.input.io.clone();
        let Some(mut window) = self
            .segments
            .get(at)
            .and_then(|segment| segment.window(&io, self.input.source))
        else {
            return Ok(None);
        };
        let limit = self.limit(at);
        // What a segment claims of indices behind its end is dead, and the rest is passed now.
        self.claims = Claims::default();
        if let Some(segment) = self.segments.get(at) {
            self.state
                .begin_segment(segment.base_index(), segment.base_offset());
        }
        let (mut position, mut chain) = (Segment::FIRST_ENTRY, Some(0u32));
        let known = self.adopt_known(at, limit.map(|limit| limit.index));
        if let Some(mark) = known {
            (position, chain) = (mark.position, Some(mark.crc));
            if self.input.bug == RecoveryBug::TrustIndex {
                return Ok((at + 1 == self.segments.len()).then_some(Ending::Here));
            }
        }
        loop {
            let is_over = Limit::is_reached(limit, self.state.next_index());
            if is_over && limit.is_none_or(|limit| limit.lost.is_none()) {
                if !self.input.verify_payload && !self.is_cut_behind(at) {
                    self.look_behind(&mut window, position, chain).await?;
                } else if self.input.verify_payload && (known.is_none() || !self.is_named(at + 1)) {
                    // Whoever wrote the checkpoint knew all terms of what it calls closed.
                    self.note_terms(&mut window, position).await?;
                }
                return Ok(None);
            }
            let verify = self.input.verify_payload && self.input.bug != RecoveryBug::TrustPayload;
            let probe = match is_over {
                // What lies there is dead, though the segment that says so is lost.
                true => Probe::Nothing,
                false => window.probe(position, self.shown_bytes(), verify).await?,
            };
            if let Probe::Entry { header, payload } = &probe
                && self.fits(header, chain)
                && self.accept(at, position, header, payload)?
            {
                self.show(at, position, header, payload)?;
                position += header.entry_len() as u64;
                chain = Some(header.header_crc);
                continue;
            }
            let bad = match probe {
                Probe::BadPayload(header) if self.fits(&header, chain) => Some(header),
                Probe::Unsupported(cause) => return Err(self.unsupported(at, position, cause)),
                _ => None,
            };
            if !is_over {
                match self.take_from_journal(at, &mut window, position, chain).await? {
                    FromJournal::Taken(next, crc) => {
                        (position, chain) = (next, Some(crc));
                        continue;
                    }
                    FromJournal::Tail => {
                        self.tail_in_journal = true;
                        return Ok(Some(Ending::Here));
                    }
                    FromJournal::Nothing => {}
                }
            }
            match self
                .failed(at, &mut window, (position, chain), limit, bad)
                .await?
            {
                Next::At(next, next_chain) => {
                    position = next;
                    chain = next_chain;
                }
                Next::Segment => return Ok(None),
                Next::End(ending) => return Ok(Some(ending)),
            }
        }
    }

    fn limit(&self, at: usize) -> Option<Limit> {
        let lost = self.lost_behind(at);
        let index = lost.map(|lost| lost.base_index);
        let found = || self.segments.get(at + 1).map(|next| next.base_index());
        index.or_else(found).map(|index| Limit { index, lost })
    }

    /// The segment that the checkpoint names behind segment `at`, which it names too, if that one is not
    /// there, nor one that begins at or before its place.
    fn lost_behind(&self, at: usize) -> Option<SegmentCheckpoint> {
        let (checkpoint, segment) = (self.input.checkpoint?, self.segments.get(at)?);
        let mut named = checkpoint.segments.iter();
        named.find(|named| named.incarnation == segment.incarnation())?;
        let next = named.find(|next| next.base_index > segment.base_index())?;
        let found = self.segments.get(at + 1);
        let is_there = found.is_some_and(|found| found.base_index() <= next.base_index);
        (!is_there).then_some(*next)
    }

    fn shown_bytes(&self) -> usize {
        self.input.batch_bytes.max(BATCH_HEADER_LEN)
    }

    fn show(
        &mut self,
        at: usize,
        position: u64,
        header: &EntryHeader,
        payload: &[u8],
    ) -> Result<(), WalkError> {
        let Some(visit) = self.input.visit.as_mut() else {
            return Ok(());
        };
        let name = self.segments.get(at).map(Segment::name).unwrap_or_default();
        let shown = payload
            .get(..self.input.batch_bytes)
            .filter(|_| header.kind.is_batch());
        match visit(&name, position, header, shown.unwrap_or(payload)) {
            true => Ok(()),
            false => Err(WalkError::Stopped),
        }
    }

    /// Takes what is known of segment `at` for read; answers where the walk begins behind it.
    fn adopt_known(&mut self, at: usize, limit: Option<EntryIndex>) -> Option<Mark> {
        let known = self.input.known.indexes.get_mut(at)?.take()?;
        let (file, file_len) = (known.file, known.file_len);
        let segment = self.segments.get_mut(at)?;
        let fits = segment.base_index() == self.state.next_index()
            && limit.is_none_or(|limit| file.last_index < limit);
        if !fits {
            return None;
        }
        self.state.adopt(&file);
        self.term_max = self.term_max.max(self.state.last_term());
        segment.adopt(file, file_len);
        Some(segment.tail)
    }

    /// Whether a truncation ended segment `at`: what lies behind its end is dead.
    fn is_cut_behind(&self, at: usize) -> bool {
        let number = |at| {
            let segment: Option<&Segment> = self.segments.get(at);
            segment.map(|segment| segment.header.truncations)
        };
        number(at + 1) > number(at)
    }

    fn is_named(&self, at: usize) -> bool {
        match (self.input.checkpoint, self.segments.get(at)) {
            (Some(checkpoint), Some(segment)) => checkpoint.segment(&segment.incarnation()).is_some(),
            _ => false,
        }
    }

    /// A clean open looks behind each recorded end: a successor means that the checkpoint is stale.
    async fn look_behind(
        &mut self,
        window: &mut Window<'_>,
        position: u64,
        chain: Option<u32>,
    ) -> io::Result<()> {
        match window.probe(position, 0, false).await? {
            Probe::Entry { header, .. } | Probe::BadPayload(header) if self.fits(&header, chain) => {
                self.successor_seen = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn fits(&self, header: &EntryHeader, chain: Option<u32>) -> bool {
        let index_holds = if header.kind.has_index() {
            header.index == self.state.next_index()
        } else {
            header.index == self.state.last_index()
        };
        let next_offset = self.state.next_offset();
        let refused = self.input.bug == RecoveryBug::RefuseGaps && header.base_offset > next_offset;
        index_holds
            && !refused
            && chain.is_none_or(|chain| chain == header.prev_crc)
            && header.term >= self.state.last_term()
            && header.base_offset >= next_offset
    }

    /// Takes an entry in; false if its payload says something that cannot be.
    fn accept(
        &mut self,
        at: usize,
        position: u64,
        header: &EntryHeader,
        payload: &[u8],
    ) -> Result<bool, WalkError> {
        self.term_max = self.term_max.max(header.term);
        let batch = if header.is_plain_data() {
            match BatchHeader::parse(payload) {
                Ok(batch) => Some(batch),
                Err(_) => return Ok(false),
            }
        } else {
            None
        };
        match self.state.accept(header, batch.as_ref(), payload) {
            Ok(()) => {}
            Err(ProducerStateError::Sealed(SealedError::Version(schema))) => {
                return Err(WalkError::Unsupported {
                    segment: self.name(at),
                    position,
                    cause: UnsupportedEntry::Schema(schema),
                });
            }
            Err(_) => return Ok(false),
        }
        if let Some(segment) = self.segments.get_mut(at) {
            segment.accept_recovered(header, position);
        }
        Ok(true)
    }

    fn name(&self, at: usize) -> String {
        self.segments.get(at).map(Segment::name).unwrap_or_default()
    }

    fn unsupported(&self, at: usize, position: u64, cause: EntryError) -> WalkError {
        WalkError::Unsupported {
            segment: self.name(at),
            position,
            cause: UnsupportedEntry::Entry(cause),
        }
    }

    /// The highest index that the checkpoint proves durable as far as segment `at` is concerned.
    fn checkpoint_claim(&self, at: usize) -> EntryIndex {
        let (Some(checkpoint), Some(segment)) = (self.input.checkpoint, self.segments.get(at)) else {
            return EntryIndex(0);
        };
        checkpoint
            .segments
            .iter()
            .find(|named| named.incarnation == segment.incarnation())
            .map_or(EntryIndex(0), |named| {
                named.durable_index.max(checkpoint.durable_index)
            })
    }

    async fn note_terms(&mut self, window: &mut Window<'_>, from: u64) -> io::Result<()> {
        if !self.input.verify_payload {
            return Ok(());
        }
        let mut position = from;
        // What is dead may be of any version.
        while let Some((at, found)) = window.search(position).await? {
            if let Found::Header(header) = &found {
                self.term_max = self.term_max.max(header.term);
            }
            position = found.end(at);
        }
        Ok(())
    }

    /// Looks at everything behind `position` of segment `at`, of which what begins at `limit` is dead.
    async fn later(
        &mut self,
        at: usize,
        window: &mut Window<'_>,
        position: u64,
        limit: Option<Limit>,
    ) -> Result<Later, WalkError> {
        let mut later = Later::default();
        let expected = self.state.next_index();
        let last_term = self.state.last_term();
        let mut from = position;
        while let Some((found_at, found)) = window.search(from).await? {
            from = found.end(found_at);
            let header = match found {
                Found::Header(header) => header,
                Found::Unsupported(cause) => return Err(self.unsupported(at, found_at, cause)),
            };
            later.found_here = true;
            if Limit::is_reached(limit, header.index) {
                self.note_dead(&mut later, limit, &header);
            } else {
                if header.term >= last_term && header.index >= expected {
                    self.claims.note(&header);
                }
                self.note_later(&mut later, expected, last_term, &header);
            }
            if later.seen {
                later.last_seen_at = found_at;
            }
            if later.resume.is_none()
                && found_at > position
                && header.term >= last_term
                && header.index >= expected
                && header.kind.has_index()
                && header.base_offset >= self.state.next_offset()
            {
                later.resume = Some((found_at, header));
            }
        }
        let io = self.input.io.clone();
        for next in at + 1..self.segments.len() {
            let Some(mut window) = self
                .segments
                .get(next)
                .and_then(|s| s.window(&io, self.input.source))
            else {
                break;
            };
            let mut from = Segment::FIRST_ENTRY;
            while let Some((found_at, found)) = window.search(from).await? {
                from = found.end(found_at);
                match found {
                    Found::Header(header) => self.note_later(&mut later, expected, last_term, &header),
                    Found::Unsupported(cause) => return Err(self.unsupported(next, found_at, cause)),
                }
            }
        }
        Ok(later)
    }

    /// An entry at or above the index that the next segment begins with: what it claims of those below
    /// still holds.
    fn note_dead(&mut self, later: &mut Later, limit: Option<Limit>, header: &EntryHeader) {
        self.term_max = self.term_max.max(header.term);
        if header.term < self.state.last_term() {
            return;
        }
        later.seen = true;
        if let (Some(durable), Some(limit)) = (header.durable_index(), limit) {
            let below = EntryIndex(limit.index.0.saturating_sub(1));
            later.proven = later.proven.max(durable.min(below));
        }
    }

    fn note_later(
        &mut self,
        later: &mut Later,
        expected: EntryIndex,
        last_term: LeaderEpoch,
        header: &EntryHeader,
    ) {
        self.term_max = self.term_max.max(header.term);
        if header.term < last_term || header.index < expected {
            return;
        }
        later.seen = true;
        if let Some(durable) = header.durable_index() {
            later.proven = later.proven.max(durable);
        }
        if later.offset_beyond.is_none() && header.index > expected {
            later.offset_beyond = Some(header.base_offset);
        }
    }

    /// Decides about the first index that fails: torn tail, or damage to go around.
    async fn failed(
        &mut self,
        at: usize,
        window: &mut Window<'_>,
        (position, chain): (u64, Option<u32>),
        limit: Option<Limit>,
        bad_payload: Option<EntryHeader>,
    ) -> Result<Next, WalkError> {
        if !self.input.verify_payload {
            // A clean open ends here and is then compared with what the checkpoint says.
            self.successor_seen |= bad_payload.is_some();
            return Ok(Next::End(Ending::Here));
        }
        let expected = self.state.next_index();
        let later = self.later(at, window, position, limit).await?;
        let lost = limit.and_then(|limit| limit.lost);
        self.successor_seen |= later.seen;
        self.found_behind = later.found_here;
        // Beside a segment that is lost nothing is appended: what is behind its place counts as dead.
        self.successor_stays = later.last_seen_at >= zeroed_end(position) || lost.is_some();
        // What a crash left behind a mark was not durable and not looked at: it is to stay dead as well.
        self.successor_stays |= window.met_end_mark();
        let (claimed, claimed_offset) = self.claims.highest(self.state.last_term());
        let proven = later.proven.max(claimed).max(self.checkpoint_claim(at));
        let proven = proven.max(self.input.replay.proven(&self.state));
        if proven < expected {
            return Ok(Next::End(Ending::Here));
        }
        if self.input.visit.is_some() && self.read_again != Some((at, position)) {
            // A running broker may have written this entry, and what proves it durable, since it was read.
            self.read_again = Some((at, position));
            window.refresh().await?;
            return Ok(Next::At(position, chain));
        }
        if let Some(header) = bad_payload {
            let end = position + header.entry_len() as u64;
            self.quarantine(at, position..end, header.index, header.next_offset());
            self.go_on(at, end, &header, header.header_crc);
            return Ok(Next::At(end, Some(header.header_crc)));
        }
        if let Some((resume, header)) = later.resume
            && header.index.0 <= proven.0 + 1
            && !Limit::is_reached(limit, header.index)
        {
            let before = EntryHeader {
                index: EntryIndex(header.index.0 - 1),
                last_offset_delta: -1,
                ..header
            };
            self.quarantine(at, position..resume, before.index, header.base_offset);
            self.go_on(at, resume, &before, header.prev_crc);
            return Ok(Next::At(resume, None));
        }
        let claimed_offset = (claimed >= expected).then_some(claimed_offset);
        let rest = position..window.file_len().max(position);
        let goes_on_in_files = self
            .segments
            .get(at + 1)
            .is_some_and(|next| next.base_index().0 <= proven.0 + 1);
        if let Some(next) = self.input.replay.first_above(expected)
            && next.0 <= proven.0 + 1
            && lost.is_none()
            && !goes_on_in_files
            && let Some(ending) = self.goes_on_in_journal(at, rest, next).await?
        {
            return Ok(Next::End(ending));
        }
        Ok(self.lose_the_rest(
            at,
            position..window.file_len().max(position),
            lost,
            &later,
            proven,
            claimed_offset,
        ))
    }

    /// The walk goes on at `position`, behind what `last` is the last of.
    fn go_on(&mut self, at: usize, position: u64, last: &EntryHeader, crc: u32) {
        self.state.skip(last.index, last.next_offset());
        if let Some(segment) = self.segments.get_mut(at) {
            segment.skip_recovered(position, last.index, last.next_offset(), crc);
        }
    }

    /// Nothing behind `rest` of segment `at` belongs to it: the log goes on in the next segment, or behind
    /// all that is proven.
    fn lose_the_rest(
        &mut self,
        at: usize,
        rest: std::ops::Range<u64>,
        lost: Option<SegmentCheckpoint>,
        later: &Later,
        proven: EntryIndex,
        claimed_offset: Option<Offset>,
    ) -> Next {
        let expected = self.state.next_index();
        let next = self
            .segments
            .get(at + 1)
            .filter(|next| next.base_index().0 <= proven.0 + 1);
        let next = next.map(|next| (next.base_index(), next.base_offset()));
        let checkpoint = self
            .input
            .checkpoint
            .filter(|known| known.durable_index >= expected);
        let checkpoint_offset = checkpoint.map(|checkpoint| checkpoint.next_offset);
        let (begins, offset) = next.unwrap_or_else(|| {
            let offset = [checkpoint_offset, later.offset_beyond, claimed_offset]
                .into_iter()
                .flatten()
                .fold(self.state.next_offset(), Offset::max);
            (EntryIndex(proven.0 + 1), offset)
        });
        if let Some(lost) = lost.filter(|lost| later.found_here && lost.base_index < begins) {
            self.stand_ins.push(StandIn {
                behind: at,
                base_index: lost.base_index,
                base_offset: self.state.next_offset(),
            });
        }
        let last = EntryIndex(begins.0 - 1);
        match lost.filter(|lost| lost.base_index <= expected) {
            Some(lost) => self.quarantined.push(Quarantined {
                segment: segment_file_name(lost.base_index, lost.generation),
                position: 0..lost.length.0,
                indices: expected..begins,
                offsets: self.state.next_offset()..offset,
            }),
            None => self.quarantine(at, rest, last, offset),
        }
        self.state.skip(last, offset);
        match next {
            Some(_) => Next::Segment,
            None => Next::End(Ending::Beyond {
                index: begins,
                offset,
            }),
        }
    }

    fn quarantine(&mut self, at: usize, range: std::ops::Range<u64>, last: EntryIndex, next_offset: Offset) {
        let Some(segment) = self.segments.get_mut(at) else {
            return;
        };
        segment.damaged_from.push(range.start);
        self.quarantined.push(Quarantined {
            segment: segment.name(),
            position: range,
            indices: self.state.next_index()..EntryIndex(last.0 + 1),
            offsets: self.state.next_offset()..next_offset,
        });
    }
}
