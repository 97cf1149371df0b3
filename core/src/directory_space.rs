//! The room on the file system of a data directory: how much there is, and whether writes are taken.
//!
//! The control thread looks, since asking a file system may block; shards read what the last look found, and say
//! when the disk was full in between. Invariants: below `storage.min_free` no write of a client is taken, and
//! none again until there is an eighth more than that and the reserve is whole; what the broker itself has to
//! write may take the room below, and at last the reserve's. Files that are kept to be recycled go before that.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::log::SpareBudget;
use tidelog_segment_log::reserve::{free_bytes, is_full, make_reserve, release_reserve};

use crate::directory_health::DirectoryHealth;

/// Not known (Kafka's number for it).
const UNKNOWN: i64 = -1;
/// `storage.min_free` = auto: this part of the file system, at most so much.
const MIN_FREE_PART: u64 = 20;
const MIN_FREE_BYTES_MAX: u64 = 1 << 30;
/// `storage.reserve` = auto: this part of the file system, at most so much.
const RESERVE_PART: u64 = 100;
const RESERVE_BYTES_MAX: u64 = 64 << 20;
/// `storage.recycle_max` = auto: this part of the file system, at most so much.
const RECYCLE_PART: u64 = 20;
const RECYCLE_BYTES_MAX: u64 = 4 << 30;
/// Spare files are wanted back with less than this part of `storage.min_free` more than that, so before writes are
/// refused, and are kept again with twice the part more.
const SPARES_PART: u64 = 4;
/// Writes are taken again with this part of `storage.min_free` more than that.
const RESUME_PART: u64 = 8;
/// And at least so much more.
const RESUME_BYTES_MIN: u64 = 1 << 20;
/// Of the disk that looks; nothing else is on its way there.
const TOKEN_SPACE: u32 = 1;

/// What is known of one directory's room; each figure is read by itself.
#[derive(Debug)]
pub struct DirectorySpace {
    total_bytes: AtomicI64,
    usable_bytes: AtomicI64,
    is_low: AtomicBool,
    met_full_disk: AtomicBool,
    health: DirectoryHealth,
    spares: SpareBudget,
}

impl Default for DirectorySpace {
    fn default() -> Self {
        Self {
            total_bytes: AtomicI64::new(UNKNOWN),
            usable_bytes: AtomicI64::new(UNKNOWN),
            is_low: AtomicBool::new(false),
            met_full_disk: AtomicBool::new(false),
            health: DirectoryHealth::default(),
            spares: SpareBudget::default(),
        }
    }
}

impl DirectorySpace {
    /// Bytes of the file system; -1 when not known.
    pub fn total_bytes(&self) -> i64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that this process may still write; -1 when not known.
    pub fn usable_bytes(&self) -> i64 {
        self.usable_bytes.load(Ordering::Relaxed)
    }

    /// What files may take that are kept to be recycled.
    pub fn spares(&self) -> &SpareBudget {
        &self.spares
    }

    /// Whether clients may write.
    pub fn takes_writes(&self) -> bool {
        !self.is_low.load(Ordering::Relaxed)
    }

    /// Something found no space. Clients' writes are not taken from now on, spare files go, and the reserve is given
    /// up at the next look.
    pub fn note_full_disk(&self) {
        self.spares.want_back(true);
        self.is_low.store(true, Ordering::Relaxed);
        self.met_full_disk.store(true, Ordering::Relaxed);
    }

    /// The errors that were met there, and whether it has failed.
    pub fn health(&self) -> &DirectoryHealth {
        &self.health
    }

    /// Whether the directory has failed; then nothing is written there any more.
    pub fn has_failed(&self) -> bool {
        self.health.has_failed()
    }

    fn set_room(&self, total: Option<u64>, usable: Option<u64>) {
        let known = |bytes: Option<u64>| bytes.map_or(UNKNOWN, |n| i64::try_from(n).unwrap_or(i64::MAX));
        self.total_bytes.store(known(total), Ordering::Relaxed);
        self.usable_bytes.store(known(usable), Ordering::Relaxed);
    }
}

/// How much room is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomRules {
    /// `storage.min_free`; `None` is auto.
    pub min_free_bytes: Option<u64>,
    /// `storage.reserve`; `None` is auto.
    pub reserve_bytes: Option<u64>,
    /// `storage.recycle_max`; `None` is auto.
    pub recycle_bytes_max: Option<u64>,
}

/// What a look has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomChange {
    /// Clients' writes are not taken from now on.
    Low,
    /// They are taken again.
    Roomy,
    /// The reserve was given up.
    ReserveReleased,
    /// The reserve is there (again).
    ReserveMade,
}

/// Looks after the room of one directory. Owned by whoever looks; blocks.
#[derive(Debug)]
pub struct SpaceKeeper {
    figures: Arc<DirectorySpace>,
    directory: PathBuf,
    rules: RoomRules,
    reserve: Reserve,
    was_low: bool,
}

/// What is known of the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    /// It may be there from the start before.
    Unknown,
    There,
    Gone,
}

impl SpaceKeeper {
    /// Nothing is known before the first look.
    pub fn new(directory: PathBuf, rules: RoomRules) -> Self {
        Self {
            figures: Arc::default(),
            directory,
            rules,
            reserve: Reserve::Unknown,
            was_low: false,
        }
    }

    /// What the shards read.
    pub fn figures(&self) -> &Arc<DirectorySpace> {
        &self.figures
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `storage.min_free` as it holds here, in bytes.
    pub fn min_free_bytes(&self, total: Option<u64>) -> u64 {
        let part = || total.map_or(0, |total| (total / MIN_FREE_PART).min(MIN_FREE_BYTES_MAX));
        self.rules.min_free_bytes.unwrap_or_else(part)
    }

    fn reserve_bytes(&self, total: Option<u64>) -> u64 {
        let part = || total.map_or(0, |total| (total / RESERVE_PART).min(RESERVE_BYTES_MAX));
        self.rules.reserve_bytes.unwrap_or_else(part)
    }

    /// `storage.recycle_max` as it holds here, in bytes.
    fn recycle_bytes_max(&self, total: Option<u64>) -> u64 {
        let part = || total.map_or(0, |total| (total / RECYCLE_PART).min(RECYCLE_BYTES_MAX));
        self.rules.recycle_bytes_max.unwrap_or_else(part)
    }

    /// Says whether shards may keep files to be recycled, with so much room.
    fn tell_of_spares(&self, free: u64, total: Option<u64>) {
        let spares = self.figures.spares();
        spares.set_bytes_max(self.recycle_bytes_max(total));
        let min_free = self.min_free_bytes(total);
        let parts = match spares.is_wanted_back() {
            true => 2,
            false => 1,
        };
        let kept_from = min_free.saturating_add(min_free / SPARES_PART * parts);
        spares.want_back(free < kept_from || !self.figures.takes_writes());
    }

    /// Measures the room, gives the reserve up or makes it, and says whether writes are taken. `total`: bytes of
    /// the file system, where known. The changes, in order.
    ///
    /// # Errors
    /// What the file system says; the figures are then unknown rather than old, and whether writes are taken
    /// stays as it was.
    pub fn look(&mut self, disk: &mut dyn Disk, total: Option<u64>) -> io::Result<Vec<RoomChange>> {
        let mut changes = Vec::new();
        let found = self.look_into(disk, total, &mut changes);
        if found.is_err() {
            self.figures.set_room(None, None);
        }
        let is_low = !self.figures.takes_writes();
        if std::mem::replace(&mut self.was_low, is_low) != is_low {
            changes.push(if is_low {
                RoomChange::Low
            } else {
                RoomChange::Roomy
            });
        }
        found.map(|()| changes)
    }

    fn look_into(
        &mut self,
        disk: &mut dyn Disk,
        total: Option<u64>,
        changes: &mut Vec<RoomChange>,
    ) -> io::Result<()> {
        let min_free = self.min_free_bytes(total);
        let reserve = self.reserve_bytes(total);
        let met_full_disk = self.figures.met_full_disk.swap(false, Ordering::Relaxed);
        let mut free = self.free(disk)?;
        if met_full_disk {
            self.figures.is_low.store(true, Ordering::Relaxed);
            if self.reserve != Reserve::Gone {
                release_reserve(TOKEN_SPACE, self.directory.clone()).drive(disk)?;
                self.reserve = Reserve::Gone;
                changes.push(RoomChange::ReserveReleased);
                free = self.free(disk)?;
            }
        } else if self.reserve != Reserve::There && free >= min_free.saturating_add(reserve) {
            // Also where it is there from the start before; then this only finds it.
            match make_reserve(TOKEN_SPACE, self.directory.clone(), reserve).drive(disk) {
                Ok(()) => {
                    self.reserve = Reserve::There;
                    changes.push(RoomChange::ReserveMade);
                    free = self.free(disk)?;
                }
                Err(error) if is_full(&error) => self.reserve = Reserve::Gone,
                Err(error) => return Err(error),
            }
        }
        let wanted = match self.was_low {
            true => min_free.saturating_add((min_free / RESUME_PART).max(RESUME_BYTES_MIN)),
            false => min_free,
        };
        let is_roomy = !met_full_disk && free >= wanted && (self.reserve == Reserve::There || !self.was_low);
        // A shard that finds the disk full after this look says so again.
        self.figures.is_low.store(!is_roomy, Ordering::Relaxed);
        self.figures.set_room(total, Some(free));
        self.tell_of_spares(free, total);
        Ok(())
    }

    fn free(&self, disk: &mut dyn Disk) -> io::Result<u64> {
        free_bytes(TOKEN_SPACE, self.directory.clone()).drive(disk)
    }
}

/// Bytes of the file system that a directory is on.
///
/// # Errors
/// What the file system says.
pub fn file_system_bytes(path: &Path) -> io::Result<u64> {
    let measured = rustix::fs::statvfs(path)?;
    Ok(measured.f_blocks.saturating_mul(measured.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::RoomChange::*;
    use super::*;
    use tidelog_segment_log::disk::StdDisk;
    use tidelog_segment_log::disk::memory::MemoryDisk;
    use tidelog_segment_log::disk::{
        Completion, DirectoryLock, DiskOp, DiskOutput, FileHandle, HotBytes, Token, WriteNow,
    };

    const MIB: u64 = 1 << 20;

    /// A disk on which so much is taken by others.
    struct Crowded {
        disk: MemoryDisk,
        capacity: u64,
        taken: u64,
        is_broken: bool,
    }

    impl Crowded {
        fn free(&self) -> u64 {
            let files: usize = self.disk.all_files().values().map(|file| file.len()).sum();
            self.capacity.saturating_sub(self.taken + files as u64)
        }
    }

    impl Disk for Crowded {
        fn submit(&mut self, token: Token, op: DiskOp) {
            let grows = match &op {
                DiskOp::Fallocate { range, .. } => range.end - range.start,
                _ => 0,
            };
            let refused = grows > self.free() || self.is_broken;
            match op {
                _ if refused => self.disk.submit(token, DiskOp::Open { path: PathBuf::new() }),
                op => self.disk.submit(token, op),
            }
        }

        fn take_completions(&mut self, out: &mut Vec<Completion>) {
            self.disk.take_completions(out);
            let free = self.free();
            for completion in out {
                match &mut completion.result {
                    Ok(DiskOutput::FreeSpace(bytes)) => *bytes = free,
                    Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_broken => {
                        *error = io::Error::from_raw_os_error(5);
                    }
                    _ => {}
                }
            }
        }

        fn write_now(&mut self, _: &FileHandle, _: u64, _: &[io::IoSlice<'_>]) -> io::Result<WriteNow> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn hot_bytes(&mut self, _: &FileHandle, _: std::ops::Range<u64>) -> Option<HotBytes> {
            None
        }

        fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
            self.disk.lock_directory(path)
        }
    }

    fn crowded() -> (Crowded, SpaceKeeper) {
        let mut disk = MemoryDisk::new();
        disk.put(Path::new("/d/x"), Vec::new());
        let disk = Crowded {
            disk,
            capacity: 60 * MIB,
            taken: 0,
            is_broken: false,
        };
        let rules = RoomRules {
            min_free_bytes: Some(16 * MIB),
            reserve_bytes: Some(4 * MIB),
            recycle_bytes_max: Some(8 * MIB),
        };
        (disk, SpaceKeeper::new(PathBuf::from("/d"), rules))
    }

    #[test]
    fn writes_stop_below_the_bound_and_resume_with_an_eighth_more() {
        let (mut disk, mut keeper) = crowded();
        let figures = Arc::clone(keeper.figures());
        assert_eq!(figures.usable_bytes(), -1);
        assert_eq!(keeper.look(&mut disk, Some(60 * MIB)).unwrap(), [ReserveMade]);
        assert_eq!(
            (figures.usable_bytes(), figures.total_bytes()),
            (56 << 20, 60 << 20)
        );
        for (taken, changes, takes_writes) in [
            (40, &[][..], true),
            (41, &[Low], false),
            (40, &[], false),
            (39, &[], false),
            (38, &[Roomy], true),
            (40, &[], true),
        ] {
            disk.taken = taken * MIB;
            assert_eq!(
                keeper.look(&mut disk, None).unwrap(),
                changes,
                "{taken} MiB taken"
            );
            assert_eq!(figures.takes_writes(), takes_writes, "{taken} MiB taken");
        }
    }

    #[test]
    fn a_full_disk_takes_the_reserve_which_is_made_again_before_writes_resume() {
        let (mut disk, mut keeper) = crowded();
        let figures = Arc::clone(keeper.figures());
        keeper.look(&mut disk, None).unwrap();
        disk.taken = 56 * MIB;
        figures.note_full_disk();
        assert!(!figures.takes_writes(), "at once");
        assert_eq!(keeper.look(&mut disk, None).unwrap(), [ReserveReleased, Low]);
        assert_eq!(figures.usable_bytes(), 4 << 20, "for metadata and deletions");
        assert_eq!(keeper.look(&mut disk, None).unwrap(), []);
        // Enough for the bound alone, but the reserve comes first.
        disk.taken = 42 * MIB;
        assert_eq!(keeper.look(&mut disk, None).unwrap(), []);
        disk.taken = 40 * MIB;
        assert_eq!(keeper.look(&mut disk, None).unwrap(), [ReserveMade]);
        disk.taken = 38 * MIB;
        assert_eq!(keeper.look(&mut disk, None).unwrap(), [Roomy]);
    }

    #[test]
    fn spares_go_before_writes_are_refused_and_come_when_there_is_more_room() {
        let (mut disk, mut keeper) = crowded();
        let figures = Arc::clone(keeper.figures());
        for (taken, is_wanted_back) in [
            (0, false),
            (36, false),
            (37, true),
            (33, true),
            (32, false),
            (48, true),
            (0, false),
        ] {
            disk.taken = taken * MIB;
            keeper.look(&mut disk, None).unwrap();
            let spares = figures.spares();
            assert_eq!(spares.is_wanted_back(), is_wanted_back, "{taken} MiB taken");
            assert!(figures.takes_writes() || is_wanted_back, "{taken} MiB taken");
        }
        figures.note_full_disk();
        assert!(figures.spares().is_wanted_back(), "at once");
    }

    #[test]
    fn the_reserve_of_the_start_before_is_given_up_too() {
        let (mut disk, mut keeper) = crowded();
        keeper.look(&mut disk, None).unwrap();
        disk.taken = 56 * MIB;
        let rules = keeper.rules;
        let mut next = SpaceKeeper::new(PathBuf::from("/d"), rules);
        assert_eq!(next.look(&mut disk, None).unwrap(), [Low]);
        next.figures().note_full_disk();
        assert_eq!(next.look(&mut disk, None).unwrap(), [ReserveReleased]);
        assert_eq!(next.figures().usable_bytes(), 4 << 20);
    }

    #[test]
    fn without_a_bound_a_full_disk_is_noticed_and_its_end_too() {
        let (mut disk, mut keeper) = crowded();
        keeper.rules = RoomRules {
            min_free_bytes: Some(0),
            reserve_bytes: Some(0),
            recycle_bytes_max: Some(8 * MIB),
        };
        keeper.look(&mut disk, None).unwrap();
        keeper.figures().note_full_disk();
        assert_eq!(keeper.look(&mut disk, None).unwrap(), [ReserveReleased, Low]);
        assert_eq!(keeper.look(&mut disk, None).unwrap(), [ReserveMade, Roomy]);
    }

    #[test]
    fn bounds_follow_the_file_system_where_they_are_not_set() {
        let keeper = SpaceKeeper::new(PathBuf::from("/d"), RoomRules::default());
        for (total, min_free, reserve, spares) in [
            (None, 0, 0, 0),
            (Some(100 * MIB), 5 * MIB, MIB, 5 * MIB),
            (Some(1 << 40), 1 << 30, 64 * MIB, 4 << 30),
        ] {
            assert_eq!(keeper.min_free_bytes(total), min_free);
            assert_eq!(keeper.reserve_bytes(total), reserve);
            assert_eq!(keeper.recycle_bytes_max(total), spares);
        }
    }

    #[test]
    fn what_cannot_be_measured_is_unknown_and_changes_nothing() {
        let (mut disk, mut keeper) = crowded();
        disk.taken = 50 * MIB;
        keeper.look(&mut disk, None).unwrap();
        assert!(!keeper.figures().takes_writes());
        disk.is_broken = true;
        assert!(keeper.look(&mut disk, None).is_err());
        let figures = keeper.figures();
        assert_eq!(
            (
                figures.total_bytes(),
                figures.usable_bytes(),
                figures.takes_writes()
            ),
            (-1, -1, false)
        );
    }

    #[test]
    fn a_real_file_system_is_measured() {
        let directory = tempfile::tempdir().unwrap();
        let rules = RoomRules {
            min_free_bytes: Some(0),
            reserve_bytes: Some(MIB),
            recycle_bytes_max: None,
        };
        let mut keeper = SpaceKeeper::new(directory.path().to_path_buf(), rules);
        let total = file_system_bytes(directory.path()).unwrap();
        assert!(total > MIB);
        keeper.look(&mut StdDisk::new(), Some(total)).unwrap();
        let figures = keeper.figures();
        assert!((0..=figures.total_bytes()).contains(&figures.usable_bytes()));
        assert!(directory.path().join("reserve").exists());
        assert!(file_system_bytes(&directory.path().join("gone")).is_err());
    }
}
