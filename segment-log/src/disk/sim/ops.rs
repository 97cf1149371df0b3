//! What each operation of a [`SimDisk`] does to its files and names.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::faults::Fault;
use super::file::SimFile;
use super::names::NodeId;
use super::trace::hash_bytes;
use super::{Handle, SimDisk, to_usize};
use crate::disk::hot::WrittenRanges;
use crate::disk::{AlignedBytes, DiskOp, DiskOutput, FileHandle, ReadSource};

impl SimDisk {
    pub(super) fn perform(
        &mut self,
        op: DiskOp,
        submitted_at: u64,
        fault: Option<Fault>,
    ) -> io::Result<DiskOutput> {
        match fault {
            Some(Fault::NoSpace) => return Err(Errno::NOSPC.into()),
            Some(Fault::NoDescriptor) => return Err(Errno::MFILE.into()),
            Some(Fault::Eio) if !matches!(op, DiskOp::Write { .. } | DiskOp::Sync { .. }) => {
                return Err(Errno::IO.into());
            }
            _ => {}
        }
        match op {
            DiskOp::Open { path } => self.open(path),
            DiskOp::Create { path } => self.create(path),
            DiskOp::CreateDir { path } => done(self.create_dir_all(&path)),
            DiskOp::List { path } => {
                let directory = self.names.resolve_directory(&path)?;
                Ok(DiskOutput::Names(self.names.list(directory)))
            }
            DiskOp::Len { file } => Ok(DiskOutput::Len(self.file_mut(&file)?.len())),
            DiskOp::LinkCount { file } => {
                let node = self.handle_mut(&file)?.node;
                Ok(DiskOutput::Links(self.names.links(node)))
            }
            DiskOp::Rename { from, to } => {
                let at = self.tick();
                done(self.names.rename(&from, &to, at))
            }
            DiskOp::Link { from, to } => done(self.link(&from, &to)),
            DiskOp::Unlink { path } => {
                let at = self.tick();
                done(self.names.remove(&path, false, at))
            }
            DiskOp::RemoveDir { path } => {
                let at = self.tick();
                done(self.names.remove(&path, true, at))
            }
            DiskOp::SyncDir { path } => {
                let directory = self.names.resolve_directory(&path)?;
                self.names.sync(directory, submitted_at);
                Ok(DiskOutput::Done)
            }
            DiskOp::Fallocate { file, range } => done(self.fallocate(&file, &range)),
            DiskOp::ZeroRange { file, range } => done(self.zero_range(&file, range)),
            DiskOp::DropCache { file } => {
                self.handle_mut(&file)?.written = WrittenRanges::default();
                self.file_mut(&file)?.drop_cache();
                Ok(DiskOutput::Done)
            }
            DiskOp::FreeSpace { path } => {
                self.names.resolve(&path)?;
                let capacity = self.capacity_bytes.unwrap_or(u64::MAX);
                Ok(DiskOutput::FreeSpace(capacity - self.used().min(capacity)))
            }
            DiskOp::Write { file, position, data } => {
                self.write(&file, position, &data, fault).map(DiskOutput::Written)
            }
            DiskOp::Read {
                file,
                position,
                len,
                source,
            } => self.read(&file, position, len, source),
            DiskOp::Sync { file } => done(self.sync(&file, submitted_at, fault)),
            DiskOp::Writeback { file, range } => {
                self.file_mut(&file)?.write_back(&range);
                Ok(DiskOutput::Done)
            }
        }
    }

    pub(super) fn handle_mut(&mut self, file: &FileHandle) -> io::Result<&mut Handle> {
        match self.handles.get_mut(&file.id()) {
            Some(handle) if file.is_simulated() => Ok(handle),
            _ => {
                self.events.stale_handles += 1;
                Err(Errno::BADF.into())
            }
        }
    }

    pub(super) fn file_mut(&mut self, file: &FileHandle) -> io::Result<&mut SimFile> {
        let node = self.handle_mut(file)?.node;
        self.files.get_mut(&node).ok_or_else(|| Errno::BADF.into())
    }

    fn handle(&mut self, node: NodeId, path: PathBuf) -> DiskOutput {
        let id = self.new_id();
        let written = WrittenRanges::default();
        self.handles.insert(id, Handle { node, written });
        DiskOutput::File(FileHandle::simulated(id, path))
    }

    fn open(&mut self, path: PathBuf) -> io::Result<DiskOutput> {
        let node = self.names.resolve(&path)?;
        if self.names.is_directory(node) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(self.handle(node, path))
    }

    fn create(&mut self, path: PathBuf) -> io::Result<DiskOutput> {
        let node = self.create_file(&path)?;
        Ok(self.handle(node, path))
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        let node = self.new_id();
        let at = self.tick();
        self.names.add(path, node, at)?;
        self.files.insert(node, SimFile::new());
        Ok(node)
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut parents: Vec<&Path> = path.ancestors().collect();
        parents.reverse();
        for directory in parents {
            match self.names.resolve_directory(directory) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let node = self.new_id();
                    let at = self.tick();
                    self.names.add_directory(directory, node, at)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn sync_all_directories(&mut self, path: &Path) {
        let upto = self.clock;
        for directory in path.ancestors() {
            if let Ok(node) = self.names.resolve_directory(directory) {
                self.names.sync(node, upto);
            }
        }
    }

    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.names.resolve(from)?;
        if self.names.is_directory(node) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let at = self.tick();
        self.names.add(to, node, at)
    }

    fn fallocate(&mut self, file: &FileHandle, range: &Range<u64>) -> io::Result<()> {
        self.file_mut(file)?;
        if range.is_empty() {
            return Ok(());
        }
        self.check_space(file, range.end)?;
        let at = self.tick();
        self.file_mut(file)?.grow(range.end, at);
        Ok(())
    }

    fn zero_range(&mut self, file: &FileHandle, range: Range<u64>) -> io::Result<()> {
        self.handle_mut(file)?.written.remove(range.clone());
        if range.is_empty() {
            return Ok(());
        }
        self.check_space(file, range.end)?;
        let at = self.tick();
        self.file_mut(file)?.zero(range, at);
        Ok(())
    }

    /// Bytes that the files with a name have.
    fn used(&self) -> u64 {
        let named = self.names.named();
        let files = named.iter().filter_map(|node| self.files.get(node));
        files.map(SimFile::len).sum()
    }

    fn check_space(&mut self, file: &FileHandle, end: u64) -> io::Result<()> {
        if i64::try_from(end).is_err() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let len = self.file_mut(file)?.len();
        if let Some(capacity) = self.capacity_bytes
            && end > len
            && end - len > capacity.saturating_sub(self.used())
        {
            self.events.no_space += 1;
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        file: &FileHandle,
        position: u64,
        data: &[u8],
        fault: Option<Fault>,
    ) -> io::Result<usize> {
        let asked = position..position.saturating_add(data.len() as u64);
        self.file_mut(file)?;
        if data.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.check_space(file, asked.end)?;
        let len = match fault {
            None | Some(Fault::NoSpace | Fault::NoDescriptor) => data.len(),
            Some(Fault::Eio) => self.rng.index(data.len()),
            Some(Fault::ShortWrite) => 1 + self.rng.index(data.len()),
        };
        let part = data.get(..len).unwrap_or(data);
        let at = self.tick();
        self.trace.note(format_args!(
            "write {} {position} {len} {:x}",
            file.path().display(),
            hash_bytes(part)
        ));
        if !part.is_empty() {
            self.file_mut(file)?.write(position, part, at);
        }
        self.events.writes += 1;
        let handle = self.handle_mut(file)?;
        if fault == Some(Fault::Eio) {
            handle.written.remove(asked);
            return Err(Errno::IO.into());
        }
        handle.written.add(position..position + len as u64);
        self.events.short_writes += u64::from(len < data.len());
        Ok(len)
    }

    fn read(
        &mut self,
        file: &FileHandle,
        position: u64,
        len: usize,
        source: ReadSource,
    ) -> io::Result<DiskOutput> {
        let content = self.file_mut(file)?;
        let left = content.len().saturating_sub(position);
        let mut bytes = AlignedBytes::zeroed(len.min(to_usize(left)?));
        if content.is_broken(&(position..position + bytes.len() as u64)) {
            self.events.io_errors += 1;
            return Err(Errno::IO.into());
        }
        content.read(position, &mut bytes, source);
        self.events.device_reads += u64::from(source == ReadSource::Device);
        Ok(DiskOutput::Read(bytes))
    }

    fn sync(&mut self, file: &FileHandle, submitted_at: u64, fault: Option<Fault>) -> io::Result<()> {
        let node = self.handle_mut(file)?.node;
        let noop = self.fdatasync_is_noop;
        let content = self.files.get_mut(&node).ok_or(Errno::BADF)?;
        if fault == Some(Fault::Eio) {
            let lost = content.fail_sync(submitted_at, &mut self.rng);
            content.error = false;
            self.events.lost_pages += lost;
        } else if content.error {
            // Reported once; what else is dirty stays so.
            content.error = false;
        } else {
            if !noop {
                content.sync(submitted_at);
            }
            self.events.syncs += 1;
            return Ok(());
        }
        self.events.failed_syncs += 1;
        self.handle_mut(file)?.written = WrittenRanges::default();
        Err(Errno::IO.into())
    }
}

fn done(result: io::Result<()>) -> io::Result<DiskOutput> {
    result.map(|()| DiskOutput::Done)
}
