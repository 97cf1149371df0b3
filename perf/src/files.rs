//! The files that are written into.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, fallocate};

/// Extents of a fresh file grow by doubling between these, as the broker's do.
const EXTENT_BYTES_MIN: u64 = 64 << 10;
const EXTENT_BYTES_MAX: u64 = 16 << 20;
/// A fresh file of this size is followed by the next one.
const SEGMENT_BYTES: u64 = 1 << 30;
/// Already written bytes over all recycled files.
const RECYCLED_BYTES: u64 = 1 << 30;
const RECYCLED_FILE_BYTES_MIN: u64 = 16 << 20;

/// What is written into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// New files, allocated ahead in growing extents: pages come into the cache by the write.
    Fresh,
    /// Files that were written before and are still in the page cache, overwritten again and again.
    Recycled,
}

/// What a broker does more than appending bytes, added one at a time to see what each costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Extra {
    /// A header of 64 bytes, the batch cut behind its first 21 bytes: a gathered write of three pieces.
    Entry,
    /// Zeros to the end of the page, in which the next append begins.
    Pad,
    /// Write-back is started each 8 MiB, on a worker of the kernel.
    Writeback,
    /// The file is mapped, and never looked at.
    Map,
}

/// Write-back of a file is started each time this much was appended, as by the broker.
const WRITEBACK_BYTES: u64 = 8 << 20;
const PAGE_BYTES: u64 = 4096;
/// Of an entry's header, and of what is patched of a batch.
const ENTRY_HEADER_BYTES: usize = 64;
const PREFIX_BYTES: usize = 21;
static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// One partition's file, appended to.
pub struct Appender {
    kind: Kind,
    extras: Vec<Extra>,
    /// Where the bytes begin whose write-back was not started.
    unstarted: u64,
    /// Held, not read.
    map: Option<MmapRaw>,
    path: PathBuf,
    generation: u32,
    pub file: File,
    position: u64,
    allocated: u64,
    extent: u64,
}

impl Appender {
    /// File `number` of `count` in `dir`.
    pub fn new(dir: &Path, number: u32, count: u32, kind: Kind, extras: &[Extra]) -> io::Result<Self> {
        let path = dir.join(format!("file-{number}"));
        let mut this = Self {
            kind,
            extras: extras.to_vec(),
            unstarted: 0,
            map: None,
            file: create(&path, 0)?,
            path,
            generation: 0,
            position: 0,
            allocated: 0,
            extent: EXTENT_BYTES_MIN,
        };
        if kind == Kind::Recycled {
            this.allocated = (RECYCLED_BYTES / u64::from(count)).max(RECYCLED_FILE_BYTES_MIN);
            fill(&this.file, this.allocated)?;
        }
        Ok(this)
    }

    fn has(&self, extra: Extra) -> bool {
        self.extras.contains(&extra)
    }

    /// Writes `bytes` behind what was written before.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let header = [0x5a; ENTRY_HEADER_BYTES];
        let (prefix, rest) = bytes.split_at(PREFIX_BYTES.min(bytes.len()));
        let mut len = bytes.len() as u64;
        if self.has(Extra::Entry) {
            len = (len + ENTRY_HEADER_BYTES as u64).next_multiple_of(8);
        }
        let room = if self.has(Extra::Pad) { PAGE_BYTES } else { 0 };
        if self.position + len + room > self.allocated {
            match self.kind {
                Kind::Recycled => (self.position, self.unstarted) = (0, 0),
                Kind::Fresh => self.extend(len + room)?,
            }
        }
        let end = self.position + len;
        let mut pieces = Vec::with_capacity(5);
        if self.has(Extra::Entry) {
            let aligned = bytes.len() + ENTRY_HEADER_BYTES;
            pieces.extend([
                &header,
                prefix,
                rest,
                &ZEROS[..aligned.next_multiple_of(8) - aligned],
            ]);
        } else {
            pieces.push(bytes);
        }
        if self.has(Extra::Pad) {
            pieces.push(&ZEROS[..(end.next_multiple_of(PAGE_BYTES) - end) as usize]);
        }
        write_all(&self.file, &pieces, self.position)?;
        self.position = end;
        Ok(())
    }

    /// The bytes whose write-back is to be started now, if it is time.
    pub fn take_writeback(&mut self) -> Option<Range<u64>> {
        if !self.has(Extra::Writeback) || self.position.saturating_sub(self.unstarted) < WRITEBACK_BYTES {
            return None;
        }
        let range = self.unstarted..self.position;
        self.unstarted = self.position;
        Some(range)
    }

    fn extend(&mut self, len: u64) -> io::Result<()> {
        if self.position + len > SEGMENT_BYTES {
            self.generation += 1;
            self.file = create(&self.path, self.generation)?;
            (self.position, self.allocated, self.extent) = (0, 0, EXTENT_BYTES_MIN);
            (self.unstarted, self.map) = (0, None);
        }
        while self.position + len > self.allocated {
            fallocate(&self.file, FallocateFlags::empty(), self.allocated, self.extent)?;
            self.allocated += self.extent;
            self.extent = (self.extent * 2).min(EXTENT_BYTES_MAX);
        }
        if self.has(Extra::Map) {
            self.map = Some(
                MmapOptions::new()
                    .len(self.allocated as usize)
                    .map_raw_read_only(&self.file)?,
            );
        }
        Ok(())
    }
}

/// Writes all pieces one behind the other; a single one by a plain write.
fn write_all(file: &File, pieces: &[&[u8]], mut position: u64) -> io::Result<()> {
    if let [only] = pieces {
        return file.write_all_at(only, position);
    }
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = slices.as_mut_slice();
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match rustix::io::pwritev(file, left, position)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => {
                IoSlice::advance_slices(&mut left, written);
                position += written as u64;
            }
        }
    }
    Ok(())
}

fn create(path: &Path, generation: u32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path.with_extension(generation.to_string()))
}

/// Writes `bytes` bytes that are not zero, and syncs them.
pub fn fill(file: &File, bytes: u64) -> io::Result<()> {
    let piece = vec![0xa5u8; 1 << 20];
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(piece.len() as u64);
        file.write_all_at(&piece[..len as usize], at)?;
        at += len;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_follow_each_other_in_both_kinds() {
        let dir = tempfile::tempdir().unwrap();
        for (number, kind) in [Kind::Fresh, Kind::Recycled].into_iter().enumerate() {
            let mut appender = Appender::new(dir.path(), number as u32, 64, kind, &[]).unwrap();
            for byte in 1..=3u8 {
                appender.append(&[byte; 100_000]).unwrap();
            }
            let mut read = vec![0; 300_000];
            appender.file.read_exact_at(&mut read, 0).unwrap();
            assert!(
                read.chunks(100_000)
                    .zip(1..)
                    .all(|(c, byte)| c.iter().all(|b| *b == byte))
            );
            assert!(appender.allocated >= 300_000);
        }
    }
    #[test]
    fn extras_change_what_is_written_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let all = [Extra::Entry, Extra::Pad, Extra::Writeback, Extra::Map];
        let mut appender = Appender::new(dir.path(), 0, 1, Kind::Fresh, &all).unwrap();
        // 64 of a header and 99,993 of a batch are 100,057: seven zeros make it a multiple of 8.
        let mut started = Vec::new();
        for byte in 1..=100u8 {
            appender.append(&[byte; 99_993]).unwrap();
            started.extend(appender.take_writeback());
        }
        let mut read = vec![0; 100 * 100_064 + 4096];
        let written = appender.file.read_at(&mut read, 0).unwrap();
        assert!(written >= 100 * 100_064, "{written}");
        for (entry, byte) in read.chunks(100_064).zip(1..=100u8) {
            assert!(entry[..64].iter().all(|b| *b == 0x5a));
            assert!(entry[64..64 + 99_993].iter().all(|b| *b == byte));
            assert_eq!(entry[64 + 99_993..], [0; 7]);
        }
        assert_eq!(
            started.first(),
            Some(&(0..84 * 100_064)),
            "once 8 MiB were appended"
        );
        assert_eq!(started.len(), 1);
        assert!(appender.map.is_some());
    }
}
