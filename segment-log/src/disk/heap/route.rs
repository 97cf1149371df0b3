//! [`WithHeap`]: a disk with a second one in memory beside it; each operation goes to the one its path or its
//! file belongs to.
//!
//! Owned by one shard thread. Whoever uses it need not know which files lie where.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;

use super::{HeapDisk, HeapPool};
use crate::disk::{Completion, DirectoryLock, Disk, DiskOp, FileHandle, HotBytes, Token, WriteNow};
use std::sync::Arc;

/// See the file's head.
#[derive(Debug)]
pub struct WithHeap<D> {
    disk: D,
    heap: HeapDisk,
}

impl<D> WithHeap<D> {
    /// `disk`, with files in memory of this pool beside it.
    pub fn new(disk: D, pool: Arc<HeapPool>) -> Self {
        Self {
            disk,
            heap: HeapDisk::new(pool),
        }
    }

    /// The disk that is not in memory.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// As [`WithHeap::disk`].
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Whether completions of files in memory wait to be taken.
    pub fn heap_has_arrived(&self) -> bool {
        self.heap.has_arrived()
    }
}

fn is_in_heap(op: &DiskOp) -> bool {
    match op {
        DiskOp::Open { path }
        | DiskOp::Create { path }
        | DiskOp::CreateDir { path }
        | DiskOp::List { path }
        | DiskOp::Rename { from: path, .. }
        | DiskOp::Link { from: path, .. }
        | DiskOp::Unlink { path }
        | DiskOp::RemoveDir { path }
        | DiskOp::SyncDir { path }
        | DiskOp::FreeSpace { path } => HeapDisk::has_path(path),
        DiskOp::Len { file }
        | DiskOp::LinkCount { file }
        | DiskOp::Fallocate { file, .. }
        | DiskOp::ZeroRange { file, .. }
        | DiskOp::DropCache { file }
        | DiskOp::Write { file, .. }
        | DiskOp::Read { file, .. }
        | DiskOp::Sync { file }
        | DiskOp::Writeback { file, .. } => file.in_heap().is_some(),
    }
}

impl<D: Disk> Disk for WithHeap<D> {
    fn submit(&mut self, token: Token, op: DiskOp) {
        if is_in_heap(&op) {
            self.heap.submit(token, op);
        } else {
            self.disk.submit(token, op);
        }
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        self.disk.take_completions(out);
        self.heap.take_completions(out);
    }

    fn write_now(
        &mut self,
        file: &FileHandle,
        position: u64,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<WriteNow> {
        match file.in_heap() {
            Some(_) => self.heap.write_now(file, position, pieces),
            None => self.disk.write_now(file, position, pieces),
        }
    }

    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        match file.in_heap() {
            Some(_) => self.heap.hot_bytes(file, range),
            None => self.disk.hot_bytes(file, range),
        }
    }

    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        match HeapDisk::has_path(path) {
            true => self.heap.lock_directory(path),
            false => self.disk.lock_directory(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskOutput;
    use crate::disk::heap::HEAP_ROOT;
    use crate::disk::memory::MemoryDisk;

    #[test]
    fn a_file_goes_to_the_disk_of_its_path_and_is_read_through_any_shards() {
        let mut pools = HeapPool::of_shards(1 << 20, 2);
        let mut disk = WithHeap::new(MemoryDisk::new(), pools.remove(0));
        let mut other = WithHeap::new(MemoryDisk::new(), pools.remove(0));
        let in_memory = Path::new(HEAP_ROOT).join("p/a");
        let mut completions = Vec::new();
        for path in [in_memory.as_path(), Path::new("/data/a")] {
            let parent = path.parent().expect("a parent").to_path_buf();
            disk.submit(Token(1), DiskOp::CreateDir { path: parent });
            let path = path.to_path_buf();
            disk.submit(Token(2), DiskOp::Create { path });
        }
        assert!(disk.heap_has_arrived());
        disk.take_completions(&mut completions);
        let files: Vec<FileHandle> = completions
            .drain(..)
            .filter_map(|done| match done.result {
                Ok(DiskOutput::File(file)) => Some(file),
                _ => None,
            })
            .collect();
        for file in &files {
            disk.write_now(file, 0, &[IoSlice::new(b"bytes")])
                .expect("written");
        }
        let below = disk.disk().all_files();
        assert_eq!(below.keys().collect::<Vec<_>>(), [Path::new("/data/a")]);
        let heap = files.iter().find(|file| file.in_heap().is_some()).expect("one");
        assert_eq!(heap.path(), in_memory);
        assert_eq!(other.hot_bytes(heap, 0..5).as_deref(), Some(&b"bytes"[..]));
    }
}
