//! Walks the entries of one segment file and says what of it is damaged and how it ends.
//!
//! Reads only; the broker may be running, and then the end is a snapshot. An entry is accepted as
//! recovery accepts it: header, chain (prev_crc), payload, term not falling, index one higher. Like
//! recovery it goes around damage and goes on where the log does. Memory: one window, which grows to
//! the largest entry whose header verifies.
#![deny(clippy::indexing_slicing)]

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tidelog_segment_log::checkpoint::SegmentCheckpoint;
use tidelog_segment_log::entry::{
    ENTRY_ALIGN, ENTRY_HEADER_LEN, ENTRY_MAGIC, EntryHeader, PLAIN_PREFIX_LEN, decode_entry,
};
use tidelog_segment_log::ids::{EntryIndex, Offset};
use tidelog_segment_log::segment_header::{
    SEGMENT_HEADER_LEN, SegmentHeader, SegmentHeaderError, decode_copies, parse_segment_file_name,
};

use super::window::Window;
use crate::failure::{FAILED, Failure};
use crate::limits::{DAMAGE_LISTED_MAX, SEARCH_CHUNK_BYTES};

/// What is known of a segment besides its own bytes.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Where the next segment of the partition begins: entries from there on are dead here.
    pub limit: Option<EntryIndex>,
    /// What a checkpoint proves of it.
    pub claim: Option<SegmentCheckpoint>,
    /// The partition's later segments, whose entries may prove what was durable in this one.
    pub later: Vec<PathBuf>,
}

/// How the entries of a segment end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// At the end of the file, or with nothing but zeros behind.
    Clean,
    /// With bytes that nothing proves to have been durable: recovery cuts them.
    TornTail {
        /// Where they begin.
        position: u64,
        /// What the first of them fails.
        why: String,
    },
    /// With bytes that were durable once, do not verify, and have nothing readable behind them.
    Damage {
        /// Where they begin.
        position: u64,
        /// What the first of them fails.
        why: String,
    },
    /// With an entry that verifies and that another version wrote.
    Unsupported {
        /// Where it begins.
        position: u64,
        /// What is not known.
        why: String,
    },
}

/// Bytes that were durable once and do not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where they lie in the file.
    pub position: Range<u64>,
    /// The first offset lost.
    pub first_offset: Offset,
    /// The offset behind the last one lost; `None` when nothing says it.
    pub next_offset: Option<Offset>,
    /// What the first of them fails.
    pub why: String,
}

impl Damage {
    /// The offsets lost, in words.
    pub fn offsets(&self) -> String {
        match self.next_offset {
            Some(next) if next == self.first_offset => "no offsets".to_owned(),
            Some(next) => format!("offsets {} to {}", self.first_offset, next.0 - 1),
            None => format!("offsets from {} on", self.first_offset),
        }
    }
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
    /// What is damaged, in order.
    pub damage: Vec<Damage>,
    /// How the entries end.
    pub end: End,
}

impl Scan {
    /// True when something that was durable does not verify.
    pub fn is_damaged(&self) -> bool {
        self.header.is_none() || !self.header_faults.is_empty() || !self.damage.is_empty()
    }

    /// How it ends, in words.
    pub fn verdict(&self) -> String {
        let mut words: Vec<String> = self.header_faults.clone();
        for damage in &self.damage {
            let (at, end) = (damage.position.start, damage.position.end);
            words.push(format!(
                "damage at {at} to {end}, {}: {}",
                damage.offsets(),
                damage.why
            ));
        }
        match &self.end {
            End::Clean | End::Damage { .. } => {}
            End::TornTail { position, why } => words.push(format!("torn tail at {position}: {why}")),
            End::Unsupported { position, why } => {
                words.push(format!("written by another version at {position}: {why}"));
            }
        }
        match words.is_empty() {
            true => "good".to_owned(),
            false => words.join("; "),
        }
    }
}

/// Sees each entry accepted: position, header, payload. An error of it ends the walk.
pub trait Visit: FnMut(u64, &EntryHeader, &[u8]) -> Result<(), Failure> {}
impl<F: FnMut(u64, &EntryHeader, &[u8]) -> Result<(), Failure>> Visit for F {}

/// Walks the segment at `path` and shows each accepted entry to `visit`.
pub fn scan(path: &Path, around: &Surroundings, visit: impl Visit) -> Result<Scan, Failure> {
    let mut window = Window::open(path).map_err(|e| cannot_read(path, &e))?;
    let head = window
        .at(0, SEGMENT_HEADER_LEN)
        .map_err(|e| cannot_read(path, &e))?
        .to_vec();
    let header = SegmentHeader::decode(&head);
    if let Err(error) = &header
        && !error.is_damage()
    {
        return Err(Failure::new(FAILED, format!("{}: {error}", path.display()))
            .hint("Another version of this program wrote it; use that one."));
    }
    let mut scan = Scan {
        header: header.ok(),
        header_faults: header_faults(&head),
        file_bytes: window.file_bytes(),
        entries: 0,
        end_position: SEGMENT_HEADER_LEN as u64,
        last: None,
        damage: Vec::new(),
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
        let why = "no header, so no entry can be checked".to_owned();
        scan.damage.push(Damage {
            position: 0..scan.file_bytes,
            first_offset: Offset(0),
            next_offset: None,
            why: why.clone(),
        });
        scan.end = End::Damage { position: 0, why };
        return Ok(scan);
    };
    let walk = Walk {
        path,
        around,
        segment: header,
        index: EntryIndex(header.base_index.0.saturating_sub(1)),
        next_offset: header.base_offset,
        chain: Some(0),
        scan,
        window,
    };
    walk.run(visit)
}

/// The header of the segment at `path`, if one copy verifies.
pub fn read_header(path: &Path) -> io::Result<Option<SegmentHeader>> {
    let mut window = Window::open(path)?;
    Ok(SegmentHeader::decode(window.at(0, SEGMENT_HEADER_LEN)?).ok())
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot read {}: {error}", path.display()))
}

/// Header and what of the payload its checksum covers.
const HEAD_BYTES: usize = ENTRY_HEADER_LEN + PLAIN_PREFIX_LEN;

/// Why there is no entry where one should be.
struct Refused {
    why: String,
    /// The header verifies and fits: only the payload or the padding is bad.
    header: Option<EntryHeader>,
    is_unsupported: bool,
}

impl Refused {
    fn because(why: impl ToString) -> Self {
        Refused {
            why: why.to_string(),
            header: None,
            is_unsupported: false,
        }
    }
}

/// What lies behind an entry that fails.
#[derive(Default)]
struct Behind {
    proven: EntryIndex,
    resume: Option<(u64, EntryHeader)>,
    is_zero: bool,
}

struct Walk<'a> {
    path: &'a Path,
    around: &'a Surroundings,
    segment: SegmentHeader,
    /// The last index accepted or gone around.
    index: EntryIndex,
    next_offset: Offset,
    /// What the next entry's prev_crc must be; `None` right behind damage.
    chain: Option<u32>,
    scan: Scan,
    window: Window,
}

impl Walk<'_> {
    fn run(mut self, mut visit: impl Visit) -> Result<Scan, Failure> {
        let path = self.path;
        let failed = |e: io::Error| cannot_read(path, &e);
        let mut read_again_at = None;
        loop {
            let is_over = self.around.limit.is_some_and(|limit| self.index.0 + 1 >= limit.0);
            if is_over {
                return Ok(self.scan);
            }
            let position = self.scan.end_position;
            let refused = match self.next_entry(&mut visit)? {
                None => continue,
                Some(refused) => refused,
            };
            // A running broker may have written this entry, and the later one that proves it
            // durable, between the two reads: then it verifies now.
            if read_again_at != Some(position) {
                read_again_at = Some(position);
                self.window.forget().map_err(failed)?;
                self.scan.file_bytes = self.window.file_bytes();
                continue;
            }
            if !self.go_around(refused)? {
                return Ok(self.scan);
            }
        }
    }

    /// Takes in the next entry, or says why there is none.
    fn next_entry(&mut self, visit: &mut impl Visit) -> Result<Option<Refused>, Failure> {
        let position = self.scan.end_position;
        let failed = |e: io::Error| cannot_read(self.path, &e);
        let head = self.window.at(position, HEAD_BYTES).map_err(failed)?;
        if head.is_empty() {
            return Ok(Some(Refused::because("end of file")));
        }
        let header = match EntryHeader::decode(head, &self.segment.incarnation) {
            Ok(header) => header,
            Err(error) => {
                return Ok(Some(Refused {
                    is_unsupported: error.is_unsupported(),
                    ..Refused::because(error)
                }));
            }
        };
        if let Err(why) = self.fits(&header) {
            return Ok(Some(Refused::because(why)));
        }
        let whole = self.window.at(position, header.entry_len()).map_err(failed)?;
        match decode_entry(whole, &self.segment.incarnation) {
            Ok((_, payload)) => visit(position, &header, payload)?,
            Err(error) => {
                return Ok(Some(Refused {
                    header: Some(header),
                    ..Refused::because(error)
                }));
            }
        }
        self.scan.entries += 1;
        self.scan.last = Some(header);
        self.step_over(&header);
        Ok(None)
    }

    fn step_over(&mut self, header: &EntryHeader) {
        self.scan.end_position += header.entry_len() as u64;
        self.index = self.index.max(header.index);
        self.next_offset = self.next_offset.max(header.next_offset());
        self.chain = Some(header.header_crc);
    }

    /// Whether `entry` may come next in this segment.
    fn fits(&self, entry: &EntryHeader) -> Result<(), String> {
        if let Some(chain) = self.chain.filter(|chain| *chain != entry.prev_crc) {
            return Err(format!(
                "chain is {:#010x}, expected {chain:#010x}",
                entry.prev_crc
            ));
        }
        if self.scan.last.is_some_and(|l| entry.term < l.term) {
            return Err(format!("term {} falls", entry.term));
        }
        if entry.base_offset < self.next_offset {
            return Err(format!(
                "base offset {} falls below {}",
                entry.base_offset, self.next_offset
            ));
        }
        let is_first = self.scan.last.is_none() && self.scan.damage.is_empty();
        let expected = match entry.kind.has_index() {
            true => self.index.0 + 1,
            false if is_first => return Ok(()),
            false => self.index.0,
        };
        let is_compacted = self.segment.replaced.is_some();
        match entry.index.0 == expected || (is_compacted && entry.index.0 > expected) {
            true => Ok(()),
            false => Err(format!("index {}, expected {expected}", entry.index)),
        }
    }

    /// Decides between an end and damage, and goes on behind damage; false where the entries end.
    fn go_around(&mut self, refused: Refused) -> Result<bool, Failure> {
        let position = self.scan.end_position;
        let why = refused.why;
        if refused.is_unsupported {
            self.scan.end = End::Unsupported { position, why };
            return Ok(false);
        }
        let expected = EntryIndex(self.index.0 + 1);
        let mut behind = self
            .look_behind(position, expected)
            .map_err(|e| cannot_read(self.path, &e))?;
        if behind.proven < expected {
            behind.proven = behind.proven.max(self.proven_elsewhere(expected)?);
        }
        let mut why = why;
        if let Some(claim) = self.around.claim.filter(|claim| position < claim.length.0) {
            if behind.proven < expected {
                why = format!("{why}; the checkpoint proves {} bytes", claim.length);
            }
            behind.proven = behind.proven.max(claim.durable_index).max(expected);
        }
        if behind.proven < expected {
            self.scan.end = match behind.is_zero {
                true => End::Clean,
                false => End::TornTail { position, why },
            };
            return Ok(false);
        }
        if let Some(header) = refused.header {
            let end = (position + header.entry_len() as u64).min(self.scan.file_bytes);
            self.note(position..end, Some(header.next_offset()), &why);
            self.step_over(&header);
        } else if let Some((at, header)) = behind
            .resume
            .filter(|(_, header)| header.index.0 <= behind.proven.0 + 1)
        {
            self.note(position..at, Some(header.base_offset), &why);
            self.scan.end_position = at;
            self.index = EntryIndex(header.index.0 - 1);
            self.next_offset = header.base_offset;
            self.chain = None;
        } else {
            self.note(position..self.scan.file_bytes.max(position), None, &why);
            self.scan.end = End::Damage { position, why };
            return Ok(false);
        }
        if self.scan.damage.len() >= DAMAGE_LISTED_MAX {
            let position = self.scan.end_position;
            let why = format!("{DAMAGE_LISTED_MAX} damaged places; the rest was not looked at");
            self.note(position..self.scan.file_bytes.max(position), None, &why);
            self.scan.end = End::Damage { position, why };
            return Ok(false);
        }
        Ok(true)
    }

    fn note(&mut self, position: Range<u64>, next_offset: Option<Offset>, why: &str) {
        self.scan.damage.push(Damage {
            position,
            first_offset: self.next_offset,
            next_offset,
            why: why.to_owned(),
        });
    }

    /// What the later headers of this file prove, and where the entries go on.
    fn look_behind(&mut self, position: u64, expected: EntryIndex) -> io::Result<Behind> {
        let (last_term, next_offset) = (self.scan.last.map(|l| l.term), self.next_offset);
        let mut behind = Behind {
            is_zero: true,
            ..Behind::default()
        };
        let mut at = position;
        while at < self.scan.file_bytes {
            let window = self.window.at(at, SEARCH_CHUNK_BYTES + HEAD_BYTES)?;
            if window.is_empty() {
                break;
            }
            behind.is_zero = behind.is_zero && window.iter().all(|b| *b == 0);
            let starts = window.len().min(SEARCH_CHUNK_BYTES);
            for offset in (0..starts).step_by(ENTRY_ALIGN) {
                let Some(candidate) = window.get(offset..).filter(|c| c.starts_with(&ENTRY_MAGIC)) else {
                    continue;
                };
                let Ok(later) = EntryHeader::decode(candidate, &self.segment.incarnation) else {
                    continue;
                };
                let found_at = at + offset as u64;
                if last_term.is_some_and(|term| later.term < term) || later.index < expected {
                    continue;
                }
                if let Some(durable) = later.durable_index() {
                    behind.proven = behind.proven.max(durable);
                }
                let goes_on =
                    found_at > position && later.kind.has_index() && later.base_offset >= next_offset;
                if behind.resume.is_none() && goes_on {
                    behind.resume = Some((found_at, later));
                }
                let is_decided = behind.resume.is_some_and(|(_, resume)| {
                    behind.proven >= expected && resume.index.0 <= behind.proven.0 + 1
                });
                if is_decided {
                    return Ok(behind);
                }
            }
            at += SEARCH_CHUNK_BYTES as u64;
        }
        Ok(behind)
    }

    /// The highest index that entries of later segments prove durable, once one is at or above `expected`.
    fn proven_elsewhere(&self, expected: EntryIndex) -> Result<EntryIndex, Failure> {
        let last_term = self.scan.last.map(|l| l.term);
        let mut proven = EntryIndex(0);
        for path in &self.around.later {
            scan(path, &Surroundings::default(), |_, header, _| {
                if last_term.is_none_or(|term| header.term >= term)
                    && let Some(durable) = header.durable_index()
                {
                    proven = proven.max(durable);
                }
                Ok(())
            })?;
            if proven >= expected {
                break;
            }
        }
        Ok(proven)
    }
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
        let visit = |_: u64, entry: &EntryHeader, _: &[u8]| {
            seen.push(entry.index.0);
            Ok(())
        };
        let scan = scan(&path, &Surroundings::default(), visit).expect("readable");
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
            assert_eq!(seen, [1, 3, 4, 5], "byte {at}: what lies behind is read");
            let start = (SEGMENT_HEADER_LEN + ENTRY_BYTES) as u64;
            let [damage] = &scan.damage[..] else {
                panic!("byte {at}: {scan:?}");
            };
            assert_eq!(damage.position, start..start + ENTRY_BYTES as u64, "byte {at}");
            assert_eq!(damage.next_offset, Some(damage.first_offset), "byte {at}");
            assert_eq!(scan.end, End::Clean, "byte {at}");
        }
    }

    #[test]
    fn a_file_of_something_else_is_not_called_damaged() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("notes.txt");
        std::fs::write(&path, "hello").expect("write");
        let error = scan(&path, &Surroundings::default(), |_, _, _| Ok(())).expect_err("no segment");
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

    #[test]
    fn two_damaged_places_are_two_and_the_limit_ends_the_walk() {
        let mut bytes = make_segment(8);
        for entry in [1, 4] {
            bytes[SEGMENT_HEADER_LEN + entry * ENTRY_BYTES + 70] ^= 1;
        }
        let (scan, seen) = scan_bytes(&bytes);
        assert_eq!((scan.damage.len(), seen), (2, vec![1, 3, 4, 6, 7, 8]));
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join(segment_file_name(EntryIndex(1), 0));
        std::fs::write(&path, &bytes).expect("write");
        let around = Surroundings {
            limit: Some(EntryIndex(4)),
            ..Surroundings::default()
        };
        let scan = super::scan(&path, &around, |_, _, _| Ok(())).expect("readable");
        assert_eq!(
            (scan.damage.len(), scan.entries),
            (1, 2),
            "what the next segment holds is dead here"
        );
    }

    #[test]
    fn a_header_of_another_version_is_not_damage() {
        let mut bytes = make_segment(1);
        for at in [0, 4096] {
            bytes[at + 12] = 9;
            let crc = crc32fast::hash(&bytes[at + 12..at + 512]);
            bytes[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        }
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join(segment_file_name(EntryIndex(1), 0));
        std::fs::write(&path, &bytes).expect("write");
        let error = scan(&path, &Surroundings::default(), |_, _, _| Ok(())).expect_err("version 9");
        assert!(error.message().contains("version 9"), "{error:?}");
    }
}
