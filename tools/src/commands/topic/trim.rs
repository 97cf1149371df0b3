//! `tidelog topic trim`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::Value;
use tidelog_bench::client::{Client, ClientError, TIMESTAMP_END, TIMESTAMP_START};

use crate::connect::ClientArgs;
use crate::failure::{DONE, Failure, PARTLY};
use crate::output::print_rows;
use crate::partitions::{choose, parse_partition};
use crate::when::OffsetSpec;

const AFTER_HELP: &str = "\
Deletes the records of each partition in front of a place, for good and without asking; it is done when it
is on the broker's disk. Prints where each partition starts now. One that starts there or later is left as
it is. Exit code 5: some partitions were trimmed and some could not be.

Places: N (this offset, which stays), end (everything that is there), @TIME (records older than this:
epoch milliseconds, 2026-01-31T12:00:00Z, or a span back from now such as @-15m). The time of a record is
its own: the first record that is not older stays, and so does all that follows it.

Examples:
  tidelog topic trim logs --before 1000 -p 0
  tidelog topic trim logs --before @-7d
  tidelog topic trim logs --before end --output jsonl | jq .start_offset";

const COLUMNS: &[&str] = &["partition", "start_offset", "status", "error"];
/// Kafka's OFFSET_OUT_OF_RANGE.
const OFFSET_OUT_OF_RANGE: i16 = 1;

/// Arguments of `tidelog topic trim`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct TrimArgs {
    /// Name of the topic
    name: String,
    /// Delete what is in front of this: N, end or @TIME
    #[arg(long, value_name = "OFFSET|@TIME", required = true, allow_hyphen_values = true, value_parser = parse_before)]
    before: OffsetSpec,
    /// Partitions to trim [default: all]
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', value_parser = parse_partition)]
    partition: Vec<i32>,
    #[command(flatten)]
    client: ClientArgs,
}

/// A place to delete up to. A count from the end is none: -1 is the end for some tools.
fn parse_before(text: &str) -> Result<OffsetSpec, String> {
    match OffsetSpec::parse(text) {
        Ok(OffsetSpec::Start | OffsetSpec::Last(_)) => Err(format!(
            "`{text}` is not N, end or @TIME, in front of which to delete"
        )),
        Err(error) if !text.starts_with('@') => {
            Err(error.replace("start, end, N, -N or @TIME", "N, end or @TIME"))
        }
        other => other,
    }
}

/// How it went for one partition.
struct Trimmed {
    partition: i32,
    /// Where it started before and where it ends.
    start: i64,
    end: i64,
    /// Where it starts now.
    result: Result<i64, ClientError>,
}

impl Trimmed {
    fn row(&self) -> Vec<Value> {
        let (start, status, error) = match &self.result {
            Ok(now) if *now > self.start => (Value::from(*now), "trimmed", Value::Null),
            Ok(now) => (Value::from(*now), "unchanged", Value::Null),
            Err(error) => (Value::Null, "failed", Value::from(error.to_string())),
        };
        vec![Value::from(self.partition), start, Value::from(status), error]
    }

    fn failure(self) -> Option<Failure> {
        let (start, end) = (self.start, self.end);
        let error = self.result.err()?;
        let is_outside = error.code() == Some(OFFSET_OUT_OF_RANGE);
        let failure = Failure::from(error);
        Some(match is_outside {
            true => failure.hint(format!(
                "It holds {start} up to {end}, which is the most to delete."
            )),
            false => failure,
        })
    }
}

/// Trims the partitions.
pub fn run(args: TrimArgs) -> Result<u8, Failure> {
    let mut client = args.client.connect()?;
    let metadata = client.metadata(Some(std::slice::from_ref(&args.name)), false)?;
    let partitions = choose(metadata.topic(&args.name)?, &args.partition)?;
    let trimmed = trim(&mut client, &args.name, &partitions, args.before)?;
    let rows: Vec<Vec<Value>> = trimmed.iter().map(Trimmed::row).collect();
    print_rows(args.client.output, COLUMNS, &rows)?;
    conclude(trimmed)
}

fn trim(
    client: &mut Client,
    name: &str,
    partitions: &BTreeSet<i32>,
    before: OffsetSpec,
) -> Result<Vec<Trimmed>, Failure> {
    let mut at = |timestamp: i64| {
        let asked: Vec<(i32, i64)> = partitions.iter().map(|p| (*p, timestamp)).collect();
        client.list_offsets(name, &asked)
    };
    let starts = at(TIMESTAMP_START)?;
    // Before the look-up by time: what comes later may be younger than that.
    let ends = at(TIMESTAMP_END)?;
    let times = match before {
        OffsetSpec::Time(timestamp) => at(timestamp)?,
        _ => BTreeMap::new(),
    };
    let of = |offsets: &BTreeMap<i32, i64>, partition: i32| offsets.get(&partition).copied();
    let wanted: Vec<(i32, i64)> = partitions
        .iter()
        .map(|partition| {
            let end = of(&ends, *partition).unwrap_or(0);
            (*partition, place(before, end, of(&times, *partition)))
        })
        .collect();
    let results = client.delete_records(name, &wanted)?;
    Ok(results
        .into_iter()
        .map(|(partition, result)| Trimmed {
            partition,
            start: of(&starts, partition).unwrap_or(0),
            end: of(&ends, partition).unwrap_or(0),
            result,
        })
        .collect())
}

/// The first offset that stays, in a partition that goes on at `end`.
fn place(before: OffsetSpec, end: i64, by_time: Option<i64>) -> i64 {
    match before {
        OffsetSpec::At(offset) => offset,
        // No record is that young: all that were there are older.
        OffsetSpec::Time(_) => by_time.filter(|found| *found >= 0).unwrap_or(end),
        _ => end,
    }
}

/// The exit code; some done and some not is 5.
fn conclude(trimmed: Vec<Trimmed>) -> Result<u8, Failure> {
    let count = trimmed.len();
    let mut failures: Vec<Failure> = trimmed.into_iter().filter_map(Trimmed::failure).collect();
    let all_failed = failures.len() == count;
    let last = failures.pop();
    failures.iter().for_each(Failure::print);
    match last {
        None => Ok(DONE),
        Some(last) if all_failed => Err(last),
        Some(last) => {
            last.print();
            Ok(PARTLY)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{FAILED, UNREACHABLE};

    #[test]
    fn the_place_is_the_first_offset_that_stays() {
        assert_eq!(place(OffsetSpec::At(7), 20, None), 7);
        assert_eq!(place(OffsetSpec::End, 20, None), 20);
        assert_eq!(place(OffsetSpec::Time(1), 20, Some(9)), 9);
        assert_eq!(place(OffsetSpec::Time(1), 20, Some(-1)), 20);
    }

    #[test]
    fn a_place_is_an_offset_the_end_or_a_time() {
        assert_eq!(parse_before("5"), Ok(OffsetSpec::At(5)));
        assert_eq!(parse_before("end"), Ok(OffsetSpec::End));
        assert_eq!(parse_before("@1000"), Ok(OffsetSpec::Time(1_000)));
        for wrong in ["-1", "-10", "start", "earliest", "soon", "", "1.5"] {
            let error = parse_before(wrong).expect_err(wrong);
            assert!(error.contains("is not N, end or @TIME"), "{error}");
        }
        let error = parse_before("@soon").expect_err("no time");
        assert!(error.contains("epoch milliseconds"), "{error}");
    }

    #[test]
    fn some_trimmed_and_some_not_is_partly() {
        let of = |result| Trimmed {
            partition: 0,
            start: 0,
            end: 9,
            result,
        };
        let bad = |code| of(Err(ClientError::broker("t-0", code, None)));
        assert_eq!(conclude(vec![of(Ok(3)), of(Ok(0))]), Ok(DONE));
        assert_eq!(conclude(vec![of(Ok(3)), bad(1)]), Ok(PARTLY));
        let error = conclude(vec![bad(7), bad(1)]).expect_err("none");
        assert_eq!(error.code(), FAILED);
        let gone = ClientError::Unreachable {
            address: "a:1".into(),
            detail: "refused".into(),
        };
        assert_eq!(
            conclude(vec![of(Err(gone))]).expect_err("none").code(),
            UNREACHABLE
        );
    }
}
