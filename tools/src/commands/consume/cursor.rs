//! Where each partition is read from, and where reading it ends.

use std::collections::BTreeMap;

use tidelog_bench::client::{Client, FetchTarget, Fetched, TIMESTAMP_END, TIMESTAMP_START};

use crate::failure::{FAILED, Failure};
use crate::partitions::choose;
use crate::when::OffsetSpec;

/// The place in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The next offset to read.
    pub next: i64,
    /// Where to stop, when there is an end.
    pub stop: Option<i64>,
}

impl Cursor {
    /// What to ask the broker for.
    pub fn target(&self) -> FetchTarget {
        FetchTarget {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.next,
        }
    }

    /// True for the partition that `fetched` is of.
    pub fn is_for(&self, fetched: &Fetched) -> bool {
        self.partition == fetched.partition && self.topic == fetched.topic
    }

    /// True when everything wanted was read.
    pub fn is_at_stop(&self) -> bool {
        self.stop.is_some_and(|stop| self.next >= stop)
    }
}

/// The places to begin at, for the partitions given or all.
pub fn find_cursors(
    client: &mut Client,
    topics: &[String],
    partitions: &[i32],
    offset: OffsetSpec,
    exit_at_end: bool,
) -> Result<Vec<Cursor>, Failure> {
    let metadata = client.metadata(Some(topics), false)?;
    let mut cursors = Vec::new();
    for (at, name) in topics.iter().enumerate() {
        if topics.iter().take(at).any(|earlier| earlier == name) {
            continue;
        }
        let topic = metadata.topic(name)?;
        let wanted = choose(topic, partitions)?;
        let mut at = |timestamp: i64| {
            let asked: Vec<(i32, i64)> = wanted.iter().map(|p| (*p, timestamp)).collect();
            client.list_offsets(name, &asked)
        };
        let starts = at(TIMESTAMP_START)?;
        let ends = at(TIMESTAMP_END)?;
        let times = match offset {
            OffsetSpec::Time(timestamp) => at(timestamp)?,
            _ => Default::default(),
        };
        for partition in &wanted {
            let of = |offsets: &BTreeMap<i32, i64>| offsets.get(partition).copied();
            let (start, end) = (of(&starts).unwrap_or(0), of(&ends).unwrap_or(0));
            let next = begin(offset, start, end, of(&times)).map_err(|wrong| {
                Failure::new(FAILED, format!("{name}-{partition}: {wrong}"))
                    .hint("Use -o start, -o end, or an offset up to where it goes on.")
            })?;
            let stop = exit_at_end.then_some(end);
            cursors.push(Cursor {
                topic: name.clone(),
                partition: *partition,
                next,
                stop,
            });
        }
    }
    Ok(cursors)
}

/// The first offset to read from a partition that holds `start..end`.
fn begin(offset: OffsetSpec, start: i64, end: i64, by_time: Option<i64>) -> Result<i64, String> {
    match offset {
        OffsetSpec::Start => Ok(start),
        OffsetSpec::End => Ok(end),
        OffsetSpec::Last(count) => Ok(end.saturating_sub(count).max(start)),
        OffsetSpec::Time(_) => Ok(by_time.filter(|found| *found >= 0).unwrap_or(end)),
        OffsetSpec::At(wanted) if (start..=end).contains(&wanted) => Ok(wanted),
        OffsetSpec::At(wanted) if start == end => Err(format!(
            "offset {wanted} is not there: it is empty and goes on at {end}"
        )),
        OffsetSpec::At(wanted) => Err(format!(
            "offset {wanted} is not there: it holds {start} to {} and goes on at {end}",
            end - 1
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_begins_where_it_was_told() {
        assert_eq!(begin(OffsetSpec::Start, 5, 20, None), Ok(5));
        assert_eq!(begin(OffsetSpec::End, 5, 20, None), Ok(20));
        assert_eq!(begin(OffsetSpec::Last(3), 5, 20, None), Ok(17));
        assert_eq!(begin(OffsetSpec::Last(300), 5, 20, None), Ok(5));
        assert_eq!(begin(OffsetSpec::Time(1), 5, 20, Some(9)), Ok(9));
        assert_eq!(begin(OffsetSpec::Time(1), 5, 20, Some(-1)), Ok(20));
        assert_eq!(begin(OffsetSpec::At(20), 5, 20, None), Ok(20));
        let error = begin(OffsetSpec::At(4), 5, 20, None).expect_err("below");
        assert!(error.contains("5 to 19"), "{error}");
    }

    #[test]
    fn a_cursor_stops_at_its_end_and_not_without_one() {
        let mut cursor = Cursor {
            topic: "t".into(),
            partition: 0,
            next: 5,
            stop: Some(5),
        };
        assert!(cursor.is_at_stop());
        cursor.stop = None;
        assert!(!cursor.is_at_stop());
    }
}
