//! The promise: what was torn by a crash is cut, wherever the tear is; what was durable and got
//! damaged is never cut, but gone around and reported, and the offsets behind it stay.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::ids::{EntryIndex, Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    Durability, LogConfig, OpenSpec, Opening, PartitionLog, ReadError, drive_open,
};
use tidelog_segment_log::recovery::{RecoveryReport, SET_ASIDE_DIRECTORY};

struct Fixture {
    root: tempfile::TempDir,
    /// Where each entry begins, and where the last one ends.
    edges: Vec<u64>,
    checkpoint: PartitionCheckpoint,
}

fn spec(directory: &Path, checkpoint: Option<PartitionCheckpoint>, created: bool) -> OpenSpec {
    OpenSpec {
        directory: directory.to_path_buf(),
        key: PartitionKey {
            topic: TopicId([1; 16]),
            partition: 0,
        },
        config: LogConfig {
            segment_bytes: 1 << 20,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        },
        token_space: 1,
        checkpoint,
        clean: false,
        start_counter: 1,
        created,
    }
}

fn settle(log: &mut PartitionLog, disk: &mut StdDisk) {
    let mut completions = Vec::new();
    loop {
        log.flush(1, disk);
        disk.take_completions(&mut completions);
        if completions.is_empty() {
            return;
        }
        for completion in completions.drain(..) {
            log.on_completion(1, disk, completion);
        }
    }
}

fn batch(number: u8) -> Bytes {
    let value = [number; 40];
    Bytes::from(build_batch(&BatchSpec::default(), &[&value, &value]))
}

/// Five batches of two records. `synced_each` makes each later entry a witness of the earlier ones.
fn write_log(synced_each: bool) -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    let directory = root.path().join("p");
    let (mut log, _) = drive_open(&mut disk, Opening::new(spec(&directory, None, true))).unwrap();
    let mut edges = Vec::new();
    for number in 0..5 {
        edges.push(log.size_bytes());
        log.append(1, &mut disk, &batch(number)).unwrap();
        if synced_each {
            settle(&mut log, &mut disk);
        }
    }
    edges.push(log.size_bytes());
    settle(&mut log, &mut disk);
    Fixture {
        root,
        edges,
        checkpoint: log.checkpoint(),
    }
}

impl Fixture {
    fn directory(&self) -> PathBuf {
        self.root.path().join("p")
    }

    fn segment(&self) -> PathBuf {
        self.directory().join("00000000000000000001-0.log")
    }

    fn overwrite(&self, position: u64, bytes: &[u8]) {
        let mut file = fs::File::options().write(true).open(self.segment()).unwrap();
        file.seek(SeekFrom::Start(position)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }

    fn flip(&self, position: u64) {
        let byte = fs::read(self.segment()).unwrap()[position as usize];
        self.overwrite(position, &[byte ^ 0x10]);
    }

    fn recover(&self, checkpoint: Option<PartitionCheckpoint>) -> (Box<PartitionLog>, RecoveryReport) {
        let mut disk = StdDisk::new();
        drive_open(
            &mut disk,
            Opening::new(spec(&self.directory(), checkpoint, false)),
        )
        .unwrap()
    }
}

#[test]
fn a_tear_at_any_byte_of_the_last_entries_is_cut_there() {
    let fixture = write_log(false);
    let whole = fs::read(fixture.segment()).unwrap();
    let end = fixture.edges[5];
    for tear in fixture.edges[3]..end {
        fs::write(fixture.segment(), &whole).unwrap();
        fixture.overwrite(tear, &vec![0; (end - tear) as usize]);
        let (log, report) = fixture.recover(None);
        // A tear inside zeros that were zeros anyway leaves the entry whole.
        let padding_only = whole[tear as usize..end as usize].iter().all(|byte| *byte == 0);
        let kept = if padding_only {
            5
        } else {
            let at = fixture.edges.iter().rposition(|edge| *edge <= tear).unwrap();
            let rest = fixture.edges.get(at + 1).copied().unwrap_or(end);
            let lost_zeros = whole[tear as usize..rest as usize].iter().all(|byte| *byte == 0);
            at + usize::from(lost_zeros)
        };
        assert_eq!(log.log_end_offset(), Offset(2 * kept as i64), "torn at {tear}");
        assert!(
            report.quarantined.is_empty() && report.set_aside.is_empty(),
            "{report:?}"
        );
        let after = fs::read(fixture.segment()).unwrap();
        let cut = fixture.edges[kept] as usize;
        let page_end = (cut / 4_096 + 1) * 4_096;
        let behind = after.get(cut..page_end.min(after.len())).unwrap();
        assert!(
            behind.iter().all(|byte| *byte == 0),
            "zero to the end of the page"
        );
    }
}

#[test]
fn a_tear_is_followed_by_appends_that_survive() {
    let fixture = write_log(false);
    fixture.flip(fixture.edges[3] + 10);
    let (mut log, _) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(6));
    let mut disk = StdDisk::new();
    drop(log);
    let (reopened, _) = drive_open(&mut disk, Opening::new(spec(&fixture.directory(), None, false))).unwrap();
    log = reopened;
    log.confirm_term();
    let appended = log.append(1, &mut disk, &batch(77)).unwrap();
    assert_eq!(appended.base_offset, Offset(6));
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(8));
    drop(log);
    let (log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(8));
    assert!(report.quarantined.is_empty());
}

#[test]
fn a_durable_entry_with_a_bad_payload_is_quarantined_alone() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[1] + 64 + 70);
    let (mut log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(10));
    let [damage] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(damage.position, fixture.edges[1]..fixture.edges[2]);
    assert_eq!(damage.indices, EntryIndex(2)..EntryIndex(3));
    assert_eq!(damage.offsets, Offset(2)..Offset(4));
    let mut disk = StdDisk::new();
    let refused = log.read(&mut disk, Offset(3), Offset(10), 1_000).unwrap_err();
    assert_eq!(
        refused,
        ReadError::Quarantined {
            from: Offset(3),
            next: Offset(4)
        }
    );
    assert_eq!(
        log.read(&mut disk, Offset(4), Offset(10), 1_000)
            .unwrap()
            .parts
            .len(),
        1
    );
}

#[test]
fn a_durable_entry_with_a_bad_header_is_gone_around() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[2] + 30);
    let (log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(10));
    let [damage] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(damage.position, fixture.edges[2]..fixture.edges[3]);
    assert_eq!(damage.offsets, Offset(4)..Offset(6));
}

#[test]
fn damage_at_the_very_end_keeps_the_log_end_that_the_checkpoint_proves() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[4] + 30);
    let (mut log, report) = fixture.recover(Some(fixture.checkpoint.clone()));
    assert_eq!(log.log_end_offset(), Offset(10));
    assert_eq!(log.segment_count(), 2, "the log goes on in a new segment");
    let [damage] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(damage.indices, EntryIndex(5)..EntryIndex(6));
    assert_eq!(damage.offsets, Offset(8)..Offset(10));
    log.confirm_term();
    let mut disk = StdDisk::new();
    drop(log);
    let checkpoint = Some(fixture.checkpoint.clone());
    let (mut log, report) = drive_open(
        &mut disk,
        Opening::new(spec(&fixture.directory(), checkpoint, false)),
    )
    .unwrap();
    assert_eq!(report.quarantined.len(), 1, "damage is found again at each open");
    log.confirm_term();
    assert_eq!(
        log.append(1, &mut disk, &batch(9)).unwrap().base_offset,
        Offset(10)
    );
}

#[test]
fn without_any_proof_the_same_damage_is_a_torn_tail() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[4] + 30);
    let (log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(8));
    assert!(report.quarantined.is_empty());
}

#[test]
fn a_lost_segment_file_is_damage_when_a_checkpoint_names_it() {
    let fixture = write_log(true);
    fs::remove_file(fixture.segment()).unwrap();
    let (log, report) = fixture.recover(Some(fixture.checkpoint.clone()));
    assert_eq!(log.log_end_offset(), Offset(10));
    assert_eq!(report.quarantined.len(), 1);
    assert_eq!(log.log_start_offset(), Offset(0));
}

#[test]
fn a_file_without_a_valid_header_is_kept_aside() {
    let fixture = write_log(true);
    let stray = "00000000000000000006-0.log";
    fs::write(fixture.directory().join(stray), b"not a segment").unwrap();
    let (log, report) = fixture.recover(None);
    assert_eq!(report.set_aside, [stray]);
    assert!(fixture.directory().join(SET_ASIDE_DIRECTORY).join(stray).exists());
    assert_eq!(log.log_end_offset(), Offset(10));
}
