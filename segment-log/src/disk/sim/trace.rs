//! What happened in a simulation: a hash of all of it, its lines if asked for, and counters.
#![forbid(unsafe_code)]

use std::fmt;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a over some bytes: names content in a trace.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(FNV_OFFSET, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

/// The running hash and, if wanted, the lines.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(keep_lines: bool) -> Self {
        Self {
            hash: FNV_OFFSET,
            lines: keep_lines.then(Vec::new),
        }
    }

    pub(super) fn note(&mut self, line: fmt::Arguments<'_>) {
        // Hashed piece by piece: most runs keep no lines and need no string.
        if fmt::write(self, format_args!("{line}\n")).is_err() {
            self.hash = !self.hash;
        }
        if let Some(lines) = &mut self.lines {
            lines.push(line.to_string());
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or(&[])
    }
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        Ok(())
    }
}

/// How often each thing happened: a run that never saw a fault proves nothing about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimEvents {
    /// Operations submitted.
    pub submitted: u64,
    /// Operations completed.
    pub completed: u64,
    /// Writes into the cache, `write_now` included.
    pub writes: u64,
    /// Writes that took only a part.
    pub short_writes: u64,
    /// `write_now` answered `WouldStall`.
    pub would_stall: u64,
    /// Syncs of files that said success.
    pub syncs: u64,
    /// Syncs of files that failed.
    pub failed_syncs: u64,
    /// Pages marked clean that had not reached the device.
    pub lost_pages: u64,
    /// Background write-back that failed.
    pub writeback_errors: u64,
    /// EIO by chance or script, failed syncs included.
    pub io_errors: u64,
    /// ENOSPC, by chance, script or a full disk.
    pub no_space: u64,
    /// Operations that found no descriptor left.
    pub no_descriptor: u64,
    /// Cuts of power.
    pub power_cuts: u64,
    /// Kills of the process.
    pub process_kills: u64,
    /// Outstanding operations that a cut or a kill let happen.
    pub outstanding_done: u64,
    /// Outstanding operations that a cut or a kill dropped.
    pub outstanding_dropped: u64,
    /// Sectors for which a cut of power kept another version than the newest.
    pub stale_sectors: u64,
    /// Sectors whose newest version survived a cut of power without a sync.
    pub unsynced_sectors_kept: u64,
    /// Pages of which a cut of power kept some sectors new and others not.
    pub torn_pages: u64,
    /// Files that became shorter at a cut of power.
    pub lost_lengths: u64,
    /// Changes of a directory that a cut of power undid.
    pub lost_names: u64,
    /// Changes of a directory that survived a cut of power without a sync.
    pub unsynced_names_kept: u64,
    /// Reads from the device.
    pub device_reads: u64,
    /// Operations on a handle of an earlier life.
    pub stale_handles: u64,
    /// Bits flipped on request.
    pub flipped_bits: u64,
}
