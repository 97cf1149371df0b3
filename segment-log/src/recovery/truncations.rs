//! What truncations have made dead: each segment says how often the log had been truncated when it was made.
//!
//! Plain values, made at an open from the headers that verify. Invariants:
//! - of two segments the one with fewer truncations is dead if it does not begin before the other;
//! - of a segment with fewer truncations that begins before, the indices from the other's base index on are dead,
//!   wherever they lie: behind its end, or in a journal.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use crate::ids::EntryIndex;
use crate::segment_header::SegmentHeader;

/// Where truncations cut the log: the lowest base index of each number of truncations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truncations {
    /// Sorted by number; a later one that cut further down has taken the place of those above.
    cuts: Vec<(u32, EntryIndex)>,
}

impl Truncations {
    /// Takes in what one more segment says.
    pub(crate) fn note(&mut self, segment: &SegmentHeader) {
        if segment.truncations == 0 {
            return;
        }
        match self
            .cuts
            .binary_search_by_key(&segment.truncations, |(number, _)| *number)
        {
            Ok(at) => {
                if let Some((_, base)) = self.cuts.get_mut(at) {
                    *base = (*base).min(segment.base_index);
                }
            }
            Err(at) => self.cuts.insert(at, (segment.truncations, segment.base_index)),
        }
    }

    /// The highest number of truncations seen.
    pub(crate) fn count(&self) -> u32 {
        self.cuts.last().map_or(0, |(number, _)| *number)
    }

    /// The first index that is dead in segments made after `truncations`.
    pub(crate) fn dead_from(&self, truncations: u32) -> Option<EntryIndex> {
        let later = self.cuts.iter().filter(|(number, _)| *number > truncations);
        later.map(|(_, base)| *base).min()
    }

    /// Whether an index is dead in segments made after `truncations`.
    pub(crate) fn kills(&self, truncations: u32, index: EntryIndex) -> bool {
        self.dead_from(truncations).is_some_and(|from| index >= from)
    }
}
