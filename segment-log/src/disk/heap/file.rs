//! The bytes of one file in memory: chunks that readers share, and a short tail that still grows.
//!
//! Written by its shard's thread; read on any, under a lock that nobody holds for longer than a copy of a chunk.
//! A log writes at its written end, over the zeros that filled the page behind the write before: these are cut
//! off, and what is written follows. A chunk begins and ends where a write did, so no entry of a log lies across
//! two. Small writes gather in the tail until it is a chunk.
//!
//! Invariants: chunks and tail are in order and do not overlap; a chunk's bytes never change; between and behind
//! them the file reads as zeros up to its length.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::pool::{Charge, HeapPool};
use crate::disk::AlignedBytes;
use crate::limits::SEGMENT_BYTES_MAX;

/// No file grows beyond this: a segment, and the entry that made it too large.
const FILE_BYTES_MAX: u64 = 2 * SEGMENT_BYTES_MAX;
/// The tail becomes a chunk at this size; a write of at least half of it is a chunk by itself.
const CHUNK_BYTES: usize = 64 << 10;
/// What the tail begins with.
const TAIL_BYTES_MIN: usize = 4 << 10;

/// A file in memory. See the module.
#[derive(Debug)]
pub(in crate::disk) struct HeapFile {
    charge: Arc<Charge>,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    len: u64,
    chunks: Vec<Chunk>,
    tail_at: u64,
    tail: Vec<u8>,
}

#[derive(Debug)]
struct Chunk {
    at: u64,
    bytes: Bytes,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

/// Bytes that keep the charge of their file, so that it counts while they are read.
struct Held {
    bytes: Vec<u8>,
    _charge: Arc<Charge>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HeapFile {
    /// Without a byte.
    pub(super) fn new(pool: Arc<HeapPool>) -> Self {
        Self {
            charge: Arc::new(Charge::new(pool)),
            content: Mutex::default(),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Nothing panics with the lock held and the content half changed.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure of the memory up to `end`.
    fn charge_to(&self, end: u64) -> io::Result<()> {
        if end > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        match self.charge.grow_to(end) {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.content().len)
    }

    /// Reserves memory up to `end`, and makes the file as long.
    pub(super) fn reserve(&self, end: u64) -> io::Result<()> {
        self.charge_to(end)?;
        let mut content = self.content();
        content.len = content.len.max(end);
        Ok(())
    }

    /// Writes all of `pieces` one behind the other.
    pub(super) fn write(&self, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if bytes == 0 {
            return Ok(());
        }
        let end = position.saturating_add(bytes as u64);
        self.charge_to(end)?;
        let mut content = self.content();
        if end >= content.data_end() {
            content.cut(position);
            content.put(position, pieces, bytes, &self.charge);
        } else {
            content.write_within(position, pieces, &self.charge);
        }
        content.len = content.len.max(end);
        Ok(())
    }

    /// Makes a range read as zeros.
    pub(super) fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.reserve(range.end)?;
        let mut content = self.content();
        let data_end = content.data_end();
        if range.end >= data_end {
            content.cut(range.start);
        } else if range.start < range.end {
            // Shorter than what is there, so no larger than what is charged.
            let zeros = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
            content.write_within(range.start, &[IoSlice::new(&zeros)], &self.charge);
        }
        Ok(())
    }

    /// Up to `len` bytes, fewer only at the end of the file.
    pub(super) fn read(&self, position: u64, len: usize) -> io::Result<AlignedBytes> {
        let content = self.content();
        let there = content.len.saturating_sub(position);
        let len = usize::try_from(there).unwrap_or(usize::MAX).min(len);
        let mut read = AlignedBytes::zeroed(len);
        content.copy_to(position, &mut read);
        Ok(read)
    }

    /// What is there of a range in one piece from its start on: a chunk is shared, the tail is copied. `None` if
    /// nothing is, or there is no memory for the copy.
    pub(super) fn hot(&self, range: Range<u64>) -> Option<Bytes> {
        let content = self.content();
        let wanted = usize::try_from(range.end.checked_sub(range.start)?).unwrap_or(usize::MAX);
        if range.start >= content.tail_at && !content.tail.is_empty() {
            let from = usize::try_from(range.start - content.tail_at).ok()?;
            let rest = content.tail.get(from..).filter(|rest| !rest.is_empty())?;
            let part = rest.get(..wanted.min(rest.len()))?;
            let charge = Charge::new(Arc::clone(self.charge.pool()));
            return charge.grow_to(part.len() as u64).then(|| {
                Bytes::from_owner(Held {
                    bytes: part.to_vec(),
                    _charge: Arc::new(charge),
                })
            });
        }
        let behind = content.chunks.partition_point(|chunk| chunk.at <= range.start);
        let chunk = content.chunks.get(behind.checked_sub(1)?)?;
        let from = usize::try_from(range.start - chunk.at).ok()?;
        let end = from.saturating_add(wanted).min(chunk.bytes.len());
        (from < end).then(|| chunk.bytes.slice(from..end))
    }
}

impl Content {
    /// Where the last byte that was written lies, and one.
    fn data_end(&self) -> u64 {
        match self.tail.is_empty() {
            false => self.tail_at + self.tail.len() as u64,
            true => self.chunks.last().map_or(0, Chunk::end),
        }
    }

    /// Drops what is written at and behind a position.
    fn cut(&mut self, position: u64) {
        let kept = position.saturating_sub(self.tail_at);
        self.tail.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        while self.chunks.last().is_some_and(|last| last.at >= position) {
            self.chunks.pop();
        }
        if let Some(last) = self.chunks.last_mut()
            && last.end() > position
        {
            let kept = usize::try_from(position - last.at).unwrap_or(usize::MAX);
            last.bytes.truncate(kept);
        }
    }

    /// Puts bytes at or behind the end of what is there.
    fn put(&mut self, position: u64, pieces: &[IoSlice<'_>], bytes: usize, charge: &Arc<Charge>) {
        if bytes >= CHUNK_BYTES / 2 {
            self.seal(charge);
            let mut chunk = Vec::with_capacity(bytes);
            pieces.iter().for_each(|piece| chunk.extend_from_slice(piece));
            self.push(position, chunk, charge);
            return;
        }
        let follows = self.data_end() == position && self.tail.len() + bytes <= CHUNK_BYTES;
        if self.tail.is_empty() || !follows {
            self.seal(charge);
            self.tail_at = position;
        }
        let wanted = (self.tail.len() + bytes).next_power_of_two().max(TAIL_BYTES_MIN);
        self.tail.reserve_exact(wanted - self.tail.len());
        pieces.iter().for_each(|piece| self.tail.extend_from_slice(piece));
    }

    /// Makes the tail a chunk.
    fn seal(&mut self, charge: &Arc<Charge>) {
        let mut tail = std::mem::take(&mut self.tail);
        if !tail.is_empty() {
            tail.shrink_to_fit();
            self.push(self.tail_at, tail, charge);
        }
    }

    fn push(&mut self, at: u64, bytes: Vec<u8>, charge: &Arc<Charge>) {
        let bytes = Bytes::from_owner(Held {
            bytes,
            _charge: Arc::clone(charge),
        });
        self.chunks.push(Chunk { at, bytes });
    }

    /// Writes in the middle of what is there, which a log never does: all from there on is made anew.
    fn write_within(&mut self, position: u64, pieces: &[IoSlice<'_>], charge: &Arc<Charge>) {
        let rest = usize::try_from(self.data_end() - position).unwrap_or(usize::MAX);
        let mut anew = vec![0; rest];
        self.copy_to(position, &mut anew);
        let mut left = anew.as_mut_slice();
        for piece in pieces {
            let (place, behind) = left.split_at_mut(piece.len().min(left.len()));
            place.copy_from_slice(piece.get(..place.len()).unwrap_or_default());
            left = behind;
        }
        self.cut(position);
        self.seal(charge);
        self.push(position, anew, charge);
    }

    /// Copies what is written from `position` on; the rest of `out` stays as it is.
    fn copy_to(&self, position: u64, out: &mut [u8]) {
        let end = position.saturating_add(out.len() as u64);
        let first = self.chunks.partition_point(|chunk| chunk.end() <= position);
        let chunks = self
            .chunks
            .iter()
            .skip(first)
            .map(|chunk| (chunk.at, &chunk.bytes[..]));
        for (at, bytes) in chunks.chain([(self.tail_at, self.tail.as_slice())]) {
            if at >= end {
                break;
            }
            let skip = usize::try_from(position.saturating_sub(at)).unwrap_or(usize::MAX);
            let to = usize::try_from(at.saturating_sub(position)).unwrap_or(usize::MAX);
            let from = bytes.get(skip..).unwrap_or_default();
            let place = out.get_mut(to..).unwrap_or_default();
            let len = from.len().min(place.len());
            if let (Some(place), Some(from)) = (place.get_mut(..len), from.get(..len)) {
                place.copy_from_slice(from);
            }
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    reason = "a test that reaches beyond what it made fails"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file() -> (HeapFile, Arc<HeapPool>) {
        let pool = HeapPool::of_shards(64 << 20, 1).remove(0);
        (HeapFile::new(Arc::clone(&pool)), pool)
    }

    fn write(file: &HeapFile, position: u64, bytes: &[u8]) {
        let (first, second) = bytes.split_at(bytes.len() / 3);
        let pieces = [IoSlice::new(first), IoSlice::new(second)];
        file.write(position, &pieces).expect("there is room");
    }

    /// As a log does: each write fills its page, and the next begins where the entries ended.
    #[test]
    fn entries_lie_in_one_piece_and_tails_are_copied() {
        let (file, _) = file();
        let mut end = 0;
        let mut entries = Vec::new();
        for nth in 0..200_u64 {
            let len = [100, 3_000, 40_000, 8, 70_000][nth as usize % 5];
            let mut bytes = vec![nth as u8 + 1; len];
            let filled = (end + len as u64).next_multiple_of(4096) - end;
            bytes.resize(filled as usize, 0);
            write(&file, end, &bytes);
            entries.push((end, len, nth as u8 + 1));
            end += len as u64;
        }
        for (at, len, byte) in entries {
            let hot = file.hot(at..end).expect("it is there");
            assert!(hot.len() >= len, "{len} bytes at {at} are cut at {}", hot.len());
            assert!(hot.iter().take(len).all(|found| *found == byte));
        }
        assert!(file.hot(end + 4096..end + 8192).is_none());
    }

    #[test]
    fn a_copy_of_the_tail_is_charged_and_a_shared_chunk_is_not() {
        let (file, pool) = file();
        write(&file, 0, &[1; 40_000]);
        write(&file, 40_000, &[2; 10_000]);
        let before = pool.used_bytes();
        let shared = file.hot(0..40_000).expect("a chunk");
        assert_eq!((shared.len(), pool.used_bytes()), (40_000, before));
        let copied = file.hot(40_000..50_000).expect("the tail");
        assert_eq!((copied.len(), pool.used_bytes()), (10_000, before + 12_288));
        drop(copied);
        assert_eq!(pool.used_bytes(), before);
        let full = HeapPool::of_shards(12_288, 1).remove(0);
        let small = HeapFile::new(full);
        write(&small, 0, &[1; 10_000]);
        assert!(small.hot(0..10_000).is_none(), "no memory for a copy");
        assert_eq!(small.read(0, 10_000).map(|read| read.len()).ok(), Some(10_000));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, usize),
        Zero(u64, u64),
        Reserve(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let at = 0..200_000_u64;
        let step = prop_oneof![
            4 => (at.clone(), prop_oneof![1..200_usize, 1..90_000_usize]).prop_map(|(at, len)| Step::Write(at, len)),
            1 => (at.clone(), 0..90_000_u64).prop_map(|(at, len)| Step::Zero(at, at + len)),
            1 => at.prop_map(Step::Reserve),
        ];
        proptest::collection::vec(step, 1..40)
    }

    proptest! {
        #[test]
        fn it_reads_as_a_vec_does_wherever_it_is_written(steps in steps()) {
            let (file, pool) = file();
            let mut model: Vec<u8> = Vec::new();
            for (nth, step) in steps.into_iter().enumerate() {
                let end = match step {
                    Step::Write(at, len) => at + len as u64,
                    Step::Zero(_, end) | Step::Reserve(end) => end,
                };
                if model.len() < end as usize {
                    model.resize(end as usize, 0);
                }
                match step {
                    Step::Write(at, len) => {
                        write(&file, at, &vec![nth as u8 + 1; len]);
                        model[at as usize..end as usize].fill(nth as u8 + 1);
                    }
                    Step::Zero(at, end) => {
                        file.zero(at..end).expect("there is room");
                        model[at as usize..end as usize].fill(0);
                    }
                    Step::Reserve(end) => file.reserve(end).expect("there is room"),
                }
                let read = file.read(0, usize::MAX).expect("read");
                prop_assert!(read[..] == model[..]);
                let from = model.len() as u64 / 3;
                if let Some(hot) = file.hot(from..model.len() as u64) {
                    prop_assert!(hot[..] == model[from as usize..from as usize + hot.len()]);
                }
                prop_assert!(pool.used_bytes() >= model.len() as u64);
            }
            drop(file);
            prop_assert_eq!(pool.used_bytes(), 0);
        }
    }
}
