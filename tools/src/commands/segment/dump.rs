//! `tidelog segment dump`.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::evidence::Evidence;
use super::files::{find, plan};
use super::scan::scan;
use super::selection::{Selection, batch_facts};
use crate::failure::{DAMAGE, DONE, Failure, PARTLY};

const AFTER_HELP: &str = "\
Prints one JSON object a line for each record, in offset order: topic_id, partition, offset,
timestamp_ms, key, value, headers, and batch with what holds for the whole batch. Bytes that are not
UTF-8 come as base64 under key_base64, value_base64 or name_base64. The records of control batches
(transaction markers) come too; batch.control tells them. Damage is gone around and named on stderr.

Exit code 3 when the segments are damaged, 5 when a batch could not be decoded. Files are only read;
the broker may be running.

Examples:
  tidelog segment dump tidelog-data/partitions/<topic id>-0
  tidelog segment dump FILE --from-offset 100 --to-offset 200 | jq -r .value
  tidelog segment dump tidelog-data --key user-7 --from-time @-1h";

/// Arguments of `tidelog segment dump`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DumpArgs {
    /// Segment file, or a directory to find them in
    path: PathBuf,
    #[command(flatten)]
    selection: Selection,
}

/// Prints the records.
pub fn run(args: DumpArgs) -> Result<u8, Failure> {
    let found = find(&args.path)?;
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let (mut is_damaged, mut not_decoded) = (false, 0u64);
    for file in plan(&found.segments, &mut Evidence::default()) {
        if file.is_superseded {
            continue;
        }
        let scan = scan(&file.path, &file.around, |position, entry, payload| {
            if !entry.kind.is_batch() || !args.selection.may_hold(entry) {
                return Ok(());
            }
            let refused = if entry.is_plain_data() {
                args.selection.each_record(payload, |batch, record| {
                    let mut line = record.to_json();
                    if let Some(header) = &file.header {
                        line.insert("topic_id".to_owned(), json!(header.topic.to_string()));
                        line.insert("partition".to_owned(), json!(header.partition));
                    }
                    line.insert("batch".to_owned(), batch_facts(batch, entry, position));
                    writeln!(out, "{}", Value::Object(line))
                })?
            } else {
                Err("it is encrypted".to_owned())
            };
            if let Err(why) = refused {
                not_decoded += 1;
                let (first, last) = (entry.base_offset, entry.last_offset());
                eprintln!(
                    "tidelog: {} at {position}, offsets {first} to {last}: {why}",
                    file.path.display()
                );
            }
            Ok(())
        })?;
        if scan.verdict() != "good" {
            eprintln!("{}: {}", file.path.display(), scan.verdict());
        }
        is_damaged |= scan.is_damaged();
    }
    out.flush()?;
    Ok(match (is_damaged, not_decoded) {
        (true, _) => DAMAGE,
        (false, 0) => DONE,
        (false, _) => PARTLY,
    })
}
