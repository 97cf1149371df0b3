//! Records and record batches as a client sees them. Holds no state.
//!
//! Batches are read and built by [`tidelog_net::records`], which describes their bytes; here they
//! become records that own what they hold. What a broker serves is not trusted: decompression is
//! capped, and one call decodes no more than [`DECODED_RECORDS_BYTES_MAX`].
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use tidelog_net::records::{Batch, BatchBuilder, BatchError, RecordView};

pub use tidelog_net::records::Compression;

use crate::limits::DECODED_RECORDS_BYTES_MAX;

/// Parses a codec by the name Kafka gives it.
pub fn parse_compression(text: &str) -> Result<Compression, String> {
    Compression::from_name(text).ok_or_else(|| format!("`{text}` is not none, gzip, snappy, lz4 or zstd"))
}

/// A header of a record. Kafka allows the same name more than once.
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

/// Encodes `records` as one batch, offsets counted from 0. There must be at least one.
pub fn encode_batch(records: &[Record], compression: Compression) -> Result<Bytes, String> {
    let mut builder = BatchBuilder::new(compression);
    let mut headers: Vec<(&str, Option<&[u8]>)> = Vec::new();
    for record in records {
        headers.clear();
        headers.extend(
            record
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_deref())),
        );
        builder
            .append(
                record.timestamp_ms,
                record.key.as_deref(),
                record.value.as_deref(),
                &headers,
            )
            .map_err(|e| e.to_string())?;
    }
    builder.build().map_err(|e| e.to_string())
}

/// What [`decode_batches`] read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The records of data batches, in offset order.
    pub records: Vec<Record>,
    /// The offset after the last whole batch, control batches included; `None` without any.
    pub next_offset: Option<i64>,
    /// True when something is left: the bytes end inside a batch, as an answer cut at a byte limit
    /// does, or more batches would not fit into memory. Ask for [`Decoded::next_offset`] next.
    pub is_cut: bool,
}

/// Decodes the whole batches in `bytes`, checking each CRC. The offsets are those of the broker.
pub fn decode_batches(bytes: Bytes) -> Result<Decoded, String> {
    decode_within(bytes, DECODED_RECORDS_BYTES_MAX)
}

/// As [`decode_batches`], taking at most `budget_bytes`. A first batch beyond that is an error.
fn decode_within(mut bytes: Bytes, budget_bytes: usize) -> Result<Decoded, String> {
    let mut decoded = Decoded::default();
    let mut left_bytes = budget_bytes;
    while !bytes.is_empty() {
        let batch = match Batch::take(&mut bytes) {
            Ok(batch) => batch,
            Err(BatchError::Incomplete { .. }) => {
                decoded.is_cut = true;
                break;
            }
            Err(error) => return Err(error.to_string()),
        };
        batch.verify_crc().map_err(|e| e.to_string())?;
        let next_offset = next_offset(&batch)?;
        // A control batch is checked like any other, but its records are not the client's.
        if !batch.header.is_control() {
            let payload = match batch.decompressed(left_bytes) {
                Ok(payload) => payload,
                Err(error) if decoded.next_offset.is_none() => return Err(error.to_string()),
                Err(tidelog_net::records::DecompressError::TooLarge { .. }) => {
                    decoded.is_cut = true;
                    break;
                }
                Err(error) => return Err(error.to_string()),
            };
            let records_before = decoded.records.len();
            left_bytes = left_bytes.saturating_sub(payload.len());
            match take_records(&batch, &payload, left_bytes, &mut decoded.records)? {
                Some(taken_bytes) => left_bytes = left_bytes.saturating_sub(taken_bytes),
                None if decoded.next_offset.is_none() => {
                    return Err(format!("a batch decodes to more than {budget_bytes} bytes"));
                }
                None => {
                    decoded.records.truncate(records_before);
                    decoded.is_cut = true;
                    break;
                }
            }
        }
        decoded.next_offset = Some(next_offset);
    }
    Ok(decoded)
}

/// The offset after `batch`, whose own offsets must make sense.
fn next_offset(batch: &Batch) -> Result<i64, String> {
    let (base_offset, delta) = (batch.header.base_offset, batch.header.last_offset_delta);
    base_offset
        .checked_add(i64::from(delta))
        .and_then(|last| last.checked_add(1))
        .filter(|_| base_offset >= 0 && delta >= 0)
        .ok_or_else(|| format!("batch with base offset {base_offset} and last offset delta {delta}"))
}

/// Appends the records of `batch` and returns the bytes their structs take, or nothing when that
/// would be more than `budget_bytes`.
fn take_records(
    batch: &Batch,
    payload: &Bytes,
    budget_bytes: usize,
    into: &mut Vec<Record>,
) -> Result<Option<usize>, String> {
    let mut taken_bytes = 0usize;
    let mut last_delta = -1;
    for view in batch.records(payload).map_err(|e| e.to_string())? {
        let view = view.map_err(|e| e.to_string())?;
        if view.offset_delta <= last_delta || view.offset_delta > batch.header.last_offset_delta {
            let first = batch.header.base_offset;
            return Err(format!(
                "the batch at offset {first} has offset delta {} after {last_delta}, and ends at {}",
                view.offset_delta, batch.header.last_offset_delta
            ));
        }
        last_delta = view.offset_delta;
        let headers_bytes = (view.headers.count_left() as usize).saturating_mul(size_of::<Header>());
        taken_bytes = taken_bytes.saturating_add(size_of::<Record>() + headers_bytes);
        if taken_bytes > budget_bytes {
            return Ok(None);
        }
        into.push(to_record(batch, payload, &view));
    }
    Ok(Some(taken_bytes))
}

fn to_record(batch: &Batch, payload: &Bytes, view: &RecordView<'_>) -> Record {
    let header = &batch.header;
    let shared = |bytes: Option<&[u8]>| bytes.map(|b| payload.slice_ref(b));
    Record {
        offset: header.base_offset + i64::from(view.offset_delta),
        timestamp_ms: match header.is_log_append_time() {
            true => header.max_timestamp,
            false => header.base_timestamp.saturating_add(view.timestamp_delta),
        },
        key: shared(view.key),
        value: shared(view.value),
        headers: view
            .headers
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), shared(value)))
            .collect(),
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use bytes::BytesMut;
    use tidelog_net::records::crc32c;

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

    fn crc_fixed(mut batch: BytesMut) -> Bytes {
        let crc = crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch.freeze()
    }

    #[test]
    fn every_codec_gives_back_what_went_in() {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let bytes = encode_batch(&sample(), parse_compression(codec).expect(codec)).expect(codec);
            let decoded = decode_batches(bytes).expect(codec);
            assert_eq!(decoded.records, sample(), "{codec}");
            assert_eq!(decoded.next_offset, Some(3), "{codec}");
            assert!(!decoded.is_cut, "{codec}");
        }
    }

    #[test]
    fn a_batch_has_no_producer_and_counts_its_records() {
        let mut bytes = encode_batch(&sample(), Compression::None).expect("fine");
        let header = Batch::take(&mut bytes).expect("whole").header;
        assert!(bytes.is_empty(), "one batch");
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence),
            (-1, -1, -1)
        );
        assert_eq!((header.record_count, header.last_offset_delta), (3, 2));
        assert!(encode_batch(&[], Compression::None).is_err(), "nothing to send");
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
    fn a_header_given_twice_is_kept_twice() {
        let mut records = sample();
        records[0].headers.push(("h".to_owned(), Some("again".into())));
        records[0].headers.push(("h".to_owned(), None));
        for codec in Compression::ALL {
            let bytes = encode_batch(&records, codec).expect("fine");
            assert_eq!(decode_batches(bytes).expect("fine").records, records, "{codec:?}");
        }
    }

    #[test]
    fn a_decompression_bomb_stops_at_the_budget() {
        let bomb = vec![Record {
            value: Some(vec![0; 8 << 20].into()),
            ..sample().remove(0)
        }];
        for codec in Compression::ALL {
            let batch = encode_batch(&bomb, codec).expect("fine");
            let error = decode_within(batch.clone(), 1 << 20).expect_err("more than a MiB");
            assert!(error.contains("1048576"), "{codec:?}: {error}");
            assert_eq!(
                decode_within(batch, 16 << 20).expect("fits").records,
                bomb,
                "{codec:?}"
            );
        }
    }

    #[test]
    fn batches_beyond_the_budget_are_left_for_the_next_call() {
        let one = encode_batch(&sample(), Compression::Zstd).expect("fine");
        let mut two = BytesMut::from(&one[..]);
        two.extend_from_slice(&one);
        let budget_bytes = 3 * (size_of::<Record>() + 2 * size_of::<Header>()) + 200;
        let decoded = decode_within(two.freeze(), budget_bytes).expect("the first fits");
        assert_eq!((decoded.records.len(), decoded.next_offset), (3, Some(3)));
        assert!(decoded.is_cut);
        assert!(
            decode_within(one, 400).is_err(),
            "not even one fits: records count as well as bytes"
        );
    }

    #[test]
    fn offsets_that_go_back_or_leave_the_batch_are_refused() {
        let whole = encode_batch(&sample(), Compression::None).expect("fine");
        let mut short = BytesMut::from(&whole[..]);
        short[23..27].copy_from_slice(&1i32.to_be_bytes());
        assert!(
            decode_batches(crc_fixed(short))
                .expect_err("beyond")
                .contains("offset delta 2")
        );
        // The offset delta of the first record is the byte after its length, attributes and time.
        let mut back = BytesMut::from(&whole[..]);
        assert_eq!(back[64], 0);
        back[64] = 2 << 1;
        assert!(
            decode_batches(crc_fixed(back))
                .expect_err("back")
                .contains("offset delta 1 after 2")
        );
    }

    #[test]
    fn times_are_the_brokers_when_it_says_so() {
        let mut batch = BytesMut::from(&encode_batch(&sample(), Compression::None).expect("fine")[..]);
        batch[22] |= 1 << 3;
        batch[35..43].copy_from_slice(&77i64.to_be_bytes());
        let decoded = decode_batches(crc_fixed(batch)).expect("fine");
        assert!(
            decoded.records.iter().all(|r| r.timestamp_ms == 77),
            "{decoded:?}"
        );
    }
}
