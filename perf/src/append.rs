//! Receive, CRC-32C, pwrite, 32 bytes of answer; with group commit the answer waits for its fdatasync.
//!
//! Group commit, for each file: the next sync starts when the last one completed, and takes along whatever
//! was written meanwhile. Syncs go through the ring, writes are plain system calls.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;

use clap::ValueEnum;
use io_uring::{opcode, types};
use tidelog_bench::load::bare::{self, APPEND_ANSWER_BYTES, APPEND_HEAD_BYTES};
use tidelog_net::records::crc32c;

use crate::files::{Appender, Extra, Kind};
use crate::ring::{self, Ring};
use crate::server::{Answer, Output, Service};

/// Several batches of 64 KiB: small enough to stay in the core's own cache.
pub const INPUT_BYTES: usize = 320 * 1024;
/// Where the batch's checksum lies, and where what it covers begins.
const CRC_AT: usize = 17;
const CRC_COVERS_FROM: usize = 21;

/// When an append is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sync {
    /// Once it is written.
    None,
    /// Once it is synced, with all that was written meanwhile.
    Group,
}

struct File {
    appender: Appender,
    /// Written, not yet in a sync: connection, and number of the append on it.
    waiting: Vec<(usize, u64)>,
    /// In the sync that is in flight.
    syncing: Vec<(usize, u64)>,
    is_syncing: bool,
}

/// Answers of one connection, which go out in the order of the requests, as a broker's do.
#[derive(Default)]
struct InOrder {
    /// Number of the first one that waits.
    first: u64,
    answers: VecDeque<(Answer, bool)>,
}

impl InOrder {
    /// Takes an answer that must wait and returns its number.
    fn push(&mut self, answer: Answer) -> u64 {
        self.answers.push_back((answer, false));
        self.first + self.answers.len() as u64 - 1
    }

    fn is_durable(&mut self, number: u64) {
        let at = number.checked_sub(self.first).map(|at| at as usize);
        if let Some((_, is_durable)) = at.and_then(|at| self.answers.get_mut(at)) {
            *is_durable = true;
        }
    }

    /// The next answer that nothing before it holds back.
    fn pop(&mut self) -> Option<Answer> {
        let (answer, _) = self.answers.pop_front_if(|(_, is_durable)| *is_durable)?;
        self.first += 1;
        Some(answer)
    }
}

pub struct Append {
    files: Vec<File>,
    sync: Sync,
    /// Files with appends that wait for a sync.
    dirty: Vec<usize>,
    /// Files and ranges whose write-back is to be started.
    writebacks: Vec<(usize, Range<u64>)>,
    /// By connection.
    in_order: Vec<InOrder>,
}

impl Append {
    pub fn new(dir: &Path, count: u32, kind: Kind, sync: Sync, extras: &[Extra]) -> io::Result<Self> {
        let file = |number| {
            Ok(File {
                appender: Appender::new(dir, number, count, kind, extras)?,
                waiting: Vec::new(),
                syncing: Vec::new(),
                is_syncing: false,
            })
        };
        Ok(Self {
            files: (0..count).map(file).collect::<io::Result<_>>()?,
            sync,
            dirty: Vec::new(),
            writebacks: Vec::new(),
            in_order: Vec::new(),
        })
    }

    fn one(&mut self, connection: usize, request: &[u8], output: &mut Output) -> io::Result<()> {
        let number = u32::from_be_bytes(take(request, 8)?) as usize;
        let batch = request.get(APPEND_HEAD_BYTES..).unwrap_or_default();
        let stored = u32::from_be_bytes(take(batch, CRC_AT)?);
        if crc32c(batch.get(CRC_COVERS_FROM..).unwrap_or_default()) != stored {
            return Err(io::Error::other("a batch whose CRC-32C does not match"));
        }
        let file = self
            .files
            .get_mut(number)
            .ok_or_else(|| io::Error::other(format!("there is no file {number}")))?;
        file.appender.append(batch)?;
        if let Some(range) = file.appender.take_writeback() {
            self.writebacks.push((number, range));
        }
        let mut answer = [0; APPEND_ANSWER_BYTES];
        answer[..8].copy_from_slice(&bare::head(APPEND_ANSWER_BYTES, 0));
        answer[4..8].copy_from_slice(&request[4..8]);
        match self.sync {
            Sync::None => output.bytes.extend_from_slice(&answer),
            Sync::Group => {
                if file.waiting.is_empty() {
                    self.dirty.push(number);
                }
                if self.in_order.len() <= connection {
                    self.in_order.resize_with(connection + 1, InOrder::default);
                }
                file.waiting
                    .push((connection, self.in_order[connection].push(answer)));
            }
        }
        Ok(())
    }
}

impl Service for Append {
    fn take(&mut self, connection: usize, input: &[u8], output: &mut Output) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(prefix) = input[taken..].first_chunk::<4>() {
            let total_bytes = u32::from_be_bytes(*prefix) as usize + 4;
            let Some(request) = input[taken..].get(..total_bytes) else {
                break;
            };
            self.one(connection, request, output)?;
            taken += total_bytes;
        }
        Ok(taken)
    }

    fn submit(&mut self, ring: &mut Ring) -> io::Result<()> {
        let files = &mut self.files;
        for (number, range) in self.writebacks.drain(..) {
            let fd = types::Fd(files[number].appender.file.as_raw_fd());
            let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
            let entry = opcode::SyncFileRange::new(fd, len)
                .offset(range.start)
                .flags(libc::SYNC_FILE_RANGE_WRITE)
                .build()
                .flags(io_uring::squeue::Flags::ASYNC);
            // SAFETY: the entry points to nothing.
            unsafe { ring.push(entry, ring::Kind::Writeback, number)? };
        }
        let mut result = Ok(());
        self.dirty.retain(|number| {
            let file = &mut files[*number];
            if file.is_syncing || result.is_err() {
                return true;
            }
            file.is_syncing = true;
            std::mem::swap(&mut file.waiting, &mut file.syncing);
            let entry = opcode::Fsync::new(types::Fd(file.appender.file.as_raw_fd()))
                .flags(types::FsyncFlags::DATASYNC)
                .build();
            // SAFETY: the entry points to nothing.
            result = unsafe { ring.push(entry, ring::Kind::Sync, *number) };
            false
        });
        result
    }

    fn synced(&mut self, file: usize, result: i32, answers: &mut Vec<(usize, Answer)>) -> io::Result<()> {
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        self.files[file].is_syncing = false;
        let durable = std::mem::take(&mut self.files[file].syncing);
        for (connection, number) in &durable {
            self.in_order[*connection].is_durable(*number);
        }
        for (connection, _) in durable {
            while let Some(answer) = self.in_order[connection].pop() {
                answers.push((connection, answer));
            }
        }
        Ok(())
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found
        .copied()
        .ok_or_else(|| io::Error::other("a request is too short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_wait_for_those_before_them() {
        let mut in_order = InOrder::default();
        let numbers: Vec<u64> = (0..3u8)
            .map(|n| in_order.push([n; APPEND_ANSWER_BYTES]))
            .collect();
        in_order.is_durable(numbers[1]);
        assert_eq!(in_order.pop(), None, "the first is not durable");
        in_order.is_durable(numbers[0]);
        assert_eq!(in_order.pop(), Some([0; APPEND_ANSWER_BYTES]));
        assert_eq!(in_order.pop(), Some([1; APPEND_ANSWER_BYTES]));
        assert_eq!(in_order.pop(), None);
        in_order.is_durable(numbers[2]);
        assert_eq!(in_order.pop(), Some([2; APPEND_ANSWER_BYTES]));
    }
}
