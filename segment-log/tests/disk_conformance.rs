//! One conformance test that every implementation of `Disk` passes.

use std::io::{ErrorKind, IoSlice};
use std::path::Path;

use bytes::Bytes;
use tidelog_segment_log::disk::heap::{HEAP_ROOT, HeapDisk, HeapPool};
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk};
use tidelog_segment_log::disk::{
    AlignedBytes, Completion, Disk, DiskOp, DiskOutput, FileHandle, ReadSource, StdDisk, Token, WriteNow,
};

/// A disk under test, and how its outstanding operations are brought to their end.
struct Bench<D> {
    disk: D,
    advance: fn(&mut D) -> bool,
    next: u64,
}

impl<D: Disk> Bench<D> {
    fn run(&mut self, op: DiskOp) -> std::io::Result<DiskOutput> {
        let token = Token(self.next);
        self.next += 1;
        self.disk.submit(token, op);
        while (self.advance)(&mut self.disk) {}
        let mut out: Vec<Completion> = Vec::new();
        self.disk.take_completions(&mut out);
        assert_eq!(out.len(), 1, "each token completes exactly once");
        let completion = out.pop().expect("one completion");
        assert_eq!(completion.token, token);
        completion.result
    }

    fn done(&mut self, op: DiskOp) {
        let output = self.run(op).expect("the operation succeeds");
        assert!(matches!(output, DiskOutput::Done), "{output:?}");
    }

    fn refused(&mut self, op: DiskOp) -> ErrorKind {
        self.run(op).expect_err("the operation is refused").kind()
    }

    fn file(&mut self, op: DiskOp) -> FileHandle {
        match self.run(op).expect("the file opens") {
            DiskOutput::File(file) => file,
            other => panic!("expected a file, got {other:?}"),
        }
    }

    fn create(&mut self, path: &Path) -> FileHandle {
        let path = path.to_owned();
        self.file(DiskOp::Create { path })
    }

    fn open(&mut self, path: &Path) -> FileHandle {
        let path = path.to_owned();
        self.file(DiskOp::Open { path })
    }

    fn links(&mut self, file: &FileHandle) -> u64 {
        match self.run(DiskOp::LinkCount { file: file.clone() }) {
            Ok(DiskOutput::Links(links)) => links,
            other => panic!("expected a count of names, got {other:?}"),
        }
    }

    fn names(&mut self, path: &Path) -> Vec<String> {
        let path = path.to_owned();
        match self.run(DiskOp::List { path }).expect("the names") {
            DiskOutput::Names(names) => names,
            other => panic!("expected names, got {other:?}"),
        }
    }

    fn len(&mut self, file: &FileHandle) -> u64 {
        let file = file.clone();
        match self.run(DiskOp::Len { file }).expect("the length") {
            DiskOutput::Len(len) => len,
            other => panic!("expected a length, got {other:?}"),
        }
    }

    fn write(&mut self, file: &FileHandle, position: u64, data: Vec<u8>) {
        let len = data.len();
        let output = self.run(DiskOp::Write {
            file: file.clone(),
            position,
            data: Bytes::from(data),
        });
        match output.expect("the write succeeds") {
            DiskOutput::Written(written) => assert_eq!(written, len),
            other => panic!("expected a length, got {other:?}"),
        }
    }

    fn read(&mut self, file: &FileHandle, at: u64, len: usize, source: ReadSource) -> AlignedBytes {
        let output = self.run(DiskOp::Read {
            file: file.clone(),
            position: at,
            len,
            source,
        });
        match output.expect("the read succeeds") {
            DiskOutput::Read(bytes) => bytes,
            other => panic!("expected bytes, got {other:?}"),
        }
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}

fn names_behave<D: Disk>(bench: &mut Bench<D>, root: &Path) {
    let dir = root.join("a/b");
    bench.done(DiskOp::CreateDir { path: dir.clone() });
    bench.done(DiskOp::CreateDir { path: dir.clone() });
    let (one, two, three) = (dir.join("one"), dir.join("two"), dir.join("three"));
    let missing = DiskOp::Open { path: one.clone() };
    assert_eq!(bench.refused(missing), ErrorKind::NotFound);
    let first = bench.create(&one);
    let again = DiskOp::Create { path: one.clone() };
    assert_eq!(bench.refused(again), ErrorKind::AlreadyExists);
    let second = bench.create(&two);
    assert_ne!(first.id(), second.id());
    assert_eq!(first.path(), one);
    bench.write(&first, 0, pattern(10, 1));

    bench.done(DiskOp::Link {
        from: one.clone(),
        to: three.clone(),
    });
    assert_eq!(bench.names(&dir), ["one", "three", "two"]);
    assert_eq!((bench.links(&first), bench.links(&second)), (2, 1));
    bench.done(DiskOp::Rename {
        from: one.clone(),
        to: two.clone(),
    });
    assert_eq!(bench.names(&dir), ["three", "two"]);
    let renamed = bench.open(&two);
    let bytes = bench.read(&renamed, 0, 100, ReadSource::Cached);
    assert_eq!(*bytes, *pattern(10, 1));
    assert_eq!(bench.len(&second), 0, "a replaced file lives on in its handle");
    assert_eq!((bench.links(&renamed), bench.links(&second)), (2, 0));
    bench.done(DiskOp::SyncDir { path: dir.clone() });

    let not_empty = DiskOp::RemoveDir { path: dir.clone() };
    assert_eq!(bench.refused(not_empty), ErrorKind::DirectoryNotEmpty);
    bench.done(DiskOp::Unlink { path: two.clone() });
    bench.done(DiskOp::Unlink { path: three });
    assert_eq!(bench.refused(DiskOp::Unlink { path: two }), ErrorKind::NotFound);
    bench.done(DiskOp::RemoveDir { path: dir.clone() });
    assert_eq!(bench.refused(DiskOp::List { path: dir }), ErrorKind::NotFound);
    let bytes = bench.read(&renamed, 0, 100, ReadSource::Cached);
    assert_eq!(*bytes, *pattern(10, 1), "an unlinked file lives on too");
}

fn content_behaves<D: Disk>(bench: &mut Bench<D>, root: &Path) {
    let file = bench.create(&root.join("content"));
    let data = pattern(20_000, 3);
    let pieces: Vec<IoSlice<'_>> = data.chunks(7).map(IoSlice::new).collect();
    assert!(pieces.len() > 2_048, "more pieces than one call takes");
    let written = bench.disk.write_now(&file, 100, &pieces);
    assert!(matches!(written, Ok(WriteNow::Done)));
    assert_eq!(bench.len(&file), 20_100);
    let empty = bench.disk.write_now(&file, 5, &[]);
    assert!(matches!(empty, Ok(WriteNow::Done)));

    let bytes = bench.read(&file, 0, 1 << 30, ReadSource::Cached);
    assert_eq!(bytes.len(), 20_100, "short at the end of the file");
    assert!(bytes[..100].iter().all(|byte| *byte == 0), "a hole is zeros");
    assert_eq!(bytes[100..], data);
    assert_eq!(bytes.as_ptr().addr() % 16, 0);
    assert_eq!(bench.read(&file, 90_000, 10, ReadSource::Cached).len(), 0);

    bench.done(DiskOp::Sync { file: file.clone() });
    bench.done(DiskOp::DropCache { file: file.clone() });
    for (at, len) in [(0, 20_100), (0, 1 << 30), (101, 511), (4_095, 2), (20_099, 9)] {
        let device = bench.read(&file, at, len, ReadSource::Device);
        let cached = bench.read(&file, at, len, ReadSource::Cached);
        assert_eq!(*device, *cached, "at {at}");
        assert_eq!(device.len(), len.min(20_100 - at as usize));
    }

    bench.done(DiskOp::ZeroRange {
        file: file.clone(),
        range: 600..1_700,
    });
    let bytes = bench.read(&file, 0, 2_000, ReadSource::Cached);
    assert_eq!(bytes[100..600], data[..500]);
    assert!(bytes[600..1_700].iter().all(|byte| *byte == 0));
    assert_eq!(bytes[1_700..], data[1_600..1_900]);

    bench.done(DiskOp::Fallocate {
        file: file.clone(),
        range: 20_000..50_000,
    });
    assert_eq!(bench.len(&file), 50_000);
    let bytes = bench.read(&file, 20_000, 1_000, ReadSource::Cached);
    assert_eq!(bytes[..100], data[19_900..]);
    assert!(bytes[100..].iter().all(|byte| *byte == 0));
    bench.done(DiskOp::Writeback {
        file: file.clone(),
        range: 0..50_000,
    });
    bench.done(DiskOp::Sync { file: file.clone() });
    let empty = DiskOp::Write {
        file,
        position: 0,
        data: Bytes::new(),
    };
    assert_eq!(bench.refused(empty), ErrorKind::InvalidInput);
    let space = bench.run(DiskOp::FreeSpace {
        path: root.to_owned(),
    });
    assert!(matches!(space, Ok(DiskOutput::FreeSpace(bytes)) if bytes > 0));
}

fn hot_bytes_behave<D: Disk>(bench: &mut Bench<D>, root: &Path) {
    let path = root.join("hot");
    let file = bench.create(&path);
    bench.done(DiskOp::Fallocate {
        file: file.clone(),
        range: 0..16_384,
    });
    assert!(bench.disk.hot_bytes(&file, 0..10).is_none(), "not written");
    let data = pattern(6_000, 9);
    bench.write(&file, 0, data[..5_000].to_vec());
    let written = bench
        .disk
        .write_now(&file, 5_000, &[IoSlice::new(&data[5_000..])]);
    assert!(matches!(written, Ok(WriteNow::Done)));

    let hot = bench.disk.hot_bytes(&file, 10..5_900).expect("hot");
    assert_eq!(*hot, data[10..5_900]);
    assert_eq!(*hot.slice(5..4_999), data[15..5_009]);
    assert!(bench.disk.hot_bytes(&file, 5_000..6_001).is_none());
    let other = bench.open(&path);
    assert!(
        bench.disk.hot_bytes(&other, 0..10).is_none(),
        "another handle wrote it"
    );

    // The file grows past the first map; the lease stays what it was.
    bench.write(&file, 6_000, pattern(40_000, 1));
    let grown = bench.disk.hot_bytes(&file, 5_000..46_000).expect("hot");
    assert_eq!(grown[..1_000], data[5_000..]);
    assert_eq!(grown[1_000..], pattern(40_000, 1));
    assert_eq!(*hot, data[10..5_900]);
    drop(grown);

    bench.done(DiskOp::ZeroRange {
        file: file.clone(),
        range: 45_000..46_000,
    });
    assert!(bench.disk.hot_bytes(&file, 44_000..45_001).is_none());
    assert!(bench.disk.hot_bytes(&file, 44_000..45_000).is_some());
    bench.done(DiskOp::Unlink { path });
    drop((file, other));
    assert_eq!(*hot, data[10..5_900], "a lease outlives name and handle");
}

fn locks_behave<D: Disk>(bench: &mut Bench<D>, root: &Path) {
    let lock = bench.disk.lock_directory(root).expect("the lock is free");
    let second = bench.disk.lock_directory(root).expect_err("it is held");
    assert_eq!(second.kind(), ErrorKind::WouldBlock);
    assert!(bench.names(root).contains(&"LOCK".to_owned()));
    drop(lock);
    bench.disk.lock_directory(root).expect("it is free again");
    let missing = bench.disk.lock_directory(&root.join("nowhere"));
    assert_eq!(missing.expect_err("no directory").kind(), ErrorKind::NotFound);
}

fn conforms<D: Disk>(disk: D, advance: fn(&mut D) -> bool, root: &Path) {
    let mut bench = Bench {
        disk,
        advance,
        next: 0,
    };
    names_behave(&mut bench, root);
    content_behaves(&mut bench, root);
    hot_bytes_behave(&mut bench, root);
    locks_behave(&mut bench, root);
}

/// Of memory, but for what it does not have: a lock, and a hot range in one piece.
#[test]
fn heap_disk_conforms() {
    let pool = HeapPool::of_shards(64 << 20, 1).remove(0);
    let mut bench = Bench {
        disk: HeapDisk::new(pool),
        advance: |_| false,
        next: 0,
    };
    let root = Path::new(HEAP_ROOT).join("d");
    bench.done(DiskOp::CreateDir { path: root.clone() });
    names_behave(&mut bench, &root);
    content_behaves(&mut bench, &root);
}

#[test]
fn std_disk_conforms() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    conforms(StdDisk::new(), |_| false, root.path());
}

#[test]
fn std_disk_conforms_on_a_filesystem_in_memory() {
    // Often a tmpfs, which cannot zero a range by itself.
    let shm = Path::new("/dev/shm");
    let root = match tempfile::tempdir_in(shm) {
        Ok(root) => root,
        Err(_) => tempfile::tempdir().expect("a directory"),
    };
    conforms(StdDisk::new(), |_| false, root.path());
}

#[test]
fn sim_disk_conforms() {
    for seed in 0..50 {
        let disk = SimDisk::new(SimConfig {
            seed,
            ..SimConfig::default()
        });
        conforms(disk, SimDisk::advance, Path::new("/sim"));
    }
}
