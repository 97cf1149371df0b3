//! A commit of the [writer](super::writer): its frames, how far it is, and the bytes that it writes.
//!
//! Invariants: a commit is whole pages, filled up with zeros; its pieces are not copied unless they are small.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};

use super::format::{FRAME_HEADER_LEN, JOURNAL_PAGE_BYTES};
use super::writer::Mark;
use crate::disk::Token;
use crate::ids::{FilePosition, PartitionKey};
use crate::segment_header::SegmentHeader;

/// One record of a commit.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) segment: SegmentHeader,
    pub(super) position: FilePosition,
    pub(super) pieces: Vec<Bytes>,
}

impl Frame {
    pub(super) fn record(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.pieces.iter().map(|piece| piece.as_ref())
    }

    pub(super) fn len(&self) -> u64 {
        FRAME_HEADER_LEN as u64 + self.pieces.iter().map(|piece| piece.len() as u64).sum::<u64>()
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    Writing {
        token: Token,
        at: u64,
        rest: Bytes,
    },
    Syncing {
        token: Token,
    },
    /// Its file failed, and another is being made.
    WaitingForFile,
}

#[derive(Debug)]
pub(super) struct Commit {
    pub(super) frames: Vec<Frame>,
    pub(super) marks: Vec<(PartitionKey, Mark)>,
    pub(super) len: u64,
    pub(super) stage: Stage,
    /// A file has failed under it.
    pub(super) is_second: bool,
}

/// Bytes that records of `bytes` take: whole pages.
pub(super) fn commit_len(bytes: u64) -> u64 {
    bytes.next_multiple_of(JOURNAL_PAGE_BYTES as u64)
}

static ZEROS: [u8; JOURNAL_PAGE_BYTES] = [0; JOURNAL_PAGE_BYTES];

fn zeros_behind(commit: &Commit) -> &'static [u8] {
    let used: u64 = commit.frames.iter().map(Frame::len).sum();
    ZEROS.get(..(commit.len - used) as usize).unwrap_or_default()
}

pub(super) fn slices<'a>(headers: &'a [[u8; FRAME_HEADER_LEN]], commit: &'a Commit) -> Vec<IoSlice<'a>> {
    let frames = headers.iter().zip(&commit.frames);
    let pieces = frames.flat_map(|(header, frame)| std::iter::once(header.as_slice()).chain(frame.record()));
    pieces
        .chain(std::iter::once(zeros_behind(commit)))
        .filter(|piece| !piece.is_empty())
        .map(IoSlice::new)
        .collect()
}

pub(super) fn put_together(headers: &[[u8; FRAME_HEADER_LEN]], commit: &Commit) -> Bytes {
    let mut whole = BytesMut::with_capacity(commit.len as usize);
    for slice in slices(headers, commit) {
        whole.extend_from_slice(&slice);
    }
    whole.freeze()
}
