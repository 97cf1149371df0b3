//! Replaces a small file so that after any crash either the old or the new content is there, whole.
//!
//! Runs inside a [`crate::log::machine`] future of whichever thread owns the directory. The order is
//! the guarantee: write a new file, sync it, rename it over the old one, sync the directory. When
//! it returns `Ok`, the new content is durable under its name. After an error nothing is known but
//! that one of the two is there; the caller does not go on as if the new one were.

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::disk::DiskOp;
use crate::log::machine::Io;

/// Ends the names of files that are being written; a start removes what is left of them.
pub(crate) const UNFINISHED_SUFFIX: &str = ".unfinished";

/// Makes `content` the durable content of `directory/name`.
pub(crate) async fn durable_replace(io: &Io, directory: &Path, name: &str, content: Bytes) -> io::Result<()> {
    let unfinished = directory.join(format!("{name}{UNFINISHED_SUFFIX}"));
    io.unlink_if_present(&unfinished).await?;
    let file = io.create(&unfinished).await?;
    io.write_all(&file, 0, content).await?;
    io.sync(&file).await?;
    io.rename(&unfinished, &directory.join(name)).await?;
    io.sync_dir(directory).await
}

/// Removes `directory/name` durably; one that is not there is no error.
pub(crate) async fn durable_remove(io: &Io, directory: &Path, name: &str) -> io::Result<()> {
    io.done(DiskOp::Unlink {
        path: directory.join(name),
    })
    .await
    .or_else(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    io.sync_dir(directory).await
}
