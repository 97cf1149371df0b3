//! What the end of a process keeps and forgets.

use std::io::ErrorKind;

use bytes::Bytes;
use tidelog_segment_log::disk::sim::{SimConfig, SimFaults};
use tidelog_segment_log::disk::{Disk, DiskOp, ReadSource};

use crate::{SECTOR, SEEDS, Sim, path};

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
