//! How large the file system of a data directory is, and how much of it may still be used.
//!
//! Measured by the control thread, since asking a file system may block; shards read the last figures.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

/// Not known (Kafka's number for it).
const UNKNOWN: i64 = -1;

/// The last figures; each is read by itself.
#[derive(Debug)]
pub struct DirectorySpace {
    total_bytes: AtomicI64,
    usable_bytes: AtomicI64,
}

impl Default for DirectorySpace {
    fn default() -> Self {
        Self {
            total_bytes: AtomicI64::new(UNKNOWN),
            usable_bytes: AtomicI64::new(UNKNOWN),
        }
    }
}

impl DirectorySpace {
    /// Asks the file system. May block; never on a shard.
    ///
    /// # Errors
    /// What the file system says; the figures are then unknown rather than old.
    pub fn measure(&self, path: &Path) -> io::Result<()> {
        let measured = rustix::fs::statvfs(path);
        let (total, usable) = match &measured {
            Ok(space) => (
                bytes(space.f_blocks, space.f_frsize),
                bytes(space.f_bavail, space.f_frsize),
            ),
            Err(_) => (UNKNOWN, UNKNOWN),
        };
        self.total_bytes.store(total, Ordering::Relaxed);
        self.usable_bytes.store(usable, Ordering::Relaxed);
        measured.map(drop).map_err(io::Error::from)
    }

    /// Bytes of the file system; -1 when not known.
    pub fn total_bytes(&self) -> i64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that this process may still write; -1 when not known.
    pub fn usable_bytes(&self) -> i64 {
        self.usable_bytes.load(Ordering::Relaxed)
    }
}

fn bytes(blocks: u64, block_bytes: u64) -> i64 {
    i64::try_from(blocks.saturating_mul(block_bytes)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_file_system_or_unknown() {
        let space = DirectorySpace::default();
        assert_eq!((space.total_bytes(), space.usable_bytes()), (-1, -1));
        let directory = tempfile::tempdir().unwrap();
        space.measure(directory.path()).unwrap();
        assert!(space.total_bytes() > 1 << 20);
        assert!((0..=space.total_bytes()).contains(&space.usable_bytes()));
        assert!(space.measure(&directory.path().join("gone")).is_err());
        assert_eq!((space.total_bytes(), space.usable_bytes()), (-1, -1));
        assert_eq!(bytes(u64::MAX, 4_096), i64::MAX);
    }
}
