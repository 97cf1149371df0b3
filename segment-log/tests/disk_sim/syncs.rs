//! What a sync makes durable, and what one that fails leaves.

use bytes::Bytes;
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig};
use tidelog_segment_log::disk::{Disk, DiskOp, ReadSource};

use crate::{SECTOR, SEEDS, Sim, sector_values};

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
