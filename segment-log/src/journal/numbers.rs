//! The numbers of frames that were seen of one journal, which is what one shard wrote in one start.
//!
//! Plain values. A journal without holes takes one range, whatever the number of its frames.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use super::format::FrameNumber;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The highest number that a frame says was durable.
    durable: u64,
    /// First and last of each run of numbers, as they came.
    seen: Vec<(u64, u64)>,
}

impl Numbers {
    /// A frame, and the number up to which it says that frames were durable.
    pub(super) fn note(&mut self, number: FrameNumber, durable: FrameNumber) {
        self.durable = self.durable.max(durable.0);
        match self.seen.last_mut() {
            Some((first, last)) if (*first..=last.saturating_add(1)).contains(&number.0) => {
                *last = (*last).max(number.0);
            }
            _ => self.seen.push((number.0, number.0)),
        }
    }

    /// The first number that is missing at or below the durable mark, and how many are. Files are trimmed oldest
    /// first: what lies before the lowest number seen is not missed.
    pub(super) fn missing(&self) -> Option<(FrameNumber, u64)> {
        let mut seen = self.seen.clone();
        seen.sort_unstable();
        let (lowest, _) = *seen.first()?;
        let mut next = lowest;
        let (mut first, mut count) = (None, 0);
        for (from, to) in seen.into_iter().chain([(u64::MAX, u64::MAX)]) {
            // Up to the mark, and a number of `from` is there.
            let hole_end = from.min(self.durable.saturating_add(1));
            if next < hole_end {
                first.get_or_insert(FrameNumber(next));
                count += hole_end - next;
            }
            next = next.max(to.saturating_add(1));
        }
        first.map(|first| (first, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(seen: &[u64], durable: u64) -> Option<(u64, u64)> {
        let mut numbers = Numbers::default();
        for number in seen {
            numbers.note(FrameNumber(*number), FrameNumber(durable));
        }
        numbers.missing().map(|(first, count)| (first.0, count))
    }

    #[test]
    fn holes_up_to_the_durable_mark_are_missing() {
        for (seen, durable, wanted) in [
            (&[][..], 0, None),
            (&[1, 2, 3], 2, None),
            (&[7, 8, 9], 8, None),
            (&[5], 3, None),
            (&[1, 2, 5, 6], 5, Some((3, 2))),
            (&[1, 2, 5, 6], 3, Some((3, 1))),
            (&[1, 2, 5, 6], 2, None),
            (&[1, 2], 6, Some((3, 4))),
            (&[5, 6, 1, 2], 5, Some((3, 2))),
            (&[1, 4, 2, 4, 8, 9, 4], 8, Some((3, 4))),
            (&[u64::MAX], u64::MAX, None),
            (&[1, u64::MAX], 3, Some((2, 2))),
        ] {
            assert_eq!(missing(seen, durable), wanted, "{seen:?}, {durable}");
        }
    }

    #[test]
    fn a_journal_without_holes_is_one_range() {
        let mut numbers = Numbers::default();
        for number in 1..100_000 {
            numbers.note(FrameNumber(number), FrameNumber(number - 1));
        }
        assert_eq!(numbers.seen, [(1, 99_999)]);
    }
}
