//! A page in a recycled segment that says: behind this nothing of the file's present life was made durable.
//!
//! Written when the file is recycled, every [`END_MARK_INTERVAL_BYTES`], before its header is synced. Appends go over
//! the marks from the front, so a sync of what lies behind one has also written over it. A search for entries ends at
//! a mark that verifies, and so need not read all that is left of the file's former life.
//!
//! One page of 4,096 bytes at a multiple of 4,096, little endian:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `TLEND000` |
//! | 8 | 4 | crc: crc32fast of bytes 12..40 |
//! | 12 | 4 | zero |
//! | 16 | 16 | incarnation id of the segment |
//! | 32 | 8 | where in the file it lies |
//! | 40 | 4,056 | zero |

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use crate::ids::{FilePosition, Incarnation};
use crate::log::segment::PAGE_BYTES;
use crate::sealed::{put, take};

/// From mark to mark.
pub const END_MARK_INTERVAL_BYTES: u64 = 64 << 20;
/// First eight bytes of a mark.
pub const END_MARK_MAGIC: [u8; 8] = *b"TLEND000";

const CRC_AT: usize = 8;
const COVERED: std::ops::Range<usize> = 12..40;

const _: () = assert!(END_MARK_INTERVAL_BYTES.is_multiple_of(PAGE_BYTES));

/// The page for a place in a segment.
pub fn encode_end_mark(incarnation: &Incarnation, position: FilePosition) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES as usize];
    put(&mut page, 0, &END_MARK_MAGIC);
    put(&mut page, 16, &incarnation.0);
    put(&mut page, 32, &position.0.to_le_bytes());
    let crc = crc32fast::hash(page.get(COVERED).unwrap_or_default());
    put(&mut page, CRC_AT, &crc.to_le_bytes());
    page
}

/// Whether a mark of this incarnation, written for this place, begins here.
pub fn is_end_mark(bytes: &[u8], incarnation: &Incarnation, position: FilePosition) -> bool {
    let Some(mark) = bytes.first_chunk::<40>() else {
        return false;
    };
    take::<8>(mark, 0) == END_MARK_MAGIC
        && u32::from_le_bytes(take(mark, CRC_AT)) == crc32fast::hash(mark.get(COVERED).unwrap_or_default())
        && take::<16>(mark, 16) == incarnation.0
        && u64::from_le_bytes(take(mark, 32)) == position.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_in_its_place_in_its_life_and_whole() {
        let (own, other) = (Incarnation([1; 16]), Incarnation([2; 16]));
        let place = FilePosition(END_MARK_INTERVAL_BYTES);
        let page = encode_end_mark(&own, place);
        assert_eq!(page.len() as u64, PAGE_BYTES);
        assert!(is_end_mark(&page, &own, place));
        assert!(!is_end_mark(&page, &other, place));
        assert!(!is_end_mark(&page, &own, FilePosition(0)));
        assert!(!is_end_mark(page.get(..39).expect("shorter"), &own, place));
        for bit in 0..40 * 8 {
            let mut flipped = page.clone();
            if let Some(byte) = flipped.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            assert!(!is_end_mark(&flipped, &own, place), "bit {bit}");
        }
    }
}
