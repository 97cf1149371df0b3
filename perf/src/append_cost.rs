//! What the log adds to the writes that it does: the same batches through a `PartitionLog`, and as the same
//! pieces at the same alignment by bare gathered writes, in turn in one process.
//!
//! Both check each batch's CRC-32C, as a broker does for what a client sends. CPU is this thread's, user and system.

use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tidelog_net::records::crc32c;
use tidelog_segment_log::batch::testing::opaque_batch;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::log::Durability;
use tidelog_segment_log::log::testing::{new_partition, open};

use crate::files::{Appender, Extra, Kind};

/// Several batches, so that none is in the core's nearest cache only.
const BATCHES: usize = 8;
/// What a batch's checksum covers begins here.
const CRC_COVERS_FROM: usize = 21;

/// Runs `rounds` rounds of `mib` MiB each and prints one line of JSON.
pub fn run(dir: &Path, batch_bytes: usize, mib: u64, rounds: u32) -> io::Result<()> {
    if batch_bytes < 128 {
        return Err(io::Error::other("a batch has at least 128 bytes"));
    }
    let batches: Vec<Bytes> = (0..BATCHES).map(|n| opaque_batch(batch_bytes, n as u8)).collect();
    let count = (mib << 20) / batch_bytes as u64;
    let (mut log, mut bare, mut bare_like) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let dir = dir.join(format!("round-{round}"));
        std::fs::create_dir(&dir)?;
        let mut contestants: [(&mut Vec<f64>, Contestant); 3] = [
            (&mut log, Contestant::Log),
            (&mut bare, Contestant::Bare(&[Extra::Entry, Extra::Pad])),
            (
                &mut bare_like,
                Contestant::Bare(&[Extra::Entry, Extra::Pad, Extra::Writeback, Extra::Map]),
            ),
        ];
        // Who goes first meets another state of the page cache: everyone is first in turn.
        contestants.rotate_left(round as usize % 3);
        for (results, contestant) in contestants {
            let place = dir.join(contestant.name());
            std::fs::create_dir(&place)?;
            let used = contestant.run(&place, &batches, count)?;
            results.push(used / (count as f64 * batch_bytes as f64) * (1u64 << 30) as f64);
            std::fs::remove_dir_all(&place)?;
            rustix::fs::sync();
        }
        std::fs::remove_dir(&dir)?;
    }
    let [log, bare, bare_like] = [log, bare, bare_like].map(median);
    writeln!(
        io::stdout().lock(),
        "{{\"batch_bytes\":{batch_bytes},\"mib\":{mib},\"rounds\":{rounds},\"log_cpu_s_per_gib\":{log:.4},\
         \"bare_cpu_s_per_gib\":{bare:.4},\"bare_with_writeback_and_map_cpu_s_per_gib\":{bare_like:.4},\
         \"log_to_bare\":{:.3},\"log_to_bare_with_writeback_and_map\":{:.3}}}",
        log / bare,
        log / bare_like,
    )
}

#[derive(Clone, Copy)]
enum Contestant {
    Log,
    Bare(&'static [Extra]),
}

impl Contestant {
    fn name(self) -> String {
        match self {
            Contestant::Log => "log".to_owned(),
            Contestant::Bare(extras) => format!("bare-{}", extras.len()),
        }
    }

    /// CPU seconds that `count` appends take.
    fn run(self, dir: &Path, batches: &[Bytes], count: u64) -> io::Result<f64> {
        match self {
            Contestant::Log => through_log(dir, batches, count),
            Contestant::Bare(extras) => by_bare_writes(dir, batches, count, extras),
        }
    }
}

fn through_log(dir: &Path, batches: &[Bytes], count: u64) -> io::Result<f64> {
    let mut disk = StdDisk::new();
    let spec = new_partition(dir.join("t-0"), Durability::Os);
    let mut log = open(&mut disk, spec).map_err(io::Error::other)?;
    let mut completions = Vec::new();
    let before = thread_cpu_s();
    for batch in batches.iter().cycle().take(count as usize) {
        check(batch)?;
        log.append(0, &mut disk, batch).map_err(io::Error::other)?;
        log.flush(0, &mut disk);
        disk.take_completions(&mut completions);
        for completion in completions.drain(..) {
            log.on_completion(0, &mut disk, completion);
        }
    }
    Ok(thread_cpu_s() - before)
}

fn by_bare_writes(dir: &Path, batches: &[Bytes], count: u64, extras: &[Extra]) -> io::Result<f64> {
    let mut appender = Appender::new(dir, 0, 1, Kind::Fresh, extras)?;
    let before = thread_cpu_s();
    for batch in batches.iter().cycle().take(count as usize) {
        check(batch)?;
        appender.append(batch)?;
        if let Some(range) = appender.take_writeback() {
            start_writeback(&appender.file, range)?;
        }
    }
    Ok(thread_cpu_s() - before)
}

/// As the log's plain disk starts it.
fn start_writeback(file: &std::fs::File, range: std::ops::Range<u64>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let (at, len) = (range.start as i64, (range.end - range.start) as i64);
    // SAFETY: the call takes a descriptor that lives as long as `file`, and no memory.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn check(batch: &[u8]) -> io::Result<()> {
    let stored = batch.get(17..21).and_then(|bytes| bytes.first_chunk());
    let covered = batch.get(CRC_COVERS_FROM..).unwrap_or_default();
    match stored.map(|bytes| u32::from_be_bytes(*bytes)) == Some(crc32c(covered)) {
        true => Ok(()),
        false => Err(io::Error::other("a batch whose CRC-32C does not match")),
    }
}

fn thread_cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_write_the_same_number_of_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let batches = [opaque_batch(65_536, 1), opaque_batch(65_536, 2)];
        for contestant in [Contestant::Log, Contestant::Bare(&[Extra::Entry, Extra::Pad])] {
            let place = dir.path().join(contestant.name());
            std::fs::create_dir(&place).unwrap();
            assert!(contestant.run(&place, &batches, 32).unwrap() > 0.0);
        }
        let log = std::fs::read_dir(dir.path().join("log/t-0")).unwrap();
        let log = log
            .map(|file| file.unwrap().path())
            .find(|path| path.extension().is_some_and(|e| e == "log"));
        let log = std::fs::read(log.expect("a segment")).unwrap();
        let bare = std::fs::read(dir.path().join("bare-2/file-0.0")).unwrap();
        // Behind the segment's header both hold entries of a 64-byte header, a batch and no padding.
        for n in 0..32 {
            let at = n * (65_536 + 64) + 64 + CRC_COVERS_FROM;
            let covered = 65_536 - CRC_COVERS_FROM;
            assert!(log[8_192 + at..][..covered] == bare[at..][..covered], "batch {n}");
        }
    }
}
