//! Reads of a log on a simulated disk: through plans, whatever parts they have.

use std::path::Path;

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::disk::ReadSource;
use tidelog_segment_log::disk::sim::SimDisk;
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::{PartitionLog, ReadPart, verify_cold};

/// The batches of one part of a plan on a simulated disk.
pub fn batches_of(disk: &SimDisk, part: &ReadPart) -> Result<Vec<Bytes>, String> {
    batches_by(part, |path| disk.snapshot(path, ReadSource::Cached))
}

/// The batches of one part of a plan of real files.
pub fn batches_from_file(part: &ReadPart) -> Result<Vec<Bytes>, String> {
    batches_by(part, |path| std::fs::read(path))
}

fn batches_by(
    part: &ReadPart,
    file: impl FnOnce(&Path) -> std::io::Result<Vec<u8>>,
) -> Result<Vec<Bytes>, String> {
    let range = match part {
        ReadPart::Hot(pieces) => {
            return Ok(pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect());
        }
        ReadPart::Cold(range) => range,
    };
    let file = file(range.file.path()).map_err(|error| format!("a planned file: {error}"))?;
    let bytes = &file[range.position.start as usize..range.position.end as usize];
    let found = verify_cold(range, bytes).map_err(|error| error.to_string())?;
    let batches = found.into_iter().map(|at| Bytes::copy_from_slice(&bytes[at]));
    Ok(batches.collect())
}

/// The batches that one read answers, each with its header: at least one, if `below` is above `from`.
pub fn read_once(
    log: &mut PartitionLog,
    disk: &mut SimDisk,
    from: Offset,
    below: Offset,
    max_bytes: usize,
) -> Result<Vec<(BatchHeader, Bytes)>, String> {
    let plan = log
        .read(disk, from, below, max_bytes)
        .map_err(|error| error.to_string())?;
    let mut batches = Vec::new();
    for part in &plan.parts {
        for stored in batches_of(disk, part)? {
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
    disk: &mut SimDisk,
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
