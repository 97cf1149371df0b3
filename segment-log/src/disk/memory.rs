//! [`MemoryDisk`]: files in memory that keep every byte, for tests that open a damaged directory tens of
//! thousands of times and for the fuzz targets. Partitions whose records live in memory have another one,
//! [`HeapDisk`](super::heap::HeapDisk).
//!
//! Owned by one test thread. Each submitted operation is carried out at once and completes in order.
//! There is no cache and no device apart from each other, so nothing is ever lost or reordered: what a
//! cut of power does is [`SimDisk`](super::sim::SimDisk)'s part. Invariants:
//! - a copy shares the bytes of all files until one of the two writes to one;
//! - whatever loses its name (by an unlink, or by a rename over it) is noted in [`MemoryDisk::gone`].

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    AlignedBytes, Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, Token, WriteNow,
};

/// No file grows beyond this, in bytes: a position found in a file must not size an allocation.
pub const MEMORY_FILE_BYTES_MAX: u64 = 64 << 20;

/// The bytes of one file, shared until they are written to.
pub type FileBytes = Arc<Vec<u8>>;

/// Files in memory. See the module.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    names: BTreeMap<PathBuf, u64>,
    files: BTreeMap<u64, FileBytes>,
    directories: BTreeSet<PathBuf>,
    handles: BTreeMap<u64, u64>,
    next_id: u64,
    gone: Vec<(PathBuf, FileBytes)>,
    completions: Vec<Completion>,
}

impl MemoryDisk {
    /// A disk without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another disk with the same files and nothing open.
    pub fn copy(&self) -> Self {
        Self {
            names: self.names.clone(),
            files: self.files.clone(),
            directories: self.directories.clone(),
            next_id: self.next_id,
            ..Self::default()
        }
    }

    /// All files by their paths.
    pub fn all_files(&self) -> BTreeMap<PathBuf, FileBytes> {
        self.names
            .iter()
            .filter_map(|(path, file)| Some((path.clone(), Arc::clone(self.files.get(file)?))))
            .collect()
    }

    /// The bytes of one file.
    pub fn file(&self, path: &Path) -> Option<&FileBytes> {
        self.files.get(self.names.get(path)?)
    }

    /// Puts a file there, in place of one of that name; its directory exists from then on.
    pub fn put(&mut self, path: &Path, bytes: Vec<u8>) {
        let file = self.new_id();
        self.files.insert(file, Arc::new(bytes));
        self.names.insert(path.to_path_buf(), file);
        self.directories
            .extend(path.ancestors().skip(1).map(Path::to_path_buf));
    }

    /// Takes a file away; false if there is none.
    pub fn remove(&mut self, path: &Path) -> bool {
        self.names.remove(path).is_some()
    }

    /// What lost its name since this disk was made, with its bytes then.
    pub fn gone(&self) -> &[(PathBuf, FileBytes)] {
        &self.gone
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn handle(&mut self, path: PathBuf, file: u64) -> DiskOutput {
        let id = self.new_id();
        self.handles.insert(id, file);
        DiskOutput::File(FileHandle::simulated(id, path))
    }

    fn bytes(&self, handle: &FileHandle) -> io::Result<&FileBytes> {
        self.handles
            .get(&handle.id())
            .and_then(|file| self.files.get(file))
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The bytes of a file, at least `len` of them.
    fn grown(&mut self, handle: &FileHandle, len: u64) -> io::Result<&mut Vec<u8>> {
        if len > MEMORY_FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let file = self
            .handles
            .get(&handle.id())
            .and_then(|id| self.files.get_mut(id));
        let bytes = Arc::make_mut(file.ok_or(io::ErrorKind::InvalidInput)?);
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Ok(bytes)
    }

    fn lose(&mut self, path: &Path) {
        if let Some(bytes) = self.file(path).map(Arc::clone) {
            self.gone.push((path.to_path_buf(), bytes));
            self.names.remove(path);
        }
    }

    fn write(&mut self, file: &FileHandle, position: u64, data: &[u8]) -> io::Result<()> {
        let end = position.saturating_add(data.len() as u64);
        let bytes = self.grown(file, end)?;
        let at = usize::try_from(position).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if let Some(place) = bytes.get_mut(at..at + data.len()) {
            place.copy_from_slice(data);
        }
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        if !self.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = self.names.keys().chain(&self.directories);
        let mut names: Vec<String> = paths
            .filter(|path| path.parent() == Some(directory))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    fn perform(&mut self, op: DiskOp) -> io::Result<DiskOutput> {
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        match op {
            DiskOp::Open { path } => {
                let file = *self.names.get(&path).ok_or_else(not_found)?;
                Ok(self.handle(path, file))
            }
            DiskOp::Create { path } => {
                if self.names.contains_key(&path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                self.put(&path, Vec::new());
                let file = *self.names.get(&path).ok_or_else(not_found)?;
                Ok(self.handle(path, file))
            }
            DiskOp::CreateDir { path } => {
                self.directories.extend(path.ancestors().map(Path::to_path_buf));
                Ok(DiskOutput::Done)
            }
            DiskOp::List { path } => self.list(&path).map(DiskOutput::Names),
            DiskOp::Len { file } => Ok(DiskOutput::Len(self.bytes(&file)?.len() as u64)),
            DiskOp::LinkCount { file } => {
                self.bytes(&file)?;
                let node = self.handles.get(&file.id());
                let names = self.names.values().filter(|named| Some(*named) == node);
                Ok(DiskOutput::Links(names.count() as u64))
            }
            DiskOp::Rename { from, to } => {
                let file = *self.names.get(&from).ok_or_else(not_found)?;
                self.lose(&to);
                self.names.remove(&from);
                self.names.insert(to, file);
                Ok(DiskOutput::Done)
            }
            DiskOp::Link { from, to } => {
                let file = *self.names.get(&from).ok_or_else(not_found)?;
                self.names.insert(to, file);
                Ok(DiskOutput::Done)
            }
            DiskOp::Unlink { path } => {
                self.file(&path).ok_or_else(not_found)?;
                self.lose(&path);
                Ok(DiskOutput::Done)
            }
            DiskOp::RemoveDir { path } => {
                if !self.list(&path)?.is_empty() {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                self.directories.remove(&path);
                Ok(DiskOutput::Done)
            }
            DiskOp::Fallocate { file, range } => self.grown(&file, range.end).map(|_| DiskOutput::Done),
            DiskOp::ZeroRange { file, range } => {
                let bytes = self.grown(&file, range.end)?;
                let place = usize::try_from(range.start)
                    .ok()
                    .zip(usize::try_from(range.end).ok());
                let place = place.and_then(|(start, end)| bytes.get_mut(start..end));
                place.ok_or(io::ErrorKind::InvalidInput)?.fill(0);
                Ok(DiskOutput::Done)
            }
            DiskOp::FreeSpace { .. } => Ok(DiskOutput::FreeSpace(MEMORY_FILE_BYTES_MAX)),
            DiskOp::Write { file, position, data } => {
                self.write(&file, position, &data)?;
                Ok(DiskOutput::Written(data.len()))
            }
            DiskOp::Read {
                file, position, len, ..
            } => {
                let bytes = self.bytes(&file)?;
                let at = usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
                let found = bytes
                    .get(at..at.saturating_add(len).min(bytes.len()))
                    .unwrap_or_default();
                let mut read = AlignedBytes::zeroed(found.len());
                read.copy_from_slice(found);
                Ok(DiskOutput::Read(read))
            }
            DiskOp::SyncDir { path } => self.list(&path).map(|_| DiskOutput::Done),
            DiskOp::DropCache { file } | DiskOp::Sync { file } | DiskOp::Writeback { file, .. } => {
                self.bytes(&file).map(|_| DiskOutput::Done)
            }
        }
    }
}

impl Disk for MemoryDisk {
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
        let mut at = position;
        for piece in pieces {
            self.write(file, at, piece)?;
            at += piece.len() as u64;
        }
        Ok(WriteNow::Done)
    }

    /// Never: so every byte that is served is read, and goes through the check of cold bytes.
    fn hot_bytes(&mut self, _: &FileHandle, _: Range<u64>) -> Option<HotBytes> {
        None
    }

    /// Always given: only one thread has this disk.
    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.list(path)?;
        Ok(DirectoryLock::new(()))
    }
}
