//! `tidelog segment inspect`.

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tidelog_segment_log::entry::EntryHeader;
use tidelog_segment_log::recovery::Examined;
use tidelog_segment_log::segment_header::SegmentHeader;

use super::places::{failure, find};
use super::selection::{Record, Selection, batch_facts};
use super::verify::in_words;
use crate::failure::{DAMAGE, DONE, FAILED, Failure, PARTLY, USAGE};
use crate::limits::ENTRIES_LISTED;
use crate::output::{OutputFormat, print_document, print_text, table};
use crate::when::format_time;

const AFTER_HELP: &str = "\
Exit code 3 when the segment is damaged, 5 when a batch could not be decoded. The file is only read; the broker may be running.

Examples:
  tidelog segment inspect tidelog-data/<topic id>-0/<file>.log
  tidelog segment inspect FILE -n 0 --output json | jq '.entries[].index'
  tidelog segment inspect FILE --records --from-offset 100 --to-offset 120 --key user-7";

const COLUMNS: &[&str] = &[
    "position",
    "kind",
    "index",
    "term",
    "base_offset",
    "last_offset",
    "bytes",
    "max_time",
    "durable_index",
];

const RECORD_COLUMNS: &[&str] = &[
    "offset",
    "time",
    "key",
    "value",
    "headers",
    "position",
    "compression",
];

/// Arguments of `tidelog segment inspect`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct InspectArgs {
    /// Segment file
    path: PathBuf,
    /// Entries or records to list; 0 lists all
    #[arg(short, long, value_name = "N", default_value_t = ENTRIES_LISTED)]
    num: u64,
    /// List records instead of entries
    #[arg(long)]
    records: bool,
    #[command(flatten)]
    selection: Selection,
    /// How data is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Table)]
    output: OutputFormat,
}

/// Prints the segment.
pub fn run(args: InspectArgs) -> Result<u8, Failure> {
    if args.path.is_dir() {
        return Err(Failure::new(
            USAGE,
            format!("{} is a directory, not a segment file", args.path.display()),
        )
        .hint("Give one .log file; `tidelog segment verify` takes directories."));
    }
    let mut rows: Vec<Vec<Value>> = Vec::new();
    let (mut wanted, mut not_decoded) = (0u64, Vec::new());
    let found = find(&args.path)?;
    let Some(place) = found.places.first() else {
        return Err(Failure::new(FAILED, format!("{} is gone", args.path.display())));
    };
    let selection = &args.selection;
    let (mut entry_count, mut failed) = (0u64, None);
    let mut take = |position: u64, entry: &EntryHeader, payload: &[u8]| -> io::Result<()> {
        entry_count += 1;
        let is_listed = |wanted: u64| args.num == 0 || wanted < args.num;
        if !selection.may_hold(entry) {
            return Ok(());
        }
        let needs_records = args.records || selection.key.is_some() || selection.to_time.is_some();
        if !needs_records || (!entry.is_plain_data() && selection.is_everything()) {
            if !args.records {
                if is_listed(wanted) {
                    rows.push(entry_row(position, entry));
                }
                wanted += 1;
            }
            return Ok(());
        }
        let mut matches = 0u64;
        let decoded = selection.each_record(payload, |batch, record| {
            if args.records && is_listed(wanted + matches) {
                rows.push(record_row(record, &batch_facts(batch, entry, position)));
            }
            matches += 1;
            Ok(())
        })?;
        if let Err(why) = decoded {
            not_decoded.push(format!("batch at {position}: {why}"));
        }
        if !args.records && matches > 0 {
            if is_listed(wanted) {
                rows.push(entry_row(position, entry));
            }
            matches = 1;
        }
        wanted += matches;
        Ok(())
    };
    let examined = place.examine(usize::MAX, &mut |_, position, entry, payload| {
        failed = take(position, entry, payload).err();
        failed.is_none()
    });
    let examined = match (examined, failed) {
        (_, Some(error)) => return Err(error.into()),
        (Err(error), None) => return Err(failure(&error)),
        (Ok(examined), None) => examined,
    };
    let judged = Judged::of(&examined);
    for why in &not_decoded {
        eprintln!("tidelog: {why}");
    }
    let columns = if args.records { RECORD_COLUMNS } else { COLUMNS };
    let header = judged.header.map(|h| {
        vec![
            ("topic_id", json!(h.topic.to_string())),
            ("partition", json!(h.partition)),
            ("base_offset", json!(h.base_offset.0)),
            ("base_index", json!(h.base_index.0)),
            ("generation", json!(h.generation)),
            ("truncations", json!(h.truncations)),
            ("incarnation", json!(h.incarnation.to_string())),
            ("format_version", json!(h.format_version)),
        ]
    });
    let mut facts = header.unwrap_or_default();
    facts.push(("file_bytes", json!(judged.file_bytes)));
    facts.push(("entries_end_at", json!(judged.end)));
    facts.push(("entry_count", json!(entry_count)));
    let next_offset = judged.next_offset.filter(|_| entry_count > 0);
    facts.push(("next_offset", json!(next_offset)));
    facts.push(("verdict", json!(judged.verdict)));
    match args.output {
        OutputFormat::Table => {
            let line = |(name, value): &(&str, Value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                format!("{:<15} {text}", name.replace('_', " "))
            };
            let facts: Vec<String> = facts.iter().map(line).collect();
            print_text(&format!("{}\n\n{}", facts.join("\n"), table(columns, &rows)))?;
            let hidden = wanted.saturating_sub(rows.len() as u64);
            if hidden > 0 {
                let what = if args.records { "records" } else { "entries" };
                eprintln!("{hidden} more {what}; -n 0 lists all");
            }
        }
        format => {
            let entries: Vec<Value> = rows
                .into_iter()
                .map(|row| columns.iter().map(|c| (*c).to_owned()).zip(row).collect())
                .collect();
            let mut document: serde_json::Map<String, Value> = facts
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            let what = if args.records { "records" } else { "entries" };
            document.insert(what.to_owned(), Value::from(entries));
            print_document(format, &Value::Object(document))?;
        }
    }
    Ok(match (judged.is_damaged, not_decoded.is_empty()) {
        (true, _) => DAMAGE,
        (false, true) => DONE,
        (false, false) => PARTLY,
    })
}

/// What the walk came to, of the one file.
struct Judged {
    header: Option<SegmentHeader>,
    file_bytes: u64,
    end: u64,
    next_offset: Option<i64>,
    verdict: String,
    is_damaged: bool,
}

impl Judged {
    fn of(examined: &Examined) -> Self {
        let mut words: Vec<String> = examined.damage.iter().map(in_words).collect();
        let (segment, other) = (examined.segments.first(), examined.others.first());
        let faults = segment.map(|segment| &segment.header_faults);
        let faults = faults.or(other.map(|other| &other.header_faults));
        words.extend(faults.into_iter().flatten().cloned());
        let is_damaged = !words.is_empty();
        if let Some((end, why)) = segment.and_then(|segment| Some((segment.end, segment.torn.as_ref()?))) {
            words.push(format!("torn tail at {end}: {why}"));
        }
        if other.is_some_and(|other| other.header.is_none()) {
            words.push("no header, so no entry can be checked".to_owned());
        }
        let file_bytes = segment.map(|segment| segment.file_len);
        Self {
            header: segment
                .map(|segment| segment.header)
                .or(other.and_then(|other| other.header)),
            file_bytes: file_bytes.or(other.map(|other| other.file_len)).unwrap_or(0),
            end: segment.map_or(0, |segment| segment.end),
            next_offset: segment.map(|segment| segment.next_offset.0),
            verdict: match words.is_empty() {
                true => "good".to_owned(),
                false => words.join("; "),
            },
            is_damaged,
        }
    }
}

/// Bytes that are not UTF-8 come as `base64:...`.
fn record_row(record: &Record<'_>, batch: &Value) -> Vec<Value> {
    let fields = record.to_json();
    let text = |name: &str| match fields.get(name) {
        Some(value) => value.clone(),
        None => match fields.get(&format!("{name}_base64")) {
            Some(Value::String(encoded)) => Value::from(format!("base64:{encoded}")),
            _ => Value::Null,
        },
    };
    vec![
        json!(record.offset),
        json!(format_time(record.timestamp_ms)),
        text("key"),
        text("value"),
        fields.get("headers").cloned().unwrap_or_default(),
        batch.get("position").cloned().unwrap_or_default(),
        batch.get("compression").cloned().unwrap_or_default(),
    ]
}

fn entry_row(position: u64, entry: &EntryHeader) -> Vec<Value> {
    vec![
        json!(position),
        json!(format!("{:?}", entry.kind)),
        json!(entry.index.0),
        json!(entry.term.0),
        json!(entry.base_offset.0),
        json!(if entry.last_offset_delta < 0 {
            None
        } else {
            Some(entry.last_offset().0)
        }),
        json!(entry.payload_len),
        json!(format_time(entry.max_timestamp)),
        json!(entry.durable_index().map(|i| i.0)),
    ]
}
