//! What a data directory's checkpoints prove of the segments below it.
//!
//! A segment alone cannot tell whether its last entries were acknowledged: the proof for an entry stands in
//! later ones. The checkpoint says how far each segment was on the disk when it was written. It only ever
//! proves that more was there, never that less was.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tidelog_segment_log::checkpoint::{Checkpoint, SegmentCheckpoint};
use tidelog_segment_log::ids::Incarnation;
use tidelog_segment_log::limits::CHECKPOINT_FILE_BYTES_MAX;

const CHECKPOINT_PREFIX: &str = "checkpoint-";
const PREVIOUS_SUFFIX: &str = ".previous";
/// How far above a segment its data directory is looked for.
const LEVELS_UP: usize = 4;

/// The proofs found so far, by data directory.
#[derive(Debug, Default)]
pub struct Evidence {
    directories: HashMap<PathBuf, HashMap<Incarnation, SegmentCheckpoint>>,
}

impl Evidence {
    /// What the checkpoints of the data directory that `path` lies in, if it does, prove of a segment.
    /// Ask before the segment is read: what a running broker writes later proves nothing of it.
    pub fn claim(&mut self, path: &Path, incarnation: &Incarnation) -> Option<SegmentCheckpoint> {
        let path = path.canonicalize().ok()?;
        path.ancestors().skip(1).take(LEVELS_UP).find_map(|directory| {
            self.directories
                .entry(directory.to_path_buf())
                .or_insert_with(|| read_checkpoints(directory))
                .get(incarnation)
                .copied()
        })
    }
}

/// How much of each segment was on the disk, as the checkpoints of a directory say that verify.
fn read_checkpoints(directory: &Path) -> HashMap<Incarnation, SegmentCheckpoint> {
    let mut claims: HashMap<Incarnation, SegmentCheckpoint> = HashMap::new();
    for (_, checkpoint) in checkpoints(directory) {
        // One that is being replaced or does not verify proves nothing.
        let Ok(checkpoint) = checkpoint else { continue };
        for segment in checkpoint
            .partitions
            .iter()
            .flat_map(|partition| &partition.segments)
        {
            let claim = claims.entry(segment.incarnation).or_insert(*segment);
            if segment.length > claim.length {
                *claim = *segment;
            }
        }
    }
    claims
}

/// Every checkpoint file in a directory, by name, and what is in it or what is wrong with it.
pub fn checkpoints(directory: &Path) -> Vec<(PathBuf, Result<Checkpoint, String>)> {
    let is_checkpoint = |name: &str| {
        name.strip_prefix(CHECKPOINT_PREFIX)
            .map(|rest| rest.strip_suffix(PREVIOUS_SUFFIX).unwrap_or(rest))
            .is_some_and(|shard| shard.parse::<u32>().is_ok())
    };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_checkpoint))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let checkpoint = read_bounded(&path, CHECKPOINT_FILE_BYTES_MAX)
            .map_err(|e| e.to_string())
            .and_then(|bytes| Checkpoint::decode(&bytes).map_err(|e| e.to_string()));
        (path, checkpoint)
    };
    paths.into_iter().map(read).collect()
}

/// A whole small file, or an error where it is larger than such a file may be.
pub fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() > bytes_max {
        true => Err(io::Error::other(format!("it is larger than {bytes_max} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use tidelog_segment_log::checkpoint::PartitionCheckpoint;
    use tidelog_segment_log::ids::{EntryIndex, FilePosition};
    use tidelog_segment_log::segment_header::segment_file_name;

    use super::*;
    use crate::commands::segment::scan::tests::make_segment;
    use crate::commands::segment::scan::{End, Surroundings, scan};

    #[test]
    fn a_last_entry_that_the_checkpoint_proves_is_damage_and_not_a_torn_tail() {
        let directory = tempfile::tempdir().expect("directory");
        let partition = directory.path().join("partitions").join("topic-0");
        std::fs::create_dir_all(&partition).expect("partition");
        let file = partition.join(segment_file_name(EntryIndex(1), 0));
        let good = make_segment(3);
        std::fs::write(&file, &good).expect("write");
        let whole = scan(&file, &Surroundings::default(), |_, _, _| Ok(())).expect("scan");
        let incarnation = whole.header.expect("header").incarnation;
        let segment = SegmentCheckpoint {
            incarnation,
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
            let around = Surroundings {
                claim: Evidence::default().claim(&file, &incarnation),
                ..Surroundings::default()
            };
            scan(&file, &around, |_, _, _| Ok(())).expect("scan")
        };
        assert!(
            matches!(judged().end, End::TornTail { .. }),
            "nothing proves it yet"
        );
        assert!(!judged().is_damaged());
        std::fs::write(directory.path().join("checkpoint-0"), checkpoint.encode()).expect("write");
        assert!(judged().is_damaged());
        std::fs::write(&file, &good[..whole.end_position as usize - 40]).expect("write");
        assert!(matches!(judged().end, End::Damage { .. }), "cut off");
        assert!(judged().is_damaged());
        std::fs::write(&file, &good).expect("write");
        assert_eq!((judged().end.clone(), judged().is_damaged()), (End::Clean, false));
    }
}
