//! The promise: a data directory is used by one process at a time, counts its starts, and is clean
//! only after an orderly stop; of each shard's checkpoint one whole generation is always there.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;

use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint, SegmentCheckpoint};
use tidelog_segment_log::data_directory::{
    DataDirectory, DataDirectoryError, NewIdentity, make_identity_anew, write_checkpoint,
};
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::ids::{EntryIndex, Incarnation, LeaderEpoch, PartitionKey};

fn identity() -> NewIdentity {
    NewIdentity {
        node_id: 5,
        cluster_id: "cluster".into(),
        rack: Some("r1".into()),
        directory_id: [7; 16],
    }
}

fn checkpoint(start_counter: u64, durable_index: u64, term: i32) -> Checkpoint {
    let partition = PartitionCheckpoint {
        durable_index: EntryIndex(durable_index),
        term: LeaderEpoch(term),
        ..PartitionCheckpoint::default()
    };
    Checkpoint {
        start_counter,
        partitions: vec![partition],
    }
}

#[test]
fn starts_are_counted_and_the_identity_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    let mut disk = StdDisk::new();
    let first = DataDirectory::open(&mut disk, &path, identity()).unwrap();
    assert!(first.is_first_start() && !first.was_clean());
    assert_eq!(first.start_counter(), 1);
    drop(first);
    let other = NewIdentity {
        node_id: 9,
        cluster_id: "other".into(),
        rack: None,
        directory_id: [7; 16],
    };
    let second = DataDirectory::open(&mut disk, &path, other).unwrap();
    assert!(!second.is_first_start());
    assert_eq!((second.start_counter(), second.identity().node_id), (2, 5));
    assert_eq!(second.identity().cluster_id, "cluster");
}

#[test]
fn a_second_process_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    let held = DataDirectory::open(&mut disk, root.path(), identity()).unwrap();
    let refused = DataDirectory::open(&mut disk, root.path(), identity()).unwrap_err();
    assert!(matches!(refused, DataDirectoryError::Locked { .. }), "{refused}");
    assert_eq!(held.start_counter(), 1);
}

#[test]
fn clean_is_only_what_was_marked_by_the_last_start() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    let first = DataDirectory::open(&mut disk, root.path(), identity()).unwrap();
    first.mark_clean(&mut disk).unwrap();
    let flag = fs::read(root.path().join("clean")).unwrap();
    drop(first);
    let second = DataDirectory::open(&mut disk, root.path(), identity()).unwrap();
    assert!(second.was_clean());
    assert!(
        !root.path().join("clean").exists(),
        "removed before anything else"
    );
    drop(second);
    fs::write(root.path().join("clean"), flag).unwrap();
    let third = DataDirectory::open(&mut disk, root.path(), identity()).unwrap();
    assert!(!third.was_clean(), "a flag of an older start is stale");
}

#[test]
fn the_newest_checkpoint_counts_and_the_highest_term_of_all() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    let path = root.path().to_path_buf();
    drop(DataDirectory::open(&mut disk, &path, identity()).unwrap());
    for (durable_index, term) in [(3, 8), (5, 7)] {
        write_checkpoint(1, path.clone(), 0, &checkpoint(1, durable_index, term))
            .drive(&mut disk)
            .unwrap();
    }
    fs::write(path.join("checkpoint-1"), b"torn").unwrap();
    let directory = DataDirectory::open(&mut disk, &path, identity()).unwrap();
    assert_eq!(directory.checkpoints().len(), 2);
    assert_eq!(directory.unreadable_checkpoints(), ["checkpoint-1"]);
    let evidence = directory.evidence(&PartitionKey::default());
    assert_eq!(evidence.checkpoint.unwrap().durable_index, EntryIndex(5));
    assert_eq!(evidence.options.term_floor, LeaderEpoch(8));
    assert!(!evidence.options.checkpoint_is_old);
    directory
        .remove_surplus_checkpoints(1, 1)
        .drive(&mut disk)
        .unwrap();
    assert!(!path.join("checkpoint-1").exists() && path.join("checkpoint-0").exists());
    drop(directory);
    let later = DataDirectory::open(&mut disk, &path, identity()).unwrap();
    assert!(
        later.evidence(&PartitionKey::default()).options.checkpoint_is_old,
        "not of the last start"
    );
}

/// A checkpoint that names segments of these incarnations.
fn naming(durable_index: u64, incarnations: &[u8]) -> Checkpoint {
    let mut checkpoint = checkpoint(1, durable_index, 1);
    let segment = |number: &u8| SegmentCheckpoint {
        incarnation: Incarnation([*number; 16]),
        base_index: EntryIndex(u64::from(*number)),
        durable_index: EntryIndex(durable_index),
        ..SegmentCheckpoint::default()
    };
    checkpoint.partitions[0].segments = incarnations.iter().map(segment).collect();
    checkpoint
}

#[test]
fn a_checkpoint_that_was_put_back_does_not_hide_what_the_other_one_proves() {
    let found = |older: &Checkpoint, newer: &Checkpoint| {
        let root = tempfile::tempdir().unwrap();
        let mut disk = StdDisk::new();
        drop(DataDirectory::open(&mut disk, root.path(), identity()).unwrap());
        fs::write(root.path().join("checkpoint-0.previous"), older.encode()).unwrap();
        fs::write(root.path().join("checkpoint-0"), newer.encode()).unwrap();
        let directory = DataDirectory::open(&mut disk, root.path(), identity()).unwrap();
        let evidence = directory.evidence(&PartitionKey::default());
        evidence.checkpoint.unwrap().durable_index
    };
    // The file of the newer one was restored from a copy that is older than both.
    assert_eq!(found(&naming(5, &[1]), &naming(3, &[1])), EntryIndex(5));
    assert_eq!(found(&naming(5, &[1, 4]), &naming(3, &[1])), EntryIndex(5));
    // It was truncated in between: the older one does not know where the log went on.
    assert_eq!(found(&naming(5, &[1, 4]), &naming(3, &[1, 2])), EntryIndex(3));
    assert_eq!(found(&naming(3, &[1]), &naming(5, &[1])), EntryIndex(5));
}

#[test]
fn a_damaged_identity_ends_the_start_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    let first = DataDirectory::open(&mut disk, root.path(), identity()).unwrap();
    first.mark_clean(&mut disk).unwrap();
    drop(first);
    fs::write(root.path().join("identity"), b"garbage").unwrap();
    let refused = DataDirectory::open(&mut disk, root.path(), identity()).unwrap_err();
    assert!(
        matches!(refused, DataDirectoryError::Identity { .. }),
        "{refused}"
    );
    assert!(root.path().join("clean").exists());
}

#[test]
fn a_directory_that_lost_its_identity_is_no_first_start() {
    let refused = |held: &str| {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(held);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"anything").unwrap();
        let error = DataDirectory::open(&mut StdDisk::new(), root.path(), identity()).unwrap_err();
        assert!(
            matches!(&error, DataDirectoryError::IdentityGone { held: found, .. } if found == std::path::Path::new(held)),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains(held) && text.contains("--new-identity"), "{text}");
        assert!(
            path.exists() && !root.path().join("identity").exists(),
            "nothing was changed"
        );
    };
    refused("checkpoint-0");
    refused("checkpoint-3.previous");
    refused("clean");
    refused("metadata/00000000000000000001-0.log");
    refused("partitions/0102-0/00000000000000000001-0.log");
    // Neither of these says that a broker ran here.
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("lost+found")).unwrap();
    fs::write(root.path().join("notes.txt"), b"").unwrap();
    fs::write(root.path().join("identity.unfinished"), b"").unwrap();
    let first = DataDirectory::open(&mut StdDisk::new(), root.path(), identity()).unwrap();
    assert!(first.is_first_start());
}

#[test]
fn an_identity_made_anew_counts_on_above_all_that_is_known() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    fs::write(root.path().join("checkpoint-0"), checkpoint(7, 3, 1).encode()).unwrap();
    for (floor, expected) in [(3, 8), (20, 21)] {
        let made = make_identity_anew(&mut disk, root.path(), identity(), floor).unwrap();
        assert_eq!((made.start_counter, made.node_id), (expected, 5));
        let again = make_identity_anew(&mut disk, root.path(), identity(), floor).unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
        let opened = DataDirectory::open(&mut disk, root.path(), identity()).unwrap();
        assert_eq!(opened.start_counter(), expected + 1);
        let evidence = opened.evidence(&PartitionKey::default());
        assert!(evidence.options.checkpoint_is_old, "it says nothing of terms");
        drop(opened);
        fs::remove_file(root.path().join("identity")).unwrap();
    }
}
