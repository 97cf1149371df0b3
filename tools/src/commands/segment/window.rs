//! A moving window over a file, so that a walk in order reads each byte about once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::limits::{READ_CHUNK_BYTES, WINDOW_SLACK_BYTES};

/// See the module.
#[derive(Debug)]
pub struct Window {
    file: File,
    file_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// A window over the file at `path`, which must be a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening a pipe would wait for a writer.
        if !path.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        Ok(Window {
            file,
            file_bytes,
            start: 0,
            bytes: Vec::new(),
        })
    }

    /// How long the file was when it was opened or last forgotten.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Drops what was read, so that it is read again from the file as it is now.
    pub fn forget(&mut self) -> io::Result<()> {
        self.bytes.clear();
        self.file_bytes = self.file.metadata()?.len();
        Ok(())
    }

    /// Up to `length` bytes at `position`; fewer where the file ends.
    pub fn at(&mut self, position: u64, length: usize) -> io::Result<&[u8]> {
        let end = position.saturating_add(length as u64).min(self.file_bytes);
        if position >= end {
            return Ok(&[]);
        }
        let held_to = self.start + self.bytes.len() as u64;
        if position < self.start || end > held_to {
            self.fill(position, end)?;
        }
        let from = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        let to = usize::try_from(end - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..to.min(self.bytes.len())).unwrap_or_default())
    }

    fn fill(&mut self, position: u64, end: u64) -> io::Result<()> {
        let wanted = (end - position).max(READ_CHUNK_BYTES as u64);
        let wanted = usize::try_from(wanted.min(self.file_bytes - position)).map_err(io::Error::other)?;
        // What one huge entry took is given back.
        if self.bytes.capacity() > wanted.saturating_add(WINDOW_SLACK_BYTES) {
            self.bytes = Vec::new();
        }
        self.bytes.resize(wanted, 0);
        self.start = position;
        let mut read = 0;
        while let Some(rest) = self.bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, position + read as u64) {
                // It was made shorter meanwhile.
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.bytes.clear();
                    return Err(error);
                }
            }
        }
        self.bytes.truncate(read);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_what_the_file_holds_and_ends_where_it_ends() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..READ_CHUNK_BYTES as u32 + 5000)
            .map(|n| (n % 251) as u8)
            .collect();
        std::fs::write(&path, &content).expect("write");
        let mut window = Window::open(&path).expect("open");
        let ends = READ_CHUNK_BYTES - 7;
        for (at, length) in [
            (0, 10),
            (ends, 20),
            (5, 1),
            (ends + 100, 90_000),
            (content.len(), 1),
        ] {
            let expected = &content[at..(at + length).min(content.len())];
            assert_eq!(window.at(at as u64, length).expect("read"), expected, "{at}");
        }
        std::fs::write(&path, b"short").expect("write");
        window.forget().expect("read");
        assert_eq!(window.at(0, 100).expect("read"), b"short");
        assert!(Window::open(directory.path()).is_err(), "a directory");
    }
}
