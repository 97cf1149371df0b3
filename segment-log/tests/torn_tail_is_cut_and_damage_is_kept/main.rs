//! The promise: what was torn by a crash is cut, wherever the tear is; what was durable and got
//! damaged is never cut, but gone around and reported, and the offsets behind it stay.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod by_hand;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod strangers;
mod tears;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::logs::settle;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::log::testing::new_partition;
use tidelog_segment_log::log::{Durability, OpenSpec, Opening, PartitionLog, drive_open};
use tidelog_segment_log::recovery::RecoveryReport;

struct Fixture {
    root: tempfile::TempDir,
    /// Where each entry begins, and where the last one ends.
    edges: Vec<u64>,
    checkpoint: PartitionCheckpoint,
}

fn spec(directory: &Path, checkpoint: Option<PartitionCheckpoint>, created: bool) -> OpenSpec {
    OpenSpec {
        checkpoint,
        created,
        ..new_partition(directory.to_path_buf(), Durability::Fsync)
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
            settle(&mut log, &mut disk, 1);
        }
    }
    edges.push(log.size_bytes());
    settle(&mut log, &mut disk, 1);
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
