//! Walks the entries of one segment file and says how the file ends.
//!
//! Reads only; the broker may be running, and then the end is a snapshot. An entry is accepted as
//! recovery accepts it: header, chain (prev_crc), payload, term not falling, index one higher.
#![deny(clippy::indexing_slicing)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tidelog_segment_log::entry::{
    ENTRY_ALIGN, ENTRY_HEADER_LEN, ENTRY_MAGIC, EntryHeader, PLAIN_PREFIX_LEN, decode_entry,
};
use tidelog_segment_log::segment_header::{
    SEGMENT_HEADER_LEN, SegmentHeader, SegmentHeaderError, decode_copies, parse_segment_file_name,
};

use crate::failure::{FAILED, Failure};
use crate::limits::SEARCH_CHUNK_BYTES;

/// How the entries of a segment end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// At the end of the file, or with nothing but zeros behind.
    Clean,
    /// With bytes that no later entry proves to have been durable: recovery cuts them.
    TornTail {
        /// Where they begin.
        position: u64,
        /// What the first of them fails.
        why: String,
    },
    /// With bytes that were durable once and do not verify.
    Damage {
        /// Where they begin.
        position: u64,
        /// What the first of them fails.
        why: String,
    },
}

/// A segment that was walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The header, if either copy verifies.
    pub header: Option<SegmentHeader>,
    /// Why a copy of the header does not verify.
    pub header_faults: Vec<String>,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Entries accepted.
    pub entries: u64,
    /// Where the accepted entries end.
    pub end_position: u64,
    /// The last entry accepted.
    pub last: Option<EntryHeader>,
    /// How the entries end.
    pub end: End,
}

impl Scan {
    /// True when something that was durable does not verify.
    pub fn is_damaged(&self) -> bool {
        self.header.is_none() || !self.header_faults.is_empty() || matches!(self.end, End::Damage { .. })
    }

    /// How it ends, in words.
    pub fn verdict(&self) -> String {
        let mut words: Vec<String> = self.header_faults.clone();
        match &self.end {
            End::Clean => {}
            End::TornTail { position, why } => words.push(format!("torn tail at {position}: {why}")),
            End::Damage { position, why } => words.push(format!("damage at {position}: {why}")),
        }
        match words.is_empty() {
            true => "good".to_owned(),
            false => words.join("; "),
        }
    }
}

/// Walks the segment at `path` and shows each accepted entry with its position to `visit`.
pub fn scan(path: &Path, mut visit: impl FnMut(u64, &EntryHeader)) -> Result<Scan, Failure> {
    let failed = |e: io::Error| Failure::new(FAILED, format!("cannot read {}: {e}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let file_bytes = file.metadata().map_err(failed)?.len();
    let head = read_at(&file, 0, SEGMENT_HEADER_LEN as u64, file_bytes).map_err(failed)?;
    let mut scan = Scan {
        header: SegmentHeader::decode(&head).ok(),
        header_faults: header_faults(&head),
        file_bytes,
        entries: 0,
        end_position: SEGMENT_HEADER_LEN as u64,
        last: None,
        end: End::Clean,
    };
    let is_named_as_segment = path
        .file_name()
        .and_then(|name| parse_segment_file_name(name.to_str()?))
        .is_some();
    if scan.header.is_none() && !is_named_as_segment {
        return Err(
            Failure::new(FAILED, format!("{} is not a segment file", path.display()))
                .hint("Segments are the .log files below a data directory."),
        );
    }
    let Some(header) = scan.header else {
        scan.end = End::Damage {
            position: 0,
            why: "no header, so no entry can be checked".to_owned(),
        };
        return Ok(scan);
    };
    let mut read_again_at = None;
    loop {
        match next_entry(&file, &scan, &header).map_err(failed)? {
            Ok(entry) => {
                visit(scan.end_position, &entry);
                scan.entries += 1;
                scan.end_position += entry.entry_len() as u64;
                scan.last = Some(entry);
            }
            Err(why) => {
                scan.end = how_it_ends(&file, &scan, &header, why).map_err(failed)?;
                // A running broker may have written this entry, and the later one that proves it
                // durable, between the two reads: then it verifies now.
                let is_damage = matches!(scan.end, End::Damage { .. });
                if !is_damage || read_again_at == Some(scan.end_position) {
                    return Ok(scan);
                }
                read_again_at = Some(scan.end_position);
            }
        }
    }
}

/// The entry after the accepted ones, or why there is none.
fn next_entry(file: &File, scan: &Scan, segment: &SegmentHeader) -> io::Result<Result<EntryHeader, String>> {
    let position = scan.end_position;
    let prefix = read_at(file, position, HEAD_BYTES, scan.file_bytes)?;
    if prefix.is_empty() {
        return Ok(Err("end of file".to_owned()));
    }
    let header = match EntryHeader::decode(&prefix, &segment.incarnation) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let whole = read_at(file, position, header.entry_len() as u64, scan.file_bytes)?;
    if let Err(error) = decode_entry(&whole, &segment.incarnation) {
        return Ok(Err(error.to_string()));
    }
    Ok(fits(scan.last.as_ref(), &header, segment).map(|()| header))
}

/// Header and what of the payload its checksum covers.
const HEAD_BYTES: u64 = (ENTRY_HEADER_LEN + PLAIN_PREFIX_LEN) as u64;

/// Whether `entry` may follow `last` in this segment.
fn fits(last: Option<&EntryHeader>, entry: &EntryHeader, segment: &SegmentHeader) -> Result<(), String> {
    let prev_crc = last.map_or(0, |l| l.header_crc);
    if entry.prev_crc != prev_crc {
        return Err(format!(
            "chain is {:#010x}, expected {prev_crc:#010x}",
            entry.prev_crc
        ));
    }
    if last.is_some_and(|l| entry.term < l.term) {
        return Err(format!("term {} falls", entry.term));
    }
    let is_compacted = segment.replaced.is_some();
    let expected = match last {
        Some(last) if entry.kind.has_index() => last.index.0 + 1,
        Some(last) => last.index.0,
        None => segment.base_index.0,
    };
    let is_next = entry.index.0 == expected || (is_compacted && entry.index.0 > expected);
    match is_next || (last.is_none() && !entry.kind.has_index()) {
        true => Ok(()),
        false => Err(format!("index {}, expected {expected}", entry.index)),
    }
}

/// Tells zeros, a torn tail and damage apart behind the accepted entries.
fn how_it_ends(file: &File, scan: &Scan, segment: &SegmentHeader, why: String) -> io::Result<End> {
    let position = scan.end_position;
    let failed_index = scan.last.map_or(segment.base_index.0, |l| l.index.0 + 1);
    let mut is_zero = true;
    let mut at = position;
    while at < scan.file_bytes {
        let window = read_at(file, at, SEARCH_CHUNK_BYTES as u64 + HEAD_BYTES, scan.file_bytes)?;
        is_zero = is_zero && window.iter().all(|b| *b == 0);
        let starts = window.len().min(SEARCH_CHUNK_BYTES);
        for offset in (0..starts).step_by(ENTRY_ALIGN) {
            let Some(candidate) = window.get(offset..).filter(|c| c.starts_with(&ENTRY_MAGIC)) else {
                continue;
            };
            if at + offset as u64 == position && !is_payload_fault(candidate, segment) {
                continue;
            }
            let Ok(later) = EntryHeader::decode(candidate, &segment.incarnation) else {
                continue;
            };
            let is_newer = scan.last.is_none_or(|l| later.term >= l.term);
            if is_newer
                && later
                    .durable_index()
                    .is_some_and(|durable| durable.0 >= failed_index)
            {
                return Ok(End::Damage { position, why });
            }
        }
        at += SEARCH_CHUNK_BYTES as u64;
    }
    Ok(if is_zero {
        End::Clean
    } else {
        End::TornTail { position, why }
    })
}

/// True when the header verifies, so that only what follows it can be wrong.
fn is_payload_fault(candidate: &[u8], segment: &SegmentHeader) -> bool {
    EntryHeader::decode(candidate, &segment.incarnation).is_ok()
}

fn header_faults(head: &[u8]) -> Vec<String> {
    let [first, second] = decode_copies(head);
    let fault = |which: &str, copy: Result<SegmentHeader, SegmentHeaderError>| {
        copy.err().map(|e| format!("{which} header copy: {e}"))
    };
    [fault("first", first), fault("second", second)]
        .into_iter()
        .flatten()
        .collect()
}

/// Up to `length` bytes at `position`, fewer at the end of the file.
fn read_at(file: &File, position: u64, length: u64, file_bytes: u64) -> io::Result<Vec<u8>> {
    let length = length.min(file_bytes.saturating_sub(position));
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, position)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
pub mod tests {
    use tidelog_segment_log::entry::{ENTRY_VERSION, EntryKind, payload_crc};
    use tidelog_segment_log::ids::{EntryIndex, Incarnation, LeaderEpoch, Offset, TopicId};
    use tidelog_segment_log::segment_header::{SEGMENT_FORMAT_VERSION, segment_file_name};

    use super::*;

    /// A segment of log-start entries, each knowing the one before it as durable, and some zeros.
    pub fn make_segment(entries: u64) -> Vec<u8> {
        let incarnation = Incarnation([7; 16]);
        let header = SegmentHeader {
            format_version: SEGMENT_FORMAT_VERSION,
            features: 0,
            incarnation,
            topic: TopicId([1; 16]),
            partition: 0,
            generation: 0,
            base_offset: Offset(0),
            base_index: EntryIndex(1),
            replaced: None,
            key_reference: None,
        };
        let mut bytes = header.encode();
        let mut prev_crc = 0;
        for index in 1..=entries {
            let payload = [index as u8; 24];
            let mut entry = EntryHeader {
                version: ENTRY_VERSION,
                kind: EntryKind::LogStart,
                flags: 0,
                payload_len: payload.len() as u32,
                payload_crc: payload_crc(EntryKind::LogStart, 0, &payload),
                term: LeaderEpoch(0),
                index: EntryIndex(index),
                base_offset: Offset(0),
                last_offset_delta: -1,
                prev_crc,
                header_crc: 0,
                max_timestamp: 0,
                durable_gap: 1,
            };
            bytes.extend_from_slice(&entry.encode(&incarnation, &payload));
            bytes.extend_from_slice(&payload);
            prev_crc = entry.header_crc;
        }
        bytes.resize(bytes.len() + 4096, 0);
        bytes
    }

    const ENTRY_BYTES: usize = ENTRY_HEADER_LEN + 24;

    fn scan_bytes(bytes: &[u8]) -> (Scan, Vec<u64>) {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join(segment_file_name(EntryIndex(1), 0));
        std::fs::write(&path, bytes).expect("write");
        let mut seen = Vec::new();
        let scan = scan(&path, |_, entry| seen.push(entry.index.0)).expect("readable");
        (scan, seen)
    }

    #[test]
    fn a_good_segment_is_good_to_its_last_entry() {
        let (scan, seen) = scan_bytes(&make_segment(5));
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        assert_eq!((scan.end.clone(), scan.is_damaged()), (End::Clean, false));
        assert_eq!(scan.end_position, (SEGMENT_HEADER_LEN + 5 * ENTRY_BYTES) as u64);
        assert_eq!(scan.verdict(), "good");
    }

    #[test]
    fn a_changed_byte_in_the_middle_is_damage_at_its_entry() {
        let good = make_segment(5);
        for at in 0..ENTRY_BYTES {
            let mut bytes = good.clone();
            bytes[SEGMENT_HEADER_LEN + ENTRY_BYTES + at] ^= 1;
            let (scan, seen) = scan_bytes(&bytes);
            assert_eq!(seen, [1], "byte {at}");
            assert!(
                matches!(scan.end, End::Damage { position, .. } if position == (SEGMENT_HEADER_LEN + ENTRY_BYTES) as u64),
                "byte {at}: {:?}",
                scan.end
            );
        }
    }

    #[test]
    fn a_file_of_something_else_is_not_called_damaged() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("notes.txt");
        std::fs::write(&path, "hello").expect("write");
        let error = scan(&path, |_, _| {}).expect_err("no segment");
        assert_eq!(error.code(), FAILED);
        assert!(error.message().contains("not a segment file"), "{error:?}");
    }

    #[test]
    fn a_cut_last_entry_is_a_torn_tail() {
        let good = make_segment(3);
        for cut in 1..ENTRY_BYTES {
            let (scan, seen) = scan_bytes(&good[..SEGMENT_HEADER_LEN + 3 * ENTRY_BYTES - cut]);
            assert_eq!(seen, [1, 2], "{cut}");
            assert!(matches!(scan.end, End::TornTail { .. }), "{cut}: {:?}", scan.end);
            assert!(!scan.is_damaged());
        }
    }

    #[test]
    fn a_bad_header_copy_is_damage_and_the_other_one_serves() {
        let mut bytes = make_segment(2);
        bytes[20] ^= 1;
        let (scan, seen) = scan_bytes(&bytes);
        assert_eq!((seen.len(), scan.is_damaged()), (2, true));
        assert!(scan.verdict().contains("first header copy"), "{}", scan.verdict());
        let (scan, seen) = scan_bytes(b"hello");
        assert!(seen.is_empty() && scan.is_damaged());
    }
}
