//! [`OverlayDisk`]: what would be written stays in memory, over files that are only read; so that a tool sees what
//! a recovery would make of them, and changes nothing.
//!
//! Owned by whoever has the disk below, for one look at one partition. Invariants:
//! - nothing but reads, lists and look-ups reach the disk below;
//! - what was written is read back, wherever its file is opened, and a file that was made is there;
//! - all of it together is at most [`OVERLAY_BYTES_MAX`].

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{
    AlignedBytes, Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, Token, WriteNow,
};
use crate::limits::OVERLAY_BYTES_MAX;

/// Handles of files that were made have ids from here on; no disk gives out so many.
const MADE_IDS: u64 = 1 << 63;

/// What was written to a file.
#[derive(Debug, Default)]
struct Written {
    /// There is no such file below.
    is_made: bool,
    len: u64,
    /// In the order they were written: of two that overlap the later one counts.
    pieces: Vec<(u64, Bytes)>,
}

impl Written {
    fn put(&mut self, position: u64, bytes: Bytes) {
        self.len = self.len.max(position.saturating_add(bytes.len() as u64));
        self.pieces.push((position, bytes));
    }

    /// The bytes of a range as far as the file goes, of which `below` are what the disk below has.
    fn over(&self, below: &[u8], position: u64, len: usize) -> AlignedBytes {
        let there = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let mut read = AlignedBytes::zeroed(there.min(len).max(below.len()));
        if let Some(place) = read.get_mut(..below.len()) {
            place.copy_from_slice(below);
        }
        for (at, bytes) in &self.pieces {
            let skip = usize::try_from(position.saturating_sub(*at)).unwrap_or(usize::MAX);
            let to = usize::try_from(at.saturating_sub(position)).unwrap_or(usize::MAX);
            let from = bytes.get(skip..).unwrap_or_default();
            let place = read.get_mut(to..).unwrap_or_default();
            for (place, byte) in place.iter_mut().zip(from) {
                *place = *byte;
            }
        }
        read
    }
}

/// An operation that the disk below carries out, and what its answer is laid over.
#[derive(Debug)]
enum Asked {
    Read {
        path: PathBuf,
        position: u64,
        len: usize,
    },
    Len {
        path: PathBuf,
    },
    Names {
        path: PathBuf,
    },
}

/// See the module.
pub struct OverlayDisk<'a> {
    below: &'a mut dyn Disk,
    files: BTreeMap<PathBuf, Written>,
    asked: HashMap<Token, Asked>,
    bytes: usize,
    made: u64,
    completions: Vec<Completion>,
}

impl<'a> OverlayDisk<'a> {
    /// Nothing is written yet.
    pub fn new(below: &'a mut dyn Disk) -> Self {
        Self {
            below,
            files: BTreeMap::new(),
            asked: HashMap::new(),
            bytes: 0,
            made: 0,
            completions: Vec::new(),
        }
    }

    fn made_handle(&mut self, path: PathBuf) -> DiskOutput {
        self.made += 1;
        DiskOutput::File(FileHandle::simulated(MADE_IDS + self.made, path))
    }

    fn write(&mut self, path: &Path, position: u64, bytes: Bytes) -> io::Result<usize> {
        let len = bytes.len();
        if self.bytes + len > OVERLAY_BYTES_MAX {
            let text = format!("a journal holds more than {OVERLAY_BYTES_MAX} bytes of it");
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, text));
        }
        self.bytes += len;
        let written = self.files.entry(path.to_path_buf()).or_default();
        written.put(position, bytes);
        Ok(len)
    }

    fn made(&self, path: &Path) -> Option<&Written> {
        self.files.get(path).filter(|written| written.is_made)
    }

    /// Carries out what the disk below has no part in; gives back the rest.
    fn perform(&mut self, op: DiskOp) -> Result<io::Result<DiskOutput>, DiskOp> {
        match op {
            DiskOp::Open { path } if self.made(&path).is_some() => Ok(Ok(self.made_handle(path))),
            DiskOp::Create { path } => {
                if self.made(&path).is_some() {
                    return Ok(Err(io::ErrorKind::AlreadyExists.into()));
                }
                let made = Written {
                    is_made: true,
                    ..Written::default()
                };
                self.files.insert(path.clone(), made);
                Ok(Ok(self.made_handle(path)))
            }
            DiskOp::Write { file, position, data } => {
                let written = self.write(file.path(), position, data);
                Ok(written.map(DiskOutput::Written))
            }
            DiskOp::Len { file } => match self.made(file.path()) {
                Some(made) => Ok(Ok(DiskOutput::Len(made.len))),
                None => Err(DiskOp::Len { file }),
            },
            DiskOp::Read {
                file,
                position,
                len,
                source,
            } => match self.made(file.path()) {
                Some(made) => Ok(Ok(DiskOutput::Read(made.over(&[], position, len)))),
                None => Err(DiskOp::Read {
                    file,
                    position,
                    len,
                    source,
                }),
            },
            DiskOp::CreateDir { .. }
            | DiskOp::SyncDir { .. }
            | DiskOp::Fallocate { .. }
            | DiskOp::DropCache { .. }
            | DiskOp::Sync { .. }
            | DiskOp::Writeback { .. } => Ok(Ok(DiskOutput::Done)),
            DiskOp::Rename { .. }
            | DiskOp::Link { .. }
            | DiskOp::Unlink { .. }
            | DiskOp::RemoveDir { .. }
            | DiskOp::ZeroRange { .. } => Ok(Err(io::ErrorKind::ReadOnlyFilesystem.into())),
            DiskOp::LinkCount { file } => match self.made(file.path()) {
                Some(_) => Ok(Ok(DiskOutput::Links(1))),
                None => Err(DiskOp::LinkCount { file }),
            },
            op @ (DiskOp::Open { .. } | DiskOp::List { .. } | DiskOp::FreeSpace { .. }) => Err(op),
        }
    }

    /// Lays what was written over what the disk below answers.
    fn over(&self, asked: Asked, output: DiskOutput) -> DiskOutput {
        match (asked, output) {
            (Asked::Read { path, position, len }, DiskOutput::Read(bytes)) => match self.files.get(&path) {
                Some(written) => DiskOutput::Read(written.over(&bytes, position, len)),
                None => DiskOutput::Read(bytes),
            },
            (Asked::Len { path }, DiskOutput::Len(len)) => {
                let written = self.files.get(&path).map_or(0, |written| written.len);
                DiskOutput::Len(len.max(written))
            }
            (Asked::Names { path }, DiskOutput::Names(mut names)) => {
                let made = self.files.iter().filter(|(_, written)| written.is_made);
                let here = made.filter(|(made, _)| made.parent() == Some(&path));
                names.extend(here.filter_map(|(made, _)| Some(made.file_name()?.to_str()?.to_owned())));
                names.sort();
                DiskOutput::Names(names)
            }
            (_, output) => output,
        }
    }
}

impl Disk for OverlayDisk<'_> {
    fn submit(&mut self, token: Token, op: DiskOp) {
        let op = match self.perform(op) {
            Ok(result) => return self.completions.push(Completion { token, result }),
            Err(op) => op,
        };
        let asked = match &op {
            DiskOp::Read {
                file, position, len, ..
            } => Some(Asked::Read {
                path: file.path().to_path_buf(),
                position: *position,
                len: *len,
            }),
            DiskOp::Len { file } => Some(Asked::Len {
                path: file.path().to_path_buf(),
            }),
            DiskOp::List { path } => Some(Asked::Names { path: path.clone() }),
            _ => None,
        };
        if let Some(asked) = asked {
            self.asked.insert(token, asked);
        }
        self.below.submit(token, op);
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        let mut below = Vec::new();
        self.below.take_completions(&mut below);
        for Completion { token, result } in below {
            let result = match self.asked.remove(&token) {
                Some(asked) => result.map(|output| self.over(asked, output)),
                None => result,
            };
            out.push(Completion { token, result });
        }
        out.append(&mut self.completions);
    }

    fn write_now(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        let mut at = at;
        for piece in pieces {
            self.write(file.path(), at, Bytes::copy_from_slice(piece))?;
            at += piece.len() as u64;
        }
        Ok(WriteNow::Done)
    }

    /// Never: a look reads and checks every byte.
    fn hot_bytes(&mut self, _: &FileHandle, _: Range<u64>) -> Option<HotBytes> {
        None
    }

    /// Never given: nothing is changed.
    fn lock_directory(&mut self, _: &Path) -> io::Result<DirectoryLock> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ReadSource;
    use crate::disk::memory::MemoryDisk;

    fn now(disk: &mut OverlayDisk<'_>, op: DiskOp) -> io::Result<DiskOutput> {
        disk.submit(Token(1), op);
        let mut completions = Vec::new();
        disk.take_completions(&mut completions);
        completions.remove(0).result
    }

    fn file(disk: &mut OverlayDisk<'_>, op: DiskOp) -> FileHandle {
        match now(disk, op) {
            Ok(DiskOutput::File(file)) => file,
            other => panic!("not a file: {other:?}"),
        }
    }

    fn read(disk: &mut OverlayDisk<'_>, file: &FileHandle, position: u64, len: usize) -> Vec<u8> {
        let op = DiskOp::Read {
            file: file.clone(),
            position,
            len,
            source: ReadSource::Device,
        };
        match now(disk, op) {
            Ok(DiskOutput::Read(bytes)) => bytes.to_vec(),
            other => panic!("not bytes: {other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_the_disk_below_stays_as_it_was() {
        let directory = Path::new("/d");
        let mut below = MemoryDisk::new();
        below.put(&directory.join("a"), vec![1; 10]);
        let before = below.all_files();
        let mut disk = OverlayDisk::new(&mut below);
        let path = directory.join("a");
        let a = file(&mut disk, DiskOp::Open { path: path.clone() });
        let put = |file: &FileHandle, position, bytes: &'static [u8]| DiskOp::Write {
            file: file.clone(),
            position,
            data: Bytes::from_static(bytes),
        };
        now(&mut disk, put(&a, 8, &[2; 6])).expect("written");
        now(&mut disk, put(&a, 12, &[3])).expect("written");
        now(&mut disk, put(&a, 20, &[4])).expect("written");
        // Also by who opens it later.
        let again = file(&mut disk, DiskOp::Open { path });
        let wanted = [1, 2, 2, 2, 2, 3, 2, 0, 0, 0, 0, 0, 0, 4];
        assert_eq!(read(&mut disk, &again, 7, 100), wanted);
        assert_eq!(read(&mut disk, &again, 0, 3), [1, 1, 1]);
        assert!(matches!(
            now(&mut disk, DiskOp::Len { file: again }),
            Ok(DiskOutput::Len(21))
        ));
        let path = directory.join("b");
        let b = file(&mut disk, DiskOp::Create { path: path.clone() });
        now(&mut disk, put(&b, 2, b"made")).expect("written");
        let b = file(&mut disk, DiskOp::Open { path: path.clone() });
        assert_eq!(read(&mut disk, &b, 0, 100), b"\0\0made");
        assert!(now(&mut disk, DiskOp::Create { path: path.clone() }).is_err());
        let path_of = directory.to_path_buf();
        let names = now(&mut disk, DiskOp::List { path: path_of });
        assert!(matches!(names, Ok(DiskOutput::Names(names)) if names == ["a", "b"]));
        assert!(now(&mut disk, DiskOp::Unlink { path }).is_err());
        assert!(disk.lock_directory(directory).is_err());
        assert_eq!(below.all_files(), before);
    }
}
