//! Records and record batches as a client sees them. Holds no state.
//!
//! | at | size | field of a record batch (version 2, big endian) |
//! |---|---|---|
//! | 0 | 8 | base offset |
//! | 8 | 4 | length of what follows |
//! | 16 | 1 | magic: 2 |
//! | 21 | 2 | attributes; bit 5 marks a control batch |
//! | 23 | 4 | last offset delta |
//! | 57 | 4 | record count |
//! | 61 | | records, compressed or not |
#![deny(clippy::indexing_slicing)]

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as wire;

/// Bytes before the length field ends: base offset and length.
const PREFIX_BYTES: usize = 12;
/// Smallest encoding of a record: a length, attributes, two deltas, key, value and header count.
const RECORD_BYTES_MIN: usize = 7;

/// Codec of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Stored as it is.
    None,
    /// gzip.
    Gzip,
    /// snappy, in the framing Java clients use.
    Snappy,
    /// lz4 frames.
    Lz4,
    /// zstd.
    Zstd,
}

impl std::str::FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Compression::None),
            "gzip" => Ok(Compression::Gzip),
            "snappy" => Ok(Compression::Snappy),
            "lz4" => Ok(Compression::Lz4),
            "zstd" => Ok(Compression::Zstd),
            other => Err(format!("`{other}` is not none, gzip, snappy, lz4 or zstd")),
        }
    }
}

/// A header of a record.
pub type Header = (String, Option<Bytes>);

/// One record, to be produced or as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Offset in its partition; ignored when producing.
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Key, or none.
    pub key: Option<Bytes>,
    /// Value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

impl Record {
    /// Bytes this record takes in a batch, rounded up.
    pub fn size_bytes(&self) -> usize {
        let text = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + text(v) + 10).sum();
        text(&self.key) + text(&self.value) + headers + 32
    }
}

/// Encodes `records` as one batch, offsets counted from 0. Empty input gives empty bytes.
pub fn encode_batch(records: &[Record], compression: Compression) -> Result<Bytes, String> {
    let options = wire::RecordEncodeOptions {
        version: 2,
        compression: match compression {
            Compression::None => wire::Compression::None,
            Compression::Gzip => wire::Compression::Gzip,
            Compression::Snappy => wire::Compression::Snappy,
            Compression::Lz4 => wire::Compression::Lz4,
            Compression::Zstd => wire::Compression::Zstd,
        },
    };
    let mut encoded = Vec::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        encoded.push(to_wire(at, record)?);
    }
    let mut buffer = BytesMut::new();
    wire::RecordBatchEncoder::encode(&mut buffer, encoded.iter(), &options).map_err(|e| e.to_string())?;
    Ok(buffer.freeze())
}

/// What [`decode_batches`] read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The records of data batches, in offset order.
    pub records: Vec<Record>,
    /// The offset after the last whole batch, control batches included; `None` without any.
    pub next_offset: Option<i64>,
    /// True when the bytes end inside a batch, as an answer cut at a byte limit does.
    pub is_cut: bool,
}

/// Decodes the whole batches in `bytes`, checking each CRC. The offsets are those of the broker.
pub fn decode_batches(mut bytes: Bytes) -> Result<Decoded, String> {
    let mut decoded = Decoded::default();
    while !bytes.is_empty() {
        let Some(length) = batch_length(&bytes)? else {
            decoded.is_cut = true;
            break;
        };
        let mut batch = bytes.split_to(length);
        let head = BatchHead::read(&batch)?;
        decoded.next_offset = Some(head.next_offset);
        let set = wire::RecordBatchDecoder::decode(&mut batch).map_err(|e| e.to_string())?;
        // A control batch is checked like any other, but its records are not the client's.
        if !head.is_control {
            decoded.records.extend(set.records.into_iter().map(from_wire));
        }
    }
    Ok(decoded)
}

/// Length of the batch at the front, or none when it is not whole.
fn batch_length(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(length) = read_i32(bytes, 8) else {
        return Ok(None);
    };
    let length = usize::try_from(length).map_err(|_| format!("batch length {length}"))?;
    Ok(length.checked_add(PREFIX_BYTES).filter(|end| *end <= bytes.len()))
}

struct BatchHead {
    next_offset: i64,
    is_control: bool,
}

impl BatchHead {
    fn read(batch: &[u8]) -> Result<Self, String> {
        let cut = || "batch shorter than its header".to_owned();
        let magic = *batch.get(16).ok_or_else(cut)?;
        if magic != 2 {
            return Err(format!("batch of magic {magic}; only 2 is read"));
        }
        let base_offset = batch
            .first_chunk::<8>()
            .map(|b| i64::from_be_bytes(*b))
            .ok_or_else(cut)?;
        let attributes = batch.get(22).ok_or_else(cut)?;
        let last_offset_delta = read_i32(batch, 23).ok_or_else(cut)?;
        let record_count = read_i32(batch, 57).ok_or_else(cut)?;
        let next_offset = base_offset
            .checked_add(i64::from(last_offset_delta))
            .and_then(|last| last.checked_add(1))
            .filter(|next| base_offset >= 0 && last_offset_delta >= 0 && *next > base_offset)
            .ok_or_else(|| format!("batch with base offset {base_offset} and delta {last_offset_delta}"))?;
        let is_plain = attributes & 7 == 0;
        let room = (batch.len() - 61) / RECORD_BYTES_MIN;
        if record_count < 0
            || i64::from(record_count) > i64::from(last_offset_delta) + 1
            || (is_plain && record_count as usize > room)
        {
            return Err(format!("batch with a record count of {record_count}"));
        }
        Ok(BatchHead {
            next_offset,
            is_control: attributes & 0x20 != 0,
        })
    }
}

fn read_i32(bytes: &[u8], at: usize) -> Option<i32> {
    bytes
        .get(at..)?
        .first_chunk::<4>()
        .map(|b| i32::from_be_bytes(*b))
}

fn to_wire(at: usize, record: &Record) -> Result<wire::Record, String> {
    let sequence = i32::try_from(at).map_err(|_| "too many records for one batch".to_owned())?;
    let mut headers = IndexMap::with_capacity(record.headers.len());
    for (name, value) in &record.headers {
        if headers
            .insert(StrBytes::from_string(name.clone()), value.clone())
            .is_some()
        {
            return Err(format!("header `{name}` is given twice"));
        }
    }
    Ok(wire::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: wire::NO_PARTITION_LEADER_EPOCH,
        producer_id: wire::NO_PRODUCER_ID,
        producer_epoch: wire::NO_PRODUCER_EPOCH,
        timestamp_type: wire::TimestampType::Creation,
        offset: i64::from(sequence),
        // The encoder splits a batch where offset - sequence changes, and a base sequence of -1
        // means "not idempotent".
        sequence: sequence - 1,
        timestamp: record.timestamp_ms,
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
    })
}

fn from_wire(record: wire::Record) -> Record {
    Record {
        offset: record.offset,
        timestamp_ms: record.timestamp,
        key: record.key,
        value: record.value,
        headers: record
            .headers
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Record> {
        let record = |offset: i64, key: Option<&'static str>, value: Option<&'static str>| Record {
            offset,
            timestamp_ms: 1_700_000_000_000 + offset,
            key: key.map(|k| Bytes::from_static(k.as_bytes())),
            value: value.map(|v| Bytes::from_static(v.as_bytes())),
            headers: vec![
                ("h".to_owned(), None),
                ("x".to_owned(), Some(Bytes::from_static(b"1"))),
            ],
        };
        vec![
            record(0, None, Some("zero")),
            record(1, Some("k"), None),
            record(2, Some(""), Some("")),
        ]
    }

    #[test]
    fn every_codec_gives_back_what_went_in() {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let bytes = encode_batch(&sample(), codec.parse().expect(codec)).expect(codec);
            let decoded = decode_batches(bytes).expect(codec);
            assert_eq!(decoded.records, sample(), "{codec}");
            assert_eq!(decoded.next_offset, Some(3), "{codec}");
            assert!(!decoded.is_cut, "{codec}");
        }
    }

    #[test]
    fn a_plain_batch_is_one_batch_without_a_producer() {
        let bytes = encode_batch(&sample(), Compression::None).expect("fine");
        assert_eq!(batch_length(&bytes).expect("fine"), Some(bytes.len()));
        assert_eq!(
            bytes[43..57],
            [0xff; 14],
            "producer id, epoch and base sequence are -1"
        );
        assert_eq!(read_i32(&bytes, 57), Some(3));
    }

    #[test]
    fn a_cut_batch_is_left_out_and_a_changed_one_is_an_error() {
        let whole = encode_batch(&sample(), Compression::None).expect("fine");
        let mut two = BytesMut::from(&whole[..]);
        two.extend_from_slice(&whole[..whole.len() - 1]);
        let decoded = decode_batches(two.freeze()).expect("fine");
        assert_eq!((decoded.records.len(), decoded.is_cut), (3, true));
        let mut changed = BytesMut::from(&whole[..]);
        let last = changed.len() - 1;
        changed[last] ^= 1;
        assert!(decode_batches(changed.freeze()).is_err());
    }

    #[test]
    fn no_cut_or_flipped_byte_panics() {
        let whole = encode_batch(&sample(), Compression::None).expect("fine");
        for at in 0..whole.len() {
            let cut = decode_batches(whole.slice(..at)).expect("a cut is no error");
            assert!(cut.records.is_empty(), "{at}");
            let mut changed = BytesMut::from(&whole[..]);
            changed[at] ^= 0xff;
            let result = decode_batches(changed.freeze());
            // Base offset and leader epoch lie outside the CRC.
            assert!(at < 16 || result.is_err(), "{at}: {result:?}");
        }
    }

    #[test]
    fn a_header_given_twice_is_refused() {
        let mut records = sample();
        records[0].headers.push(("h".to_owned(), None));
        assert!(
            encode_batch(&records, Compression::None)
                .expect_err("twice")
                .contains("`h`")
        );
    }
}
