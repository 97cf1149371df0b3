//! Compares what is derived from a log - index files - with the log itself.
//!
//! A derived file that is wrong is no damage: an open that cannot use it reads the segment instead.

use std::path::{Path, PathBuf};

use tidelog_segment_log::entry::EntryHeader;
use tidelog_segment_log::ids::{EntryIndex, Offset};
use tidelog_segment_log::limits::INDEX_FILE_BYTES_MAX;
use tidelog_segment_log::segment_header::SegmentHeader;
use tidelog_segment_log::segment_index::{IndexEntry, IndexFile};

use super::places::read_bounded;

/// Bytes of a sealed file before its archive.
const SEAL_BYTES: usize = 32;

/// An index file on its way to being compared with its segment.
#[derive(Debug)]
pub struct IndexCheck {
    path: PathBuf,
    file: IndexFile,
    next_point: usize,
    covered_seen: bool,
    fault: Option<String>,
}

impl IndexCheck {
    /// Reads the index file beside a segment: `None` when there is none, an error when it is bad.
    pub fn begin(segment: &Path, header: &SegmentHeader) -> Option<Result<Self, String>> {
        let path = segment.with_file_name(header.index_file_name());
        let name = path.display().to_string();
        let bytes = match read_bounded(&path, INDEX_FILE_BYTES_MAX + SEAL_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => return Some(Err(format!("{name} cannot be read: {error}"))),
        };
        let file = match IndexFile::decode(&bytes, &header.incarnation) {
            Ok(file) => file,
            Err(error) => return Some(Err(format!("{name}: {error}"))),
        };
        Some(Ok(IndexCheck {
            path,
            file,
            next_point: 0,
            covered_seen: false,
            fault: None,
        }))
    }

    /// Takes note of the next entry of the segment.
    pub fn observe(&mut self, position: u64, entry: &EntryHeader) {
        if self.fault.is_some() || position >= self.file.covered.0 {
            return;
        }
        if let Some(point) = self.file.index.points().get(self.next_point).copied() {
            self.fault = compare_point(&point, position, entry);
            self.next_point += usize::from(position == point.position.0);
        }
        let end = position + entry.entry_len() as u64;
        if end >= self.file.covered.0 {
            self.covered_seen = true;
            self.compare_end(end, entry);
        }
    }

    fn compare_end(&mut self, end: u64, entry: &EntryHeader) {
        let said = (
            self.file.covered.0,
            self.file.last_index,
            self.file.next_offset,
            self.file.crc_chain_end,
        );
        let found: (u64, EntryIndex, Offset, u32) = (end, entry.index, entry.next_offset(), entry.header_crc);
        if said != found {
            self.fault.get_or_insert_with(|| {
                format!(
                    "it says that the entry ending at {} is index {} before offset {}; the log has index {} ending at {} before offset {}",
                    said.0, said.1, said.2, found.1, found.0, found.2
                )
            });
        }
    }

    /// What is wrong with it, after the last entry.
    pub fn finish(self) -> Option<String> {
        let fault = match self.fault {
            Some(fault) => Some(fault),
            None if !self.covered_seen => Some(format!(
                "it speaks of {} bytes, and the entries that verify end before",
                self.file.covered
            )),
            None if self.next_point < self.file.index.points().len() => {
                Some("it has points where no entry is".to_owned())
            }
            None => None,
        };
        fault.map(|fault| format!("{}: {fault}", self.path.display()))
    }
}

fn compare_point(point: &IndexEntry, position: u64, entry: &EntryHeader) -> Option<String> {
    if position < point.position.0 {
        return None;
    }
    let is_same =
        position == point.position.0 && entry.index == point.index && entry.base_offset == point.base_offset;
    (!is_same).then(|| {
        format!(
            "it has index {} at {}; the log has index {} at {position}",
            point.index, point.position, entry.index
        )
    })
}
