//! The simulator is itself tested: each thing it promises to keep or to lose is shown here.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimDisk, SimFaults, SimRng};
use tidelog_segment_log::disk::{
    Completion, Disk, DiskOp, DiskOutput, FileHandle, ReadSource, Token, WriteNow,
};

const SECTOR: usize = 512;
const SEEDS: u64 = 200;

struct Sim {
    disk: SimDisk,
    next: u64,
}

impl Sim {
    fn new(config: SimConfig) -> Self {
        let disk = SimDisk::new(config);
        Self { disk, next: 0 }
    }

    /// A disk without faults and without write-back of its own accord.
    fn quiet(seed: u64) -> Self {
        Self::new(SimConfig {
            seed,
            writeback_ppm: 0,
            ..SimConfig::default()
        })
    }

    fn submit(&mut self, op: DiskOp) -> Token {
        self.next += 1;
        self.disk.submit(Token(self.next), op);
        Token(self.next)
    }

    fn finish(&mut self) -> Vec<Completion> {
        while self.disk.advance() {}
        let mut out = Vec::new();
        self.disk.take_completions(&mut out);
        assert!(self.disk.idle());
        out
    }

    fn run(&mut self, op: DiskOp) -> io::Result<DiskOutput> {
        let token = self.submit(op);
        let out = self.finish();
        let mine = out.into_iter().find(|completion| completion.token == token);
        mine.expect("each token completes").result
    }

    fn done(&mut self, op: DiskOp) {
        let output = self.run(op).expect("the operation succeeds");
        assert!(matches!(output, DiskOutput::Done), "{output:?}");
    }

    fn open_with(&mut self, op: DiskOp) -> FileHandle {
        match self.run(op).expect("the file opens") {
            DiskOutput::File(file) => file,
            other => panic!("expected a file, got {other:?}"),
        }
    }

    fn create(&mut self, name: &str) -> FileHandle {
        self.open_with(DiskOp::Create { path: path(name) })
    }

    /// Created, with a durable name.
    fn create_durably(&mut self, name: &str) -> FileHandle {
        let file = self.create(name);
        self.sync_dir();
        file
    }

    fn open(&mut self, name: &str) -> FileHandle {
        self.open_with(DiskOp::Open { path: path(name) })
    }

    fn write(&mut self, file: &FileHandle, at: u64, data: &[u8]) {
        let written = self.disk.write_now(file, at, &[IoSlice::new(data)]);
        assert!(matches!(written, Ok(WriteNow::Done)), "{written:?}");
    }

    fn sync(&mut self, file: &FileHandle) -> io::Result<DiskOutput> {
        self.run(DiskOp::Sync { file: file.clone() })
    }

    fn sync_dir(&mut self) {
        self.done(DiskOp::SyncDir { path: path("") });
    }

    fn read(&mut self, file: &FileHandle, len: usize, source: ReadSource) -> Vec<u8> {
        let output = self.run(DiskOp::Read {
            file: file.clone(),
            position: 0,
            len,
            source,
        });
        match output.expect("the read succeeds") {
            DiskOutput::Read(bytes) => bytes.to_vec(),
            other => panic!("expected bytes, got {other:?}"),
        }
    }

    fn content(&self, name: &str) -> Vec<u8> {
        self.disk
            .snapshot(&path(name), ReadSource::Cached)
            .expect("the file is there")
    }

    fn names(&mut self) -> Vec<String> {
        match self.run(DiskOp::List { path: path("") }).expect("names") {
            DiskOutput::Names(names) => names,
            other => panic!("expected names, got {other:?}"),
        }
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/sim").join(name)
}

/// Each sector of a file that holds only one byte value per sector.
fn sector_values(content: &[u8]) -> Vec<u8> {
    content
        .chunks(SECTOR)
        .map(|sector| {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a mixed sector");
            sector[0]
        })
        .collect()
}

#[test]
fn a_cut_leaves_each_sector_at_its_last_synced_or_any_later_version() {
    let mut combinations = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut sim = Sim::quiet(seed);
        let file = sim.create_durably("f");
        for version in 1..=2u8 {
            sim.write(&file, 0, &[version; 2 * SECTOR]);
        }
        sim.sync(&file).expect("synced");
        for version in 3..=4u8 {
            sim.write(&file, 0, &[version; 2 * SECTOR]);
        }
        sim.disk.power_cut();
        combinations.insert(sector_values(&sim.content("f")));
    }
    let all: BTreeSet<Vec<u8>> = (2..=4).flat_map(|a| (2..=4).map(move |b| vec![a, b])).collect();
    assert_eq!(combinations, all, "all nine combinations and nothing else");
}

#[test]
fn synced_bytes_lengths_and_names_survive_every_cut() {
    for seed in 0..SEEDS {
        let mut sim = Sim::new(SimConfig {
            seed,
            ..SimConfig::default()
        });
        let file = sim.create_durably("f");
        let data: Vec<u8> = (0..10_000u32).map(|n| (n * 7) as u8).collect();
        sim.write(&file, 0, &data);
        sim.sync(&file).expect("synced");
        sim.disk.power_cut();
        assert_eq!(sim.content("f"), data);
        sim.disk.process_kill();
        sim.disk.power_cut();
        assert_eq!(sim.content("f"), data);
        assert_eq!(sim.disk.events().stale_sectors, 0);
    }
}

#[test]
fn a_cut_tears_pages_and_loses_lengths() {
    let (mut torn, mut shorter, mut whole) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut sim = Sim::quiet(seed);
        let file = sim.create_durably("f");
        sim.write(&file, 0, &[1; 4_096]);
        sim.sync(&file).expect("synced");
        sim.write(&file, 0, &[2; 8_192]);
        sim.disk.power_cut();
        torn += sim.disk.events().torn_pages;
        shorter += u64::from(sim.content("f").len() == 4_096);
        whole += u64::from(sim.content("f").len() == 8_192);
    }
    assert!(torn > SEEDS / 2, "{torn}");
    assert!(shorter > SEEDS / 4 && whole > SEEDS / 4);
    assert_eq!(shorter + whole, SEEDS);
}

#[test]
fn a_sync_covers_only_writes_completed_before_its_submission() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..SEEDS {
        let mut sim = Sim::quiet(seed);
        let file = sim.create_durably("f");
        sim.write(&file, 0, &[1; SECTOR]);
        // In flight while the sync is submitted; whichever of the two ends first.
        sim.submit(DiskOp::Write {
            file: file.clone(),
            position: 0,
            data: Bytes::from_static(&[2; SECTOR]),
        });
        sim.submit(DiskOp::Sync { file: file.clone() });
        assert!(sim.finish().iter().all(|end| end.result.is_ok()));
        sim.disk.power_cut();
        match sector_values(&sim.content("f"))[..] {
            [1] => old += 1,
            [2] => new += 1,
            ref other => panic!("what was completed before is durable: {other:?}"),
        }
    }
    assert!(old > SEEDS / 4 && new > SEEDS / 4, "{old} {new}");
}

#[test]
fn a_sync_that_does_nothing_loses_data() {
    let lost = |fdatasync_is_noop| {
        (0..SEEDS)
            .filter(|&seed| {
                let mut sim = Sim::new(SimConfig {
                    seed,
                    fdatasync_is_noop,
                    ..SimConfig::default()
                });
                let file = sim.create_durably("f");
                sim.write(&file, 0, &[7; 3 * SECTOR]);
                sim.sync(&file).expect("it says success");
                sim.disk.power_cut();
                sim.content("f") != [7; 3 * SECTOR]
            })
            .count()
    };
    assert_eq!(lost(false), 0);
    assert!(lost(true) > SEEDS as usize / 2);
}

#[test]
fn a_failed_sync_marks_pages_clean_and_the_next_one_succeeds() {
    for seed in 0..SEEDS {
        let mut sim = Sim::quiet(seed);
        let file = sim.create_durably("f");
        let data = [9; 4 * 4_096];
        sim.done(DiskOp::Fallocate {
            file: file.clone(),
            range: 0..data.len() as u64,
        });
        sim.sync(&file).expect("synced");
        sim.write(&file, 0, &data);
        sim.disk.script(ScriptedFault {
            kind: OpKind::Sync,
            nth: 1,
            fault: Fault::Eio,
        });
        sim.sync(&file).expect_err("the scripted failure");
        assert!(sim.disk.hot_bytes(&file, 0..10).is_none());
        sim.sync(&file).expect("the next sync says success");
        let cached = sim.read(&file, data.len(), ReadSource::Cached);
        assert_eq!(cached, data, "the cache pretends that all is well");
        let device = sim.read(&file, data.len(), ReadSource::Device);
        assert_ne!(device, data, "the device knows better");
        assert!(sim.disk.events().lost_pages >= 1);
        if seed % 2 == 0 {
            sim.done(DiskOp::DropCache { file: file.clone() });
            let cached = sim.read(&file, data.len(), ReadSource::Cached);
            assert_eq!(cached, device, "without the cache it shows");
        } else {
            sim.disk.process_kill();
            assert_eq!(sim.content("f"), data, "the cache survives a kill");
        }
        sim.disk.power_cut();
        assert_eq!(sim.content("f"), device, "and a cut loses it for certain");
    }
}

#[test]
fn a_lost_page_that_is_written_again_gets_another_chance() {
    let mut sim = Sim::quiet(1);
    let file = sim.create_durably("f");
    sim.write(&file, 0, &[1; SECTOR]);
    sim.disk.script(ScriptedFault {
        kind: OpKind::Sync,
        nth: 1,
        fault: Fault::Eio,
    });
    sim.sync(&file).expect_err("the scripted failure");
    sim.write(&file, SECTOR as u64, &[2; SECTOR]);
    sim.sync(&file).expect("synced");
    sim.disk.power_cut();
    assert_eq!(sector_values(&sim.content("f")), [1, 2]);
}

#[test]
fn device_reads_do_not_see_the_cache() {
    let mut sim = Sim::quiet(3);
    let file = sim.create("f");
    sim.write(&file, 0, &[5; SECTOR]);
    assert_eq!(sim.read(&file, SECTOR, ReadSource::Cached), [5; SECTOR]);
    assert_eq!(sim.read(&file, SECTOR, ReadSource::Device), [0; SECTOR]);
    sim.done(DiskOp::DropCache { file: file.clone() });
    let cached = sim.read(&file, SECTOR, ReadSource::Cached);
    assert_eq!(cached, [5; SECTOR], "dirty pages are not dropped");
    sim.done(DiskOp::Writeback {
        file: file.clone(),
        range: 0..1,
    });
    assert_eq!(sim.read(&file, SECTOR, ReadSource::Device), [5; SECTOR]);
    assert_eq!(sim.disk.events().device_reads, 2);
}

#[test]
fn names_are_durable_only_after_a_sync_of_their_directory() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut sim = Sim::quiet(seed);
        let kept = sim.create_durably("kept");
        sim.create_durably("old");
        let fresh = sim.create("fresh");
        sim.write(&fresh, 0, &[1]);
        sim.sync(&fresh).expect("a sync of a file does not help its name");
        sim.done(DiskOp::Rename {
            from: path("kept"),
            to: path("renamed"),
        });
        sim.done(DiskOp::Unlink { path: path("old") });
        sim.sync(&kept).expect("synced");
        sim.disk.power_cut();
        seen.insert(sim.names());
    }
    assert_eq!(seen.len(), 8, "three changes, each there or not: {seen:?}");
    for names in &seen {
        let has = |name: &str| names.iter().any(|own| own == name);
        assert!(has("kept") != has("renamed"), "a rename is one: {names:?}");
    }
}

#[test]
fn synced_names_survive_and_their_directory_needs_its_own_sync() {
    let (mut gone, mut there) = (0, 0);
    for seed in 0..SEEDS {
        let mut sim = Sim::quiet(seed);
        let dir = path("d");
        sim.done(DiskOp::CreateDir { path: dir.clone() });
        sim.create("d/f");
        sim.done(DiskOp::SyncDir { path: dir });
        sim.done(DiskOp::Rename {
            from: path("d/f"),
            to: path("d/g"),
        });
        if seed % 2 == 0 {
            sim.done(DiskOp::SyncDir { path: path("d") });
            sim.sync_dir();
            sim.disk.power_cut();
            let names = sim.run(DiskOp::List { path: path("d") });
            assert!(matches!(names, Ok(DiskOutput::Names(names)) if names == ["g"]));
            continue;
        }
        sim.disk.power_cut();
        match sim.run(DiskOp::List { path: path("d") }) {
            Ok(DiskOutput::Names(names)) => {
                assert!(names == ["f"] || names == ["g"], "{names:?}");
                there += 1;
            }
            Ok(other) => panic!("expected names, got {other:?}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound);
                gone += 1;
            }
        }
    }
    assert!(gone > 0 && there > 0, "{gone} {there}");
}

#[test]
fn a_synced_rename_between_directories_leaves_no_second_name() {
    for seed in 0..SEEDS {
        let mut sim = Sim::quiet(seed);
        for dir in ["one", "two"] {
            sim.done(DiskOp::CreateDir { path: path(dir) });
        }
        sim.sync_dir();
        sim.create("one/f");
        sim.done(DiskOp::Rename {
            from: path("one/f"),
            to: path("two/f"),
        });
        sim.done(DiskOp::SyncDir { path: path("two") });
        sim.disk.power_cut();
        let mut list = |dir| sim.run(DiskOp::List { path: path(dir) });
        assert!(matches!(list("one"), Ok(DiskOutput::Names(names)) if names.is_empty()));
        assert!(matches!(list("two"), Ok(DiskOutput::Names(names)) if names == ["f"]));
    }
}

#[test]
fn a_directory_sync_covers_only_changes_before_its_submission() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let mut sim = Sim::quiet(seed);
        sim.create("before");
        sim.submit(DiskOp::SyncDir { path: path("") });
        sim.submit(DiskOp::Create { path: path("beside") });
        assert_eq!(sim.finish().len(), 2);
        sim.disk.power_cut();
        let names = sim.names();
        assert!(names.contains(&"before".to_owned()));
        lost += u64::from(!names.contains(&"beside".to_owned()));
    }
    assert!(lost > SEEDS / 4, "{lost}");
}

#[test]
fn a_kill_keeps_the_cache_and_forgets_the_process() {
    let (mut happened, mut partly, mut dropped) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut sim = Sim::quiet(seed);
        let file = sim.create("f");
        sim.write(&file, 0, &[1; 2_000]);
        let lock = sim.disk.lock_directory(&path("")).expect("free");
        sim.submit(DiskOp::Write {
            file: file.clone(),
            position: 2_000,
            data: Bytes::from_static(&[2; 2_000]),
        });
        sim.disk.process_kill();
        assert!(sim.disk.idle(), "outstanding operations are forgotten");

        let error = sim.sync(&file).expect_err("an old handle");
        assert_eq!(error.raw_os_error(), Some(9), "EBADF");
        let content = sim.content("f");
        assert_eq!(content[..2_000], [1; 2_000]);
        assert!(content[2_000..].iter().all(|byte| *byte == 2));
        match content.len() {
            2_000 => dropped += 1,
            4_000 => happened += 1,
            _ => partly += 1,
        }

        let again = sim.disk.lock_directory(&path("")).expect("free again");
        drop(lock);
        let held = sim.disk.lock_directory(&path(""));
        assert_eq!(held.expect_err("held").kind(), ErrorKind::WouldBlock);
        drop(again);

        let file = sim.open("f");
        assert!(sim.disk.hot_bytes(&file, 0..10).is_none());
        sim.disk.power_cut();
        assert!(sim.disk.events().lost_names + sim.disk.events().unsynced_names_kept > 0);
    }
    assert!(happened > 0 && partly > 0 && dropped > 0);
}

#[test]
fn a_kill_forgets_a_failed_write_back() {
    for killed in [false, true] {
        let mut sim = Sim::new(SimConfig {
            seed: 5,
            writeback_ppm: 1_000_000,
            faults: SimFaults {
                writeback_error_ppm: 1_000_000,
                ..SimFaults::default()
            },
            ..SimConfig::default()
        });
        let mut file = sim.create_durably("f");
        sim.write(&file, 0, &[1; SECTOR]);
        assert!(!sim.disk.advance(), "nothing to complete, but write-back runs");
        assert_eq!(sim.disk.events().writeback_errors, 1);
        if killed {
            sim.disk.process_kill();
            file = sim.open("f");
        } else {
            sim.sync(&file).expect_err("reported");
        }
        sim.sync(&file).expect("reported at most once");
        assert_eq!(sim.read(&file, SECTOR, ReadSource::Cached), [1; SECTOR]);
        assert_eq!(sim.read(&file, SECTOR, ReadSource::Device), [0; SECTOR]);
    }
}

#[test]
fn any_operation_can_be_made_to_fail() {
    for kind in OpKind::ALL {
        let mut sim = Sim::quiet(1);
        let file = sim.create("f");
        let dir = path("d");
        sim.done(DiskOp::CreateDir { path: dir.clone() });
        sim.disk.script(ScriptedFault {
            kind,
            nth: 2,
            fault: Fault::Eio,
        });
        let (from, to) = (path("f"), path("g"));
        let range = 0..100;
        let once = |sim: &mut Sim, nth: u64| {
            let file = file.clone();
            let range = range.clone();
            let (from, to) = match nth % 2 {
                0 => (from.clone(), to.clone()),
                _ => (to.clone(), from.clone()),
            };
            let fresh = path(&format!("fresh{nth}"));
            let op = match kind {
                OpKind::Open => DiskOp::Open { path: from },
                OpKind::Create => DiskOp::Create { path: fresh },
                OpKind::CreateDir => DiskOp::CreateDir { path: dir.clone() },
                OpKind::List => DiskOp::List { path: dir.clone() },
                OpKind::Len => DiskOp::Len { file },
                OpKind::LinkCount => DiskOp::LinkCount { file },
                OpKind::Rename => DiskOp::Rename { from, to },
                OpKind::Link => DiskOp::Link {
                    from: path("f"),
                    to: fresh,
                },
                OpKind::Unlink | OpKind::RemoveDir => {
                    let is_dir = kind == OpKind::RemoveDir;
                    if is_dir {
                        sim.done(DiskOp::CreateDir { path: fresh.clone() });
                        DiskOp::RemoveDir { path: fresh }
                    } else {
                        sim.open_with(DiskOp::Create { path: fresh.clone() });
                        DiskOp::Unlink { path: fresh }
                    }
                }
                OpKind::SyncDir => DiskOp::SyncDir { path: dir.clone() },
                OpKind::Fallocate => DiskOp::Fallocate { file, range },
                OpKind::ZeroRange => DiskOp::ZeroRange { file, range },
                OpKind::DropCache => DiskOp::DropCache { file },
                OpKind::FreeSpace => DiskOp::FreeSpace { path: dir.clone() },
                OpKind::Write => DiskOp::Write {
                    file,
                    position: 0,
                    data: Bytes::from_static(&[1; 100]),
                },
                OpKind::WriteNow => {
                    let pieces = [IoSlice::new(&[1; 100])];
                    return sim.disk.write_now(&file, 0, &pieces).map(drop);
                }
                OpKind::Read => DiskOp::Read {
                    file,
                    position: 0,
                    len: 10,
                    source: ReadSource::Cached,
                },
                OpKind::Sync => DiskOp::Sync { file },
                OpKind::Writeback => DiskOp::Writeback { file, range },
            };
            sim.run(op).map(drop)
        };
        // Open and rename alternate between two names, of which only the first exists at first.
        if kind == OpKind::Open {
            sim.done(DiskOp::Link {
                from: path("f"),
                to: path("g"),
            });
        }
        once(&mut sim, 0).unwrap_or_else(|error| panic!("{kind:?} works first: {error}"));
        let error = once(&mut sim, 1).expect_err("the second fails");
        assert_eq!(error.raw_os_error(), Some(5), "EIO of {kind:?}");
        once(&mut sim, 3).unwrap_or_else(|error| panic!("{kind:?} works again: {error}"));
        assert_eq!(sim.disk.events().io_errors, 1);
    }
}

#[test]
fn chances_of_faults_hit_about_as_often_as_they_say() {
    let mut sim = Sim::new(SimConfig {
        seed: 11,
        faults: SimFaults {
            no_space_ppm: 100_000,
            short_write_ppm: 100_000,
            would_stall_ppm: 200_000,
            cold_ppm: 500_000,
            ..SimFaults::default()
        }
        .with_eio(OpKind::WriteNow, 100_000),
        ..SimConfig::default()
    });
    let file = loop {
        if let Ok(DiskOutput::File(file)) = sim.run(DiskOp::Create { path: path("f") }) {
            break file;
        }
    };
    let (mut io_errors, mut full, mut short, mut stalled, mut cold) = (0, 0, 0, 0, 0);
    let data = [3; 1_000];
    for _ in 0..1_000 {
        match sim.disk.write_now(&file, 0, &[IoSlice::new(&data)]) {
            Ok(WriteNow::Done) => {
                cold += u32::from(sim.disk.hot_bytes(&file, 0..1_000).is_none());
            }
            Ok(WriteNow::WouldStall) => stalled += 1,
            Err(error) => {
                match error.kind() {
                    ErrorKind::StorageFull => full += 1,
                    ErrorKind::WriteZero => short += 1,
                    _ => io_errors += 1,
                }
                if error.kind() != ErrorKind::StorageFull {
                    let hot = sim.disk.hot_bytes(&file, 0..1_000);
                    assert!(hot.is_none(), "unknown after {error}");
                }
            }
        }
    }
    for (what, count) in [("EIO", io_errors), ("ENOSPC", full), ("short", short)] {
        assert!((40..140).contains(&count), "{what}: {count}");
    }
    assert!((150..250).contains(&stalled), "{stalled}");
    assert!((200..400).contains(&cold), "{cold}");
    let shorts = (0..200).filter(|_| {
        let write = DiskOp::Write {
            file: file.clone(),
            position: 0,
            data: Bytes::from_static(&[1; 100]),
        };
        matches!(sim.run(write), Ok(DiskOutput::Written(len)) if len < 100)
    });
    assert!(shorts.count() > 5);
}

#[test]
fn a_full_device_refuses_growth_and_nothing_else() {
    let mut sim = Sim::new(SimConfig {
        capacity_bytes: Some(10_000),
        ..SimConfig::default()
    });
    let file = sim.create("f");
    sim.write(&file, 0, &[1; 6_000]);
    let full = sim.run(DiskOp::Fallocate {
        file: file.clone(),
        range: 0..10_001,
    });
    assert_eq!(full.expect_err("full").kind(), ErrorKind::StorageFull);
    let other = sim.create("g");
    let full = sim.disk.write_now(&other, 0, &[IoSlice::new(&[2; 4_001])]);
    assert_eq!(full.expect_err("full").kind(), ErrorKind::StorageFull);
    sim.write(&file, 1_000, &[3; 5_000]);
    sim.write(&other, 0, &[2; 4_000]);
    let space = sim.run(DiskOp::FreeSpace { path: path("") });
    assert!(matches!(space, Ok(DiskOutput::FreeSpace(0))));
    sim.done(DiskOp::Unlink { path: path("f") });
    let space = sim.run(DiskOp::FreeSpace { path: path("") });
    assert!(matches!(space, Ok(DiskOutput::FreeSpace(6_000))));
}

#[test]
fn bits_rot_only_on_request() {
    let mut sim = Sim::quiet(1);
    let file = sim.create_durably("f");
    sim.write(&file, 0, &[0; 1_000]);
    sim.sync(&file).expect("synced");
    sim.disk.flip_bit(&path("f"), 700, 3).expect("flipped");
    let mut expected = [0; 1_000];
    expected[700] = 8;
    assert_eq!(sim.read(&file, 1_000, ReadSource::Device), expected);
    assert_eq!(sim.read(&file, 1_000, ReadSource::Cached), expected);
    sim.disk.power_cut();
    assert_eq!(sim.content("f"), expected);
    let outside = sim.disk.flip_bit(&path("f"), 1_000, 0);
    assert_eq!(outside.expect_err("outside").kind(), ErrorKind::InvalidInput);
}

/// A busy run with everything in it, steered by a generator of its own.
fn busy_run(seed: u64) -> SimDisk {
    let mut faults = SimFaults {
        no_space_ppm: 10_000,
        short_write_ppm: 20_000,
        writeback_error_ppm: 20_000,
        would_stall_ppm: 20_000,
        cold_ppm: 20_000,
        ..SimFaults::default()
    };
    for kind in OpKind::ALL {
        faults = faults.with_eio(kind, 10_000);
    }
    let mut sim = Sim::new(SimConfig {
        seed,
        faults,
        keep_trace: true,
        ..SimConfig::default()
    });
    let mut steer = SimRng::new(42);
    let mut files: Vec<FileHandle> = Vec::new();
    let mut in_flight = BTreeSet::new();
    for step in 0..600u64 {
        let name = path(&format!("f{}", steer.below(6)));
        let file = files.get(steer.index(files.len())).cloned();
        let at = steer.below(20_000);
        let op = match (steer.below(9), file) {
            (0, _) | (_, None) => DiskOp::Create { path: name },
            (1, _) => DiskOp::Open { path: name },
            (2, Some(file)) => DiskOp::Sync { file },
            (3, _) => DiskOp::SyncDir { path: path("") },
            (4, _) if steer.below(4) == 0 => DiskOp::Unlink { path: name },
            (5, Some(file)) => DiskOp::ZeroRange {
                file,
                range: at..at + 3_000,
            },
            (6, Some(file)) => DiskOp::Read {
                file,
                position: at,
                len: 5_000,
                source: ReadSource::Device,
            },
            (_, Some(file)) => {
                let data = Bytes::from(vec![step as u8; 1 + steer.index(5_000)]);
                if steer.coin() {
                    // Errors are part of the run; the trace tells them.
                    drop(sim.disk.write_now(&file, at, &[IoSlice::new(&data)]));
                }
                DiskOp::Write {
                    file,
                    position: at,
                    data,
                }
            }
        };
        in_flight.insert(sim.submit(op));
        for _ in 0..steer.below(3) {
            sim.disk.advance();
        }
        let mut out = Vec::new();
        sim.disk.take_completions(&mut out);
        for completion in out {
            assert!(in_flight.remove(&completion.token), "exactly once");
            if let Ok(DiskOutput::File(file)) = completion.result {
                files.push(file);
            }
        }
        match steer.below(60) {
            0 => sim.disk.power_cut(),
            1 => sim.disk.process_kill(),
            _ => continue,
        }
        in_flight.clear();
        files.clear();
    }
    sim.disk
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut hashes = BTreeSet::new();
    for seed in 0..20 {
        let (one, two) = (busy_run(seed), busy_run(seed));
        assert_eq!(one.trace_lines(), two.trace_lines());
        assert_eq!(one.trace_hash(), two.trace_hash());
        assert_eq!(one.events(), two.events());
        assert!(one.trace_lines().len() > 600);
        hashes.insert(one.trace_hash());
    }
    assert_eq!(hashes.len(), 20);
}

#[test]
fn a_busy_run_meets_everything_that_can_happen() {
    let mut missing: BTreeSet<&str> = BTreeSet::new();
    let mut met: BTreeSet<&str> = BTreeSet::new();
    for seed in 0..20 {
        let disk = busy_run(seed);
        let e = disk.events();
        for (what, count) in [
            ("short writes", e.short_writes),
            ("stalls", e.would_stall),
            ("syncs", e.syncs),
            ("failed syncs", e.failed_syncs),
            ("lost pages", e.lost_pages),
            ("write-back errors", e.writeback_errors),
            ("EIO", e.io_errors),
            ("ENOSPC", e.no_space),
            ("power cuts", e.power_cuts),
            ("kills", e.process_kills),
            ("outstanding done", e.outstanding_done),
            ("outstanding dropped", e.outstanding_dropped),
            ("stale sectors", e.stale_sectors),
            ("unsynced sectors kept", e.unsynced_sectors_kept),
            ("torn pages", e.torn_pages),
            ("lost lengths", e.lost_lengths),
            ("lost names", e.lost_names),
            ("unsynced names kept", e.unsynced_names_kept),
            ("device reads", e.device_reads),
        ] {
            missing.insert(what);
            if count > 0 {
                met.insert(what);
            }
        }
    }
    assert_eq!(missing, met);
}
