//! Which records are wanted: by offset, by time, by key.

use std::io;

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};
use tidelog_net::records::{Batch, RecordView};
use tidelog_segment_log::entry::EntryHeader;

use crate::limits::DECOMPRESSED_BYTES_DEFAULT;
use crate::output::bytes_field;
use crate::when::parse_instant;

/// The filters of `segment inspect` and `segment dump`. All given must hold.
#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Only records at this offset or a later one
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub from_offset: Option<i64>,
    /// Only records before this offset
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub to_offset: Option<i64>,
    /// Only records of this time or later: epoch ms, RFC 3339, or a span such as @-15m
    #[arg(long, value_name = "@TIME", value_parser = parse_instant)]
    pub from_time: Option<i64>,
    /// Only records of before this time
    #[arg(long, value_name = "@TIME", value_parser = parse_instant)]
    pub to_time: Option<i64>,
    /// Only records with exactly this key
    #[arg(short, long, value_name = "KEY")]
    pub key: Option<String>,
    /// Bytes that the records of one batch may decompress to; a larger one is left out and reported
    #[arg(long, value_name = "BYTES", default_value_t = DECOMPRESSED_BYTES_DEFAULT)]
    pub max_batch_bytes: usize,
}

impl Selection {
    /// True when everything is wanted.
    pub fn is_everything(&self) -> bool {
        let bounds = [self.from_offset, self.to_offset, self.from_time, self.to_time];
        bounds.iter().all(Option::is_none) && self.key.is_none()
    }

    /// Whether an entry may hold wanted records, as far as its header says.
    pub fn may_hold(&self, entry: &EntryHeader) -> bool {
        if entry.last_offset_delta < 0 {
            return self.is_everything();
        }
        self.from_offset.is_none_or(|from| entry.last_offset().0 >= from)
            && self.to_offset.is_none_or(|to| entry.base_offset.0 < to)
            && self.from_time.is_none_or(|from| entry.max_timestamp >= from)
    }

    fn wants(&self, record: &Record<'_>) -> bool {
        let (offset, time) = (record.offset, record.timestamp_ms);
        self.from_offset.is_none_or(|from| offset >= from)
            && self.to_offset.is_none_or(|to| offset < to)
            && self.from_time.is_none_or(|from| time >= from)
            && self.to_time.is_none_or(|to| time < to)
            && self
                .key
                .as_deref()
                .is_none_or(|key| record.view.key == Some(key.as_bytes()))
    }

    /// Shows the wanted records of an entry with a batch; the inner error says why it cannot be read.
    pub fn each_record(
        &self,
        payload: &[u8],
        mut show: impl FnMut(&Batch, &Record<'_>) -> io::Result<()>,
    ) -> io::Result<Result<(), String>> {
        let mut bytes = Bytes::copy_from_slice(payload);
        let batch = match Batch::take(&mut bytes) {
            Ok(batch) => batch,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let decompressed = match batch.decompressed(self.max_batch_bytes) {
            Ok(decompressed) => decompressed,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let records = match batch.records(&decompressed) {
            Ok(records) => records,
            Err(error) => return Ok(Err(error.to_string())),
        };
        for view in records {
            let view = match view {
                Ok(view) => view,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let header = &batch.header;
            let record = Record {
                offset: header.base_offset.saturating_add(i64::from(view.offset_delta)),
                timestamp_ms: match header.is_log_append_time() {
                    true => header.max_timestamp,
                    false => header.base_timestamp.saturating_add(view.timestamp_delta),
                },
                view,
            };
            if self.wants(&record) {
                show(&batch, &record)?;
            }
        }
        Ok(Ok(()))
    }
}

/// A record where it lies.
#[derive(Debug)]
pub struct Record<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Key, value and headers.
    pub view: RecordView<'a>,
}

impl Record<'_> {
    /// Offset, time, key, value and headers as `consume --output jsonl` names them.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("offset".to_owned(), json!(self.offset));
        object.insert("timestamp_ms".to_owned(), json!(self.timestamp_ms));
        object.extend([bytes_field("key", self.view.key)]);
        object.extend([bytes_field("value", self.view.value)]);
        let header = |(name, value): (&[u8], Option<&[u8]>)| {
            let fields = [bytes_field("name", Some(name)), bytes_field("value", value)];
            Value::Object(fields.into_iter().collect())
        };
        let headers: Vec<Value> = self.view.headers.map(header).collect();
        object.insert("headers".to_owned(), Value::from(headers));
        object
    }
}

/// What a batch says of all its records.
pub fn batch_facts(batch: &Batch, entry: &EntryHeader, position: u64) -> Value {
    let header = &batch.header;
    json!({
        "position": position,
        "index": entry.index.0,
        "base_offset": header.base_offset,
        "last_offset": header.last_offset(),
        "leader_epoch": header.partition_leader_epoch,
        "bytes": batch.bytes.len(),
        "compression": header.compression().map(|c| c.name()).unwrap_or("unknown"),
        "log_append_time": header.is_log_append_time(),
        "transactional": header.is_transactional(),
        "control": header.is_control(),
        "producer_id": header.producer_id,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
    })
}
