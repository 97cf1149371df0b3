//! Holds a broker to a history: reads every partition from its start to its high watermark.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::file::{Event, History, HistoryError};
use super::value::{Stamp, make_value, read_stamp};
use crate::client::{
    Client, ClientConfig, ClientError, FetchTarget, Record, TIMESTAMP_END, TIMESTAMP_START, decode_batches,
};
use crate::limits;

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Partition.
    pub partition: i32,
    /// Offset it is about.
    pub offset: i64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "partition {} offset {}: {}",
            self.partition, self.offset, self.what
        )
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Acknowledged records in the history.
    pub acked: u64,
    /// Of these, found at their offset and byte-equal.
    pub found: u64,
    /// Of these, below the log start, where that is allowed.
    pub retired: u64,
    /// Records never acknowledged that are in the log.
    pub unknown_present: u64,
    /// Records never acknowledged that are not in the log.
    pub unknown_absent: u64,
    /// Records in the log that are not of this history.
    pub foreign: u64,
    /// The first violations.
    pub violations: Vec<Violation>,
    /// All violations.
    pub violation_count: u64,
}

impl CheckReport {
    fn violate(&mut self, partition: i32, offset: i64, what: String) {
        self.violation_count += 1;
        if self.violations.len() < limits::VIOLATIONS_KEPT_MAX {
            self.violations.push(Violation {
                partition,
                offset,
                what,
            });
        }
    }
}

/// What a check takes for granted.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Retention is on: what lies below the log start is gone rightly, also when the start moves during the check.
    pub allow_retired: bool,
}

/// Reads the topic of the history at `path` from the broker and checks it: everything must be there.
pub fn check(config: ClientConfig, path: &Path) -> Result<CheckReport, HistoryError> {
    check_with(config, path, CheckOptions::default())
}

/// The same, with options.
pub fn check_with(
    config: ClientConfig,
    path: &Path,
    options: CheckOptions,
) -> Result<CheckReport, HistoryError> {
    let history = History::read(path)?;
    let mut report = CheckReport::default();
    let mut partitions = expectations(&history, &mut report);
    let mut client = Client::connect(config)?;
    let metadata = client.metadata(Some(std::slice::from_ref(&history.topic)), false)?;
    let served: Vec<i32> = match metadata.topic(&history.topic) {
        Ok(topic) => topic.partitions.iter().map(|p| p.partition).collect(),
        Err(error) if error.code() == Some(3) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for partition in served {
        let expected = partitions.entry(partition).or_default();
        let reading = Reading {
            client: &mut client,
            topic: &history.topic,
            partition,
            options,
        };
        reading.read(expected, &mut report)?;
    }
    for (partition, expected) in &partitions {
        expected.finish(*partition, &mut report);
    }
    Ok(report)
}

/// What must and may be read from one partition.
#[derive(Debug, Default)]
struct Expected {
    run: u64,
    /// Acknowledged: sequence and crc by offset.
    acked: BTreeMap<i64, (u64, u32)>,
    /// Everything that was sent: crc by sequence.
    sent: HashMap<u64, u32>,
    /// How often each sequence was read.
    seen: HashMap<u64, u32>,
    /// Acknowledged offsets below this one were compared.
    read_to: i64,
}

fn expectations(history: &History, report: &mut CheckReport) -> BTreeMap<i32, Expected> {
    let mut partitions: BTreeMap<i32, Expected> = BTreeMap::new();
    for event in &history.events {
        match event {
            Event::Sent {
                partition,
                sequence,
                crc,
                ..
            } => {
                let expected = partitions.entry(*partition).or_default();
                expected.run = history.run;
                expected.sent.insert(*sequence, *crc);
            }
            Event::Acked {
                partition,
                sequence,
                crc,
                offset,
                ..
            } => {
                let expected = partitions.entry(*partition).or_default();
                expected.run = history.run;
                expected.sent.insert(*sequence, *crc);
                report.acked += 1;
                if let Some((last, _)) = expected
                    .acked
                    .last_key_value()
                    .filter(|(last, _)| *last >= offset)
                {
                    let what = format!("given to sequence {sequence} after offset {last} was given out");
                    report.violate(*partition, *offset, what);
                }
                expected.acked.insert(*offset, (*sequence, *crc));
            }
            Event::Run { .. } => {}
        }
    }
    partitions
}

impl Expected {
    /// Compares one record that was read.
    fn take(&mut self, partition: i32, record: &Record, report: &mut CheckReport) {
        let offset = record.offset;
        let value = record.value.as_deref().unwrap_or_default();
        let stamp = read_stamp(value).filter(|(stamp, _)| stamp.run == self.run);
        match (self.acked.get(&offset).copied(), stamp) {
            (Some((sequence, crc)), stamp) => {
                match is_equal(record, self.run, partition, sequence, crc, stamp) {
                    true => {
                        report.found += 1;
                        *self.seen.entry(sequence).or_insert(0) += 1;
                    }
                    false => {
                        let got = stamp.map_or("something else".to_owned(), |(s, _)| {
                            format!("sequence {}", s.sequence)
                        });
                        let what = format!(
                            "acknowledged for sequence {sequence}, but {got} is there, or other bytes"
                        );
                        report.violate(partition, offset, what);
                    }
                }
            }
            (None, None) => report.foreign += 1,
            (None, Some((stamp, filler_bytes))) => {
                let known = self.sent.get(&stamp.sequence) == Some(&crc32fast::hash(value));
                if stamp.partition != partition || !known || make_value(stamp, filler_bytes) != value {
                    report.violate(partition, offset, format!("{stamp:?} was never sent like this"));
                }
                *self.seen.entry(stamp.sequence).or_insert(0) += 1;
            }
        }
    }

    /// What remains to be said once everything was read.
    fn finish(&self, partition: i32, report: &mut CheckReport) {
        for (offset, (sequence, _)) in self.acked.range(self.read_to..) {
            let what = format!("acknowledged for sequence {sequence}, but not in the log");
            report.violate(partition, *offset, what);
        }
        for (sequence, times) in self.seen.iter().filter(|(_, times)| **times > 1) {
            report.violate(
                partition,
                -1,
                format!("sequence {sequence} is in the log {times} times"),
            );
        }
        let acked: std::collections::HashSet<u64> =
            self.acked.values().map(|(sequence, _)| *sequence).collect();
        for sequence in self.sent.keys().filter(|s| !acked.contains(s)) {
            match self.seen.contains_key(sequence) {
                true => report.unknown_present += 1,
                false => report.unknown_absent += 1,
            }
        }
    }
}

fn is_equal(
    record: &Record,
    run: u64,
    partition: i32,
    sequence: u64,
    crc: u32,
    stamp: Option<(Stamp, usize)>,
) -> bool {
    let (Some((_, filler_bytes)), Some(value)) = (stamp, record.value.as_ref()) else {
        return false;
    };
    if filler_bytes > limits::HISTORY_VALUE_BYTES_MAX {
        return false;
    }
    crc32fast::hash(value) == crc
        && *value
            == make_value(
                Stamp {
                    run,
                    partition,
                    sequence,
                },
                filler_bytes,
            )
        && record.key.as_deref() == Some(sequence.to_string().as_bytes())
}

/// OFFSET_OUT_OF_RANGE
const OUT_OF_RANGE: i16 = 1;

/// One partition that is read from its start to its end.
struct Reading<'a> {
    client: &'a mut Client,
    topic: &'a str,
    partition: i32,
    options: CheckOptions,
}

impl Reading<'_> {
    /// Acknowledged offsets of a range are below the log start.
    fn below_start(&self, range: Range<i64>, expected: &Expected, report: &mut CheckReport) {
        let start = range.end;
        for (offset, (sequence, _)) in expected.acked.range(range) {
            if self.options.allow_retired {
                report.retired += 1;
            } else {
                let what = format!("acknowledged for sequence {sequence}, but the log starts at {start}");
                report.violate(self.partition, *offset, what);
            }
        }
    }

    fn read(self, expected: &mut Expected, report: &mut CheckReport) -> Result<(), ClientError> {
        let (topic, partition) = (self.topic, self.partition);
        let start = offset_at(self.client, topic, partition, TIMESTAMP_START)?;
        let end = offset_at(self.client, topic, partition, TIMESTAMP_END)?;
        self.below_start(i64::MIN..start, expected, report);
        expected.read_to = end;
        let mut next = start;
        while next < end {
            let target = FetchTarget {
                topic: topic.to_owned(),
                partition,
                offset: next,
            };
            let wait = self.client.config().fetch_wait;
            let answer = self.client.fetch(&[target], wait)?;
            let subject = || format!("{topic}-{partition} at offset {next}");
            let Some(fetched) = answer.into_iter().find(|f| f.partition == partition) else {
                return Err(ClientError::broker(
                    subject(),
                    -1,
                    Some("the answer does not name this partition"),
                ));
            };
            if fetched.error_code == OUT_OF_RANGE && self.options.allow_retired {
                let moved = offset_at(self.client, topic, partition, TIMESTAMP_START)?;
                if moved > next {
                    self.below_start(next..moved, expected, report);
                    next = moved;
                    continue;
                }
            }
            if fetched.error_code != 0 {
                return Err(ClientError::broker(subject(), fetched.error_code, None));
            }
            let decoded = match decode_batches(fetched.records) {
                Ok(decoded) => decoded,
                Err(detail) => {
                    report.violate(partition, next, format!("served bytes do not verify: {detail}"));
                    return Ok(());
                }
            };
            let Some(after) = decoded.next_offset.filter(|after| *after > next) else {
                report.violate(
                    partition,
                    next,
                    format!("nothing is served below the high watermark {end}"),
                );
                return Ok(());
            };
            let from = next;
            for record in decoded
                .records
                .iter()
                .filter(|r| r.offset >= from && r.offset < end)
            {
                if record.offset != next {
                    report.violate(
                        partition,
                        next,
                        format!("skipped: the next record is at {}", record.offset),
                    );
                }
                expected.take(partition, record, report);
                next = record.offset + 1;
            }
            next = next.max(after);
        }
        Ok(())
    }
}

fn offset_at(client: &mut Client, topic: &str, partition: i32, timestamp: i64) -> Result<i64, ClientError> {
    let offsets = client.list_offsets(topic, &[(partition, timestamp)])?;
    Ok(offsets.get(&partition).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u64 = 9;

    fn crc(sequence: u64) -> u32 {
        crc32fast::hash(&make_value(
            Stamp {
                run: RUN,
                partition: 0,
                sequence,
            },
            50,
        ))
    }

    fn acked(sequence: u64, offset: i64) -> Event {
        Event::Acked {
            partition: 0,
            sequence,
            crc: crc(sequence),
            sent_ms: 0,
            offset,
        }
    }

    fn sent(sequence: u64) -> Event {
        Event::Sent {
            partition: 0,
            sequence,
            crc: crc(sequence),
            sent_ms: 0,
        }
    }

    fn record(sequence: u64, offset: i64) -> Record {
        Record {
            offset,
            timestamp_ms: 0,
            key: Some(sequence.to_string().into()),
            value: Some(make_value(
                Stamp {
                    run: RUN,
                    partition: 0,
                    sequence,
                },
                50,
            )),
            headers: vec![],
        }
    }

    fn run(events: Vec<Event>, records: &[Record], end: i64) -> CheckReport {
        let history = History {
            run: RUN,
            topic: "t".into(),
            events,
            whole_bytes: 0,
        };
        let mut report = CheckReport::default();
        let mut partitions = expectations(&history, &mut report);
        let expected = partitions.entry(0).or_default();
        expected.read_to = end;
        for record in records {
            expected.take(0, record, &mut report);
        }
        expected.finish(0, &mut report);
        report
    }

    #[test]
    fn a_log_that_holds_everything_passes() {
        let events = vec![sent(0), acked(0, 0), sent(1), sent(2), acked(2, 2)];
        let report = run(events.clone(), &[record(0, 0), record(1, 1), record(2, 2)], 3);
        assert_eq!((report.acked, report.found, report.violation_count), (2, 2, 0));
        assert_eq!((report.unknown_present, report.unknown_absent), (1, 0));
        let report = run(vec![sent(0), acked(0, 0), sent(1)], &[record(0, 0)], 1);
        assert_eq!(
            (
                report.unknown_present,
                report.unknown_absent,
                report.violation_count
            ),
            (0, 1, 0)
        );
    }

    #[test]
    fn loss_swap_change_and_repetition_are_found() {
        let events = vec![acked(0, 0), acked(1, 1)];
        assert_eq!(
            run(events.clone(), &[record(0, 0)], 1).violation_count,
            1,
            "lost tail"
        );
        assert_eq!(
            run(events.clone(), &[record(1, 0), record(0, 1)], 2).violation_count,
            2,
            "swapped"
        );
        let mut changed = record(1, 1);
        let mut bytes = changed.value.as_deref().expect("value").to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        changed.value = Some(bytes.into());
        assert_eq!(
            run(events.clone(), &[record(0, 0), changed], 2).violation_count,
            1,
            "changed"
        );
        let twice = [record(0, 0), record(1, 1), record(1, 2)];
        assert_eq!(run(events, &twice, 3).violation_count, 1, "twice");
    }

    #[test]
    fn an_offset_given_out_twice_is_found_in_the_history_itself() {
        assert_eq!(
            run(vec![acked(0, 5), acked(1, 5)], &[], 0).violations[0].offset,
            5
        );
    }

    #[test]
    fn records_of_others_are_only_counted() {
        let mut foreign = record(0, 0);
        foreign.value = Some("hello".into());
        let report = run(vec![], &[foreign], 1);
        assert_eq!((report.foreign, report.violation_count), (1, 0));
    }
}
