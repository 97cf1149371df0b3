//! Reads of a log through plans, whatever parts they have.

use std::io;
use std::path::Path;

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::disk::sim::SimDisk;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::disk::{Disk, DiskOp, DiskOutput, ReadSource, Token};
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::{ColdRange, PartitionLog, ReadPart, verify_cold};

/// A space of tokens that no log and no machine of a test has.
const OWN_SPACE: u64 = 98 << 32;

/// A disk of which a planned range is had at once.
pub trait ReadRange: Disk {
    /// The bytes to verify.
    fn read_range(&mut self, range: &ColdRange) -> io::Result<Vec<u8>>;
}

impl ReadRange for SimDisk {
    fn read_range(&mut self, range: &ColdRange) -> io::Result<Vec<u8>> {
        cut_out(range, |path| self.snapshot(path, ReadSource::Cached))
    }
}

/// Nothing else is outstanding on it.
impl ReadRange for StdDisk {
    fn read_range(&mut self, range: &ColdRange) -> io::Result<Vec<u8>> {
        let op = DiskOp::Read {
            file: range.file.clone(),
            position: range.position.start,
            len: (range.position.end - range.position.start) as usize,
            source: ReadSource::Cached,
        };
        self.submit(Token(OWN_SPACE), op);
        let mut completions = Vec::new();
        self.take_completions(&mut completions);
        let own = completions
            .into_iter()
            .find(|completion| completion.token == Token(OWN_SPACE));
        match own.map(|completion| completion.result) {
            Some(Ok(DiskOutput::Read(bytes))) => Ok(bytes.to_vec()),
            Some(Err(error)) => Err(error),
            other => Err(io::Error::other(format!("a read gives {other:?}"))),
        }
    }
}

fn cut_out(range: &ColdRange, file: impl FnOnce(&Path) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    let bytes = file(range.file.path())?;
    let planned = range.position.start as usize..range.position.end as usize;
    match bytes.get(planned) {
        Some(bytes) => Ok(bytes.to_vec()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The batches of one part of a plan on a simulated disk.
pub fn batches_of(disk: &SimDisk, part: &ReadPart) -> Result<Vec<Bytes>, String> {
    batches_by(part, |range| {
        cut_out(range, |path| disk.snapshot(path, ReadSource::Cached))
    })
}

/// The batches of one part of a plan of real files.
pub fn batches_from_file(part: &ReadPart) -> Result<Vec<Bytes>, String> {
    batches_by(part, |range| cut_out(range, |path| std::fs::read(path)))
}

/// The batches of one part of a plan.
pub fn batches_by(
    part: &ReadPart,
    read: impl FnOnce(&ColdRange) -> io::Result<Vec<u8>>,
) -> Result<Vec<Bytes>, String> {
    let range = match part {
        ReadPart::Hot(pieces) => {
            return Ok(pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect());
        }
        ReadPart::Cold(range) => range,
    };
    let bytes = read(range).map_err(|error| format!("a planned file: {error}"))?;
    let found = verify_cold(range, &bytes).map_err(|error| error.to_string())?;
    let batches = found.into_iter().map(|at| Bytes::copy_from_slice(&bytes[at]));
    Ok(batches.collect())
}

/// The batches that one read answers, each with its header: at least one, if `below` is above `from`.
pub fn read_once(
    log: &mut PartitionLog,
    disk: &mut impl ReadRange,
    from: Offset,
    below: Offset,
    max_bytes: usize,
) -> Result<Vec<(BatchHeader, Bytes)>, String> {
    let plan = log
        .read(disk, from, below, max_bytes)
        .map_err(|error| error.to_string())?;
    let mut batches = Vec::new();
    for part in &plan.parts {
        for stored in batches_by(part, |range| disk.read_range(range))? {
            let header = BatchHeader::parse(&stored).map_err(|error| error.to_string())?;
            batches.push((header, stored));
        }
    }
    if batches.is_empty() && from < below {
        return Err(format!("nothing is served at offset {from}, below {below}"));
    }
    Ok(batches)
}

/// All batches from the log start to the log end, by reads of `max_bytes`.
pub fn read_all(
    log: &mut PartitionLog,
    disk: &mut impl ReadRange,
    max_bytes: usize,
) -> Result<Vec<(BatchHeader, Bytes)>, String> {
    let mut all: Vec<(BatchHeader, Bytes)> = Vec::new();
    let (mut at, end) = (log.log_start_offset(), log.log_end_offset());
    while at < end {
        let batches = read_once(log, disk, at, end, max_bytes)?;
        at = batches
            .last()
            .map_or(end, |(last, _)| Offset(last.last_offset().0 + 1));
        all.extend(batches);
    }
    Ok(all)
}
