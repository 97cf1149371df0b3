//! Reading around sectors that cannot be read: one bad sector must not keep a log closed for ever.
//!
//! Runs inside the future of an opening, on the thread that owns the partition. Invariants:
//! - a page is called unreadable only after [`READ_ATTEMPTS_MAX`] reads of that page alone failed;
//! - its bytes are handed out as zeros, which never verify, and it is reported: recovery then treats
//!   it as it treats any bytes that do not verify;
//! - more than [`UNREADABLE_PAGES_MAX`] of them are a failing device, not a bad sector: the error is
//!   handed on, nothing is decided, and the open may be tried again.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use rustix::io::Errno;

use crate::disk::{AlignedBytes, FileHandle, ReadSource};
use crate::limits::{READ_ATTEMPTS_MAX, UNREADABLE_PAGES_MAX};
use crate::log::machine::Io;

/// Reads begin and end on multiples of this.
pub(crate) const READ_ALIGN: u64 = 4_096;

/// Bytes of a segment file that the device does not give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// File name of the segment.
    pub segment: String,
    /// Its bytes there, in whole pages.
    pub position: Range<u64>,
}

/// The pages that could not be read so far, by file name.
#[derive(Debug, Default)]
pub(crate) struct UnreadablePages(BTreeSet<(String, u64)>);

impl UnreadablePages {
    fn note(&mut self, file: &FileHandle, page: u64) {
        self.0.insert((name_of(file), page));
    }

    fn are_too_many(&self) -> bool {
        self.0.len() > UNREADABLE_PAGES_MAX
    }

    /// Whether any lies in the file of this name at or behind `position`.
    pub(crate) fn any_behind(&self, name: &str, position: u64) -> bool {
        let first = position / READ_ALIGN;
        let range = (name.to_owned(), first)..=(name.to_owned(), u64::MAX);
        self.0.range(range).next().is_some()
    }

    /// Neighbouring pages as one range each.
    pub(crate) fn ranges(&self) -> Vec<Unreadable> {
        let mut ranges: Vec<Unreadable> = Vec::new();
        for (name, page) in &self.0 {
            let position = page * READ_ALIGN..(page + 1) * READ_ALIGN;
            match ranges.last_mut() {
                Some(last) if last.segment == *name && last.position.end == position.start => {
                    last.position.end = position.end;
                }
                _ => ranges.push(Unreadable {
                    segment: name.clone(),
                    position,
                }),
            }
        }
        ranges
    }
}

fn name_of(file: &FileHandle) -> String {
    let name = file.path().file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Whether an error says that these bytes cannot be read, rather than that nothing can.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::IO | Errno::NODATA | Errno::REMOTEIO | Errno::ILSEQ | Errno::BADMSG)
    )
}

/// Reads as [`Io::read`]; pages that cannot be read are zeros, and noted. `position` lies on a page.
pub(crate) async fn read_around(
    io: &Io,
    file: &FileHandle,
    position: u64,
    len: usize,
    source: ReadSource,
) -> io::Result<AlignedBytes> {
    let error = match io.read(file, position, len, source).await {
        Err(error) if is_unreadable(&error) => error,
        other => return other,
    };
    let left = io.len(file).await?.saturating_sub(position);
    let len = usize::try_from(left).map_or(len, |left| left.min(len));
    let mut bytes = AlignedBytes::zeroed(len);
    for (nth, page) in bytes.chunks_mut(READ_ALIGN as usize).enumerate() {
        let at = position + nth as u64 * READ_ALIGN;
        match read_page(io, file, at, source).await? {
            Some(read) => {
                let count = read.len().min(page.len());
                if let (Some(to), Some(from)) = (page.get_mut(..count), read.get(..count)) {
                    to.copy_from_slice(from);
                }
            }
            None => {
                let too_many = io.with_unreadable(|pages| {
                    pages.note(file, at / READ_ALIGN);
                    pages.are_too_many()
                });
                if too_many {
                    return Err(error);
                }
            }
        }
    }
    Ok(bytes)
}

/// One page, or `None` if it cannot be read.
async fn read_page(
    io: &Io,
    file: &FileHandle,
    position: u64,
    source: ReadSource,
) -> io::Result<Option<AlignedBytes>> {
    for _ in 0..READ_ATTEMPTS_MAX {
        match io.read(file, position, READ_ALIGN as usize, source).await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) if is_unreadable(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_pages_are_one_range() {
        let mut pages = UnreadablePages::default();
        for (name, page) in [("b", 2), ("a", 7), ("b", 3), ("b", 5)] {
            pages.0.insert((name.to_owned(), page));
        }
        let range = |segment: &str, position| Unreadable {
            segment: segment.to_owned(),
            position,
        };
        assert_eq!(
            pages.ranges(),
            [
                range("a", 28_672..32_768),
                range("b", 8_192..16_384),
                range("b", 20_480..24_576)
            ]
        );
        assert!(pages.any_behind("b", 24_575) && !pages.any_behind("b", 24_576));
        assert!(!pages.any_behind("c", 0));
    }
}
