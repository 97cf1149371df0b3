//! Removes the directory of a deleted partition.
//!
//! Runs on the thread of the shard that owned it, after its log was dropped. Readers that hold a
//! lease keep their files through their own handles; only names are removed here.

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use super::machine::{Io, Machine, TokenCounter};
use crate::disk::DiskOp;
use crate::recovery::SET_ASIDE_DIRECTORY;

/// The work of removing `directory` with all that a partition keeps in it, durably. One that is not
/// there is no error, so it may be repeated after a crash.
pub fn remove_partition_directory(token_space: u32, directory: PathBuf) -> Machine<io::Result<()>> {
    Machine::new(TokenCounter::new(token_space), move |io| async move {
        empty(&io, &directory.join(SET_ASIDE_DIRECTORY)).await?;
        empty(&io, &directory).await?;
        match directory.parent() {
            Some(parent) => io.sync_dir(parent).await,
            None => Ok(()),
        }
    })
}

/// Removes the files in a directory, then the directory.
async fn empty(io: &Io, directory: &Path) -> io::Result<()> {
    let names = match io.names(directory).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for name in names {
        if name != SET_ASIDE_DIRECTORY {
            io.unlink_if_present(&directory.join(name)).await?;
        }
    }
    io.done(DiskOp::RemoveDir {
        path: directory.to_path_buf(),
    })
    .await
}
