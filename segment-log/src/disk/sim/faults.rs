//! What a simulated disk does wrong, by chance or by script.
//!
//! Chances are in a million per operation. Bit rot is not here: it happens only when
//! [`SimDisk::flip_bit`](super::SimDisk::flip_bit) is called.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::rng::SimRng;
use crate::disk::DiskOp;

/// The kinds of operations that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "named as in DiskOp")]
pub enum OpKind {
    Open,
    Create,
    CreateDir,
    List,
    Len,
    LinkCount,
    Rename,
    Link,
    Unlink,
    RemoveDir,
    SyncDir,
    Fallocate,
    ZeroRange,
    DropCache,
    FreeSpace,
    Write,
    /// [`Disk::write_now`](crate::disk::Disk::write_now).
    WriteNow,
    Read,
    Sync,
    Writeback,
}

impl OpKind {
    /// All kinds.
    pub const ALL: [OpKind; 20] = [
        OpKind::Open,
        OpKind::Create,
        OpKind::CreateDir,
        OpKind::List,
        OpKind::Len,
        OpKind::LinkCount,
        OpKind::Rename,
        OpKind::Link,
        OpKind::Unlink,
        OpKind::RemoveDir,
        OpKind::SyncDir,
        OpKind::Fallocate,
        OpKind::ZeroRange,
        OpKind::DropCache,
        OpKind::FreeSpace,
        OpKind::Write,
        OpKind::WriteNow,
        OpKind::Read,
        OpKind::Sync,
        OpKind::Writeback,
    ];

    /// The kind of an operation.
    pub fn of(op: &DiskOp) -> Self {
        match op {
            DiskOp::Open { .. } => OpKind::Open,
            DiskOp::Create { .. } => OpKind::Create,
            DiskOp::CreateDir { .. } => OpKind::CreateDir,
            DiskOp::List { .. } => OpKind::List,
            DiskOp::Len { .. } => OpKind::Len,
            DiskOp::LinkCount { .. } => OpKind::LinkCount,
            DiskOp::Rename { .. } => OpKind::Rename,
            DiskOp::Link { .. } => OpKind::Link,
            DiskOp::Unlink { .. } => OpKind::Unlink,
            DiskOp::RemoveDir { .. } => OpKind::RemoveDir,
            DiskOp::SyncDir { .. } => OpKind::SyncDir,
            DiskOp::Fallocate { .. } => OpKind::Fallocate,
            DiskOp::ZeroRange { .. } => OpKind::ZeroRange,
            DiskOp::DropCache { .. } => OpKind::DropCache,
            DiskOp::FreeSpace { .. } => OpKind::FreeSpace,
            DiskOp::Write { .. } => OpKind::Write,
            DiskOp::Read { .. } => OpKind::Read,
            DiskOp::Sync { .. } => OpKind::Sync,
            DiskOp::Writeback { .. } => OpKind::Writeback,
        }
    }

    fn takes_space(self) -> bool {
        matches!(
            self,
            OpKind::Create
                | OpKind::CreateDir
                | OpKind::Fallocate
                | OpKind::Write
                | OpKind::WriteNow
                | OpKind::ZeroRange
        )
    }

    fn writes(self) -> bool {
        matches!(self, OpKind::Write | OpKind::WriteNow)
    }
}

/// How one operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO. A write may have put a part of its bytes into the cache; a sync marks pages clean
    /// that did not reach the device.
    Eio,
    /// ENOSPC, with nothing done.
    NoSpace,
    /// EMFILE, with nothing done: the process has no descriptor left.
    NoDescriptor,
    /// A write takes only a part of its bytes. No effect on other operations.
    ShortWrite,
}

/// A fault for one particular operation.
#[derive(Clone, Copy, Debug)]
pub struct ScriptedFault {
    /// Which kind of operation.
    pub kind: OpKind,
    /// Which one of that kind, from the moment the script is given; 1 is the next.
    pub nth: u64,
    /// What happens to it.
    pub fault: Fault,
}

/// Chances of faults, in a million per operation. The default is a disk without faults.
#[derive(Clone, Debug, Default)]
pub struct SimFaults {
    /// EIO, per kind of operation.
    pub eio_ppm: BTreeMap<OpKind, u32>,
    /// ENOSPC, for operations that take space.
    pub no_space_ppm: u32,
    /// A write that takes only a part.
    pub short_write_ppm: u32,
    /// A page of background write-back that fails: it is marked clean, and the file's next sync
    /// says EIO, unless the process is killed before.
    pub writeback_error_ppm: u32,
    /// `write_now` answers `WouldStall`.
    pub would_stall_ppm: u32,
    /// `hot_bytes` answers `None` although the bytes are there.
    pub cold_ppm: u32,
}

impl SimFaults {
    /// The same, with EIO for one kind of operation.
    pub fn with_eio(mut self, kind: OpKind, ppm: u32) -> Self {
        self.eio_ppm.insert(kind, ppm);
        self
    }
}

/// Decides which operation fails.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    pub(super) chances: SimFaults,
    /// `nth` here counts from the start of the disk.
    scripted: Vec<ScriptedFault>,
    seen: BTreeMap<OpKind, u64>,
}

impl FaultPlan {
    pub(super) fn new(chances: SimFaults) -> Self {
        Self {
            chances,
            ..Self::default()
        }
    }

    pub(super) fn script(&mut self, mut scripted: ScriptedFault) {
        scripted.nth += self.seen.get(&scripted.kind).copied().unwrap_or(0);
        self.scripted.push(scripted);
    }

    /// The fate of the next operation of this kind.
    pub(super) fn next(&mut self, kind: OpKind, rng: &mut SimRng) -> Option<Fault> {
        let seen = self.seen.entry(kind).or_insert(0);
        *seen += 1;
        let nth = *seen;
        let scripted = |s: &ScriptedFault| s.kind == kind && s.nth == nth;
        if let Some(at) = self.scripted.iter().position(scripted) {
            return Some(self.scripted.remove(at).fault);
        }
        let eio_ppm = self.chances.eio_ppm.get(&kind).copied().unwrap_or(0);
        if rng.chance(eio_ppm) {
            return Some(Fault::Eio);
        }
        if kind.takes_space() && rng.chance(self.chances.no_space_ppm) {
            return Some(Fault::NoSpace);
        }
        if kind.writes() && rng.chance(self.chances.short_write_ppm) {
            return Some(Fault::ShortWrite);
        }
        None
    }
}
