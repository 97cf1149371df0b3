//! A cut of power inside recovery itself, at each change of the disk, several times over.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::data_directory::DataDirectory;
use tidelog_segment_log::disk::memory::{FileBytes, MemoryDisk};
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk};
use tidelog_segment_log::disk::{
    Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, ReadSource, Token, WriteNow,
};
use tidelog_segment_log::log::{Opening, drive_open};
use tidelog_segment_log::recovery::RecoveryOptions;

use crate::files::borders;
use crate::fixture::{Fixture, identity, root, spec, write};
use crate::oracle::read_all;

/// Cuts in a row before a start gets through.
const CUTS: u64 = 4;

/// A disk that dies at the given change: that one happens or not, and nothing after it.
pub struct Dying<'a> {
    disk: &'a mut SimDisk,
    changes_left: Option<u64>,
    refused: Vec<Completion>,
}

impl<'a> Dying<'a> {
    /// At change number `changes_left` (from 1 on), or never.
    pub fn at(disk: &'a mut SimDisk, changes_left: Option<u64>) -> Self {
        Self {
            disk,
            changes_left,
            refused: Vec::new(),
        }
    }

    pub fn is_dead(&self) -> bool {
        self.changes_left == Some(0)
    }
}

fn changes(op: &DiskOp) -> bool {
    !matches!(
        op,
        DiskOp::Open { .. }
            | DiskOp::List { .. }
            | DiskOp::Len { .. }
            | DiskOp::DropCache { .. }
            | DiskOp::FreeSpace { .. }
            | DiskOp::Read { .. }
    )
}

impl Disk for Dying<'_> {
    fn submit(&mut self, token: Token, op: DiskOp) {
        if !self.is_dead() && changes(&op) {
            self.changes_left = self.changes_left.map(|left| left - 1);
            if self.is_dead() {
                // Outstanding when the power goes: the simulation decides.
                self.disk.submit(token, op);
                self.refused.push(dead(token));
                return;
            }
        }
        match self.is_dead() {
            true => self.refused.push(dead(token)),
            false => self.disk.submit(token, op),
        }
    }
    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.refused);
        if !self.is_dead() {
            self.disk.advance();
            self.disk.take_completions(out);
        }
    }
    fn write_now(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        self.disk.write_now(file, at, pieces)
    }
    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.disk.hot_bytes(file, range)
    }
    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.disk.lock_directory(path)
    }
}

fn dead(token: Token) -> Completion {
    Completion {
        token,
        result: Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

fn now(disk: &mut SimDisk, op: DiskOp) -> DiskOutput {
    disk.submit(Token(1), op);
    while disk.advance() {}
    let mut completions = Vec::new();
    disk.take_completions(&mut completions);
    completions.remove(0).result.unwrap()
}

/// The files of a directory on a disk that loses what is not synced; these are.
pub fn simulated(files: &BTreeMap<PathBuf, FileBytes>, seed: u64) -> SimDisk {
    let mut disk = SimDisk::new(SimConfig {
        seed,
        root: root(),
        ..SimConfig::default()
    });
    for (path, bytes) in files {
        let directory = path.parent().unwrap().to_path_buf();
        now(
            &mut disk,
            DiskOp::CreateDir {
                path: directory.clone(),
            },
        );
        let DiskOutput::File(file) = now(&mut disk, DiskOp::Create { path: path.clone() }) else {
            panic!("a file")
        };
        if !bytes.is_empty() {
            let data = Bytes::from(bytes.to_vec());
            now(
                &mut disk,
                DiskOp::Write {
                    file: file.clone(),
                    position: 0,
                    data,
                },
            );
        }
        now(&mut disk, DiskOp::Sync { file });
        now(&mut disk, DiskOp::SyncDir { path: directory });
        now(&mut disk, DiskOp::SyncDir { path: root() });
    }
    disk
}

/// What a start came to: everything that is served, what is reported lost, and where the log ends.
#[derive(Debug, PartialEq)]
struct Start {
    served: BTreeMap<i64, Bytes>,
    lost: Vec<Range<i64>>,
    end: i64,
}

/// Starts on the disk; `None` if it died at change number `dies_at` (from 1 on).
fn start(disk: &mut SimDisk, dies_at: Option<u64>, seed: u64) -> Option<Start> {
    let mut dying = Dying::at(disk, dies_at);
    let opened = DataDirectory::open(&mut dying, &root(), identity())
        .ok()
        .and_then(|data| {
            let (spec, options) = spec(&data, false);
            let options = RecoveryOptions {
                incarnation_seed: Some(seed),
                ..options
            };
            drive_open(&mut dying, Opening::with_options(spec, options)).ok()
        });
    if dying.is_dead() {
        return None;
    }
    let (mut log, report) = opened.expect("a disk that lives lets the log open");
    let mut image = image(disk);
    let (served, unreadable) = read_all(&mut image, &mut log).unwrap();
    assert!(unreadable.is_empty(), "{unreadable:?}");
    let lost = report
        .quarantined
        .iter()
        .map(|damage| damage.offsets.start.0..damage.offsets.end.0);
    Some(Start {
        served,
        lost: lost.collect(),
        end: log.log_end_offset().0,
    })
}

/// The partition's files as a read sees them now.
pub fn image(disk: &mut SimDisk) -> MemoryDisk {
    let directory = crate::fixture::partition();
    let mut image = MemoryDisk::new();
    let DiskOutput::Names(names) = now(
        disk,
        DiskOp::List {
            path: directory.clone(),
        },
    ) else {
        panic!("names")
    };
    for name in names {
        let path = directory.join(name);
        if let Ok(bytes) = disk.snapshot(&path, ReadSource::Cached) {
            image.put(&path, bytes);
        }
    }
    image
}

/// Changes bytes of a copy of the fixture's files.
pub fn damaged(
    fixture: &Fixture,
    path: &Path,
    change: impl FnOnce(&mut Vec<u8>),
) -> BTreeMap<PathBuf, FileBytes> {
    let mut disk = fixture.disk.copy();
    let mut bytes = disk.file(path).unwrap().to_vec();
    change(&mut bytes);
    disk.put(path, bytes);
    disk.all_files()
}

type Case = (&'static str, BTreeMap<PathBuf, FileBytes>);

fn cases() -> Vec<Case> {
    let killed = write(false);
    let segments = killed.segments();
    let last = segments.last().unwrap().clone();
    let edges = borders(killed.disk.file(&last).unwrap());
    assert!(edges.len() > 4, "the last segment holds three batches: {edges:?}");
    let (first, n) = (segments[0].clone(), edges.len());
    let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 4;
    let both_headers = |bytes: &mut Vec<u8>| {
        bytes[20] ^= 1;
        bytes[4_116] ^= 1;
    };
    let mut without_checkpoints = killed.disk.copy();
    for path in killed.files_containing("checkpoint") {
        without_checkpoints.remove(&path);
    }
    let mut without_last = killed.disk.copy();
    without_last.remove(&last);
    vec![
        ("nothing", killed.disk.all_files()),
        (
            "a torn last entry",
            damaged(&killed, &last, flip(edges[n - 2] + 30)),
        ),
        ("a bad payload", damaged(&killed, &last, flip(edges[n - 3] + 110))),
        ("a bad header", damaged(&killed, &last, flip(edges[n - 3] + 30))),
        // Only the torn entry says that the one before it was durable.
        (
            "a bad header before a torn last entry",
            damaged(&killed, &last, |bytes| {
                bytes[edges[n - 3] + 30] ^= 4;
                bytes[edges[n - 2] + 110] ^= 4;
            }),
        ),
        (
            "both headers of the first segment",
            damaged(&killed, &first, both_headers),
        ),
        (
            "both headers of the last segment",
            damaged(&killed, &last, both_headers),
        ),
        ("the last segment", without_last.all_files()),
        ("all checkpoints", without_checkpoints.all_files()),
    ]
}

#[test]
fn cuts_of_power_inside_recovery_change_nothing_of_its_end() {
    let (mut broken, mut cuts) = (Vec::new(), 0);
    for (name, files) in cases() {
        let expected = start(&mut simulated(&files, 1), None, 1).unwrap();
        println!("{name}: {:?} lost, ends at {}", expected.lost, expected.end);
        for change in 1.. {
            let mut disk = simulated(&files, change);
            let mut died = 0;
            for again in 0..CUTS {
                // At the same change, then at ones a little further on.
                let dies_at = change + again * again;
                let result = start(&mut disk, Some(dies_at), change * 10 + again);
                died += u64::from(result.is_none());
                disk.process_kill();
                disk.power_cut();
            }
            cuts += died;
            let result = start(&mut disk, None, 5).unwrap();
            if result != expected {
                broken.push(format!(
                    "{name}, from change {change}: lost {:?}, end {}, not {:?}, {}",
                    result.lost, result.end, expected.lost, expected.end
                ));
            }
            if died == 0 {
                assert!(
                    change > 10,
                    "{name}: a recovery changes more than {change} things"
                );
                break;
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{}, {:#?}",
        broken.len(),
        &broken[..broken.len().min(10)]
    );
    println!("{cuts} cuts of power inside recovery");
}
