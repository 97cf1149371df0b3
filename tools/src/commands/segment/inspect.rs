//! `tidelog segment inspect`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tidelog_segment_log::entry::EntryHeader;

use super::scan::scan;
use crate::failure::{DAMAGE, DONE, Failure, USAGE};
use crate::limits::ENTRIES_LISTED;
use crate::output::{OutputFormat, print_document, print_text, table};
use crate::when::format_time;

const AFTER_HELP: &str = "\
Exit code 3 when the segment is damaged. The file is only read; the broker may be running.

Examples:
  tidelog segment inspect tidelog-data/<topic id>-0/<file>.log
  tidelog segment inspect FILE -n 0 --output json | jq '.entries[].index'";

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

/// Arguments of `tidelog segment inspect`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct InspectArgs {
    /// Segment file
    path: PathBuf,
    /// Entries to list; 0 lists all
    #[arg(short, long, value_name = "N", default_value_t = ENTRIES_LISTED)]
    num: u64,
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
    let mut rows = Vec::new();
    let scan = scan(&args.path, |position, entry| {
        if args.num == 0 || (rows.len() as u64) < args.num {
            rows.push(entry_row(position, entry));
        }
    })?;
    let header = scan.header.map(|h| {
        vec![
            ("topic_id", json!(h.topic.to_string())),
            ("partition", json!(h.partition)),
            ("base_offset", json!(h.base_offset.0)),
            ("base_index", json!(h.base_index.0)),
            ("generation", json!(h.generation)),
            ("incarnation", json!(h.incarnation.to_string())),
            ("format_version", json!(h.format_version)),
        ]
    });
    let mut facts = header.unwrap_or_default();
    facts.push(("file_bytes", json!(scan.file_bytes)));
    facts.push(("entries_end_at", json!(scan.end_position)));
    facts.push(("entry_count", json!(scan.entries)));
    facts.push(("next_offset", json!(scan.last.map(|l| l.next_offset().0))));
    facts.push(("verdict", json!(scan.verdict())));
    match args.output {
        OutputFormat::Table => {
            let line = |(name, value): &(&str, Value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                format!("{:<15} {text}", name.replace('_', " "))
            };
            let facts: Vec<String> = facts.iter().map(line).collect();
            print_text(&format!("{}\n\n{}", facts.join("\n"), table(COLUMNS, &rows)))?;
            let hidden = scan.entries.saturating_sub(rows.len() as u64);
            if hidden > 0 {
                eprintln!("{hidden} more entries; -n 0 lists all");
            }
        }
        format => {
            let entries: Vec<Value> = rows
                .into_iter()
                .map(|row| COLUMNS.iter().map(|c| (*c).to_owned()).zip(row).collect())
                .collect();
            let mut document: serde_json::Map<String, Value> = facts
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            document.insert("entries".to_owned(), Value::from(entries));
            print_document(format, &Value::Object(document))?;
        }
    }
    Ok(if scan.is_damaged() { DAMAGE } else { DONE })
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
