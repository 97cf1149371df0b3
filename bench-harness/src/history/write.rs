//! Produces stamped records and notes what was acknowledged.
//!
//! One batch is in flight at a time, so the order of acknowledgements is the order of the log. A
//! batch is sent once: after a failure its records stay "unknown" and new sequences go on, while the
//! broker is tried again until the time is over.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::file::{Event, History, HistoryError, HistoryWriter};
use super::value::{Stamp, make_value};
use crate::client::{Acks, Client, ClientConfig, ClientError, Compression, Record, encode_batch};
use crate::limits;

/// What to write.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Topic, which must exist or be created by the broker on use.
    pub topic: String,
    /// The history file.
    pub history: PathBuf,
    /// Which acknowledgement to ask for.
    pub acks: Acks,
    /// Records to send, when limited.
    pub count: Option<u64>,
    /// Time to write for, when limited.
    pub duration: Option<Duration>,
    /// Records in one batch.
    pub batch_records: usize,
    /// Most bytes of filler in a value.
    pub filler_bytes: usize,
    /// Codec.
    pub compression: Compression,
}

/// How the writing went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteReport {
    /// Records sent.
    pub sent: u64,
    /// Records acknowledged and noted.
    pub acked: u64,
    /// Batches whose outcome is unknown.
    pub unknown_batches: u64,
    /// Batches the broker refused, and tries that reached no broker.
    pub failures: u64,
    /// The last failure, in words.
    pub last_failure: Option<String>,
}

/// Writes until the count or the time is reached. Broker failures are noted and survived.
pub fn write(config: ClientConfig, options: &WriteOptions) -> Result<WriteReport, HistoryError> {
    let (file, history) = HistoryWriter::open(&options.history, &options.topic, fresh_run())?;
    let mut run = Run {
        file,
        run: history.run,
        next: next_sequences(&history),
        client: None,
        partitions: Vec::new(),
        report: WriteReport::default(),
    };
    let deadline = options.duration.map(|d| Instant::now() + d);
    let is_over = |report: &WriteReport| {
        deadline.is_some_and(|d| Instant::now() >= d) || options.count.is_some_and(|c| report.sent >= c)
    };
    let mut turn = 0usize;
    while !is_over(&run.report) {
        if let Err(error) = run.step(&config, options, turn)? {
            run.report.failures += 1;
            run.report.last_failure = Some(error.to_string());
            run.client = None;
            // Only a count is given and the broker will never take it: do not go on for ever.
            if deadline.is_none() && !error.is_retriable() {
                return Err(error.into());
            }
            thread::park_timeout(limits::RETRY_BACKOFF);
        }
        turn = turn.wrapping_add(1);
    }
    Ok(run.report)
}

struct Run {
    file: HistoryWriter,
    run: u64,
    next: BTreeMap<i32, u64>,
    client: Option<Client>,
    partitions: Vec<i32>,
    report: WriteReport,
}

impl Run {
    /// One batch to one partition. The outer error is fatal, the inner one is the broker's.
    fn step(
        &mut self,
        config: &ClientConfig,
        options: &WriteOptions,
        turn: usize,
    ) -> Result<Result<(), ClientError>, HistoryError> {
        if let Err(error) = self.ensure_client(config, &options.topic) {
            return Ok(Err(error));
        }
        let Some(partition) = self.partitions.get(turn % self.partitions.len().max(1)).copied() else {
            return Ok(Err(ClientError::broker(
                format!("topic {}", options.topic),
                3,
                None,
            )));
        };
        let (records, notes) = self.make_batch(partition, options);
        let batch = match encode_batch(&records, options.compression) {
            Ok(batch) => batch,
            Err(detail) => return Ok(Err(ClientError::Configuration(detail))),
        };
        self.file.sent(&notes)?;
        self.report.sent += notes.len() as u64;
        let Some(client) = self.client.as_mut() else {
            return Ok(Ok(()));
        };
        match client.produce(&options.topic, partition, batch, options.acks) {
            Ok(Some(base_offset)) => {
                let acked: Vec<Event> = notes
                    .iter()
                    .enumerate()
                    .filter_map(|(at, note)| acked_from(note, base_offset, at))
                    .collect();
                self.file.acked(&acked)?;
                self.report.acked += acked.len() as u64;
                Ok(Ok(()))
            }
            Ok(None) => Ok(Ok(())),
            Err(error) => {
                self.report.unknown_batches += u64::from(error.is_outcome_unknown());
                Ok(Err(error))
            }
        }
    }

    fn ensure_client(&mut self, config: &ClientConfig, topic: &str) -> Result<(), ClientError> {
        if self.client.is_some() {
            return Ok(());
        }
        let mut client = Client::connect(config.clone())?;
        let metadata = client.metadata(Some(&[topic.to_owned()]), true)?;
        self.partitions = metadata
            .topic(topic)?
            .partitions
            .iter()
            .map(|p| p.partition)
            .collect();
        self.client = Some(client);
        Ok(())
    }

    fn make_batch(&mut self, partition: i32, options: &WriteOptions) -> (Vec<Record>, Vec<Event>) {
        let left = options
            .count
            .map_or(u64::MAX, |c| c.saturating_sub(self.report.sent));
        let size = options.batch_records.clamp(1, limits::HISTORY_BATCH_RECORDS_MAX) as u64;
        let next = self.next.entry(partition).or_insert(0);
        let sent_ms = now_ms();
        let (mut records, mut notes) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for _ in 0..size.min(left) {
            let stamp = Stamp {
                run: self.run,
                partition,
                sequence: *next,
            };
            let value = make_value(stamp, options.filler_bytes);
            bytes += value.len() + 64;
            if bytes > limits::BATCH_BYTES_MAX && !records.is_empty() {
                break;
            }
            *next += 1;
            let crc = crc32fast::hash(&value);
            notes.push(Event::Sent {
                partition,
                sequence: stamp.sequence,
                crc,
                sent_ms,
            });
            records.push(Record {
                offset: 0,
                timestamp_ms: sent_ms,
                key: Some(stamp.sequence.to_string().into()),
                value: Some(value),
                headers: Vec::new(),
            });
        }
        (records, notes)
    }
}

fn acked_from(sent: &Event, base_offset: i64, at: usize) -> Option<Event> {
    match sent {
        Event::Sent {
            partition,
            sequence,
            crc,
            sent_ms,
        } => Some(Event::Acked {
            partition: *partition,
            sequence: *sequence,
            crc: *crc,
            sent_ms: *sent_ms,
            offset: base_offset + at as i64,
        }),
        _ => None,
    }
}

fn next_sequences(history: &History) -> BTreeMap<i32, u64> {
    let mut next = BTreeMap::new();
    for event in &history.events {
        if let Event::Sent {
            partition, sequence, ..
        }
        | Event::Acked {
            partition, sequence, ..
        } = event
        {
            let slot = next.entry(*partition).or_insert(0);
            *slot = (*slot).max(sequence + 1);
        }
    }
    next
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn fresh_run() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() as u64) ^ (u64::from(std::process::id()) << 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_go_on_after_everything_that_was_sent() {
        let sent = |partition, sequence| Event::Sent {
            partition,
            sequence,
            crc: 0,
            sent_ms: 0,
        };
        let history = History {
            events: vec![sent(0, 0), sent(0, 4), sent(2, 1)],
            ..History::default()
        };
        assert_eq!(next_sequences(&history), BTreeMap::from([(0, 5), (2, 2)]));
    }

    #[test]
    fn an_acknowledgement_counts_offsets_up_from_the_base() {
        let sent = Event::Sent {
            partition: 1,
            sequence: 9,
            crc: 3,
            sent_ms: 5,
        };
        let acked = Event::Acked {
            partition: 1,
            sequence: 9,
            crc: 3,
            sent_ms: 5,
            offset: 102,
        };
        assert_eq!(acked_from(&sent, 100, 2), Some(acked.clone()));
        assert_eq!(acked_from(&acked, 0, 0), None);
    }
}
