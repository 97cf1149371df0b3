//! The promise: what the log calls durable is on the device, also where descriptors are few and a write-back fails
//! behind its back. The kernel tells of that once, at a sync through a descriptor that was open when it happened;
//! so a descriptor is not closed while a sync of its file is owed.
//!
//! The log, the cache of descriptors and the files are real; the device is modelled beside them, since a real one
//! does not fail when it should. `TIDELOG_SIM_SEEDS` sets the number of seeds (60). The test at the end shows that
//! a cache that closes such a descriptor is found out.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};

use common::seeds::Seeds;
use common::{Verdict, batches, reads};
use tidelog_segment_log::disk::sim::SimRng;
use tidelog_segment_log::disk::{
    Completion, DescriptorBug, Descriptors, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes,
    StdDisk, Token, WriteNow,
};
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::testing::new_partition;
use tidelog_segment_log::log::{
    Durability, LogConfig, LogStatus, OpenSpec, Opening, PartitionLog, ReadPart, drive_open,
};

const STEPS: usize = 60;
const PAGE_BYTES: usize = 4_096;

/// What the device has of a file, and what the kernel would say of it.
#[derive(Default)]
struct OnDevice {
    /// As of the last sync that succeeded, but for what was lost.
    bytes: Vec<u8>,
    /// Pages marked clean that never came down, and were not written since.
    lost: BTreeSet<usize>,
    /// The descriptor through which the loss will be told.
    told_to: Option<FileHandle>,
}

impl OnDevice {
    /// `len` bytes from the start of a page on; what it never had is zero.
    fn page(&self, page: usize, len: usize) -> Vec<u8> {
        let had = self.bytes.get(page * PAGE_BYTES..).unwrap_or_default();
        let mut bytes = had[..len.min(had.len())].to_vec();
        bytes.resize(len, 0);
        bytes
    }
}

/// A plain disk whose write-backs may fail.
struct LosingDisk {
    plain: StdDisk,
    device: BTreeMap<PathBuf, OnDevice>,
    done: Vec<Completion>,
    losses: u64,
    told: u64,
}

impl LosingDisk {
    fn new(descriptors: Descriptors) -> Self {
        Self {
            plain: StdDisk::with_descriptors(0, descriptors),
            device: BTreeMap::new(),
            done: Vec::new(),
            losses: 0,
            told: 0,
        }
    }

    /// The write-back of all that is not on the device fails.
    fn lose(&mut self, file: &FileHandle) {
        let now = std::fs::read(file.path()).unwrap();
        let device = self.device.entry(file.path().to_path_buf()).or_default();
        let pages = now.chunks(PAGE_BYTES).enumerate();
        let dirty = pages.filter(|(page, bytes)| *bytes != device.page(*page, bytes.len()));
        let dirty: BTreeSet<usize> = dirty.map(|(page, _)| page).collect();
        if file.is_open() && !dirty.is_subset(&device.lost) {
            device.lost = dirty;
            device.told_to = Some(file.clone());
            self.losses += 1;
        }
    }

    /// A page that is written again comes down as a whole with the next write-back.
    fn rewritten(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let pages = at as usize / PAGE_BYTES..(at as usize + len).div_ceil(PAGE_BYTES);
        if let Some(device) = self.device.get_mut(file.path()) {
            device.lost.retain(|page| !pages.contains(page));
        }
    }

    /// Where a descriptor was closed the kernel has nobody left to tell.
    fn forget_closed(&mut self) {
        for device in self.device.values_mut() {
            device.told_to = device.told_to.take().filter(FileHandle::is_open);
        }
    }

    fn sync(&mut self, file: &FileHandle) -> io::Result<DiskOutput> {
        self.forget_closed();
        let mark = file.sync_mark();
        drop(file.lease()?);
        let device = self.device.entry(file.path().to_path_buf()).or_default();
        if device.told_to.take().is_some() {
            self.told += 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        let mut now = std::fs::read(file.path())?;
        for page in &device.lost {
            let range = page * PAGE_BYTES..((page + 1) * PAGE_BYTES).min(now.len());
            let old = device.page(*page, range.len());
            now[range].copy_from_slice(&old);
        }
        device.bytes = now;
        file.synced(mark);
        Ok(DiskOutput::Done)
    }

    /// The power goes: files are what the device has of them.
    fn power_cut(self) {
        for (path, device) in self.device {
            std::fs::write(path, device.bytes).unwrap();
        }
    }
}

impl Disk for LosingDisk {
    fn submit(&mut self, token: Token, op: DiskOp) {
        match op {
            DiskOp::Sync { file } => {
                let result = self.sync(&file);
                self.done.push(Completion { token, result });
            }
            op => {
                self.plain.submit(token, op);
                self.plain.take_completions(&mut self.done);
                self.forget_closed();
            }
        }
    }
    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
    }
    fn write_now(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        self.forget_closed();
        self.rewritten(file, at, pieces);
        self.plain.write_now(file, at, pieces)
    }
    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.plain.hot_bytes(file, range)
    }
    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.plain.lock_directory(path)
    }
}

fn spec(directory: &Path, created: bool) -> OpenSpec {
    let fresh = new_partition(directory.join("p"), Durability::Os);
    OpenSpec {
        config: LogConfig {
            segment_bytes: 16 << 10,
            ..fresh.config
        },
        created,
        ..fresh
    }
}

fn settle(log: &mut PartitionLog, disk: &mut LosingDisk) {
    log.flush(1, disk);
    let mut completions = Vec::new();
    loop {
        disk.take_completions(&mut completions);
        if completions.is_empty() {
            return;
        }
        for completion in completions.drain(..) {
            log.on_completion(1, disk, completion);
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    losses: u64,
    told: u64,
    fences: u64,
    closed: u64,
    durable: u64,
}

/// Appends, ticks, closes of descriptors and failed write-backs by chance, then a power cut.
fn run(seed: u64, bug: DescriptorBug) -> (Verdict, Counts) {
    let mut rng = SimRng::new(seed);
    let root = tempfile::tempdir().unwrap();
    let descriptors = Descriptors::with_bug(1, bug);
    let mut disk = LosingDisk::new(descriptors.clone());
    let (mut log, _) = drive_open(&mut disk, Opening::new(spec(root.path(), true))).unwrap();
    let mut sent = Vec::new();
    for number in 0..STEPS as i32 {
        if log.status() == LogStatus::Fenced {
            break;
        }
        match rng.index(10) {
            0..6 => {
                let value = vec![number as u8 + 1; 200 + rng.index(3_000)];
                let batch = batches::sequenced(1, number, 1, &[&value]);
                let appended = log.append(1, &mut disk, &batch).unwrap();
                sent.push(batches::stored(&batch, appended.base_offset, log.leader_epoch()));
            }
            6 => log.tick(1, &mut disk),
            7 | 8 => drop(descriptors.make_room(4)),
            _ => {
                if let Some(file) = tail_file(&mut log, &mut disk) {
                    disk.lose(&file);
                }
            }
        }
        settle(&mut log, &mut disk);
    }
    let durable = log.durable_offset();
    let is_fenced = log.status() == LogStatus::Fenced;
    let counts = Counts {
        losses: disk.losses,
        told: disk.told,
        fences: u64::from(is_fenced && disk.told > 0),
        closed: descriptors.counts().evicted,
        durable: durable.0 as u64,
    };
    drop(log);
    disk.power_cut();
    (judge(root.path(), durable, &sent), counts)
}

/// The file that the next batch is written to, as a reader gets to know it.
fn tail_file(log: &mut PartitionLog, disk: &mut LosingDisk) -> Option<FileHandle> {
    let (end, watermark) = (log.log_end_offset(), log.high_watermark());
    let plan = log.read(disk, Offset(end.0 - 1), watermark, 1).ok()?;
    plan.parts.into_iter().find_map(|part| match part {
        ReadPart::Cold(range) => Some(range.file),
        ReadPart::Hot(_) => None,
    })
}

/// Everything below the durable offset is there again.
fn judge(root: &Path, durable: Offset, sent: &[bytes::Bytes]) -> Verdict {
    let mut disk = StdDisk::new();
    let (mut log, report) =
        drive_open(&mut disk, Opening::new(spec(root, false))).map_err(|error| error.to_string())?;
    if log.log_end_offset() < durable || !report.quarantined.is_empty() {
        let end = log.log_end_offset();
        return Err(format!(
            "{durable} was durable, the log ends at {end}: {report:?}"
        ));
    }
    for (offset, stored) in sent.iter().enumerate().take(durable.0 as usize) {
        let plan = log.read(&mut disk, Offset(offset as i64), durable, 1);
        let parts = plan.map_err(|error| error.to_string())?.parts;
        let found = match parts.first() {
            Some(part) => reads::batches_from_file(part)?,
            None => Vec::new(),
        };
        if !found.contains(stored) {
            return Err(format!("the durable batch at offset {offset} is lost"));
        }
    }
    Ok(())
}

#[test]
fn what_is_durable_is_on_the_device_though_write_backs_fail() {
    let seeds = Seeds::asked(60);
    let mut sum = Counts::default();
    for seed in seeds.range() {
        let (verdict, counts) = run(seed, DescriptorBug::None);
        assert_eq!(verdict, Ok(()), "seed {seed}");
        sum.losses += counts.losses;
        sum.told += counts.told;
        sum.fences += counts.fences;
        sum.closed += counts.closed;
        sum.durable += counts.durable;
    }
    println!("{sum:?}");
    let count = seeds.count();
    assert!(sum.losses > count / 2, "write-backs fail: {sum:?}");
    assert!(sum.fences > count / 4, "the log hears of it: {sum:?}");
    assert!(sum.closed > count, "descriptors are closed: {sum:?}");
    assert!(sum.durable > count, "something is durable: {sum:?}");
}

#[test]
fn a_descriptor_closed_with_unsynced_writes_is_found_out() {
    let failure = Seeds::asked(60)
        .range()
        .find_map(|seed| run(seed, DescriptorBug::CloseUnsynced).0.err());
    println!("{failure:?}");
    assert!(
        failure.is_some(),
        "the error of a lost write-back died with its descriptor"
    );
}
