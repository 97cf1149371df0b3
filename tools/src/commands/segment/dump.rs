//! `tidelog segment dump`.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use tidelog_segment_log::entry::EntryHeader;
use tidelog_segment_log::recovery::{Examined, ExaminedSegment, OtherFile};

use super::places::{Place, failure, find};
use super::selection::{Selection, batch_facts};
use super::verify::in_words;
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
    let mut printer = Printer {
        out: BufWriter::with_capacity(64 * 1024, io::stdout()),
        selection: args.selection,
        not_decoded: 0,
        failed: None,
    };
    let mut is_damaged = false;
    for place in &found.places {
        let examined = place.examine(usize::MAX, &mut |name, position, entry, payload| {
            printer.failed = printer.take(place, name, (position, entry, payload)).err();
            printer.failed.is_none()
        });
        let examined = match (examined, printer.failed.take()) {
            (_, Some(error)) => return Err(error.into()),
            (Err(error), None) => return Err(failure(&error)),
            (Ok(examined), None) => examined,
        };
        is_damaged |= say_what_is_wrong(place, &examined);
    }
    printer.out.flush()?;
    Ok(match (is_damaged, printer.not_decoded) {
        (true, _) => DAMAGE,
        (false, 0) => DONE,
        (false, _) => PARTLY,
    })
}

/// Names damage and torn tails on stderr; whether there is damage.
fn say_what_is_wrong(place: &Place, examined: &Examined) -> bool {
    for damage in &examined.damage {
        let path = place.path(&damage.quarantined.segment);
        eprintln!("{}: {}", path.display(), in_words(damage));
    }
    for segment in &examined.segments {
        let path = place.path(&segment.name);
        for why in &segment.header_faults {
            eprintln!("{}: {why}", path.display());
        }
        if let Some(why) = &segment.torn {
            eprintln!("{}: torn tail at {}: {why}", path.display(), segment.end);
        }
    }
    let faults = |segment: &ExaminedSegment| !segment.header_faults.is_empty();
    let no_header = |other: &OtherFile| other.header.is_none() && !other.is_blank;
    let unread: Vec<&OtherFile> = examined.others.iter().filter(|other| no_header(other)).collect();
    for other in &unread {
        eprintln!(
            "{}: no header, so no entry can be read",
            place.path(&other.name).display()
        );
    }
    !examined.damage.is_empty() || examined.segments.iter().any(faults) || !unread.is_empty()
}

struct Printer {
    out: BufWriter<io::Stdout>,
    selection: Selection,
    not_decoded: u64,
    failed: Option<io::Error>,
}

impl Printer {
    fn take(&mut self, place: &Place, name: &str, found: (u64, &EntryHeader, &[u8])) -> io::Result<()> {
        let (position, entry, payload) = found;
        if !entry.kind.is_batch() || !self.selection.may_hold(entry) {
            return Ok(());
        }
        let out = &mut self.out;
        let refused = if entry.is_plain_data() {
            self.selection.each_record(payload, |batch, record| {
                let mut line = record.to_json();
                line.insert("topic_id".to_owned(), json!(place.key.topic.to_string()));
                line.insert("partition".to_owned(), json!(place.key.partition));
                line.insert("batch".to_owned(), batch_facts(batch, entry, position));
                writeln!(out, "{}", Value::Object(line))
            })?
        } else {
            Err("it is encrypted".to_owned())
        };
        if let Err(why) = refused {
            self.not_decoded += 1;
            let (first, last) = (entry.base_offset, entry.last_offset());
            eprintln!(
                "tidelog: {} at {position}, offsets {first} to {last}: {why}",
                place.path(name).display()
            );
        }
        Ok(())
    }
}
