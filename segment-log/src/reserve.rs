//! The reserve of a data directory: a file that takes space, so that there is some to give back.
//!
//! When a disk is full its removal lets metadata, checkpoints, deletions and retention go on; while it is there
//! nothing reads it. Whoever keeps the room on the directory runs these machines, one at a time. Invariant: a
//! reserve under its name has all its bytes taken; what is still being made has another name, which a start
//! removes.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{DiskOp, DiskOutput};
use crate::durable_replace::UNFINISHED_SUFFIX;
use crate::log::machine::{Io, Machine, TokenCounter};

/// Its name in the data directory.
pub const RESERVE_FILE: &str = "reserve";

/// The work of taking `bytes` for the reserve; one that has them already is left as it is.
///
/// # Errors
/// There is none then, whatever was there before: a full disk most of all.
pub fn make_reserve(token_space: u32, directory: PathBuf, bytes: u64) -> Machine<io::Result<()>> {
    Machine::new(TokenCounter::new(token_space), move |io| async move {
        let path = directory.join(RESERVE_FILE);
        if let Ok(file) = io.open(&path).await
            && io.len(&file).await? == bytes
        {
            return Ok(());
        }
        io.unlink_if_present(&path).await?;
        let unfinished = directory.join(format!("{RESERVE_FILE}{UNFINISHED_SUFFIX}"));
        let made = take(&io, &unfinished, bytes).await;
        if made.is_err() {
            io.unlink_if_present(&unfinished).await?;
            return made;
        }
        io.rename(&unfinished, &path).await
    })
}

async fn take(io: &Io, unfinished: &Path, bytes: u64) -> io::Result<()> {
    io.unlink_if_present(unfinished).await?;
    let file = io.create(unfinished).await?;
    io.done(DiskOp::Fallocate {
        file,
        range: 0..bytes,
    })
    .await
}

/// The work of giving the reserve back. Some file systems let nobody have the space before the removal is
/// durable, so this waits for that.
///
/// # Errors
/// It may still be there.
pub fn release_reserve(token_space: u32, directory: PathBuf) -> Machine<io::Result<()>> {
    Machine::new(TokenCounter::new(token_space), move |io| async move {
        io.unlink_if_present(&directory.join(RESERVE_FILE)).await?;
        io.sync_dir(&directory).await
    })
}

/// The question how many bytes this process may still take on the file system of a directory.
///
/// # Errors
/// What the disk says.
pub fn free_bytes(token_space: u32, path: PathBuf) -> Machine<io::Result<u64>> {
    Machine::new(TokenCounter::new(token_space), move |io| async move {
        match io.output(DiskOp::FreeSpace { path }).await? {
            DiskOutput::FreeSpace(bytes) => Ok(bytes),
            _ => Err(io::Error::other(
                "the disk answered something else than free space",
            )),
        }
    })
}

/// Whether an error says that there is no room: a full disk, or a quota.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::disk::StdDisk;
    use crate::disk::sim::{SimConfig, SimDisk};

    fn free(disk: &mut dyn Disk, path: &Path) -> u64 {
        free_bytes(1, path.to_path_buf()).drive(disk).unwrap()
    }

    /// Lets each submitted operation end.
    struct Blocking(SimDisk);

    impl Disk for Blocking {
        fn submit(&mut self, token: crate::disk::Token, op: DiskOp) {
            self.0.submit(token, op);
        }
        fn take_completions(&mut self, out: &mut Vec<crate::disk::Completion>) {
            while self.0.advance() {}
            self.0.take_completions(out);
        }
        fn write_now(
            &mut self,
            file: &crate::disk::FileHandle,
            position: u64,
            pieces: &[io::IoSlice<'_>],
        ) -> io::Result<crate::disk::WriteNow> {
            self.0.write_now(file, position, pieces)
        }
        fn hot_bytes(
            &mut self,
            file: &crate::disk::FileHandle,
            range: std::ops::Range<u64>,
        ) -> Option<crate::disk::HotBytes> {
            self.0.hot_bytes(file, range)
        }
        fn lock_directory(&mut self, path: &Path) -> io::Result<crate::disk::DirectoryLock> {
            self.0.lock_directory(path)
        }
    }

    #[test]
    fn a_reserve_takes_its_bytes_and_gives_them_back() {
        let mut disk = Blocking(SimDisk::new(SimConfig {
            capacity_bytes: Some(1 << 20),
            ..Default::default()
        }));
        let path = PathBuf::from("/d");
        Machine::new(TokenCounter::new(1), |io| async move {
            io.create_dir(Path::new("/d")).await
        })
        .drive(&mut disk)
        .unwrap();
        assert_eq!(free(&mut disk, &path), 1 << 20);
        for _ in 0..2 {
            make_reserve(1, path.clone(), 300 << 10).drive(&mut disk).unwrap();
            assert_eq!(free(&mut disk, &path), (1 << 20) - (300 << 10));
        }
        make_reserve(1, path.clone(), 400 << 10).drive(&mut disk).unwrap();
        assert_eq!(free(&mut disk, &path), (1 << 20) - (400 << 10), "another size");
        // One that does not fit leaves nothing behind.
        let refused = make_reserve(1, path.clone(), 2 << 20)
            .drive(&mut disk)
            .unwrap_err();
        assert!(is_full(&refused), "{refused}");
        assert_eq!(free(&mut disk, &path), 1 << 20);
        make_reserve(1, path.clone(), 4 << 10).drive(&mut disk).unwrap();
        for _ in 0..2 {
            release_reserve(1, path.clone()).drive(&mut disk).unwrap();
            assert_eq!(free(&mut disk, &path), 1 << 20);
        }
    }

    #[test]
    fn on_a_real_disk_the_blocks_are_taken() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let mut disk = StdDisk::new();
        make_reserve(1, directory.path().to_path_buf(), 1 << 20)
            .drive(&mut disk)
            .unwrap();
        let made = std::fs::metadata(directory.path().join(RESERVE_FILE)).unwrap();
        assert_eq!((made.len(), made.blocks() * 512), (1 << 20, 1 << 20));
        assert!(free(&mut disk, directory.path()) > 0);
        release_reserve(1, directory.path().to_path_buf())
            .drive(&mut disk)
            .unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
