//! `tidelog consume`: records to stdout.
//!
//! One thread; one fetch over all partitions at a time, written out and flushed before the next.

mod cursor;
mod printer;

use std::io;
use std::io::IsTerminal;
use std::thread;
use std::time::Instant;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tidelog_bench::client::{Client, ClientError, Fetched, decode_batches, is_retriable_code};
use tidelog_bench::limits::RETRY_BACKOFF;

use crate::connect::ClientArgs;
use crate::failure::{DAMAGE, DONE, FAILED, Failure};
use crate::format::RecordFormat;
use crate::output::progress;
use crate::partitions::parse_partition;
use crate::signals;
use crate::when::OffsetSpec;
use cursor::{Cursor, find_cursors};
use printer::Printer;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const CORRUPT_MESSAGE: i16 = 2;

const AFTER_HELP: &str = "\
Reads all partitions of the topics and goes on until it is stopped, unless -n or -e is given.
Records of one partition come in order; those of several are mixed.

Offsets: start, end, N (this offset), -N (the last N of each partition), @TIME (from this time on:
epoch milliseconds, 2026-01-31T12:00:00Z, or a span back from now such as @-15m).

Format: %t topic, %p partition, %o offset, %k key, %s value, %T timestamp in ms, %h headers,
%K and %S length of key and value (-1 for none), %% a percent sign; \\n \\t \\r \\0 \\\\ \\xHH.

Examples:
  tidelog consume logs                          what comes from now on
  tidelog consume logs -e                       everything there is, then stop
  tidelog consume logs -o -10 -e                the last ten of each partition
  tidelog consume logs -o @-15m -f '%T %k %s\\n'
  tidelog consume logs -o start -n 100 --output jsonl | jq .value";

/// Arguments of `tidelog consume`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ConsumeArgs {
    /// Topics to read
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Partitions to read [default: all]
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', value_parser = parse_partition)]
    partition: Vec<i32>,
    /// Where to begin: start, end, N, -N or @TIME [default: end; with -e start]
    #[arg(short, long, value_name = "OFFSET", allow_hyphen_values = true, value_parser = OffsetSpec::parse)]
    offset: Option<OffsetSpec>,
    /// Consumer groups are not served yet; known only to say so.
    #[arg(short, long, hide = true, value_parser = refuse_group)]
    group: Option<String>,
    /// Transactions are not served yet; known only to say so.
    #[arg(long, hide = true, value_parser = refuse_isolation)]
    isolation: Option<String>,
    /// Stop after this many records
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    num: Option<u64>,
    /// Stop at the end that each partition has now
    #[arg(short, long)]
    exit_at_end: bool,
    /// How to print a record, such as '%p %o %s\n'
    #[arg(short, long, value_name = "FMT", value_parser = RecordFormat::parse)]
    format: Option<RecordFormat>,
    #[command(flatten)]
    client: ClientArgs,
}

fn refuse_group(_: &str) -> Result<String, String> {
    Err("consumer groups are not served yet; leave -g out and read by partition and offset".to_owned())
}

fn refuse_isolation(_: &str) -> Result<String, String> {
    Err("transactions are not served yet, so every record is committed; leave --isolation out".to_owned())
}

/// True when stdout is a pipe or a socket that nobody reads any more.
fn stdout_is_left() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
        && fds
            .iter()
            .any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP))
}

/// Reads and prints.
pub fn run(args: ConsumeArgs) -> Result<u8, Failure> {
    let mut client = args.client.connect()?;
    let offset = args.offset.unwrap_or(match args.exit_at_end {
        true => OffsetSpec::Start,
        false => OffsetSpec::End,
    });
    let cursors = find_cursors(
        &mut client,
        &args.topics,
        &args.partition,
        offset,
        args.exit_at_end,
    )?;
    if offset == OffsetSpec::End && !args.exit_at_end && io::stderr().is_terminal() {
        eprintln!(
            "waiting for new records in {}; -o start reads the old ones, Ctrl-C stops",
            args.topics.join(", ")
        );
    }
    let bar = progress(!io::stdout().is_terminal());
    let mut consumer = Consumer {
        client,
        cursors,
        printer: Printer::new(io::stdout(), args.client.output, args.format),
        left: args.num,
        last_success: Instant::now(),
    };
    let outcome = consumer.consume(|records| bar.inc(records));
    bar.finish_and_clear();
    consumer.printer.finish()?;
    outcome
}

struct Consumer {
    client: Client,
    cursors: Vec<Cursor>,
    printer: Printer<io::Stdout>,
    left: Option<u64>,
    last_success: Instant,
}

impl Consumer {
    fn consume(&mut self, mut on_records: impl FnMut(u64)) -> Result<u8, Failure> {
        loop {
            if let Some(code) = signals::pending() {
                return Ok(code);
            }
            self.cursors.retain(|c| !c.is_at_stop());
            if self.cursors.is_empty() || self.left == Some(0) {
                return Ok(DONE);
            }
            // The broker favours the partitions named first, so each gets its turn.
            self.cursors.rotate_left(1);
            let targets: Vec<_> = self.cursors.iter().map(Cursor::target).collect();
            let wait = self.client.config().fetch_wait;
            let fetched = match self.client.fetch(&targets, wait) {
                Ok(fetched) => fetched,
                Err(error) => {
                    self.survive(error)?;
                    continue;
                }
            };
            for one in fetched {
                on_records(self.take(one)?);
            }
            self.printer.flush()?;
            // Nothing may come for hours: who reads from a pipe that was left must not wait for it.
            if stdout_is_left() {
                return Ok(DONE);
            }
        }
    }

    /// Prints what one partition gave and returns how many records that were.
    fn take(&mut self, fetched: Fetched) -> Result<u64, Failure> {
        let Some(cursor) = self.cursors.iter_mut().find(|c| c.is_for(&fetched)) else {
            return Ok(0);
        };
        let subject = format!(
            "{}-{} at offset {}",
            fetched.topic, fetched.partition, cursor.next
        );
        match fetched.error_code {
            0 => self.last_success = Instant::now(),
            OFFSET_OUT_OF_RANGE if fetched.log_start_offset > cursor.next => {
                eprintln!(
                    "tidelog: {subject} is gone; going on at {}",
                    fetched.log_start_offset
                );
                cursor.next = fetched.log_start_offset;
                return Ok(0);
            }
            // Damage on a disk does not pass: asking again would only fill the broker's log.
            CORRUPT_MESSAGE => {
                return Err(Failure::new(DAMAGE, ClientError::broker(subject, CORRUPT_MESSAGE, None)).hint(
                    "`tidelog segment verify` on the broker's data directory says where; -o N reads on behind it.",
                ));
            }
            code => {
                self.survive(ClientError::broker(subject, code, None))?;
                return Ok(0);
            }
        }
        let decoded = decode_batches(fetched.records).map_err(|detail| {
            Failure::new(
                FAILED,
                format!("{subject}: the broker served bytes that do not verify: {detail}"),
            )
        })?;
        if decoded.is_cut && decoded.next_offset.is_none() {
            return Err(Failure::new(
                FAILED,
                format!("{subject}: the next batch does not fit into one answer"),
            )
            .hint("Ask for more at once with -X max.partition.fetch.bytes=10000000."));
        }
        let mut count = 0;
        for record in decoded.records.iter().filter(|r| r.offset >= cursor.next) {
            if self.left == Some(0) || cursor.stop.is_some_and(|stop| record.offset >= stop) {
                break;
            }
            self.printer.print(&fetched.topic, fetched.partition, record)?;
            self.left = self.left.map(|left| left - 1);
            count += 1;
        }
        cursor.next = cursor.next.max(decoded.next_offset.unwrap_or(0));
        Ok(count)
    }

    /// Goes on after a failure that may pass, until nothing succeeded for the request timeout.
    fn survive(&mut self, error: ClientError) -> Result<(), Failure> {
        let may_pass = match &error {
            ClientError::Broker { code, .. } => is_retriable_code(*code) && *code != 3,
            other => other.is_retriable(),
        };
        if !may_pass || self.last_success.elapsed() >= self.client.config().request_timeout {
            return Err(error.into());
        }
        self.printer.flush()?;
        thread::park_timeout(RETRY_BACKOFF);
        Ok(())
    }
}
