//! What a cut of power keeps and loses: sectors, lengths and names.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use tidelog_segment_log::disk::sim::SimConfig;
use tidelog_segment_log::disk::{DiskOp, DiskOutput};

use crate::{SECTOR, SEEDS, Sim, path, sector_values};

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
