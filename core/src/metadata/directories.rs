//! Which data directory a new partition goes to.
//!
//! Pure; group 0's shard. The one with the fewest partitions among those that take writes, and of such the one
//! with more room; when none takes writes, among all that work. A partition stays where it was put. One whose
//! records are kept in memory is in none.

use uuid::Uuid;

use super::image::MetadataImage;
use super::record::MetadataRecord;
use crate::topic_config::Storage;

/// A directory that partitions may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryChoice {
    /// Its id; nil: the one of the metadata log.
    pub id: Uuid,
    /// Whether there is room on it.
    pub takes_writes: bool,
    /// Bytes that may be written, -1 when not known.
    pub usable_bytes: i64,
}

/// The records that put the partitions that `records` make into directories, to follow them.
pub fn assign_directories(
    image: &MetadataImage,
    records: &[MetadataRecord],
    choices: &[DirectoryChoice],
) -> Vec<MetadataRecord> {
    if choices.len() < 2 {
        let only = choices.first().map_or(Uuid::nil(), |choice| choice.id);
        return made_by(image, records)
            .map(|made| made.into_record(|| only))
            .filter(is_told)
            .collect();
    }
    let mut counts = count(image, choices);
    let mut next = || {
        let preferred = choices.iter().any(|choice| choice.takes_writes);
        let fewest = choices
            .iter()
            .zip(&mut counts)
            .filter(|(choice, _)| choice.takes_writes || !preferred)
            .min_by_key(|(choice, count)| (**count, std::cmp::Reverse(choice.usable_bytes)));
        fewest.map_or(Uuid::nil(), |(choice, count)| {
            *count += 1;
            choice.id
        })
    };
    made_by(image, records)
        .map(|made| made.into_record(&mut next))
        .filter(is_told)
        .collect()
}

/// Whether a record says more than what holds without it.
fn is_told(record: &MetadataRecord) -> bool {
    matches!(record, MetadataRecord::DirectoriesAssigned { directories, .. } if directories.iter().any(|id| !id.is_nil()))
}

/// Partitions of each directory.
fn count(image: &MetadataImage, choices: &[DirectoryChoice]) -> Vec<u64> {
    let mut counts = vec![0; choices.len()];
    let mut add = |id: Uuid, more: u64| {
        if let Some(at) = choices.iter().position(|choice| choice.id == id)
            && let Some(count) = counts.get_mut(at)
        {
            *count += more;
        }
    };
    for topic in image.topics().filter(|topic| !topic.is_in_memory()) {
        let elsewhere = topic.directories.len() as u64;
        add(
            Uuid::nil(),
            u64::from(topic.partitions.unsigned_abs()).saturating_sub(elsewhere),
        );
        topic.directories.values().for_each(|id| add(*id, 1));
    }
    counts
}

/// Partitions that come to be.
struct Made {
    topic_id: Uuid,
    first: i32,
    end: i32,
}

impl Made {
    fn into_record(self, mut next: impl FnMut() -> Uuid) -> MetadataRecord {
        MetadataRecord::DirectoriesAssigned {
            topic_id: self.topic_id,
            first: self.first,
            directories: (self.first..self.end).map(|_| next()).collect(),
        }
    }
}

fn made_by<'a>(image: &'a MetadataImage, records: &'a [MetadataRecord]) -> impl Iterator<Item = Made> + 'a {
    records.iter().filter_map(|record| match record {
        MetadataRecord::TopicCreated {
            topic_id,
            partitions,
            configs,
            ..
        } => {
            let configs = configs.iter().cloned().collect();
            (Storage::of(&configs) == Storage::Disk).then_some(Made {
                topic_id: *topic_id,
                first: 0,
                end: *partitions,
            })
        }
        MetadataRecord::PartitionsAdded { topic_id, partitions } => {
            let topic = image.topic_by_id(*topic_id)?;
            (!topic.is_in_memory()).then_some(Made {
                topic_id: *topic_id,
                first: topic.partitions,
                end: *partitions,
            })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::MetadataMachine;

    fn choice(id: u128, takes_writes: bool, usable_bytes: i64) -> DirectoryChoice {
        DirectoryChoice {
            id: Uuid::from_u128(id),
            takes_writes,
            usable_bytes,
        }
    }

    fn created(id: u128, partitions: i32) -> MetadataRecord {
        MetadataRecord::TopicCreated {
            name: format!("t{id}"),
            topic_id: Uuid::from_u128(id),
            partitions,
            replication_factor: 1,
            configs: vec![],
        }
    }

    /// Applies a record and what puts its partitions into directories; the directories of the topic.
    fn put(machine: &mut MetadataMachine, record: MetadataRecord, choices: &[DirectoryChoice]) -> Vec<u128> {
        let mut records = vec![record];
        records.extend(assign_directories(&machine.image(), &records, choices));
        records.iter().for_each(|record| machine.apply(record).unwrap());
        let image = machine.image();
        let topic = match &records[0] {
            MetadataRecord::TopicCreated { topic_id, .. }
            | MetadataRecord::PartitionsAdded { topic_id, .. } => image.topic_by_id(*topic_id).unwrap(),
            other => panic!("{other:?}"),
        };
        (0..topic.partitions)
            .map(|at| topic.directory_of(at).as_u128())
            .collect()
    }

    #[test]
    fn partitions_spread_over_directories_and_stay() {
        let mut machine = MetadataMachine::new();
        // Before there were others.
        let home = choice(0, true, 10);
        assert_eq!(put(&mut machine, created(1, 4), &[home]), [0; 4]);
        let all = [home, choice(7, true, 100), choice(8, true, 50)];
        assert_eq!(put(&mut machine, created(2, 5), &all), [7, 8, 7, 8, 7]);
        assert_eq!(put(&mut machine, created(3, 4), &all), [8, 7, 8, 7]);
        let more = MetadataRecord::PartitionsAdded {
            topic_id: Uuid::from_u128(2),
            partitions: 7,
        };
        assert_eq!(put(&mut machine, more, &all), [7, 8, 7, 8, 7, 8, 0]);
    }

    #[test]
    fn a_full_directory_is_left_out_while_another_is_not() {
        let mut machine = MetadataMachine::new();
        let full = [choice(0, false, 1), choice(7, true, 1), choice(8, false, 9)];
        assert_eq!(put(&mut machine, created(1, 3), &full), [7; 3]);
        let all_full = full.map(|choice| DirectoryChoice {
            takes_writes: false,
            ..choice
        });
        assert_eq!(put(&mut machine, created(2, 2), &all_full), [8, 0]);
    }

    #[test]
    fn with_one_directory_nothing_is_recorded_but_where_it_is_not_the_logs() {
        let image = MetadataImage::default();
        let records = [created(1, 2)];
        assert_eq!(assign_directories(&image, &records, &[choice(0, true, 1)]), []);
        let other = assign_directories(&image, &records, &[choice(5, true, 1)]);
        assert!(
            matches!(&other[..], [MetadataRecord::DirectoriesAssigned { directories, .. }] if directories.len() == 2)
        );
    }
}
