//! One simulated file: per 512-byte sector the versions that may be on the device.
//!
//! Owned by one [`SimDisk`](super::SimDisk).
//!
//! A sector's versions, oldest first: the first is the last synced one, each later one was
//! written after it. `device` points at the one that a read from the device sees; write-back
//! moves it to the newest. The cache shows the newest version, or, after a lost write-back, a
//! content of its own that the device will never get unless its page is written again.
//!
//! Invariants:
//! - at a cut of power a sector becomes any one of its versions, independently of all others; so
//!   what a device read saw is safe only once a sync succeeded (the drive has a cache too);
//! - a sync drops the versions older than the newest one it covers, and nothing else;
//! - lengths have versions in the same way. Files never shrink except at a cut of power.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::rng::SimRng;
use super::trace::SimEvents;
use crate::disk::ReadSource;

/// Bytes that a device writes as one.
pub(super) const SECTOR_BYTES: usize = 512;
/// Sectors of a page of the cache: what is marked dirty or clean as one.
const PAGE_SECTORS: u64 = 8;
/// Versions kept per sector; beyond it the second oldest is forgotten.
const VERSIONS_MAX: usize = 16;

type Block = [u8; SECTOR_BYTES];

static ZEROS: Block = [0; SECTOR_BYTES];

#[derive(Debug)]
struct Version {
    at: u64,
    block: Box<Block>,
}

#[derive(Debug)]
struct Sector {
    versions: Vec<Version>,
    device: usize,
    /// Only if the cache differs from the newest version.
    cache: Option<Box<Block>>,
}

impl Sector {
    fn new() -> Self {
        let block = Box::new(ZEROS);
        Self {
            versions: vec![Version { at: 0, block }],
            device: 0,
            cache: None,
        }
    }

    fn newest(&self) -> &Block {
        self.versions.last().map_or(&ZEROS, |v| &*v.block)
    }

    fn seen(&self, source: ReadSource) -> &Block {
        match source {
            ReadSource::Cached => self.cache.as_deref().unwrap_or(self.newest()),
            ReadSource::Device => self.versions.get(self.device).map_or(&ZEROS, |v| &*v.block),
        }
    }

    fn is_dirty(&self) -> bool {
        self.device + 1 < self.versions.len()
    }

    fn is_settled(&self) -> bool {
        self.versions.len() == 1 && self.cache.is_none()
    }

    fn push(&mut self, block: Box<Block>, at: u64) {
        self.cache = None;
        self.versions.push(Version { at, block });
        if self.versions.len() > VERSIONS_MAX {
            self.versions.remove(1);
            self.device -= usize::from(self.device > 1);
        }
    }

    fn write_back(&mut self) {
        self.device = self.versions.len() - 1;
    }

    fn sync(&mut self, upto: u64) {
        let covered = self.versions.partition_point(|v| v.at <= upto);
        let floor = covered.saturating_sub(1);
        self.versions.drain(..floor);
        self.device = self.device.saturating_sub(floor);
    }

    /// Marked clean without having been written.
    fn lose(&mut self) {
        if self.is_dirty() {
            self.cache = Some(Box::new(*self.newest()));
            self.versions.truncate(self.device + 1);
        }
    }
}

/// The content and length of one file, in the cache and on the device.
#[derive(Debug)]
pub(super) struct SimFile {
    sectors: BTreeMap<u64, Sector>,
    /// Sectors that are not the same everywhere.
    unsettled: BTreeSet<u64>,
    /// (when, length), the first is the last synced one.
    lens: Vec<(u64, u64)>,
    /// A failed write-back that no sync has reported yet.
    pub(super) error: bool,
    /// Sectors that the device does not give back; one that is written is good again.
    broken: BTreeSet<u64>,
}

impl SimFile {
    pub(super) fn new() -> Self {
        Self {
            sectors: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            lens: vec![(0, 0)],
            error: false,
            broken: BTreeSet::new(),
        }
    }

    pub(super) fn break_sector(&mut self, position: u64) {
        self.broken.insert(position / SECTOR_BYTES as u64);
    }

    /// Whether a read of this range meets a broken sector.
    pub(super) fn is_broken(&self, range: &Range<u64>) -> bool {
        self.broken.range(sectors_of(range)).next().is_some()
    }

    pub(super) fn len(&self) -> u64 {
        self.lens.last().map_or(0, |(_, len)| *len)
    }

    pub(super) fn grow(&mut self, len: u64, at: u64) {
        if len > self.len() {
            self.lens.push((at, len));
        }
    }

    pub(super) fn write(&mut self, position: u64, data: &[u8], at: u64) {
        let mut position = position;
        let mut rest = data;
        while !rest.is_empty() {
            let number = position / SECTOR_BYTES as u64;
            let skip = (position % SECTOR_BYTES as u64) as usize;
            let (part, later) = rest.split_at(rest.len().min(SECTOR_BYTES - skip));
            let sector = self.sectors.entry(number).or_insert_with(Sector::new);
            let mut block = Box::new(*sector.seen(ReadSource::Cached));
            block[skip..skip + part.len()].copy_from_slice(part);
            sector.push(block, at);
            self.broken.remove(&number);
            self.unsettled.insert(number);
            position += part.len() as u64;
            rest = later;
        }
        self.redirty(position - data.len() as u64..position, at);
        self.grow(position, at);
    }

    pub(super) fn zero(&mut self, range: Range<u64>, at: u64) {
        if range.is_empty() {
            return;
        }
        let numbers = sectors_of(&range);
        self.broken.retain(|number| !numbers.contains(number));
        for (&number, sector) in self.sectors.range_mut(numbers) {
            let start = number * SECTOR_BYTES as u64;
            let from = range.start.saturating_sub(start) as usize;
            let to = (range.end - start).min(SECTOR_BYTES as u64) as usize;
            let mut block = Box::new(*sector.seen(ReadSource::Cached));
            block[from..to].fill(0);
            sector.push(block, at);
            self.unsettled.insert(number);
        }
        self.redirty(range.clone(), at);
        self.grow(range.end, at);
    }

    /// A page is written back as a whole: what was lost in a page that is written again gets
    /// another chance.
    fn redirty(&mut self, range: Range<u64>, at: u64) {
        let sectors = sectors_of(&range);
        let first = sectors.start / PAGE_SECTORS * PAGE_SECTORS;
        let end = sectors.end.div_ceil(PAGE_SECTORS) * PAGE_SECTORS;
        for (_, sector) in self.sectors.range_mut(first..end) {
            if let Some(block) = sector.cache.take() {
                sector.push(block, at);
            }
        }
    }

    /// Fills `out`, which must lie inside the file.
    pub(super) fn read(&self, position: u64, out: &mut [u8], source: ReadSource) {
        out.fill(0);
        let end = position + out.len() as u64;
        for (number, sector) in self.sectors.range(sectors_of(&(position..end))) {
            let start = number * SECTOR_BYTES as u64;
            let from = position.max(start);
            let to = end.min(start + SECTOR_BYTES as u64);
            if from < to {
                let block = &sector.seen(source)[(from - start) as usize..(to - start) as usize];
                out[(from - position) as usize..(to - position) as usize].copy_from_slice(block);
            }
        }
    }

    /// Makes durable what was written up to `upto`.
    pub(super) fn sync(&mut self, upto: u64) {
        for number in &self.unsettled {
            if let Some(sector) = self.sectors.get_mut(number) {
                sector.sync(upto);
            }
        }
        let covered = self.lens.partition_point(|(at, _)| *at <= upto);
        self.lens.drain(..covered.saturating_sub(1));
        self.settle();
    }

    /// A sync that fails: of the pages it covers, each reaches the device or is marked clean
    /// without; at least one is. Returns how many were lost.
    pub(super) fn fail_sync(&mut self, upto: u64, rng: &mut SimRng) -> u64 {
        let mut pages = BTreeSet::new();
        for number in &self.unsettled {
            let Some(sector) = self.sectors.get(number) else {
                continue;
            };
            let newest_at = sector.versions.last().map_or(0, |v| v.at);
            if sector.is_dirty() && newest_at <= upto {
                pages.insert(number / PAGE_SECTORS);
            }
        }
        let certain = rng.index(pages.len());
        let mut lost = 0;
        for (nth, page) in pages.into_iter().enumerate() {
            if nth == certain || rng.coin() {
                self.lose_page(page);
                lost += 1;
            } else {
                self.write_back_sectors(page * PAGE_SECTORS..(page + 1) * PAGE_SECTORS);
            }
        }
        lost
    }

    /// Write-back of one dirty page fails. False if none is dirty.
    pub(super) fn lose_some_page(&mut self, rng: &mut SimRng) -> bool {
        let Some(page) = self.some_dirty_page(rng) else {
            return false;
        };
        self.lose_page(page);
        self.error = true;
        true
    }

    /// One dirty page reaches the device, though nothing promises that it stays.
    pub(super) fn write_back_some_page(&mut self, rng: &mut SimRng) -> bool {
        let Some(page) = self.some_dirty_page(rng) else {
            return false;
        };
        self.write_back_sectors(page * PAGE_SECTORS..(page + 1) * PAGE_SECTORS);
        true
    }

    pub(super) fn write_back(&mut self, range: &Range<u64>) {
        let sectors = sectors_of(range);
        let first = sectors.start / PAGE_SECTORS * PAGE_SECTORS;
        self.write_back_sectors(first..sectors.end.div_ceil(PAGE_SECTORS) * PAGE_SECTORS);
    }

    fn some_dirty_page(&self, rng: &mut SimRng) -> Option<u64> {
        let is_dirty = |n: &&u64| self.sectors.get(n).is_some_and(Sector::is_dirty);
        let dirty: Vec<u64> = self.unsettled.iter().filter(is_dirty).copied().collect();
        let number = dirty.get(rng.index(dirty.len()))?;
        Some(number / PAGE_SECTORS)
    }

    fn lose_page(&mut self, page: u64) {
        let sectors = page * PAGE_SECTORS..(page + 1) * PAGE_SECTORS;
        for (_, sector) in self.sectors.range_mut(sectors) {
            sector.lose();
        }
    }

    fn write_back_sectors(&mut self, sectors: Range<u64>) {
        for (_, sector) in self.sectors.range_mut(sectors) {
            sector.write_back();
        }
    }

    /// Forgets clean pages: the next cached read takes them from the device.
    pub(super) fn drop_cache(&mut self) {
        for number in &self.unsettled {
            if let Some(sector) = self.sectors.get_mut(number) {
                sector.cache = None;
            }
        }
        self.settle();
    }

    /// Chooses what the device holds, and forgets everything else.
    pub(super) fn power_cut(&mut self, rng: &mut SimRng, events: &mut SimEvents) {
        let mut pages: BTreeMap<u64, (bool, bool)> = BTreeMap::new();
        for number in std::mem::take(&mut self.unsettled) {
            let Some(sector) = self.sectors.get_mut(&number) else {
                continue;
            };
            let newest = sector.versions.len() - 1;
            let chosen = rng.index(sector.versions.len());
            let is_newest = chosen == newest && sector.cache.is_none();
            let page = pages.entry(number / PAGE_SECTORS).or_default();
            if is_newest {
                page.0 = true;
                events.unsynced_sectors_kept += 1;
            } else {
                page.1 = true;
                events.stale_sectors += 1;
            }
            sector.versions.truncate(chosen + 1);
            sector.versions.drain(..chosen);
            sector.device = 0;
            sector.cache = None;
        }
        events.torn_pages += pages.values().filter(|(new, old)| *new && *old).count() as u64;
        let chosen = rng.index(self.lens.len());
        events.lost_lengths += u64::from(chosen + 1 < self.lens.len());
        self.lens.truncate(chosen + 1);
        self.lens.drain(..chosen);
        self.error = false;
        self.cut_to_len();
    }

    fn cut_to_len(&mut self) {
        let len = self.len();
        let end = len.div_ceil(SECTOR_BYTES as u64);
        self.sectors.split_off(&end);
        let tail = (len % SECTOR_BYTES as u64) as usize;
        if tail > 0
            && let Some(sector) = self.sectors.get_mut(&(len / SECTOR_BYTES as u64))
        {
            for version in &mut sector.versions {
                version.block[tail..].fill(0);
            }
        }
    }

    /// Flips a bit in what the device holds. A clean cached page is dropped with it.
    pub(super) fn flip_bit(&mut self, position: u64, bit: u8) {
        let number = position / SECTOR_BYTES as u64;
        let at = (position % SECTOR_BYTES as u64) as usize;
        let sector = self.sectors.entry(number).or_insert_with(Sector::new);
        let on_device = sector.device + 1;
        for version in sector.versions.iter_mut().take(on_device) {
            version.block[at] ^= 1 << (bit % 8);
        }
    }

    fn settle(&mut self) {
        let sectors = &self.sectors;
        self.unsettled
            .retain(|number| sectors.get(number).is_some_and(|s| !s.is_settled()));
    }
}

/// The sectors that a range of bytes touches.
fn sectors_of(range: &Range<u64>) -> Range<u64> {
    let bytes = SECTOR_BYTES as u64;
    range.start / bytes..range.end.div_ceil(bytes)
}
