//! The walk where only a journal holds what comes next.
//!
//! Runs inside the future of an opening, on the thread that owns the partition. Invariants:
//! - an entry is written where the walk stands only if that is its place, or if nothing is lost by it; else it goes to
//!   a file of its own behind everything;
//! - nothing is written over what verifies, unless that follows this very entry or is dead.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;

use super::{Ending, Walk, WalkError};
use crate::entry::{ENTRY_HEADER_LEN, EntryHeader};
use crate::ids::EntryIndex;
use crate::recovery::replay::encode_anew;
use crate::recovery::scan::{Found, Window};

/// What lies behind the place of an entry from the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// Nothing that verifies.
    Nothing,
    /// Only what cannot follow it.
    Dead,
    /// What may follow it.
    Follows,
    /// What says that another entry lay here.
    Contradicts,
}

/// What became of an index that the segments do not hold.
pub(super) enum FromJournal {
    /// It is in the segment now: the next entry begins there, behind this checksum.
    Taken(u64, u32),
    /// It goes to a new file.
    Tail,
    /// The journal does not help.
    Nothing,
}

impl Walk<'_> {
    /// Takes the index that fails from the journal: where the walk stands if that is its place or nothing is lost
    /// by it, else to a new file behind everything.
    pub(super) async fn take_from_journal(
        &mut self,
        at: usize,
        window: &mut Window<'_>,
        position: u64,
        chain: Option<u32>,
    ) -> Result<FromJournal, WalkError> {
        if !self.input.verify_payload {
            return Ok(FromJournal::Nothing);
        }
        let io = self.input.io.clone();
        let Some(entry) = self.input.replay.next(&io, &self.state).await? else {
            return Ok(FromJournal::Nothing);
        };
        let Some((incarnation, file)) = self
            .segments
            .get(at)
            .and_then(|segment| Some((segment.incarnation(), segment.file.clone()?)))
        else {
            return Ok(FromJournal::Nothing);
        };
        let is_last = at + 1 == self.segments.len();
        let (header, bytes) = encode_anew(&entry, &incarnation, chain.unwrap_or(entry.header.prev_crc));
        let end = position + bytes.len() as u64;
        // Nothing is written over what verifies, unless that follows this very entry or is dead.
        let behind = Self::behind(window, position, &header, end).await?;
        let is_its_place = entry.incarnation == incarnation
            && entry.position == position
            && chain.is_none_or(|chain| chain == entry.header.prev_crc);
        match behind {
            Behind::Contradicts => return Ok(FromJournal::Nothing),
            Behind::Nothing if is_last && self.input.tail_in_new_file => return Ok(FromJournal::Tail),
            Behind::Dead if is_last && !is_its_place => return Ok(FromJournal::Tail),
            Behind::Dead if !is_its_place => return Ok(FromJournal::Nothing),
            Behind::Nothing | Behind::Dead | Behind::Follows => {}
        }
        let payload = bytes.slice(ENTRY_HEADER_LEN..ENTRY_HEADER_LEN + header.payload_len as usize);
        if !self.accept(at, position, &header, &payload)? {
            return Ok(FromJournal::Nothing);
        }
        self.show(at, position, &header, &payload)?;
        io.write_all(&file, position, bytes).await?;
        window.was_written(end);
        if let Some(segment) = self.segments.get_mut(at) {
            segment.file_len = segment.file_len.max(end);
        }
        self.input.replay.taken += 1;
        Ok(FromJournal::Taken(end, header.header_crc))
    }

    /// What lies at and behind `position`, seen from an entry that would be written there up to `end`.
    async fn behind(
        window: &mut Window<'_>,
        position: u64,
        header: &EntryHeader,
        end: u64,
    ) -> io::Result<Behind> {
        let mut from = position;
        let mut seen = Behind::Nothing;
        while let Some((at, found)) = window.search(from).await? {
            from = found.end(at);
            let Found::Header(other) = found else {
                return Ok(Behind::Contradicts);
            };
            if at == position && other.header_crc == header.header_crc {
                // Its own header, whose payload is bad.
                from = end;
                continue;
            }
            if other.index > header.index && other.term >= header.term {
                let follows = at == end && other.prev_crc == header.header_crc;
                // Further on the chain is broken anyway, and an entry of this file lies where it always lay.
                let may_follow = at > end && other.index.0 > header.index.0 + 1;
                return Ok(if follows || may_follow {
                    Behind::Follows
                } else {
                    Behind::Contradicts
                });
            }
            seen = Behind::Dead;
        }
        Ok(seen)
    }

    /// Goes around damage to an index that only the journal holds.
    pub(super) async fn goes_on_in_journal(
        &mut self,
        at: usize,
        range: std::ops::Range<u64>,
        next: EntryIndex,
    ) -> Result<Option<Ending>, WalkError> {
        let io = self.input.io.clone();
        let before = EntryIndex(next.0 - 1);
        let Some(entry) = self.input.replay.at(&io, &self.state, next).await? else {
            return Ok(None);
        };
        self.quarantine(at, range, before, entry.header.base_offset);
        self.state.skip(before, entry.header.base_offset);
        self.tail_in_journal = true;
        Ok(Some(Ending::Here))
    }
}
