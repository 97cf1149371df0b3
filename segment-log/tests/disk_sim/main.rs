//! The simulator is itself tested: each thing it promises to keep or to lose is shown here.

mod busy;
mod cuts;
mod faults;
mod kills;
mod syncs;

use std::io;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

use tidelog_segment_log::disk::sim::{SimConfig, SimDisk};
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
