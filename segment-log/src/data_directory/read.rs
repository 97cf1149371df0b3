//! Reads small files of a data directory whole, from the device.
//!
//! At a start, before anybody else has the directory.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::Path;

use crate::disk::{DiskOp, ReadSource};
use crate::limits::READ_ATTEMPTS_MAX;
use crate::log::machine::Io;
use crate::recovery::unreadable::is_unreadable;

/// As [`read_small`], and `None` too if its sectors cannot be read: a checkpoint and a clean flag can
/// be done without.
pub(super) async fn read_if_readable(
    io: &Io,
    directory: &Path,
    name: &str,
    bytes_max: usize,
) -> io::Result<Option<Vec<u8>>> {
    for _ in 0..READ_ATTEMPTS_MAX {
        match read_small(io, directory, name, bytes_max).await {
            Err(error) if is_unreadable(&error) => {}
            other => return other,
        }
    }
    Ok(None)
}

/// A whole file from the device, `None` if it is not there. One that is longer than the bound is
/// read up to it and then does not verify.
pub(super) async fn read_small(
    io: &Io,
    directory: &Path,
    name: &str,
    bytes_max: usize,
) -> io::Result<Option<Vec<u8>>> {
    let file = match io.open(&directory.join(name)).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // What a killed process left in the cache may not be what the device has.
    io.sync(&file).await?;
    io.done(DiskOp::DropCache { file: file.clone() }).await?;
    let len = usize::try_from(io.len(&file).await?)
        .unwrap_or(usize::MAX)
        .min(bytes_max);
    let bytes = io
        .read(&file, 0, len.next_multiple_of(4_096), ReadSource::Device)
        .await?;
    Ok(Some(
        bytes.get(..len.min(bytes.len())).unwrap_or_default().to_vec(),
    ))
}
