//! One log on a disk that gets on by itself when somebody waits for it: real files, or a simulated disk that is
//! [`Stepping`](super::disk::Stepping).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::log::{
    CloseProgress, OpenError, OpenProgress, OpenSpec, Opening, PartitionLog, drive_open,
};
use tidelog_segment_log::recovery::RecoveryReport;

pub type Opened = (Box<PartitionLog>, RecoveryReport);

/// Opens it; it takes appends.
pub fn open(disk: &mut dyn Disk, spec: OpenSpec) -> Opened {
    let (mut log, report) = drive_open(disk, Opening::new(spec)).unwrap();
    log.confirm_term();
    (log, report)
}

/// Opens it at a time of a clock of the test's own.
pub fn open_at(disk: &mut dyn Disk, now_ms: i64, mut opening: Opening) -> Result<Opened, OpenError> {
    let mut completions = Vec::new();
    loop {
        match opening.step(now_ms, disk, std::mem::take(&mut completions)) {
            OpenProgress::Ready(log, report) => return Ok((log, report)),
            OpenProgress::Failed(error) => return Err(error),
            OpenProgress::Pending => disk.take_completions(&mut completions),
        }
    }
}

/// Writes and commits until the disk has nothing to say.
pub fn settle(log: &mut PartitionLog, disk: &mut dyn Disk, now_ms: i64) {
    let mut completions = Vec::new();
    loop {
        log.flush(now_ms, disk);
        disk.take_completions(&mut completions);
        if completions.is_empty() {
            return;
        }
        for completion in completions.drain(..) {
            log.on_completion(now_ms, disk, completion);
        }
    }
}

/// Stops it in order.
pub fn close(mut log: Box<PartitionLog>, disk: &mut dyn Disk, now_ms: i64) -> PartitionCheckpoint {
    loop {
        match log.close(now_ms, disk) {
            CloseProgress::Closed(checkpoint) => return *checkpoint,
            CloseProgress::Fenced => panic!("fenced: {:?}", log.fence_cause()),
            CloseProgress::Pending => settle(&mut log, disk, now_ms),
        }
    }
}
