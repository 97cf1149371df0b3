//! What a data directory's checkpoints prove of the segments below it.
//!
//! A segment alone cannot tell whether its last entries were acknowledged: the proof for an entry stands in
//! later ones. The checkpoint says how far each segment was on the disk when it was written. It only ever
//! proves that more was there, never that less was.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tidelog_segment_log::checkpoint::Checkpoint;
use tidelog_segment_log::ids::Incarnation;

use super::scan::{End, Scan};

const CHECKPOINT_PREFIX: &str = "checkpoint-";
/// How far above a segment its data directory is looked for.
const LEVELS_UP: usize = 4;

/// The proofs found so far, by data directory.
#[derive(Debug, Default)]
pub struct Evidence {
    directories: HashMap<PathBuf, HashMap<Incarnation, u64>>,
}

impl Evidence {
    /// Corrects a verdict by what the checkpoints of the segment's data directory prove, if it lies in one.
    pub fn judge(&mut self, path: &Path, scan: &mut Scan) {
        let Some(header) = scan.header else { return };
        let Ok(path) = path.canonicalize() else { return };
        for directory in path.ancestors().skip(1).take(LEVELS_UP) {
            let lengths = self
                .directories
                .entry(directory.to_path_buf())
                .or_insert_with(|| read_checkpoints(directory));
            if let Some(proven) = lengths.get(&header.incarnation) {
                correct(scan, *proven);
                return;
            }
        }
    }
}

fn correct(scan: &mut Scan, proven: u64) {
    if scan.end_position >= proven {
        return;
    }
    let why = match &scan.end {
        End::TornTail { why, .. } => format!("{why}; the checkpoint proves {proven} bytes"),
        End::Clean => format!("it ends here, and the checkpoint proves {proven} bytes"),
        End::Damage { .. } => return,
    };
    scan.end = End::Damage {
        position: scan.end_position,
        why,
    };
}

/// How long each segment was on the disk, as the checkpoints of a directory say that verify.
fn read_checkpoints(directory: &Path) -> HashMap<Incarnation, u64> {
    let mut lengths = HashMap::new();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let checkpoints =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(CHECKPOINT_PREFIX));
    for entry in checkpoints {
        // One that is being replaced or does not verify proves nothing.
        let Some(checkpoint) = std::fs::read(entry.path())
            .ok()
            .and_then(|bytes| Checkpoint::decode(&bytes).ok())
        else {
            continue;
        };
        for segment in checkpoint
            .partitions
            .iter()
            .flat_map(|partition| &partition.segments)
        {
            let length = lengths.entry(segment.incarnation).or_insert(0);
            *length = segment.length.0.max(*length);
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use tidelog_segment_log::checkpoint::{PartitionCheckpoint, SegmentCheckpoint};
    use tidelog_segment_log::ids::{EntryIndex, FilePosition};
    use tidelog_segment_log::segment_header::segment_file_name;

    use super::*;
    use crate::commands::segment::scan::scan;
    use crate::commands::segment::scan::tests::make_segment;

    #[test]
    fn a_last_entry_that_the_checkpoint_proves_is_damage_and_not_a_torn_tail() {
        let directory = tempfile::tempdir().expect("directory");
        let partition = directory.path().join("partitions").join("topic-0");
        std::fs::create_dir_all(&partition).expect("partition");
        let file = partition.join(segment_file_name(EntryIndex(1), 0));
        let good = make_segment(3);
        std::fs::write(&file, &good).expect("write");
        let whole = scan(&file, |_, _| {}).expect("scan");
        let segment = SegmentCheckpoint {
            incarnation: whole.header.expect("header").incarnation,
            length: FilePosition(whole.end_position),
            ..SegmentCheckpoint::default()
        };
        let partition = PartitionCheckpoint {
            segments: vec![segment],
            ..PartitionCheckpoint::default()
        };
        let checkpoint = Checkpoint {
            start_counter: 1,
            partitions: vec![partition],
        };
        let mut bytes = good.clone();
        bytes[whole.end_position as usize - 20] ^= 1;
        std::fs::write(&file, &bytes).expect("write");
        let judged = || {
            let mut scan = scan(&file, |_, _| {}).expect("scan");
            Evidence::default().judge(&file, &mut scan);
            scan.end
        };
        assert!(matches!(judged(), End::TornTail { .. }), "nothing proves it yet");
        std::fs::write(directory.path().join("checkpoint-0"), checkpoint.encode()).expect("write");
        assert!(matches!(judged(), End::Damage { .. }));
        std::fs::write(&file, &good[..whole.end_position as usize - 40]).expect("write");
        assert!(matches!(judged(), End::Damage { .. }), "cut off");
        std::fs::write(&file, &good).expect("write");
        assert_eq!(judged(), End::Clean);
    }
}
