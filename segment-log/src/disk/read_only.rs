//! [`ReadOnlyDisk`]: files by plain system calls, of which none can be changed, for tools that look at a
//! data directory while a broker may be running on it.
//!
//! Owned by one thread, which it blocks. Each operation is carried out at once and completes in order.
//! Invariants:
//! - a handle may be used with any of these disks;
//! - no file is opened for writing, and every operation that would change something is refused;
//! - what asks for a sync or drops a cache is done: there is nothing of this disk to write back;
//! - at most [`READ_ONLY_FILES_MAX`] files are open at a time, however many handles there are.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    AlignedBytes, Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, Token, WriteNow,
};
use crate::limits::READ_ONLY_FILES_MAX;

/// Of all these disks together.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Files that are only read. See the module.
#[derive(Debug, Default)]
pub struct ReadOnlyDisk {
    /// The files that are open, the one used last at the end.
    open: VecDeque<(u64, File)>,
    read_bytes: u64,
    completions: Vec<Completion>,
}

impl ReadOnlyDisk {
    /// A disk with nothing open.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    fn keep(&mut self, id: u64, file: File) {
        if self.open.len() >= READ_ONLY_FILES_MAX {
            self.open.pop_front();
        }
        self.open.push_back((id, file));
    }

    fn file(&mut self, handle: &FileHandle) -> io::Result<&File> {
        let found = self.open.iter().position(|(id, _)| *id == handle.id());
        let kept = found.and_then(|at| self.open.remove(at));
        let file = match kept {
            Some((_, file)) => file,
            None => open(handle.path())?,
        };
        self.keep(handle.id(), file);
        self.open
            .back()
            .map(|(_, file)| file)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&mut self, handle: &FileHandle, position: u64, len: usize) -> io::Result<AlignedBytes> {
        let file = self.file(handle)?;
        // No length that was asked for sizes an allocation beyond what is there.
        let left = file.metadata()?.len().saturating_sub(position);
        let len = usize::try_from(left).map_or(len, |left| left.min(len));
        let mut bytes = AlignedBytes::zeroed(len);
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, position + read as u64) {
                // It was made shorter meanwhile.
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(read);
        self.read_bytes += read as u64;
        Ok(bytes)
    }

    fn perform(&mut self, op: DiskOp) -> io::Result<DiskOutput> {
        match op {
            DiskOp::Open { path } => {
                let file = open(&path)?;
                // Of one that another such disk opened, as of a journal, the id says the same file here.
                let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
                self.keep(id, file);
                Ok(DiskOutput::File(FileHandle::simulated(id, path)))
            }
            DiskOp::List { path } => {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(path)? {
                    names.push(entry?.file_name().to_string_lossy().into_owned());
                }
                names.sort_unstable();
                Ok(DiskOutput::Names(names))
            }
            DiskOp::Len { file } => Ok(DiskOutput::Len(self.file(&file)?.metadata()?.len())),
            DiskOp::Read {
                file, position, len, ..
            } => self.read(&file, position, len).map(DiskOutput::Read),
            DiskOp::Sync { .. } | DiskOp::SyncDir { .. } | DiskOp::DropCache { .. } => Ok(DiskOutput::Done),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

/// Opens a regular file: opening a pipe would wait for a writer.
fn open(path: &Path) -> io::Result<File> {
    match path.metadata()?.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

impl Disk for ReadOnlyDisk {
    fn submit(&mut self, token: Token, op: DiskOp) {
        let result = self.perform(op);
        self.completions.push(Completion { token, result });
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.completions);
    }

    fn write_now(&mut self, _: &FileHandle, _: u64, _: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn hot_bytes(&mut self, _: &FileHandle, _: Range<u64>) -> Option<HotBytes> {
        None
    }

    fn lock_directory(&mut self, _: &Path) -> io::Result<DirectoryLock> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(disk: &mut ReadOnlyDisk, op: DiskOp) -> io::Result<DiskOutput> {
        disk.submit(Token(1), op);
        let mut completions = Vec::new();
        disk.take_completions(&mut completions);
        completions.remove(0).result
    }

    #[test]
    fn many_handles_are_read_and_nothing_is_written() {
        let directory = tempfile::tempdir().expect("directory");
        let mut disk = ReadOnlyDisk::new();
        let mut handles = Vec::new();
        for number in 0..READ_ONLY_FILES_MAX * 2 {
            let path = directory.path().join(number.to_string());
            std::fs::write(&path, number.to_string().repeat(3)).expect("write");
            let Ok(DiskOutput::File(file)) = now(&mut disk, DiskOp::Open { path }) else {
                panic!("it opens")
            };
            handles.push(file);
        }
        for (number, file) in handles.iter().enumerate() {
            let read = DiskOp::Read {
                file: file.clone(),
                position: 0,
                len: 1 << 40,
                source: super::super::ReadSource::Device,
            };
            let Ok(DiskOutput::Read(bytes)) = now(&mut disk, read) else {
                panic!("it is read")
            };
            assert_eq!(&bytes[..], number.to_string().repeat(3).as_bytes());
        }
        assert!(disk.open.len() <= READ_ONLY_FILES_MAX);
        let write = DiskOp::Write {
            file: handles.remove(0),
            position: 0,
            data: bytes::Bytes::from_static(b"x"),
        };
        let refused = now(&mut disk, write).expect_err("refused");
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        let path = directory.path().to_path_buf();
        assert!(now(&mut disk, DiskOp::Open { path }).is_err(), "a directory");
    }
}
