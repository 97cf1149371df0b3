//! What becomes of journal files on the disk: made, made void, used again, removed.
//!
//! Straight-line work of the [writer](super::writer), polled by it. Invariants:
//! - a file counts from the moment its first page is whole and its name durable, and no earlier;
//! - a name is gone durably before the next one goes.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::format::{JOURNAL_MAGIC, JOURNAL_PAGE_BYTES};
use crate::disk::{DiskOp, FileHandle};
use crate::log::machine::Io;

/// Zeros of one write that makes a file.
const PREWRITE_BYTES: u64 = 256 << 10;

/// Makes a file of written zeros with a first page, its name durable: a sync of it never waits for the
/// filesystem's own journal.
pub(super) async fn make(
    io: Io,
    directory: PathBuf,
    name: String,
    bytes: u64,
    page: Bytes,
) -> io::Result<Option<FileHandle>> {
    io.create_dir(&directory).await?;
    if let Some(parent) = directory.parent() {
        io.sync_dir(parent).await?;
    }
    let path = directory.join(name);
    io.unlink_if_present(&path).await?;
    let file = io.create(&path).await?;
    io.done(DiskOp::Fallocate {
        file: file.clone(),
        range: 0..bytes,
    })
    .await?;
    let zeros = Bytes::from(vec![0; PREWRITE_BYTES.min(bytes) as usize]);
    let mut at = JOURNAL_PAGE_BYTES as u64;
    while at < bytes {
        let len = (bytes - at).min(zeros.len() as u64);
        io.write_all(&file, at, zeros.slice(..len as usize)).await?;
        at += len;
    }
    write_page(&io, &file, page).await?;
    io.sync(&file).await?;
    io.sync_dir(&directory).await?;
    Ok(Some(file))
}

/// Gives a void file a new first page.
pub(super) async fn use_again(io: Io, file: FileHandle, page: Bytes) -> io::Result<Option<FileHandle>> {
    write_page(&io, &file, page).await?;
    io.sync(&file).await?;
    Ok(Some(file))
}

/// Writes the magic after everything else, over zeros: a page that a write left unfinished has none, and so is not
/// taken for a damaged one.
async fn write_page(io: &Io, file: &FileHandle, page: Bytes) -> io::Result<()> {
    let magic = page.slice(..JOURNAL_MAGIC.len());
    io.write_all(file, magic.len() as u64, page.slice(magic.len()..))
        .await?;
    io.write_all(file, 0, magic).await
}

/// Makes a file's first page void, durably: what lies behind it counts no more.
pub(super) async fn void(io: Io, file: FileHandle) -> io::Result<Option<FileHandle>> {
    io.write_all(&file, 0, Bytes::from(vec![0; JOURNAL_PAGE_BYTES]))
        .await?;
    io.sync(&file).await?;
    Ok(None)
}

/// Removes names, each durably before the next.
pub(super) async fn remove_all(
    io: Io,
    directory: PathBuf,
    names: Vec<String>,
) -> io::Result<Option<FileHandle>> {
    for name in names {
        io.unlink_if_present(&directory.join(name)).await?;
        io.sync_dir(&directory).await?;
    }
    Ok(None)
}
