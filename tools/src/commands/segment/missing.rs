//! Segments that the newest checkpoint of a data directory names and that are not there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::ids::{EntryIndex, Incarnation, Offset, PartitionKey};
use tidelog_segment_log::segment_header::{SegmentHeader, segment_file_name};

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
    pub fn missing(&self, seen: &HashSet<Incarnation>, kept: &Kept) -> Vec<(PathBuf, Damage, bool)> {
        let mut missing = Vec::new();
        for partition in &self.partitions {
            let key = &partition.key;
            let directory = self
                .root
                .join(PARTITIONS_DIRECTORY)
                .join(format!("{}-{}", key.topic, key.partition));
            let log_start = kept.log_start(&directory).max(partition.log_start);
            for segment in &partition.segments {
                let is_empty = segment.durable_index < segment.base_index;
                let path = directory.join(segment_file_name(segment.base_index, segment.generation));
                // A file that is there was walked, and its header says what is wrong with it.
                if is_empty || seen.contains(&segment.incarnation) || path.exists() {
                    continue;
                }
                let (before, after) = kept.around(&directory, segment.base_index);
                // What lies below the log start was removed, not lost.
                if after.is_some_and(|after| after <= log_start) {
                    continue;
                }
                let damage = Damage {
                    position: 0..segment.length.0,
                    first_offset: before.unwrap_or(log_start),
                    next_offset: Some(after.unwrap_or(partition.next_offset)),
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

/// What the segments that are there hold, by the directory of their partition.
#[derive(Debug, Default)]
pub struct Kept {
    partitions: HashMap<PathBuf, KeptPartition>,
}

#[derive(Debug, Default)]
struct KeptPartition {
    log_start: Offset,
    segments: BTreeMap<EntryIndex, (Offset, Offset)>,
}

impl Kept {
    /// Takes note of a segment: where it begins, the offset behind its last entry, the highest log
    /// start that its entries name.
    pub fn note(&mut self, path: &Path, header: &SegmentHeader, next_offset: Offset, log_start: Offset) {
        let directory = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let partition = self.partitions.entry(directory).or_default();
        partition.log_start = partition.log_start.max(log_start);
        let bounds = (header.base_offset, next_offset);
        partition.segments.insert(header.base_index, bounds);
    }

    fn log_start(&self, directory: &Path) -> Offset {
        self.partitions.get(directory).map_or(Offset(0), |p| p.log_start)
    }

    /// The offset behind the segment before `index`, and the first one of the segment after it.
    fn around(&self, directory: &Path, index: EntryIndex) -> (Option<Offset>, Option<Offset>) {
        let Some(partition) = self.partitions.get(directory) else {
            return (None, None);
        };
        let before = partition.segments.range(..index).next_back();
        let after = partition.segments.range(EntryIndex(index.0 + 1)..).next();
        (
            before.map(|(_, bounds)| bounds.1),
            after.map(|(_, bounds)| bounds.0),
        )
    }
}

#[cfg(test)]
mod tests {
    use tidelog_segment_log::checkpoint::{Checkpoint, SegmentCheckpoint};
    use tidelog_segment_log::ids::{FilePosition, TopicId};
    use tidelog_segment_log::segment_header::SEGMENT_FORMAT_VERSION;

    use super::*;

    fn header(base_index: u64, base_offset: i64) -> SegmentHeader {
        SegmentHeader {
            format_version: SEGMENT_FORMAT_VERSION,
            features: 0,
            incarnation: Incarnation([base_index as u8; 16]),
            topic: TopicId([1; 16]),
            partition: 0,
            generation: 0,
            base_offset: Offset(base_offset),
            base_index: EntryIndex(base_index),
            replaced: None,
            key_reference: None,
        }
    }

    #[test]
    fn a_segment_that_is_not_there_is_lost_unless_it_lies_below_the_log_start() {
        let root = tempfile::tempdir().expect("directory");
        let headers = [header(1, 0), header(11, 100), header(21, 200)];
        let key = headers[0].partition_key();
        let directory = root.path().join("partitions").join(format!("{}-0", key.topic));
        std::fs::create_dir_all(&directory).expect("partition");
        let segment = |header: &SegmentHeader| SegmentCheckpoint {
            incarnation: header.incarnation,
            base_index: header.base_index,
            durable_index: EntryIndex(header.base_index.0 + 9),
            length: FilePosition(9000),
            ..SegmentCheckpoint::default()
        };
        let checkpoint = Checkpoint {
            start_counter: 1,
            partitions: vec![PartitionCheckpoint {
                key,
                next_offset: Offset(300),
                segments: headers.iter().map(segment).collect(),
                ..PartitionCheckpoint::default()
            }],
        };
        std::fs::write(root.path().join("checkpoint-0"), checkpoint.encode()).expect("write");
        std::fs::write(root.path().join("checkpoint-1"), b"nonsense").expect("write");
        let named = Named::read(root.path());
        assert_eq!(named.faults.len(), 1, "{:?}", named.faults);
        let lost = |there: &[usize], log_start: i64| {
            let (mut seen, mut kept) = (HashSet::new(), Kept::default());
            for header in there.iter().map(|at| &headers[*at]) {
                seen.insert(header.incarnation);
                let next = Offset(header.base_offset.0 + 100);
                kept.note(
                    &directory.join(header.file_name()),
                    header,
                    next,
                    Offset(log_start),
                );
            }
            let missing = named.missing(&seen, &kept);
            assert!(missing.iter().all(|(_, _, is_certain)| *is_certain));
            let offsets = missing.iter().map(|(_, damage, _)| damage.offsets());
            offsets.collect::<Vec<_>>()
        };
        assert_eq!(lost(&[0, 1, 2], 0), Vec::<String>::new());
        assert_eq!(lost(&[0, 2], 0), ["offsets 100 to 199"]);
        assert_eq!(lost(&[0, 1], 0), ["offsets 200 to 299"]);
        assert_eq!(lost(&[1, 2], 0), ["offsets 0 to 99"]);
        assert_eq!(lost(&[1, 2], 100), Vec::<String>::new());
    }
}
