//! `tidelog segment stats`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use tidelog_net::records::Batch;
use tidelog_segment_log::entry::EntryHeader;

use super::places::{Place, find};
use crate::failure::{DAMAGE, DONE, Failure, PARTLY};
use crate::limits::DECOMPRESSED_BYTES_DEFAULT;
use crate::output::{OutputFormat, print_document, print_text, table};
use crate::when::format_time;

const AFTER_HELP: &str = "\
For each partition and for all of them: segments, batches, records, bytes, the times of the records, what
each codec compressed to how much, and how large batches are. Bytes of batches are as they are stored;
a ratio is the bytes of the records over those bytes. Histogram rows count batches of up to that many bytes.

Only what verifies is counted. Exit code 3 when there is damage, 5 when a batch could not be decompressed.
Files are only read; the broker may be running.

Examples:
  tidelog segment stats tidelog-data
  tidelog segment stats tidelog-data/partitions/<topic id>-0 --output json | jq .total.codecs";

const PARTITION_COLUMNS: &[&str] = &[
    "partition",
    "segments",
    "batches",
    "records",
    "bytes",
    "first_time",
    "last_time",
    "ratio",
];
const CODEC_COLUMNS: &[&str] = &[
    "codec",
    "batches",
    "records",
    "stored_bytes",
    "record_bytes",
    "ratio",
];
const SIZE_COLUMNS: &[&str] = &["batch_bytes_up_to", "batches", "bytes"];

/// Arguments of `tidelog segment stats`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StatsArgs {
    /// Segment file, or a directory to find them in
    path: PathBuf,
    /// Bytes that the records of one batch may decompress to; a larger one is left out of the ratios
    #[arg(long, value_name = "BYTES", default_value_t = DECOMPRESSED_BYTES_DEFAULT)]
    max_batch_bytes: usize,
    /// How data is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Table)]
    output: OutputFormat,
}

/// What one codec did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Codec {
    batches: u64,
    records: u64,
    stored_bytes: u64,
    /// Of the records of those batches that could be decompressed.
    record_bytes: u64,
    /// Stored bytes of the same.
    decoded_bytes: u64,
}

impl Codec {
    fn add(&mut self, other: &Codec) {
        self.batches += other.batches;
        self.records += other.records;
        self.stored_bytes += other.stored_bytes;
        self.record_bytes += other.record_bytes;
        self.decoded_bytes += other.decoded_bytes;
    }

    fn ratio(&self) -> Option<f64> {
        (self.decoded_bytes > 0).then(|| self.record_bytes as f64 / self.decoded_bytes as f64)
    }
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    segments: u64,
    file_bytes: u64,
    entry_bytes: u64,
    entries: u64,
    batches: u64,
    records: u64,
    batch_bytes: u64,
    times: Option<(i64, i64)>,
    codecs: BTreeMap<&'static str, Codec>,
    /// By the exponent of the next power of two: batches and their bytes.
    sizes: BTreeMap<u32, (u64, u64)>,
    not_decoded: u64,
    damaged_places: u64,
}

impl Counts {
    fn take(&mut self, entry: &EntryHeader, payload: &[u8], max_bytes: usize) {
        self.entries += 1;
        if !entry.is_plain_data() {
            return;
        }
        let mut bytes = Bytes::copy_from_slice(payload);
        let Ok(batch) = Batch::take(&mut bytes) else {
            self.not_decoded += 1;
            return;
        };
        let (header, stored) = (&batch.header, payload.len() as u64);
        let records = u64::try_from(header.record_count).unwrap_or(0);
        self.batches += 1;
        self.records += records;
        self.batch_bytes += stored;
        let size = self
            .sizes
            .entry(stored.next_power_of_two().trailing_zeros())
            .or_default();
        *size = (size.0 + 1, size.1 + stored);
        if records > 0 {
            let (first, last) = (header.base_timestamp, header.max_timestamp);
            let (low, high) = self.times.unwrap_or((first, last));
            self.times = Some((low.min(first), high.max(last)));
        }
        let name = header.compression().map_or("unknown", |codec| codec.name());
        let mut codec = Codec {
            batches: 1,
            records,
            stored_bytes: stored,
            ..Codec::default()
        };
        match batch.decompressed(max_bytes) {
            Ok(plain) => {
                codec.record_bytes = plain.len() as u64;
                codec.decoded_bytes = batch.payload().len() as u64;
            }
            Err(_) => self.not_decoded += 1,
        }
        self.codecs.entry(name).or_default().add(&codec);
    }

    fn add(&mut self, other: &Counts) {
        self.segments += other.segments;
        self.file_bytes += other.file_bytes;
        self.entry_bytes += other.entry_bytes;
        self.entries += other.entries;
        self.batches += other.batches;
        self.records += other.records;
        self.batch_bytes += other.batch_bytes;
        self.not_decoded += other.not_decoded;
        self.damaged_places += other.damaged_places;
        if let Some((first, last)) = other.times {
            let (low, high) = self.times.unwrap_or((first, last));
            self.times = Some((low.min(first), high.max(last)));
        }
        for (name, codec) in &other.codecs {
            self.codecs.entry(name).or_default().add(codec);
        }
        for (exponent, (batches, bytes)) in &other.sizes {
            let size = self.sizes.entry(*exponent).or_default();
            *size = (size.0 + batches, size.1 + bytes);
        }
    }

    fn all_codecs(&self) -> Codec {
        self.codecs.values().fold(Codec::default(), |mut all, codec| {
            all.add(codec);
            all
        })
    }

    fn row(&self, name: String) -> Vec<Value> {
        let time = |ms: Option<i64>| ms.map(format_time);
        vec![
            json!(name),
            json!(self.segments),
            json!(self.batches),
            json!(self.records),
            json!(self.entry_bytes),
            json!(time(self.times.map(|times| times.0))),
            json!(time(self.times.map(|times| times.1))),
            json!(self.all_codecs().ratio().map(two_digits)),
        ]
    }

    fn codec_rows(&self) -> Vec<Vec<Value>> {
        let row = |(name, codec): (&&str, &Codec)| {
            vec![
                json!(name),
                json!(codec.batches),
                json!(codec.records),
                json!(codec.stored_bytes),
                json!(codec.record_bytes),
                json!(codec.ratio().map(two_digits)),
            ]
        };
        self.codecs.iter().map(row).collect()
    }

    fn size_rows(&self) -> Vec<Vec<Value>> {
        let row = |(exponent, (batches, bytes)): (&u32, &(u64, u64))| {
            vec![json!(1u64 << exponent), json!(batches), json!(bytes)]
        };
        self.sizes.iter().map(row).collect()
    }

    fn to_json(&self) -> Value {
        let objects = |columns: &[&str], rows: Vec<Vec<Value>>| -> Vec<Value> {
            let object = |row: Vec<Value>| columns.iter().map(|name| (*name).to_owned()).zip(row).collect();
            rows.into_iter().map(object).collect()
        };
        json!({
            "segments": self.segments,
            "file_bytes": self.file_bytes,
            "entry_bytes": self.entry_bytes,
            "entries": self.entries,
            "batches": self.batches,
            "records": self.records,
            "batch_bytes": self.batch_bytes,
            "first_timestamp_ms": self.times.map(|times| times.0),
            "last_timestamp_ms": self.times.map(|times| times.1),
            "codecs": objects(CODEC_COLUMNS, self.codec_rows()),
            "batch_sizes": objects(SIZE_COLUMNS, self.size_rows()),
            "not_decoded": self.not_decoded,
            "damaged_places": self.damaged_places,
        })
    }
}

fn two_digits(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

/// Counts and prints.
pub fn run(args: StatsArgs) -> Result<u8, Failure> {
    let found = find(&args.path)?;
    let mut partitions: Vec<(String, &Place, Counts)> = Vec::new();
    for place in &found.places {
        let counted = place.until_settled(|place| {
            let mut counts = Counts::default();
            let examined = place.examine(usize::MAX, &mut |_, _, entry, payload| {
                counts.take(entry, payload, args.max_batch_bytes);
                true
            })?;
            let first = tidelog_segment_log::segment_header::SEGMENT_HEADER_LEN as u64;
            for segment in &examined.segments {
                counts.segments += 1;
                counts.file_bytes += segment.file_len;
                counts.entry_bytes += segment.end.saturating_sub(first);
            }
            counts.damaged_places = examined.damage.len() as u64;
            Ok(counts)
        })?;
        if let Some(counts) = counted {
            let name = format!("{}-{}", place.key.topic, place.key.partition);
            partitions.push((name, place, counts));
        }
    }
    let mut total = Counts::default();
    partitions.iter().for_each(|(_, _, counts)| total.add(counts));
    print(args.output, &partitions, &total)?;
    if total.not_decoded > 0 {
        eprintln!("tidelog: {} batches could not be decompressed", total.not_decoded);
    }
    if total.damaged_places > 0 {
        eprintln!(
            "tidelog: {} damaged places; see `tidelog segment verify`",
            total.damaged_places
        );
    }
    Ok(match (total.damaged_places, total.not_decoded) {
        (1.., _) => DAMAGE,
        (0, 1..) => PARTLY,
        (0, 0) => DONE,
    })
}

fn print(
    output: OutputFormat,
    partitions: &[(String, &Place, Counts)],
    total: &Counts,
) -> std::io::Result<()> {
    let object = |place: &Place, counts: &Counts| {
        let mut value = counts.to_json();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("topic_id".to_owned(), json!(place.key.topic.to_string()));
            fields.insert("partition".to_owned(), json!(place.key.partition));
        }
        value
    };
    match output {
        OutputFormat::Table => {
            let mut rows: Vec<Vec<Value>> = partitions
                .iter()
                .map(|(name, _, counts)| counts.row(name.clone()))
                .collect();
            rows.push(total.row("all".to_owned()));
            print_text(&format!(
                "{}\n\n{}\n\n{}",
                table(PARTITION_COLUMNS, &rows),
                table(CODEC_COLUMNS, &total.codec_rows()),
                table(SIZE_COLUMNS, &total.size_rows())
            ))
        }
        OutputFormat::Json => {
            let each: Vec<Value> = partitions
                .iter()
                .map(|(_, place, counts)| object(place, counts))
                .collect();
            print_document(output, &json!({"partitions": each, "total": total.to_json()}))
        }
        OutputFormat::Jsonl => {
            for (_, place, counts) in partitions {
                print_document(output, &object(place, counts))?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use tidelog_net::records::{BatchBuilder, Compression};
    use tidelog_segment_log::batch::patch_prefix;
    use tidelog_segment_log::entry::{ENTRY_VERSION, EntryKind};
    use tidelog_segment_log::ids::{EntryIndex, LeaderEpoch, Offset};

    use super::*;

    fn entry(kind: EntryKind, payload: &[u8]) -> EntryHeader {
        EntryHeader {
            version: ENTRY_VERSION,
            kind,
            flags: 0,
            payload_len: payload.len() as u32,
            payload_crc: 0,
            term: LeaderEpoch(0),
            index: EntryIndex(1),
            base_offset: Offset(0),
            last_offset_delta: 9,
            prev_crc: 0,
            header_crc: 0,
            max_timestamp: 9,
            durable_gap: 1,
        }
    }

    #[test]
    fn batches_are_counted_by_codec_size_and_time() {
        let mut counts = Counts::default();
        for codec in [Compression::None, Compression::Zstd] {
            let mut builder = BatchBuilder::new(codec);
            for number in 0..10 {
                builder
                    .append(100 + number, None, Some(&[7; 500]), &[])
                    .expect("room");
            }
            let batch = builder.build().expect("a batch");
            let mut stored = batch.to_vec();
            let prefix = patch_prefix(&batch, Offset(0), LeaderEpoch(0));
            stored[..prefix.len()].copy_from_slice(&prefix);
            counts.take(&entry(EntryKind::Data, &stored), &stored, 1 << 20);
        }
        counts.take(&entry(EntryKind::LogStart, &[0; 16]), &[0; 16], 1 << 20);
        assert_eq!((counts.entries, counts.batches, counts.records), (3, 2, 20));
        assert_eq!(counts.times, Some((100, 109)));
        let none = counts.codecs["none"];
        assert_eq!(none.ratio(), Some(1.0));
        let zstd = counts.codecs["zstd"];
        assert!(zstd.ratio().is_some_and(|ratio| ratio > 20.0), "{zstd:?}");
        assert_eq!(zstd.record_bytes, none.record_bytes);
        let in_sizes: u64 = counts.sizes.values().map(|(batches, _)| batches).sum();
        assert_eq!(in_sizes, 2);
        let (largest, (batches, bytes)) = counts.sizes.last_key_value().expect("a size");
        assert!(*batches == 1 && *bytes <= 1 << largest && *bytes > 1 << (largest - 1));
        let mut twice = counts.clone();
        twice.add(&counts);
        assert_eq!((twice.records, twice.codecs["zstd"].batches), (40, 2));
        // A batch that would decompress to more than allowed is counted, but not in the ratios.
        let mut bounded = Counts::default();
        let mut builder = BatchBuilder::new(Compression::Zstd);
        builder.append(1, None, Some(&[7; 5_000]), &[]).expect("room");
        let batch = builder.build().expect("a batch");
        bounded.take(&entry(EntryKind::Data, &batch), &batch, 100);
        assert_eq!((bounded.not_decoded, bounded.codecs["zstd"].ratio()), (1, None));
    }
}
