//! One simulated device for all shards of a test: routes completions, and can hold operations back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use tidelog_segment_log::disk::sim::SimDisk;
use tidelog_segment_log::disk::{
    Completion, DirectoryLock, Disk, DiskOp, FileHandle, HotBytes, Token, WriteNow,
};

/// Which operations are kept from the device for now.
pub(super) type Hold = fn(&DiskOp) -> bool;

/// Every sync of a file of a topic's partition.
pub(super) fn partition_syncs(op: &DiskOp) -> bool {
    matches!(op, DiskOp::Sync { file } if file.path().iter().any(|part| part == "partitions"))
}

pub(super) struct Device {
    pub(super) sim: SimDisk,
    hold: Option<Hold>,
    held: Vec<(Token, DiskOp)>,
    next: u64,
    /// Everything below this path answers [`Device::errno`].
    pub(super) broken: Option<&'static str>,
    pub(super) errno: i32,
    owners: HashMap<Token, (usize, Token)>,
    arrived: Vec<Vec<Completion>>,
}

impl Device {
    pub(super) fn new(sim: SimDisk, shards: usize) -> Self {
        Self {
            sim,
            hold: None,
            held: Vec::new(),
            next: 0,
            broken: None,
            errno: EIO,
            owners: HashMap::new(),
            arrived: (0..shards).map(|_| Vec::new()).collect(),
        }
    }

    /// From now on these operations wait for [`Device::release`].
    pub(super) fn hold(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    /// What was held back goes to the device, and nothing is held any more.
    pub(super) fn release(&mut self) {
        self.hold = None;
        for (token, op) in std::mem::take(&mut self.held) {
            self.sim.submit(token, op);
        }
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Lets one operation end. False: none is with the device.
    pub(super) fn advance(&mut self) -> bool {
        let advanced = self.sim.advance();
        let mut completions = Vec::new();
        self.sim.take_completions(&mut completions);
        for Completion { token, result } in completions {
            if let Some((shard, token)) = self.owners.remove(&token) {
                self.arrived[shard].push(Completion { token, result });
            }
        }
        advanced
    }

    /// The process is gone: what it had under way is forgotten.
    pub(super) fn forget(&mut self, shards: usize) {
        self.hold = None;
        self.held.clear();
        self.owners.clear();
        self.arrived = (0..shards).map(|_| Vec::new()).collect();
    }
}

pub(super) const EIO: i32 = 5;
pub(super) const EROFS: i32 = 30;

/// The path that an operation works on.
fn touched(op: &DiskOp) -> &Path {
    match op {
        DiskOp::Open { path }
        | DiskOp::Create { path }
        | DiskOp::CreateDir { path }
        | DiskOp::List { path }
        | DiskOp::Unlink { path }
        | DiskOp::RemoveDir { path }
        | DiskOp::SyncDir { path }
        | DiskOp::FreeSpace { path }
        | DiskOp::Rename { from: path, .. }
        | DiskOp::Link { from: path, .. } => path,
        DiskOp::Len { file }
        | DiskOp::LinkCount { file }
        | DiskOp::Fallocate { file, .. }
        | DiskOp::ZeroRange { file, .. }
        | DiskOp::DropCache { file }
        | DiskOp::Write { file, .. }
        | DiskOp::Read { file, .. }
        | DiskOp::Sync { file }
        | DiskOp::Writeback { file, .. } => file.path(),
    }
}

/// One shard's access to the device.
pub(super) struct Port {
    pub(super) device: Rc<RefCell<Device>>,
    pub(super) shard: usize,
}

impl Disk for Port {
    fn submit(&mut self, token: Token, op: DiskOp) {
        let device = &mut *self.device.borrow_mut();
        if device.broken.is_some_and(|path| touched(&op).starts_with(path)) {
            let result = Err(io::Error::from_raw_os_error(device.errno));
            device.arrived[self.shard].push(Completion { token, result });
            return;
        }
        device.next += 1;
        let own = Token(device.next);
        device.owners.insert(own, (self.shard, token));
        if device.hold.is_some_and(|hold| hold(&op)) {
            device.held.push((own, op));
        } else {
            device.sim.submit(own, op);
        }
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.device.borrow_mut().arrived[self.shard]);
    }

    fn write_now(
        &mut self,
        file: &FileHandle,
        position: u64,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<WriteNow> {
        let device = &mut *self.device.borrow_mut();
        if device.broken.is_some_and(|path| file.path().starts_with(path)) {
            return Err(io::Error::from_raw_os_error(device.errno));
        }
        device.sim.write_now(file, position, pieces)
    }

    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.device.borrow_mut().sim.hot_bytes(file, range)
    }

    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.device.borrow_mut().sim.lock_directory(path)
    }
}

/// For what blocks: each look for completions lets all operations end.
pub(super) struct Blocking<'a>(pub(super) &'a mut SimDisk);

impl Disk for Blocking<'_> {
    fn submit(&mut self, token: Token, op: DiskOp) {
        self.0.submit(token, op);
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        while self.0.advance() {}
        self.0.take_completions(out);
    }

    fn write_now(
        &mut self,
        file: &FileHandle,
        position: u64,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<WriteNow> {
        self.0.write_now(file, position, pieces)
    }

    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.0.hot_bytes(file, range)
    }

    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.0.lock_directory(path)
    }
}

fn drive(sim: &mut SimDisk, op: DiskOp) -> tidelog_segment_log::disk::DiskOutput {
    sim.submit(Token(u64::MAX), op);
    while sim.advance() {}
    let mut completions = Vec::new();
    sim.take_completions(&mut completions);
    completions.remove(0).result.expect("it ends well")
}

/// Names in a directory. Only while nothing is under way.
pub(super) fn names(sim: &mut SimDisk, path: &Path) -> Vec<String> {
    use tidelog_segment_log::disk::DiskOutput;
    match drive(
        sim,
        DiskOp::List {
            path: path.to_path_buf(),
        },
    ) {
        DiskOutput::Names(names) => names,
        other => panic!("not names: {other:?}"),
    }
}

/// Syncs the files of a directory and drops their cached pages.
pub(super) fn drop_cache(sim: &mut SimDisk, path: &Path) {
    use tidelog_segment_log::disk::DiskOutput;
    for name in names(sim, path) {
        let DiskOutput::File(file) = drive(
            sim,
            DiskOp::Open {
                path: path.join(name),
            },
        ) else {
            panic!("not a file")
        };
        drive(sim, DiskOp::DropCache { file });
    }
}
