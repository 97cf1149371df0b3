//! `tidelog produce`: lines of text become records.
//!
//! A reader thread hands over chunks of the input as they come; the main thread cuts them into lines
//! and batches and sends one batch at a time. A batch is sent again only when the broker said that it
//! was not taken; after a lost connection its outcome is unknown and the command ends.

mod batcher;
mod lines;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use indicatif::ProgressBar;
use tidelog_bench::client::{
    Acks, Client, ClientConfig, ClientError, Compression, is_retriable_code, parse_compression,
};
use tidelog_bench::limits::RETRY_BACKOFF;

use crate::connect::ClientArgs;
use crate::failure::{DONE, FAILED, Failure, PARTLY};
use crate::limits;
use crate::output::progress;
use crate::settings::parse_key_value;
use crate::{signals, when};
use batcher::{Batcher, Leaving};
use lines::{LineSplitter, split_key, start_reader};

const UNKNOWN_TOPIC: i16 = 3;

const AFTER_HELP: &str = "\
Each line of the input becomes one record. Without -p, records with a key go to the partition of
their key and the others are spread over all partitions, a batch at a time.

Examples:
  echo hello | tidelog produce greetings
  tidelog produce logs --file /var/log/syslog -z zstd
  printf 'user1:login\\nuser2:logout\\n' | tidelog produce events -K :
  echo '{\"n\":1}' | tidelog produce events -k user1 -H source=cli -p 0
  tidelog produce events -k user1 --tombstone";

/// Arguments of `tidelog produce`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ProduceArgs {
    /// Topic to send to
    topic: String,
    /// Partition to send to [default: by key, or spread]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Key of every record
    #[arg(short, long, conflicts_with = "key_delimiter")]
    key: Option<String>,
    /// What separates key and value in a line, such as : or \t
    #[arg(short = 'K', long, value_name = "C", value_parser = parse_delimiter)]
    key_delimiter: Option<Delimiter>,
    /// Header of every record; may be repeated
    #[arg(short = 'H', long, value_name = "K=V", value_parser = parse_key_value)]
    header: Vec<(String, String)>,
    /// Compression: none, gzip, snappy, lz4 or zstd [default: none]
    #[arg(short = 'z', long, value_name = "CODEC", value_parser = parse_compression)]
    compression: Option<Compression>,
    /// What to wait for: 0 nothing, 1 the leader, all every in-sync copy [default: all]
    #[arg(long, value_parser = |text: &str| text.parse::<Acks>())]
    acks: Option<Acks>,
    /// Send one record with the key and no value, which marks the key as deleted
    #[arg(long, requires = "key", conflicts_with = "file")]
    tombstone: bool,
    /// Read this file instead of stdin
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

/// A key delimiter: at least one byte.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Delimiter(Vec<u8>);

fn parse_delimiter(text: &str) -> Result<Delimiter, String> {
    match crate::format::unescape(text)? {
        bytes if bytes.is_empty() => Err("must not be empty".to_owned()),
        bytes => Ok(Delimiter(bytes)),
    }
}

/// Sends the input.
pub fn run(args: ProduceArgs) -> Result<u8, Failure> {
    let mut client = args.client.connect()?;
    let partition_count = partition_count(&mut client, &args.topic)?;
    if let Some(partition) = args.partition.filter(|p| *p >= partition_count) {
        let message = format!("topic {} has no partition {partition}", args.topic);
        return Err(Failure::new(FAILED, message).hint(format!(
            "It has 0 to {}; more come with `tidelog topic add-partitions`.",
            partition_count - 1
        )));
    }
    let mut config = client.config().clone();
    if let Some(most) = batch_bytes_max(&mut client, &args.topic) {
        config.batch_bytes = config.batch_bytes.min(most);
    }
    let mut sender = Sender {
        client,
        topic: args.topic.clone(),
        acks: args.acks.unwrap_or(config.acks),
        bar: progress(!args.tombstone && !is_typed(&args)),
        sent: 0,
    };
    let outcome = send_all(&args, &config, partition_count, &mut sender);
    sender.bar.finish_and_clear();
    match outcome {
        Ok(code) => {
            eprintln!("{} to {}", records(sender.sent), args.topic);
            Ok(code)
        }
        Err(failure) if sender.sent > 0 && failure.code() != DONE => {
            failure.print();
            eprintln!("{} to {} before that", records(sender.sent), args.topic);
            Ok(PARTLY)
        }
        Err(failure) => Err(failure),
    }
}

fn send_all(
    args: &ProduceArgs,
    config: &ClientConfig,
    partition_count: i32,
    sender: &mut Sender,
) -> Result<u8, Failure> {
    let template = Template::new(args);
    let compression = args.compression.unwrap_or(config.compression);
    let mut batcher = Batcher::new(
        args.partition,
        partition_count,
        config.batch_bytes,
        compression,
        random(),
    );
    if args.tombstone {
        sender.send(template.push(&mut batcher, template.key, None)?)?;
        sender.send(batcher.take_all())?;
        return Ok(DONE);
    }
    if is_typed(args) {
        eprintln!("each line becomes a record; Ctrl-D ends the input");
    }
    let input = start_reader(args.file.as_deref())?;
    let mut splitter = LineSplitter::default();
    loop {
        let chunk = match batcher.is_empty() {
            true => input.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => input.recv_timeout(config.linger.saturating_sub(batcher.age())),
        };
        match chunk {
            Ok(chunk) => {
                let chunk = chunk
                    .map_err(|e| Failure::new(FAILED, format!("cannot read {}: {e}", input_name(args))))?;
                splitter.push(&chunk)?;
                while let Some(line) = splitter.next_line() {
                    sender.send(template.push_line(&mut batcher, line)?)?;
                }
                // Input that is there already fills the batches, but nothing waits for it for ever.
                if batcher.age() > config.linger + limits::BUSY_LINGER_MAX {
                    sender.send(batcher.take_all())?;
                }
            }
            Err(RecvTimeoutError::Timeout) => sender.send(batcher.take_all())?,
            Err(RecvTimeoutError::Disconnected) => {
                if let Some(line) = splitter.finish() {
                    sender.send(template.push_line(&mut batcher, line)?)?;
                }
                sender.send(batcher.take_all())?;
                return Ok(DONE);
            }
        }
        if let Some(code) = signals::pending() {
            return Ok(code);
        }
    }
}

/// True when somebody types the records; a progress line would run into what they write.
fn is_typed(args: &ProduceArgs) -> bool {
    args.file.is_none() && io::stdin().is_terminal()
}

fn input_name(args: &ProduceArgs) -> String {
    match &args.file {
        Some(path) => path.display().to_string(),
        None => "stdin".to_owned(),
    }
}

/// A number that differs from run to run.
fn random() -> u32 {
    RandomState::new().hash_one(std::process::id()) as u32
}

/// What every record has in common.
struct Template<'a> {
    headers: Vec<(&'a str, Option<&'a [u8]>)>,
    key: Option<&'a [u8]>,
    key_delimiter: Option<&'a [u8]>,
}

impl<'a> Template<'a> {
    fn new(args: &'a ProduceArgs) -> Self {
        let header = |(name, value): &'a (String, String)| (name.as_str(), Some(value.as_bytes()));
        Template {
            headers: args.header.iter().map(header).collect(),
            key: args.key.as_deref().map(str::as_bytes),
            key_delimiter: args
                .key_delimiter
                .as_ref()
                .map(|delimiter| delimiter.0.as_slice()),
        }
    }

    fn push_line(&self, batcher: &mut Batcher, line: &[u8]) -> Result<Vec<Leaving>, Failure> {
        let (key, value) = match self.key_delimiter {
            Some(delimiter) => split_key(line, delimiter),
            None => (self.key, line),
        };
        self.push(batcher, key, Some(value))
    }

    fn push(
        &self,
        batcher: &mut Batcher,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Vec<Leaving>, Failure> {
        batcher
            .push(when::now_ms(), key, value, &self.headers)
            .map_err(|e| Failure::new(FAILED, format!("cannot make a batch: {e}")))
    }
}

struct Sender {
    client: Client,
    topic: String,
    acks: Acks,
    bar: ProgressBar,
    sent: u64,
}

impl Sender {
    fn send(&mut self, leaving: Vec<Leaving>) -> Result<(), Failure> {
        for (partition, batch) in leaving {
            let records = batch.record_count() as u64;
            let batch = batch
                .build()
                .map_err(|e| Failure::new(FAILED, format!("cannot make a batch: {e}")))?;
            self.send_batch(partition, batch)?;
            self.sent += records;
            self.bar.inc(records);
        }
        Ok(())
    }

    /// Sends again while the broker says that it did not take the batch, until the timeout.
    fn send_batch(&mut self, partition: i32, batch: Bytes) -> Result<(), Failure> {
        let deadline = Instant::now() + self.client.config().request_timeout;
        loop {
            match self
                .client
                .produce(&self.topic, partition, batch.clone(), self.acks)
            {
                Ok(_) => return Ok(()),
                Err(error)
                    if was_not_taken(&error) && Instant::now() < deadline && signals::pending().is_none() =>
                {
                    self.bar.set_message(format!("waiting: {error}"));
                    thread::park_timeout(RETRY_BACKOFF);
                }
                Err(error) if error.is_outcome_unknown() => {
                    return Err(Failure::from(error).hint("The last batch may or may not be in the log."));
                }
                Err(error) => return Err(error.into()),
            }
            self.bar.set_message("");
        }
    }
}

/// True when the batch is certainly not in the log and may be sent again.
fn was_not_taken(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        // 7 timed out and 20 not enough replicas after append: it may be there.
        ClientError::Broker { code, .. } => is_retriable_code(*code) && !matches!(code, 3 | 7 | 20),
        _ => false,
    }
}

/// The largest batch that `topic` takes, when the broker says it.
fn batch_bytes_max(client: &mut Client, topic: &str) -> Option<usize> {
    let configs = client.describe_topic_configs(topic).ok()?;
    let most = configs.iter().find(|c| c.name == "max.message.bytes")?;
    most.value.as_ref()?.parse().ok()
}

/// The partitions of `topic`, which the broker may create now.
fn partition_count(client: &mut Client, topic: &str) -> Result<i32, Failure> {
    let deadline = Instant::now() + limits::AUTO_CREATE_WAIT;
    let mut is_new = false;
    loop {
        // First without creating it, so that a slip in the name does not go unseen.
        let metadata = client.metadata(Some(&[topic.to_owned()]), is_new)?;
        match metadata.topic(topic) {
            Ok(found) if !found.partitions.is_empty() => {
                let count = i32::try_from(found.partitions.len()).unwrap_or(i32::MAX);
                if is_new {
                    eprintln!(
                        "topic {topic} is new; the broker made it with {}",
                        partitions(count)
                    );
                }
                return Ok(count);
            }
            Err(error) if error.code() == Some(UNKNOWN_TOPIC) && !is_new => {
                is_new = true;
                continue;
            }
            Err(error) if !error.is_retriable() || Instant::now() >= deadline => return Err(error.into()),
            Ok(_) if Instant::now() >= deadline => {
                return Err(ClientError::broker(format!("topic {topic}"), 5, None).into());
            }
            _ => thread::park_timeout(Duration::min(RETRY_BACKOFF, limits::AUTO_CREATE_WAIT)),
        }
        if let Some(code) = signals::pending() {
            return Err(Failure::new(code, "interrupted"));
        }
    }
}

fn partitions(count: i32) -> String {
    match count {
        1 => "1 partition".to_owned(),
        n => format!("{n} partitions"),
    }
}

fn records(count: u64) -> String {
    match count {
        1 => "1 record".to_owned(),
        n => format!("{n} records"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_not_taken_is_sent_again() {
        let broker = |code| ClientError::broker("x", code, None);
        for code in [5, 6, 19, 56] {
            assert!(was_not_taken(&broker(code)), "{code}");
        }
        for code in [3, 7, 10, 20, 87] {
            assert!(!was_not_taken(&broker(code)), "{code}");
        }
        assert!(!was_not_taken(&ClientError::Closed {
            address: "a".into(),
            what: "Produce",
            detail: "x".into()
        }));
    }

    #[test]
    fn a_delimiter_has_at_least_one_byte() {
        assert_eq!(parse_delimiter("\\t"), Ok(Delimiter(b"\t".to_vec())));
        assert!(parse_delimiter("").is_err());
    }
}
