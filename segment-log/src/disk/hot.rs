//! Which bytes of which files can be sent straight from the page cache, and the maps for it.
//!
//! Owned by the thread that owns the [`Disk`](super::Disk) it is a part of; both disks that use
//! real files share it.
//!
//! Invariants:
//! - a range is hot only if this process wrote all of it through the same handle, neither a failed
//!   write, a failed sync nor a zeroing touched it since, and no more than the window's bytes were
//!   written after it: what is older may have left the page cache, and touching it would block.
//!   What the kernel took away all the same is not hot either: it is asked, before a byte is touched. Then nothing
//!   that was written of that file so far is hot any more, even if its pages come back: they come from the
//!   device then, where a file may have been damaged, and only a cold read verifies them;
//! - a file that somebody else changed (truncated, punched, written) is not hot: its size and its time of change are
//!   asked each time. Between that and the send there is a moment in which it can still happen;
//! - maps are read-only, cover the whole file as it was when mapped, and are at most [`MAPS_MAX`]
//!   (leases that were handed out keep theirs beyond that);
//! - what is remembered of files is bounded by [`FILES_MAX`] and [`RANGES_MAX`]. Forgetting is
//!   always allowed: the range is then read instead.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

use super::handle::FileInner;
use super::{FileHandle, HotBytes, LeasedMap, MappedBytes};

/// Files whose maps are kept.
pub const MAPS_MAX: usize = 256;
/// Files whose written ranges are remembered.
pub const FILES_MAX: usize = 4_096;
/// The least recently used part of them is forgotten at once when there are too many.
const FORGOTTEN_PART: usize = 4;
/// Disjoint written ranges remembered per file; the lowest is forgotten first.
pub const RANGES_MAX: usize = 8;

struct HotFile {
    /// Keeps the key, which is its address, from being used again.
    file: Weak<FileInner>,
    written: WrittenRanges,
    map: Option<Arc<MmapRaw>>,
    /// What those who were given ranges of that map share, while there are any.
    leased: Weak<LeasedMap>,
    stamp: Option<Stamp>,
    last_use: u64,
}

/// A file as it was when last looked at.
#[derive(Clone, Copy)]
struct Stamp {
    /// Its time of change, seconds and nanoseconds.
    changed: (i64, i64),
    /// Changes of ours that had ended then.
    own_changes: u32,
}

impl HotFile {
    /// Whether nobody but this process changed the file since it was looked at last; `None` if it does not reach
    /// `end`. Somebody else's change is missed only if one of ours came between the same two looks.
    fn is_as_we_left_it(&mut self, file: &FileHandle, end: u64) -> Option<bool> {
        let (begun, ended) = file.changes();
        let stat = rustix::fs::fstat(file.lease().ok()?).ok()?;
        let now = Stamp {
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
            own_changes: ended,
        };
        let before = self.stamp.replace(now);
        let is_ours =
            before.is_none_or(|before| before.changed == now.changed || before.own_changes != begun);
        let is_whole = u64::try_from(stat.st_size).is_ok_and(|len| len >= end);
        (is_whole || !is_ours).then_some(is_ours)
    }
}

/// Bytes of a window's entry at most; the window moves on by whole entries.
const WINDOW_ENTRY_BYTES: u64 = 4 << 20;
/// Entries of a window at most: many files with small appends have a smaller one.
const WINDOW_ENTRIES_MAX: usize = 65_536;

/// What this process wrote, and the read-only maps of it.
pub struct HotMaps {
    /// What was written, oldest first, at most `window_bytes` in sum.
    window: VecDeque<(Weak<FileInner>, Range<u64>)>,
    window_used_bytes: u64,
    window_bytes: u64,
    files: HashMap<usize, HotFile>,
    maps: usize,
    maps_evicted: u64,
    clock: u64,
}

impl HotMaps {
    /// Nothing is hot; later at most the last `window_bytes` that were written are.
    pub fn new(window_bytes: u64) -> Self {
        Self {
            window: VecDeque::new(),
            window_used_bytes: 0,
            window_bytes,
            files: HashMap::new(),
            maps: 0,
            maps_evicted: 0,
            clock: 0,
        }
    }

    /// Counts `range` into the window, and lets the oldest out of it.
    fn move_window(&mut self, file: &FileHandle, range: &Range<u64>) {
        match self.window.back_mut() {
            // An append begins in the page that the last one filled up with zeros.
            Some((last, written))
                if last.as_ptr() == Arc::as_ptr(&file.0)
                    && (written.start..=written.end).contains(&range.start)
                    && range.end.saturating_sub(written.start) <= WINDOW_ENTRY_BYTES =>
            {
                self.window_used_bytes += range.end.saturating_sub(written.end);
                written.end = written.end.max(range.end);
            }
            _ => {
                self.window_used_bytes += range.end.saturating_sub(range.start);
                self.window.push_back((Arc::downgrade(&file.0), range.clone()));
            }
        }
        while self.window_used_bytes > self.window_bytes || self.window.len() > WINDOW_ENTRIES_MAX {
            let Some((file, range)) = self.window.pop_front() else {
                return;
            };
            self.window_used_bytes -= range.end.saturating_sub(range.start);
            if let Some(entry) = self.files.get_mut(&file.as_ptr().addr()) {
                entry.written.remove(range);
            }
        }
    }

    /// Notes that all bytes of `range` were written by this process, successfully.
    pub fn note_written(&mut self, file: &FileHandle, range: Range<u64>) {
        self.clock += 1;
        let key = key_of(file);
        if !self.files.contains_key(&key) {
            self.make_room();
        }
        let clock = self.clock;
        let entry = self.files.entry(key).or_insert_with(|| HotFile {
            file: Arc::downgrade(&file.0),
            written: WrittenRanges::default(),
            map: None,
            leased: Weak::new(),
            stamp: None,
            last_use: clock,
        });
        entry.last_use = clock;
        entry.written.add(range.clone());
        self.move_window(file, &range);
    }

    /// Notes that `range` no longer holds what this process wrote (zeroed, or a write failed).
    pub fn forget_range(&mut self, file: &FileHandle, range: Range<u64>) {
        if let Some(entry) = self.files.get_mut(&key_of(file)) {
            entry.written.remove(range);
        }
    }

    /// Forgets a file and drops its map (leases keep theirs): after a failed sync.
    pub fn forget(&mut self, file: &FileHandle) {
        if let Some(entry) = self.files.remove(&key_of(file)) {
            self.maps -= usize::from(entry.map.is_some());
        }
    }

    /// A lease on `range` if all of it was written by this process and a map can be made.
    pub fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        if range.is_empty() {
            return Some(HotBytes::Owned(Bytes::new()));
        }
        let key = key_of(file);
        let entry = self.files.get_mut(&key)?;
        if !entry.written.contains(&range) {
            return None;
        }
        self.clock += 1;
        entry.last_use = self.clock;
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        if !entry.is_as_we_left_it(file, range.end)? {
            entry.written = WrittenRanges::default();
            return None;
        }
        let map = match &entry.map {
            Some(map) if map.len() >= end => Arc::clone(map),
            stale => {
                let map = Arc::new(map_whole(file, end)?);
                self.maps += usize::from(stale.is_none());
                entry.map = Some(Arc::clone(&map));
                self.bound_maps(key);
                map
            }
        };
        let leased = self.leased(file, &map);
        // SAFETY: `end` is inside the map, and the map was made no longer than the file, which no
        // operation of the disk truncates. The range lies in what this process wrote; a written
        // byte that the log asks for is part of an entry, and entries are not written again while a
        // reference to their file lives, as this one does.
        let bytes = HotBytes::Mapped(unsafe { MappedBytes::new(leased, start..end) });
        // The window only says what is likely: the kernel takes pages away under pressure, or when it was told to.
        if HotBytes::are_resident([&bytes]) {
            return Some(bytes);
        }
        if let Some(entry) = self.files.get_mut(&key) {
            entry.written = WrittenRanges::default();
        }
        None
    }

    /// What all who hold ranges of a file's map share. Nobody holds any: it is made anew, so that the map that is
    /// kept here does not count as a use of the file.
    fn leased(&mut self, file: &FileHandle, map: &Arc<MmapRaw>) -> Arc<LeasedMap> {
        let entry = self.files.get_mut(&key_of(file));
        let held = entry.as_ref().and_then(|entry| entry.leased.upgrade());
        if let Some(leased) = held.filter(|leased| Arc::ptr_eq(leased.map(), map)) {
            return leased;
        }
        let leased = Arc::new(LeasedMap::new(Arc::clone(map), file));
        if let Some(entry) = entry {
            entry.leased = Arc::downgrade(&leased);
        }
        leased
    }

    /// Maps kept now.
    pub fn maps(&self) -> usize {
        self.maps
    }

    /// Maps dropped to make room, since the start.
    pub fn maps_evicted(&self) -> u64 {
        self.maps_evicted
    }

    fn make_room(&mut self) {
        if self.files.len() < FILES_MAX {
            return;
        }
        self.files.retain(|_, entry| entry.file.strong_count() > 0);
        // A quarter at once: with more files than are remembered, each write would look through all of them.
        let kept = FILES_MAX - FILES_MAX / FORGOTTEN_PART;
        if let Some(oldest) = oldest_kept(self.files.values().map(|entry| entry.last_use), kept) {
            self.files.retain(|_, entry| entry.last_use >= oldest);
        }
        self.maps = self.files.values().filter(|f| f.map.is_some()).count();
    }

    fn bound_maps(&mut self, keep: usize) {
        if self.maps <= MAPS_MAX {
            return;
        }
        // A closed file's map would keep its space on the device: those go first, all of them.
        self.files.retain(|_, entry| entry.file.strong_count() > 0);
        self.maps = self.files.values().filter(|f| f.map.is_some()).count();
        if self.maps <= MAPS_MAX {
            return;
        }
        let mapped = self.files.values().filter(|entry| entry.map.is_some());
        let kept = MAPS_MAX - MAPS_MAX / FORGOTTEN_PART;
        let oldest = oldest_kept(mapped.map(|entry| entry.last_use), kept);
        for (key, entry) in &mut self.files {
            let is_old = oldest.is_some_and(|oldest| entry.last_use < oldest);
            if is_old && *key != keep && entry.map.take().is_some() {
                self.maps -= 1;
                self.maps_evicted += 1;
            }
        }
    }

    /// Drops what belongs to files that were closed. Call it now and then: a map keeps the space
    /// of an unlinked file.
    pub fn drop_closed(&mut self) {
        self.files.retain(|_, entry| entry.file.strong_count() > 0);
        self.maps = self.files.values().filter(|f| f.map.is_some()).count();
    }
}

/// The earliest of the last `kept` uses; `None` if there are no more than that.
fn oldest_kept(uses: impl Iterator<Item = u64>, kept: usize) -> Option<u64> {
    let mut uses: Vec<u64> = uses.collect();
    let forgotten = uses.len().checked_sub(kept).filter(|forgotten| *forgotten > 0)?;
    let (_, oldest, _) = uses.select_nth_unstable(forgotten);
    Some(*oldest)
}

fn key_of(file: &FileHandle) -> usize {
    Arc::as_ptr(&file.0).addr()
}

/// A map of the whole file, or `None` if that is not possible or would not reach `end`.
fn map_whole(file: &FileHandle, end: usize) -> Option<MmapRaw> {
    let fd = file.lease().ok()?;
    let len = u64::try_from(rustix::fs::fstat(&fd).ok()?.st_size).ok()?;
    let len = usize::try_from(len).ok()?;
    if len < end {
        return None;
    }
    MmapOptions::new().len(len).map_raw_read_only(&fd).ok()
}

/// Disjoint, sorted, non-touching ranges.
#[derive(Debug, Default)]
pub(super) struct WrittenRanges(Vec<Range<u64>>);

impl WrittenRanges {
    pub(super) fn add(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some(last) = self.0.last_mut()
            && last.start <= range.start
            && range.start <= last.end
        {
            last.end = last.end.max(range.end);
            return;
        }
        self.0.retain(|other| {
            let touches = other.start <= range.end && range.start <= other.end;
            if touches {
                range.start = range.start.min(other.start);
                range.end = range.end.max(other.end);
            }
            !touches
        });
        let at = self.0.partition_point(|other| other.start < range.start);
        self.0.insert(at, range);
        if self.0.len() > RANGES_MAX {
            self.0.remove(0);
        }
    }

    pub(super) fn remove(&mut self, gone: Range<u64>) {
        if gone.is_empty() {
            return;
        }
        let old = std::mem::take(&mut self.0);
        for range in old {
            let below = range.start..range.end.min(gone.start);
            let above = range.start.max(gone.end)..range.end;
            self.0
                .extend([below, above].into_iter().filter(|r| !r.is_empty()));
        }
        let surplus = self.0.len().saturating_sub(RANGES_MAX);
        self.0.drain(..surplus);
    }

    pub(super) fn contains(&self, range: &Range<u64>) -> bool {
        self.0
            .iter()
            .any(|own| own.start <= range.start && range.end <= own.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_when_they_touch() {
        let mut ranges = WrittenRanges::default();
        ranges.add(100..200);
        ranges.add(200..300);
        assert!(ranges.contains(&(100..300)));
        ranges.add(400..500);
        assert!(!ranges.contains(&(250..450)));
        ranges.add(0..450);
        assert_eq!(ranges.0.len(), 1);
        assert_eq!(ranges.0.first(), Some(&(0..500)));
    }

    #[test]
    fn a_zeroed_range_splits() {
        let mut ranges = WrittenRanges::default();
        ranges.add(0..100);
        ranges.remove(40..60);
        assert_eq!(ranges.0, [0..40, 60..100]);
        assert!(!ranges.contains(&(30..50)));
    }

    #[test]
    fn what_left_the_window_is_not_hot() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, vec![7; 40_000]).unwrap();
            FileHandle::from_fd(0, path.clone(), std::fs::File::open(&path).unwrap().into())
        };
        let (one, other) = (open("one"), open("other"));
        let mut hot = HotMaps::new(20_000);
        hot.note_written(&one, 0..8_192);
        // As appends do: it begins inside the page that was filled up.
        hot.note_written(&one, 8_000..12_288);
        assert_eq!(hot.window.len(), 1, "one run of one file");
        assert_eq!(hot.hot_bytes(&one, 0..12_288).unwrap().len(), 12_288);
        hot.note_written(&other, 0..8_192);
        assert!(
            hot.hot_bytes(&one, 0..100).is_none(),
            "20,480 bytes do not fit the window"
        );
        assert!(hot.hot_bytes(&other, 0..8_192).is_some());
        hot.note_written(&one, 12_288..24_000);
        assert!(hot.hot_bytes(&one, 12_288..24_000).is_some());
        assert_eq!(hot.window_used_bytes, 8_192 + 11_712);
    }

    /// On the disk that holds the build: a temporary file system could not take pages away.
    fn file_on_disk(bytes: usize) -> (tempfile::TempDir, FileHandle) {
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let path = dir.path().join("hot");
        std::fs::write(&path, vec![7; bytes]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        (dir, FileHandle::from_fd(1, path, file.into()))
    }

    fn drop_pages(file: &FileHandle, from: u64, len: u64) {
        let fd = &file.lease().unwrap();
        rustix::fs::fsync(fd).unwrap();
        let len = std::num::NonZeroU64::new(len);
        rustix::fs::fadvise(fd, from, len, rustix::fs::Advice::DontNeed).unwrap();
    }

    #[test]
    fn what_the_kernel_took_away_is_not_hot() {
        const BYTES: u64 = 8 << 20;
        let (_dir, file) = file_on_disk(BYTES as usize);
        let mut hot = HotMaps::new(u64::MAX);
        hot.note_written(&file, 0..BYTES);
        let lease = hot.hot_bytes(&file, 0..BYTES).expect("just written");
        let (front, back) = (lease.slice(0..4096), lease.slice((4 << 20)..(5 << 20)));
        assert!(HotBytes::are_resident([&front, &back]));

        drop_pages(&file, 4 << 20, 4 << 20);
        assert!(hot.hot_bytes(&file, 0..BYTES).is_none(), "half of it is gone");
        assert!(hot.hot_bytes(&file, (4 << 20)..(4 << 20) + 10).is_none());
        assert!(
            hot.hot_bytes(&file, 0..1 << 20).is_none(),
            "nor is what is still there: whoever reads on may bring back the rest"
        );
        assert!(!HotBytes::are_resident([&front, &back]), "a lease is no promise");
        assert!(HotBytes::are_resident([&front]));

        // Whoever reads it brings it back, from a device that nobody has verified.
        std::fs::read(file.path()).unwrap();
        assert!(HotBytes::are_resident([&front, &back]));
        assert!(hot.hot_bytes(&file, 0..BYTES).is_none());
        assert!(hot.hot_bytes(&file, 4 << 20..5 << 20).is_none());
        // What is written from now on is hot again.
        hot.note_written(&file, 4096..8192);
        assert_eq!(hot.hot_bytes(&file, 4096..8192).unwrap().len(), 4096);
        assert!(hot.hot_bytes(&file, 0..8192).is_none());
    }

    #[test]
    fn a_hole_that_reads_as_zeros_is_never_hot() {
        let (_dir, file) = file_on_disk(1 << 20);
        let mut hot = HotMaps::new(u64::MAX);
        hot.note_written(&file, 0..1 << 20);
        assert_eq!(hot.hot_bytes(&file, 0..1 << 20).unwrap()[600 << 10], 7);
        let writer = std::fs::File::options().write(true).open(file.path()).unwrap();
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&writer, punch, 512 << 10, 128 << 10).unwrap();
        assert!(hot.hot_bytes(&file, 0..1 << 20).is_none(), "its pages are gone");
        // A cold read brings zeros into the page cache, and finds out; so must the next.
        assert_eq!(std::fs::read(file.path()).unwrap()[600 << 10], 0);
        assert!(hot.hot_bytes(&file, 0..1 << 20).is_none());
        assert!(hot.hot_bytes(&file, 600 << 10..601 << 10).is_none());
    }

    #[test]
    fn a_file_that_was_truncated_is_not_touched() {
        let (_dir, file) = file_on_disk(1 << 20);
        let mut hot = HotMaps::new(u64::MAX);
        hot.note_written(&file, 0..1 << 20);
        assert!(hot.hot_bytes(&file, 0..1 << 20).is_some(), "mapped");
        let writer = std::fs::File::options().write(true).open(file.path()).unwrap();
        writer.set_len(512 << 10).unwrap();
        assert!(hot.hot_bytes(&file, 768 << 10..1 << 20).is_none());
    }

    #[test]
    fn pieces_that_follow_each_other_are_asked_about_together_but_none_is_left_out() {
        let (_dir, file) = file_on_disk(8 << 20);
        let mut hot = HotMaps::new(u64::MAX);
        hot.note_written(&file, 0..8 << 20);
        let lease = hot.hot_bytes(&file, 0..8 << 20).expect("just written");
        // As batches behind 64-byte headers: up to the last page of the file.
        let batches: Vec<HotBytes> = (0..8 << 20)
            .step_by(64 << 10)
            .map(|at| lease.slice(at + 64..at + (64 << 10)))
            .collect();
        assert!(HotBytes::are_resident(&batches));
        // Whole folios: the kernel takes no part of one away.
        drop_pages(&file, 4 << 20, 4 << 20);
        assert!(HotBytes::are_resident(&batches[..64]));
        assert!(!HotBytes::are_resident(&batches[..65]), "one page that is gone");
        let last = batches[..3].iter().chain(&batches[127..]);
        assert!(!HotBytes::are_resident(last), "behind a gap");
        assert!(
            !HotBytes::are_resident(batches[..65].iter().rev()),
            "in any order"
        );
        assert!(HotBytes::are_resident(std::iter::empty::<HotBytes>()));
    }

    #[test]
    fn the_lowest_range_is_forgotten_first() {
        let mut ranges = WrittenRanges::default();
        for n in 0..=RANGES_MAX as u64 {
            ranges.add(n * 10..n * 10 + 1);
        }
        assert_eq!(ranges.0.len(), RANGES_MAX);
        assert!(!ranges.contains(&(0..1)));
        assert!(ranges.contains(&(80..81)));
    }

    fn written_file(dir: &std::path::Path, id: u64) -> FileHandle {
        let path = dir.join(id.to_string());
        std::fs::write(&path, b"0123456789").expect("written");
        let file = std::fs::File::open(&path).expect("opened");
        FileHandle::from_fd(id, path, file.into())
    }

    #[test]
    fn maps_are_bounded_and_leases_outlive_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut hot = HotMaps::new(u64::MAX);
        let files: Vec<FileHandle> = (0..MAPS_MAX as u64 + 10)
            .map(|n| written_file(dir.path(), n))
            .collect();
        let mut leases = Vec::new();
        for file in &files {
            hot.note_written(file, 0..10);
            leases.push(hot.hot_bytes(file, 2..5).expect("hot"));
            assert!(hot.maps() <= MAPS_MAX);
        }
        assert!(hot.maps() > MAPS_MAX / 2, "only the oldest went");
        assert_eq!(hot.maps() as u64 + hot.maps_evicted(), files.len() as u64);
        assert!(leases.iter().all(|lease| **lease == *b"234"));
        assert!(hot.hot_bytes(&files[0], 0..10).is_some(), "mapped again");
        drop(files);
        hot.drop_closed();
        assert_eq!(hot.maps(), 0);
        assert_eq!(*leases[0], *b"234");
    }

    #[test]
    fn of_more_files_than_are_remembered_the_least_recently_used_are_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0");
        std::fs::write(&path, b"0123456789").expect("written");
        let mut hot = HotMaps::new(u64::MAX);
        let handle = |id| FileHandle::simulated(id, path.clone());
        let files: Vec<FileHandle> = (0..FILES_MAX as u64 + 1).map(handle).collect();
        let is_remembered = |hot: &HotMaps, file: &FileHandle| {
            hot.files
                .get(&key_of(file))
                .is_some_and(|f| f.written.contains(&(0..10)))
        };
        for file in &files {
            hot.note_written(file, 0..10);
            // Used all the time.
            hot.note_written(&files[0], 0..10);
        }
        assert!(hot.files.len() <= FILES_MAX && hot.files.len() > FILES_MAX / 2);
        assert!(is_remembered(&hot, &files[0]) && is_remembered(&hot, &files[FILES_MAX]));
        assert!(!is_remembered(&hot, &files[1]));
    }

    #[test]
    fn a_range_beyond_the_file_is_never_mapped() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut hot = HotMaps::new(u64::MAX);
        let file = written_file(dir.path(), 1);
        hot.note_written(&file, 0..11);
        assert!(hot.hot_bytes(&file, 0..11).is_none(), "longer than the file");
        assert!(hot.hot_bytes(&file, 0..10).is_some());
        hot.forget(&file);
        assert!(hot.hot_bytes(&file, 0..10).is_none());
        assert_eq!(hot.maps(), 0);
    }

    #[test]
    fn handles_with_equal_ids_are_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut hot = HotMaps::new(u64::MAX);
        let (one, two) = (written_file(dir.path(), 1), written_file(dir.path(), 1));
        hot.note_written(&one, 0..10);
        assert!(hot.hot_bytes(&one.clone(), 0..10).is_some());
        assert!(hot.hot_bytes(&two, 0..10).is_none());
    }
}
