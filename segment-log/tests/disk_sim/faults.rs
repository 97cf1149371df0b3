//! Faults on request and by chance.

use std::io::{ErrorKind, IoSlice};

use bytes::Bytes;
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimFaults};
use tidelog_segment_log::disk::{Disk, DiskOp, DiskOutput, ReadSource, WriteNow};

use crate::{Sim, path};

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
