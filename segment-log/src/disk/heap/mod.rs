//! Files in this process's memory: the disk of partitions whose records are kept nowhere else.
//!
//! Owned by one shard thread, beside that shard's other disk ([`WithHeap`] routes between the two). Each operation
//! is carried out at once and completes in order; a sync has nothing to do, since nothing here survives the
//! process. Not to be taken for [`MemoryDisk`](super::memory::MemoryDisk), which tests use: that one keeps
//! every byte for good, notes what is gone, and serves nothing without a check.
//!
//! Invariants:
//! - every byte of a file is charged to the [`HeapPool`] of the process before it is there, in whole pages, and
//!   given back when the file has lost its name and nobody reads it any more;
//! - what the pool does not give is answered as a full disk is, before anything is written;
//! - a file may be read through its handle on any thread.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod file;
mod pool;
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, Token, WriteNow};

pub(super) use file::HeapFile;
pub use pool::HeapPool;
pub use route::WithHeap;

/// The root of all paths of this disk. Those of others are absolute.
pub const HEAP_ROOT: &str = "memory:";

/// Files in memory. See the module.
#[derive(Debug)]
pub struct HeapDisk {
    pool: Arc<HeapPool>,
    names: BTreeMap<PathBuf, FileHandle>,
    directories: BTreeSet<PathBuf>,
    next_id: u64,
    completions: Vec<Completion>,
}

impl HeapDisk {
    /// A disk without files.
    pub fn new(pool: Arc<HeapPool>) -> Self {
        Self {
            pool,
            names: BTreeMap::new(),
            directories: BTreeSet::new(),
            next_id: 0,
            completions: Vec::new(),
        }
    }

    /// Whether a path is one of this disk's.
    pub fn has_path(path: &Path) -> bool {
        path.starts_with(HEAP_ROOT)
    }

    /// Whether completions wait to be taken.
    pub fn has_arrived(&self) -> bool {
        !self.completions.is_empty()
    }

    fn named(&self, path: &Path) -> io::Result<&FileHandle> {
        self.names.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, path: PathBuf) -> io::Result<FileHandle> {
        if self.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path
            .parent()
            .is_some_and(|parent| self.directories.contains(parent))
        {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.next_id += 1;
        let bytes = Arc::new(HeapFile::new(Arc::clone(&self.pool)));
        let file = FileHandle::heap(self.next_id, path.clone(), bytes);
        self.names.insert(path, file.clone());
        Ok(file)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        if !self.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Children of a directory stand behind it in the order of paths.
        let below = |path: &&PathBuf| path.starts_with(directory);
        let files = self.names.range(directory.to_path_buf()..).map(|(path, _)| path);
        let directories = self.directories.range(directory.to_path_buf()..);
        let mut names: Vec<String> = files
            .take_while(below)
            .chain(directories.take_while(below))
            .filter(|path| path.parent() == Some(directory))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    fn perform(&mut self, op: DiskOp) -> io::Result<DiskOutput> {
        match op {
            DiskOp::Open { path } => self.named(&path).cloned().map(DiskOutput::File),
            DiskOp::Create { path } => self.create(path).map(DiskOutput::File),
            DiskOp::CreateDir { path } => {
                self.directories.extend(path.ancestors().map(Path::to_path_buf));
                Ok(DiskOutput::Done)
            }
            DiskOp::List { path } => self.list(&path).map(DiskOutput::Names),
            DiskOp::Rename { from, to } => {
                let file = self.named(&from)?.clone();
                self.names.remove(&from);
                self.names.insert(to, file);
                Ok(DiskOutput::Done)
            }
            DiskOp::Link { from, to } => {
                let file = self.named(&from)?.clone();
                self.names.insert(to, file);
                Ok(DiskOutput::Done)
            }
            DiskOp::Unlink { path } => {
                self.named(&path)?;
                self.names.remove(&path);
                Ok(DiskOutput::Done)
            }
            DiskOp::RemoveDir { path } => {
                if !self.list(&path)?.is_empty() {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                self.directories.remove(&path);
                Ok(DiskOutput::Done)
            }
            DiskOp::SyncDir { path } => self.list(&path).map(|_| DiskOutput::Done),
            DiskOp::FreeSpace { .. } => Ok(DiskOutput::FreeSpace(self.pool.free_bytes())),
            DiskOp::Len { file } => bytes_of(&file)?.len().map(DiskOutput::Len),
            DiskOp::LinkCount { file } => {
                bytes_of(&file)?;
                let is_named = |named: &&FileHandle| named.id() == file.id();
                Ok(DiskOutput::Links(
                    self.names.values().filter(is_named).count() as u64
                ))
            }
            DiskOp::Fallocate { file, range } => {
                bytes_of(&file)?.reserve(range.end).map(|()| DiskOutput::Done)
            }
            DiskOp::ZeroRange { file, range } => bytes_of(&file)?.zero(range).map(|()| DiskOutput::Done),
            DiskOp::Write { data, .. } if data.is_empty() => Err(io::ErrorKind::InvalidInput.into()),
            DiskOp::Write { file, position, data } => {
                bytes_of(&file)?.write(position, &[IoSlice::new(&data)])?;
                Ok(DiskOutput::Written(data.len()))
            }
            DiskOp::Read {
                file, position, len, ..
            } => bytes_of(&file)?.read(position, len).map(DiskOutput::Read),
            DiskOp::DropCache { file } | DiskOp::Sync { file } | DiskOp::Writeback { file, .. } => {
                bytes_of(&file).map(|_| DiskOutput::Done)
            }
        }
    }
}

fn bytes_of(file: &FileHandle) -> io::Result<&HeapFile> {
    file.in_heap().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Disk for HeapDisk {
    fn submit(&mut self, token: Token, op: DiskOp) {
        let result = self.perform(op);
        self.completions.push(Completion { token, result });
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.completions);
    }

    fn write_now(
        &mut self,
        file: &FileHandle,
        position: u64,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<WriteNow> {
        bytes_of(file)?.write(position, pieces)?;
        Ok(WriteNow::Done)
    }

    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        file.in_heap()?.hot(range).map(HotBytes::Owned)
    }

    /// Never given: no data directory lies here.
    fn lock_directory(&mut self, _: &Path) -> io::Result<DirectoryLock> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ReadSource;

    fn disk(limit_bytes: u64) -> (HeapDisk, Arc<HeapPool>) {
        let pool = HeapPool::of_shards(limit_bytes, 1).remove(0);
        (HeapDisk::new(Arc::clone(&pool)), pool)
    }

    fn done(disk: &mut HeapDisk, op: DiskOp) -> io::Result<DiskOutput> {
        disk.submit(Token(7), op);
        let mut completions = Vec::new();
        disk.take_completions(&mut completions);
        assert_eq!(completions.len(), 1);
        let completion = completions.remove(0);
        assert_eq!(completion.token, Token(7));
        completion.result
    }

    fn file(disk: &mut HeapDisk, name: &str) -> FileHandle {
        let directory = Path::new(HEAP_ROOT).join("p");
        let path = directory.join(name);
        done(disk, DiskOp::CreateDir { path: directory }).expect("a directory");
        match done(disk, DiskOp::Create { path }) {
            Ok(DiskOutput::File(file)) => file,
            other => panic!("not a file: {other:?}"),
        }
    }

    #[test]
    fn a_file_without_a_name_gives_its_memory_back_when_its_last_reader_is_done() {
        let (mut disk, pool) = disk(1 << 20);
        let file = file(&mut disk, "a");
        let data = vec![5; 100_000];
        disk.write_now(&file, 0, &[IoSlice::new(&data)]).expect("room");
        let charged = pool.used_bytes();
        assert_eq!(charged, 100_000_u64.next_multiple_of(4096));
        let lease = disk.hot_bytes(&file, 10..90_000).expect("all of memory is hot");
        let path = file.path().to_path_buf();
        done(&mut disk, DiskOp::Unlink { path: path.clone() }).expect("unlinked");
        assert!(done(&mut disk, DiskOp::Open { path }).is_err());
        drop(file);
        assert_eq!(pool.used_bytes(), charged, "it is being read");
        assert!(lease.iter().all(|byte| *byte == 5));
        drop(lease);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn beyond_the_bound_the_disk_is_full_and_what_is_there_stays() {
        let (mut disk, pool) = disk(64 << 10);
        let file = file(&mut disk, "a");
        let op = |range| DiskOp::Fallocate {
            file: file.clone(),
            range,
        };
        done(&mut disk, op(0..32 << 10)).expect("there is room");
        assert_eq!(pool.used_bytes(), 32 << 10);
        let error = done(&mut disk, op(32 << 10..(64 << 10) + 1)).expect_err("too much");
        assert!(crate::reserve::is_full(&error));
        assert_eq!(pool.refusals(), 1);
        let data = [1; 32 << 10];
        disk.write_now(&file, 0, &[IoSlice::new(&data)])
            .expect("it was reserved");
        assert_eq!(pool.used_bytes(), 32 << 10);
        let error = disk.write_now(&file, 60 << 10, &[IoSlice::new(&data)]);
        assert!(crate::reserve::is_full(&error.expect_err("too much")));
        let read = DiskOp::Read {
            file: file.clone(),
            position: 0,
            len: 1 << 20,
            source: ReadSource::Device,
        };
        match done(&mut disk, read) {
            Ok(DiskOutput::Read(bytes)) => assert_eq!(&bytes[..], &data[..]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_as_on_any_disk() {
        let (mut disk, _) = disk(1 << 20);
        let root = Path::new(HEAP_ROOT).join("p");
        let a = file(&mut disk, "a");
        let list = |disk: &mut HeapDisk| match done(disk, DiskOp::List { path: root.clone() }) {
            Ok(DiskOutput::Names(names)) => names,
            other => panic!("{other:?}"),
        };
        assert_eq!(list(&mut disk), ["a"]);
        let path = a.path().to_path_buf();
        assert!(done(&mut disk, DiskOp::Create { path: path.clone() }).is_err());
        let to = root.join("b");
        done(
            &mut disk,
            DiskOp::Rename {
                from: path,
                to: to.clone(),
            },
        )
        .expect("renamed");
        assert_eq!(list(&mut disk), ["b"]);
        assert!(done(&mut disk, DiskOp::RemoveDir { path: root.clone() }).is_err());
        done(&mut disk, DiskOp::Unlink { path: to }).expect("unlinked");
        done(&mut disk, DiskOp::RemoveDir { path: root.clone() }).expect("removed");
        assert!(done(&mut disk, DiskOp::List { path: root.clone() }).is_err());
        assert!(
            done(&mut disk, DiskOp::Create { path: root.join("c") }).is_err(),
            "no directory"
        );
        assert!(disk.lock_directory(&root).is_err());
    }
}
