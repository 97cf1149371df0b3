//! Why a log could not be opened, by what the caller does next.
//!
//! Plain values, made by the future of an opening.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::entry::EntryError;
use crate::ids::Offset;
use crate::recovery::FindError;
use crate::recovery::walk::WalkError;
use crate::segment_header::SegmentHeaderError;

/// Why a log could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Try again later, from the start: nothing was decided.
    #[error("opening {directory}: {cause}")]
    Io {
        /// The partition's directory.
        directory: PathBuf,
        /// What the disk said.
        cause: io::Error,
    },
    /// Refuse to serve the partition: another version of this program wrote it.
    #[error("segment {name} cannot be read by this version: {cause}")]
    Unsupported {
        /// File name of the segment.
        name: String,
        /// What is not understood.
        cause: SegmentHeaderError,
    },
    /// Refuse to serve the partition: another version of this program wrote it. Nothing was changed.
    #[error("segment {name}, byte {position}: {cause}")]
    UnsupportedEntry {
        /// File name of the segment.
        name: String,
        /// Where the entry begins.
        position: u64,
        /// What is not understood.
        cause: UnsupportedEntry,
    },
    /// Refuse to serve the partition: an entry with a checksum that holds has an index that no log comes
    /// to, so that none are left behind it. Nothing was changed.
    #[error("indices are used up")]
    IndicesUsedUp,
    /// Ask for a later truncation: what lies below the log start was deleted. Nothing was cut.
    #[error("truncating to offset {end_offset}, and the log starts at {log_start}")]
    CutBelowLogStart {
        /// Where the log would end.
        end_offset: Offset,
        /// The lowest possible end.
        log_start: Offset,
    },
    /// Ask again when the holds on segments that reach behind the cut are released. Nothing was cut.
    #[error("truncating to offset {end_offset}, and segments that reach behind it are held")]
    CutHeld {
        /// Where the log would end.
        end_offset: Offset,
    },
    /// Refuse to serve the partition: its leader epochs are used up.
    #[error("leader epochs are used up")]
    TermsUsedUp,
}

/// What of an entry this version does not know, though its checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnsupportedEntry {
    /// Something in its header.
    #[error("{0}")]
    Entry(EntryError),
    /// The schema of its payload.
    #[error("payload schema {0} is not known")]
    Schema(u16),
}

/// As it comes out of the steps of an opening.
pub(super) enum Failure {
    Io(io::Error),
    Find(FindError),
    Walk(WalkError),
    IndicesUsedUp,
    TermsUsedUp,
    CutBelowLogStart { end_offset: Offset, log_start: Offset },
    CutHeld { end_offset: Offset },
}

impl From<WalkError> for Failure {
    fn from(error: WalkError) -> Self {
        Self::Walk(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        Self::Find(error)
    }
}

impl Failure {
    /// For the caller: of the log in this directory.
    pub(super) fn of(self, directory: PathBuf) -> OpenError {
        match self {
            Self::Io(cause) | Self::Find(FindError::Io(cause)) | Self::Walk(WalkError::Io(cause)) => {
                OpenError::Io { directory, cause }
            }
            Self::Find(FindError::Unsupported { name, cause }) => OpenError::Unsupported { name, cause },
            Self::Walk(WalkError::Unsupported {
                segment,
                position,
                cause,
            }) => OpenError::UnsupportedEntry {
                name: segment,
                position,
                cause,
            },
            Self::Walk(WalkError::Stopped) => OpenError::Io {
                directory,
                cause: io::ErrorKind::Interrupted.into(),
            },
            Self::IndicesUsedUp => OpenError::IndicesUsedUp,
            Self::TermsUsedUp => OpenError::TermsUsedUp,
            Self::CutHeld { end_offset } => OpenError::CutHeld { end_offset },
            Self::CutBelowLogStart {
                end_offset,
                log_start,
            } => OpenError::CutBelowLogStart {
                end_offset,
                log_start,
            },
        }
    }
}
