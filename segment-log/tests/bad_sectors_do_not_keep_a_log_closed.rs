//! The promise: a sector that cannot be read does not keep a partition closed for ever. What was
//! durable there is damage, gone around and reported; what nothing proves durable is a torn tail; and
//! a device that fails as a whole decides nothing.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::data_directory::{DataDirectory, NewIdentity, write_checkpoint};
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimDisk};
use tidelog_segment_log::disk::{
    Completion, DirectoryLock, Disk, DiskOp, FileHandle, HotBytes, ReadSource, Token, WriteNow,
};
use tidelog_segment_log::ids::{EntryIndex, Offset, PartitionKey, TopicId};
use tidelog_segment_log::limits::UNREADABLE_PAGES_MAX;
use tidelog_segment_log::log::{
    Durability, LogConfig, OpenError, OpenProgress, OpenSpec, Opening, PartitionLog, ReadError,
};
use tidelog_segment_log::recovery::{RecoveryReport, Unreadable};

const SEGMENT: &str = "00000000000000000001-0.log";

fn key() -> PartitionKey {
    PartitionKey {
        topic: TopicId([2; 16]),
        partition: 1,
    }
}

fn spec(checkpoint: Option<PartitionCheckpoint>, created: bool) -> OpenSpec {
    OpenSpec {
        directory: PathBuf::from("/sim/p"),
        key: key(),
        config: LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        },
        token_space: 5,
        checkpoint,
        clean: false,
        start_counter: 1,
        created,
    }
}

type Opened = Result<(Box<PartitionLog>, RecoveryReport), OpenError>;

fn open(disk: &mut SimDisk, spec: OpenSpec) -> Opened {
    let mut opening = Opening::new(spec);
    let mut completions = Vec::new();
    loop {
        match opening.step(1, disk, std::mem::take(&mut completions)) {
            OpenProgress::Ready(mut log, report) => {
                log.confirm_term();
                return Ok((log, report));
            }
            OpenProgress::Failed(error) => return Err(error),
            OpenProgress::Pending => {
                assert!(disk.advance(), "it waits for something");
                disk.take_completions(&mut completions);
            }
        }
    }
}

fn settle(log: &mut PartitionLog, disk: &mut SimDisk) {
    log.flush(1, disk);
    while disk.advance() {
        let mut completions = Vec::new();
        disk.take_completions(&mut completions);
        for completion in completions {
            log.on_completion(1, disk, completion);
        }
    }
}

fn batch(number: u8) -> Bytes {
    Bytes::from(build_batch(&BatchSpec::default(), &[&[number + 1; 9_000]]))
}

struct Fixture {
    disk: SimDisk,
    /// Where each entry begins, and where the last one ends.
    edges: Vec<u64>,
    checkpoint: PartitionCheckpoint,
}

fn segment() -> PathBuf {
    Path::new("/sim/p").join(SEGMENT)
}

/// Batches of one record and some 9 KB. With `synced_each` later entries are witnesses of earlier ones.
fn write_log(batches: u8, synced_each: bool) -> Fixture {
    let mut disk = SimDisk::new(SimConfig::default());
    let (mut log, _) = open(&mut disk, spec(None, true)).unwrap();
    let mut edges = Vec::new();
    for number in 0..batches {
        edges.push(log.size_bytes());
        log.append(1, &mut disk, &batch(number)).unwrap();
        if synced_each {
            settle(&mut log, &mut disk);
        }
    }
    edges.push(log.size_bytes());
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(i64::from(batches)));
    let checkpoint = log.checkpoint();
    drop(log);
    disk.process_kill();
    Fixture {
        disk,
        edges,
        checkpoint,
    }
}

fn page_of(byte: u64) -> Unreadable {
    let page = byte / 4_096 * 4_096;
    Unreadable {
        segment: SEGMENT.to_owned(),
        position: page..page + 4_096,
    }
}

#[test]
fn a_durable_entry_on_a_bad_sector_is_quarantined_alone() {
    let mut fixture = write_log(5, true);
    let bad = fixture.edges[2] + 5_000;
    fixture.disk.break_sector(&segment(), bad).unwrap();
    for _ in 0..2 {
        let (mut log, report) = open(&mut fixture.disk, spec(None, false)).unwrap();
        assert_eq!(report.unreadable, [page_of(bad)]);
        let [damage] = report.quarantined.as_slice() else {
            panic!("{report:?}")
        };
        assert_eq!(damage.position, fixture.edges[2]..fixture.edges[3]);
        assert_eq!(damage.offsets, Offset(2)..Offset(3));
        assert_eq!(log.log_end_offset(), Offset(5));
        let refused = log.read(&mut fixture.disk, Offset(2), Offset(5), 1).unwrap_err();
        assert!(matches!(refused, ReadError::Quarantined { .. }));
        drop(log);
        fixture.disk.process_kill();
    }
}

#[test]
fn entries_whose_headers_are_on_bad_sectors_are_gone_around() {
    let mut fixture = write_log(5, true);
    let bad = fixture.edges[1] + 30;
    fixture.disk.break_sector(&segment(), bad).unwrap();
    let (log, report) = open(&mut fixture.disk, spec(None, false)).unwrap();
    assert_eq!(report.unreadable, [page_of(bad)]);
    assert_eq!(log.log_end_offset(), Offset(5));
    // The page also holds the end of the entry in front.
    let lost: Vec<_> = report
        .quarantined
        .iter()
        .map(|damage| damage.offsets.clone())
        .collect();
    assert_eq!(lost, [Offset(0)..Offset(1), Offset(1)..Offset(2)]);
}

#[test]
fn a_bad_sector_in_a_tail_that_nothing_proves_durable_is_cut_and_left_alone() {
    let mut fixture = write_log(5, false);
    let bad = fixture.edges[3] + 5_000;
    fixture.disk.break_sector(&segment(), bad).unwrap();
    let before = fixture.disk.snapshot(&segment(), ReadSource::Device).unwrap();
    let (mut log, report) = open(&mut fixture.disk, spec(None, false)).unwrap();
    assert_eq!(report.unreadable, [page_of(bad)]);
    assert!(report.quarantined.is_empty());
    assert_eq!(log.log_end_offset(), Offset(3));
    assert_eq!(log.segment_count(), 2, "nothing is written to a bad sector");
    let after = fixture.disk.snapshot(&segment(), ReadSource::Device).unwrap();
    assert!(before == after);
    let appended = log.append(1, &mut fixture.disk, &batch(9)).unwrap();
    assert_eq!(appended.base_offset, Offset(3));
    settle(&mut log, &mut fixture.disk);
    assert_eq!(log.durable_offset(), Offset(4));
    drop(log);
    fixture.disk.process_kill();
    let (log, report) = open(&mut fixture.disk, spec(None, false)).unwrap();
    assert_eq!(log.log_end_offset(), Offset(4));
    assert!(
        report.quarantined.is_empty() && report.set_aside.is_empty(),
        "{report:?}"
    );
}

#[test]
fn a_bad_sector_at_the_very_end_is_damage_when_the_checkpoint_proves_it() {
    let mut fixture = write_log(5, false);
    fixture
        .disk
        .break_sector(&segment(), fixture.edges[4] + 5_000)
        .unwrap();
    let checkpoint = Some(fixture.checkpoint.clone());
    let (log, report) = open(&mut fixture.disk, spec(checkpoint, false)).unwrap();
    assert_eq!(log.log_end_offset(), Offset(5));
    assert_eq!(report.quarantined.len(), 1);
    assert_eq!(report.quarantined[0].offsets, Offset(4)..Offset(5));
}

#[test]
fn one_bad_copy_of_a_header_costs_nothing() {
    for byte in [0, 4_096] {
        let mut fixture = write_log(3, true);
        fixture.disk.break_sector(&segment(), byte).unwrap();
        let (log, report) = open(&mut fixture.disk, spec(None, false)).unwrap();
        assert_eq!(report.unreadable, [page_of(byte)]);
        assert_eq!(log.log_end_offset(), Offset(3));
        assert!(report.quarantined.is_empty() && report.set_aside.is_empty());
    }
}

#[test]
fn a_segment_without_a_readable_header_is_kept_aside() {
    let mut fixture = write_log(3, true);
    for byte in [0, 4_096] {
        fixture.disk.break_sector(&segment(), byte).unwrap();
    }
    let checkpoint = Some(fixture.checkpoint.clone());
    let (log, report) = open(&mut fixture.disk, spec(checkpoint, false)).unwrap();
    assert_eq!(report.set_aside, [SEGMENT]);
    assert_eq!(
        log.log_end_offset(),
        Offset(3),
        "the checkpoint proves its offsets"
    );
    assert_eq!(report.quarantined[0].indices, EntryIndex(1)..EntryIndex(4));
}

#[test]
fn an_error_that_passes_is_no_bad_sector() {
    let mut fixture = write_log(3, true);
    for nth in 1..30 {
        fixture.disk.script(ScriptedFault {
            kind: OpKind::Read,
            nth: nth * 2,
            fault: Fault::Eio,
        });
    }
    let (log, report) = open(&mut fixture.disk, spec(None, false)).unwrap();
    assert!(fixture.disk.events().io_errors > 1, "they happened");
    assert!(report.unreadable.is_empty(), "{report:?}");
    assert_eq!(log.log_end_offset(), Offset(3));
}

#[test]
fn a_failing_device_decides_nothing() {
    let mut fixture = write_log(3, true);
    let len = 8_192 + (UNREADABLE_PAGES_MAX as u64 + 8) * 4_096;
    let (mut log, _) = open(&mut fixture.disk, spec(None, false)).unwrap();
    while log.size_bytes() < len {
        log.append(1, &mut fixture.disk, &batch(1)).unwrap();
        settle(&mut log, &mut fixture.disk);
    }
    let end = log.log_end_offset();
    drop(log);
    fixture.disk.process_kill();
    for page in 2..len / 4_096 {
        fixture.disk.break_sector(&segment(), page * 4_096).unwrap();
    }
    let before = fixture.disk.snapshot(&segment(), ReadSource::Device).unwrap();
    for _ in 0..2 {
        let error = open(&mut fixture.disk, spec(None, false)).unwrap_err();
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
    }
    assert!(before == fixture.disk.snapshot(&segment(), ReadSource::Device).unwrap());
    assert!(end > Offset(400));
}

/// A disk that gets on by itself when somebody waits for it.
struct Stepping<'a>(&'a mut SimDisk);

impl Disk for Stepping<'_> {
    fn submit(&mut self, token: Token, op: DiskOp) {
        self.0.submit(token, op);
    }
    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        self.0.advance();
        self.0.take_completions(out);
    }
    fn write_now(
        &mut self,
        file: &FileHandle,
        at: u64,
        pieces: &[std::io::IoSlice<'_>],
    ) -> std::io::Result<WriteNow> {
        self.0.write_now(file, at, pieces)
    }
    fn hot_bytes(&mut self, file: &FileHandle, range: std::ops::Range<u64>) -> Option<HotBytes> {
        self.0.hot_bytes(file, range)
    }
    fn lock_directory(&mut self, path: &Path) -> std::io::Result<DirectoryLock> {
        self.0.lock_directory(path)
    }
}

#[test]
fn a_checkpoint_on_a_bad_sector_gives_way_to_the_one_before_it() {
    let mut disk = SimDisk::new(SimConfig::default());
    let root = PathBuf::from("/sim/data");
    let identity = || NewIdentity {
        node_id: 1,
        cluster_id: "simulated".into(),
        rack: None,
        directory_id: [7; 16],
    };
    let directory = DataDirectory::open(&mut Stepping(&mut disk), &root, identity()).unwrap();
    for durable_index in [3, 5] {
        let partition = PartitionCheckpoint {
            key: key(),
            durable_index: EntryIndex(durable_index),
            ..PartitionCheckpoint::default()
        };
        let checkpoint = Checkpoint {
            start_counter: directory.start_counter(),
            partitions: vec![partition],
        };
        write_checkpoint(1, root.clone(), 0, &checkpoint)
            .drive(&mut Stepping(&mut disk))
            .unwrap();
    }
    directory.mark_clean(&mut Stepping(&mut disk)).unwrap();
    drop(directory);
    disk.process_kill();
    disk.break_sector(&root.join("checkpoint-0"), 8).unwrap();
    disk.break_sector(&root.join("clean"), 8).unwrap();
    let directory = DataDirectory::open(&mut Stepping(&mut disk), &root, identity()).unwrap();
    assert_eq!(directory.unreadable_checkpoints(), ["checkpoint-0"]);
    assert!(!directory.was_clean());
    let evidence = directory.evidence(&key());
    assert_eq!(evidence.checkpoint.unwrap().durable_index, EntryIndex(3));
}
