//! Reads and removals that the shard's thread does not wait for, on real files.

use super::*;

/// What the calling thread itself made the device read; a worker of the kernel is another thread.
fn own_read_bytes() -> u64 {
    let counters = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = counters
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    line.unwrap().parse().unwrap()
}

/// A file whose pages are on the device and not in the page cache.
struct ColdFile {
    _dir: tempfile::TempDir,
    file: std::fs::File,
    path: std::path::PathBuf,
    written: Vec<u8>,
}

impl ColdFile {
    fn new(len: usize) -> Self {
        // Not a temporary file system, which would keep its pages.
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let path = dir.path().join("cold");
        let written: Vec<u8> = (0..len).map(|at| (at / 4096 + at) as u8).collect();
        std::fs::write(&path, &written).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        file.sync_all().unwrap();
        let cold = Self {
            _dir: dir,
            file,
            path,
            written,
        };
        cold.drop_pages();
        cold
    }

    fn drop_pages(&self) {
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }

    fn handle(&self) -> FileHandle {
        FileHandle::from_fd(1, self.path.clone(), self.file.try_clone().unwrap().into())
    }

    fn is_cold(&self, range: Range<u64>) -> bool {
        open_for_cold_read(&self.handle(), range).is_some()
    }

    fn read(&self, position: u64, len: usize) -> AlignedBytes {
        let ring = Rc::new(RefCell::new(RawRing::new().unwrap()));
        let mut disk = RingDisk::new(Rc::clone(&ring), 0, Descriptors::unbounded());
        let op = DiskOp::Read {
            file: self.handle(),
            position,
            len,
            source: ReadSource::Cached,
        };
        disk.submit(Token(7), op);
        let (mut reaped, mut done) = (Vec::new(), Vec::new());
        while done.is_empty() {
            ring.borrow_mut()
                .sleep_and_reap(Duration::from_secs(1), &mut reaped)
                .unwrap();
            reaped.drain(..).for_each(|one| disk.on_reaped(one));
            disk.take_completions(&mut done);
        }
        assert_eq!(disk.in_flight(), 0);
        let completion = done.pop().unwrap();
        assert_eq!(completion.token, Token(7));
        match completion.result {
            Ok(DiskOutput::Read(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_name_is_removed_by_the_kernels_worker() {
    let cold = ColdFile::new(1 << 20);
    let ring = Rc::new(RefCell::new(RawRing::new().unwrap()));
    let mut disk = RingDisk::new(Rc::clone(&ring), 0, Descriptors::unbounded());
    for is_there in [true, false] {
        let path = cold.path.clone();
        disk.submit(Token(1), DiskOp::Unlink { path });
        assert_eq!(disk.in_flight(), 1, "this thread does not do it");
        let (mut reaped, mut done) = (Vec::new(), Vec::new());
        while done.is_empty() {
            ring.borrow_mut()
                .sleep_and_reap(Duration::from_secs(1), &mut reaped)
                .unwrap();
            reaped.drain(..).for_each(|one| disk.on_reaped(one));
            disk.take_completions(&mut done);
        }
        match done.pop().unwrap().result {
            Ok(DiskOutput::Done) => assert!(is_there),
            Err(error) => assert!(!is_there && error.kind() == io::ErrorKind::NotFound),
            other => panic!("{other:?}"),
        }
        assert!(!cold.path.exists());
    }
}

#[test]
fn a_small_cold_read_waits_for_the_device_on_another_thread() {
    let cold = ColdFile::new(1 << 20);
    let before = own_read_bytes();
    std::fs::read(&cold.path).unwrap();
    assert!(
        own_read_bytes() - before >= 1 << 20,
        "the counter sees a read on this thread"
    );
    cold.drop_pages();
    let before = own_read_bytes();
    let bytes = cold.read(8, DIRECT_READ_MIN_BYTES - 8);
    assert!(*bytes == cold.written[8..DIRECT_READ_MIN_BYTES]);
    assert_eq!(own_read_bytes(), before, "this thread read nothing itself");
}

#[test]
fn a_large_cold_read_goes_past_the_page_cache_and_a_warm_one_uses_it() {
    let cold = ColdFile::new((2 << 20) + 100);
    let len = cold.written.len();
    for (position, read_len) in [(8, len - 8), (4096, 1 << 20), (70_000, 300_000)] {
        let range = position..position + read_len as u64;
        assert!(cold.is_cold(range.clone()));
        let bytes = cold.read(position, read_len);
        let at = position as usize;
        assert!(*bytes == cold.written[at..at + read_len], "from {position}");
        assert_eq!(bytes.as_ptr() as usize % 8, at % 8, "aligned as in the file");
        assert!(cold.is_cold(range), "its pages did not come into the cache");
    }
    std::fs::read(&cold.path).unwrap();
    assert!(!cold.is_cold(0..len as u64) && !cold.is_cold(70_000..370_000));
    assert!(*cold.read(8, len - 8) == cold.written[8..]);
}

#[test]
fn a_direct_read_that_falls_short_is_read_through_the_cache() {
    let cold = ColdFile::new(1 << 20);
    let handle = cold.handle();
    let direct = open_for_cold_read(&handle, 0..1 << 20).unwrap();
    let ring = Rc::new(RefCell::new(RawRing::new().unwrap()));
    let mut disk = RingDisk::new(Rc::clone(&ring), 0, Descriptors::unbounded());
    // More than the file has.
    let held = disk.hold(Token(1), handle).unwrap();
    let (entry, operation) = direct_read(held, 8192, 2 << 20, direct);
    disk.start(Token(1), operation, |_| entry);
    let (mut reaped, mut done) = (Vec::new(), Vec::new());
    while done.is_empty() {
        ring.borrow_mut()
            .sleep_and_reap(Duration::from_secs(1), &mut reaped)
            .unwrap();
        reaped.drain(..).for_each(|one| disk.on_reaped(one));
        disk.take_completions(&mut done);
    }
    match done.pop().unwrap().result {
        Ok(DiskOutput::Read(bytes)) => assert!(*bytes == cold.written[8192..]),
        other => panic!("{other:?}"),
    }
    assert_eq!(disk.in_flight(), 0);
}
