//! Segments that the newest checkpoint of a data directory names and that are not there.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::ids::{Incarnation, Offset, PartitionKey};
use tidelog_segment_log::segment_header::segment_file_name;

use super::evidence::checkpoints;
use super::scan::Damage;

const PARTITIONS_DIRECTORY: &str = "partitions";
const CLEAN_FILE: &str = "clean";

/// What the checkpoints of a data directory name. Empty for any other path.
#[derive(Debug, Default)]
pub struct Named {
    root: PathBuf,
    /// The last start ended in order: then the checkpoints name exactly what there is.
    is_clean: bool,
    partitions: Vec<PartitionCheckpoint>,
    /// Checkpoint files that cannot be used.
    pub faults: Vec<String>,
}

impl Named {
    /// Reads the checkpoints at `root`, if it is a data directory.
    pub fn read(root: &Path) -> Self {
        let mut named = Named {
            root: root.to_owned(),
            is_clean: root.join(CLEAN_FILE).exists(),
            ..Named::default()
        };
        if !root.join(PARTITIONS_DIRECTORY).is_dir() {
            return named;
        }
        let mut newest: HashMap<PartitionKey, (u64, PartitionCheckpoint)> = HashMap::new();
        for (path, checkpoint) in checkpoints(root) {
            let checkpoint = match checkpoint {
                Ok(checkpoint) => checkpoint,
                // A running broker replaces them: one that is gone by now is no fault.
                Err(why) => {
                    if path.exists() {
                        named.faults.push(format!("{}: {why}", path.display()));
                    }
                    continue;
                }
            };
            // The older generation only proves more; what it names may have been removed since.
            if path.extension().is_some_and(|extension| extension == "previous") {
                continue;
            }
            for partition in checkpoint.partitions {
                let is_newer = newest
                    .get(&partition.key)
                    .is_none_or(|(start, _)| *start < checkpoint.start_counter);
                if is_newer {
                    newest.insert(partition.key, (checkpoint.start_counter, partition));
                }
            }
        }
        named.partitions = newest.into_values().map(|(_, partition)| partition).collect();
        named.partitions.sort_by_key(|p| (p.key.topic.0, p.key.partition));
        named
    }

    /// The segments that hold something and are not among `seen`: where each should be, what is lost,
    /// and whether that is certain (else its topic may have been deleted).
    pub fn missing(&self, seen: &HashSet<Incarnation>) -> Vec<(PathBuf, Damage, bool)> {
        let mut missing = Vec::new();
        for partition in &self.partitions {
            let key = &partition.key;
            let directory = self
                .root
                .join(PARTITIONS_DIRECTORY)
                .join(format!("{}-{}", key.topic, key.partition));
            for segment in &partition.segments {
                let is_empty = segment.durable_index < segment.base_index;
                let path = directory.join(segment_file_name(segment.base_index, segment.generation));
                // A file that is there was walked, and its header says what is wrong with it.
                if is_empty || seen.contains(&segment.incarnation) || path.exists() {
                    continue;
                }
                let is_last = partition.segments.last() == Some(segment);
                let damage = Damage {
                    position: 0..segment.length.0,
                    first_offset: Offset(0),
                    next_offset: is_last.then_some(partition.next_offset),
                    why: format!(
                        "the checkpoint names this segment with indices {} to {}, and it is not there",
                        segment.base_index, segment.durable_index
                    ),
                };
                missing.push((path, damage, self.is_clean || directory.is_dir()));
            }
        }
        missing
    }
}
