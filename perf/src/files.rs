//! The files that are written into.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
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

/// One partition's file, appended to.
pub struct Appender {
    kind: Kind,
    path: PathBuf,
    generation: u32,
    pub file: File,
    position: u64,
    allocated: u64,
    extent: u64,
}

impl Appender {
    /// File `number` of `count` in `dir`.
    pub fn new(dir: &Path, number: u32, count: u32, kind: Kind) -> io::Result<Self> {
        let path = dir.join(format!("file-{number}"));
        let mut this = Self {
            kind,
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

    /// Writes `bytes` behind what was written before.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        if self.position + len > self.allocated {
            match self.kind {
                Kind::Recycled => self.position = 0,
                Kind::Fresh => self.extend(len)?,
            }
        }
        self.file.write_all_at(bytes, self.position)?;
        self.position += len;
        Ok(())
    }

    fn extend(&mut self, len: u64) -> io::Result<()> {
        if self.position + len > SEGMENT_BYTES {
            self.generation += 1;
            self.file = create(&self.path, self.generation)?;
            (self.position, self.allocated, self.extent) = (0, 0, EXTENT_BYTES_MIN);
        }
        while self.position + len > self.allocated {
            fallocate(&self.file, FallocateFlags::empty(), self.allocated, self.extent)?;
            self.allocated += self.extent;
            self.extent = (self.extent * 2).min(EXTENT_BYTES_MAX);
        }
        Ok(())
    }
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
            let mut appender = Appender::new(dir.path(), number as u32, 64, kind).unwrap();
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
}
