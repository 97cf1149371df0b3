//! Building a batch as a producer does.
//!
//! The batch has base offset 0 and no leader epoch: the broker sets both.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use super::batch::{BATCH_HEADER_BYTES, crc32c};
use super::compression::{Compression, compress};
use crate::wire::put_uvarint;
use bytes::{BufMut, Bytes, BytesMut};

/// Why a batch could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No record was added: there is nothing to send.
    #[error("a batch needs at least one record")]
    Empty,
    /// The batch is full: build it and put the record into the next one.
    #[error("the batch cannot take more records")]
    Full,
    /// The codec failed.
    #[error("compression failed: {0}")]
    Compression(#[from] std::io::Error),
}

/// Gathers records and makes a batch of them.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    compression: Compression,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    transactional: bool,
    records: BytesMut,
    record: BytesMut,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch without a producer id.
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            transactional: false,
            records: BytesMut::new(),
            record: BytesMut::new(),
            count: 0,
            base_timestamp: 0,
            max_timestamp: 0,
        }
    }

    /// The batch of an idempotent producer.
    #[must_use]
    pub fn with_producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        self.producer_id = producer_id;
        self.producer_epoch = producer_epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// A batch of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.transactional = true;
        self
    }

    /// Records added so far.
    pub fn record_count(&self) -> usize {
        usize::try_from(self.count).unwrap_or(0)
    }

    /// Whether no record was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far, before compression.
    pub fn size_bytes(&self) -> usize {
        self.records.len().saturating_add(BATCH_HEADER_BYTES)
    }

    /// Adds a record. The batch's own size limit is the caller's affair.
    pub fn append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), BuildError> {
        if self.count == i32::MAX {
            return Err(BuildError::Full);
        }
        if self.count == 0 {
            self.base_timestamp = timestamp_ms;
            self.max_timestamp = timestamp_ms;
        }
        let record = &mut self.record;
        record.clear();
        record.put_i8(0);
        put_varlong(record, timestamp_ms.wrapping_sub(self.base_timestamp));
        put_varlong(record, self.count.into());
        put_nullable(record, key);
        put_nullable(record, value);
        put_varlong(record, headers.len() as i64);
        for (key, value) in headers {
            put_nullable(record, Some(key.as_bytes()));
            put_nullable(record, *value);
        }
        let total_bytes = self
            .records
            .len()
            .saturating_add(record.len())
            .saturating_add(BATCH_HEADER_BYTES + 5);
        if i32::try_from(total_bytes).is_err() {
            return Err(BuildError::Full);
        }
        put_varlong(&mut self.records, record.len() as i64);
        self.records.extend_from_slice(record);
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Makes the batch.
    pub fn build(self) -> Result<Bytes, BuildError> {
        if self.count == 0 {
            return Err(BuildError::Empty);
        }
        let payload = match self.compression {
            Compression::None => self.records.freeze(),
            codec => compress(codec, &self.records)?,
        };
        let attributes = self.compression.code() | if self.transactional { 1 << 4 } else { 0 };
        let mut checked = BytesMut::with_capacity(payload.len().saturating_add(BATCH_HEADER_BYTES));
        checked.put_i16(attributes);
        checked.put_i32(self.count.saturating_sub(1));
        checked.put_i64(self.base_timestamp);
        checked.put_i64(self.max_timestamp);
        checked.put_i64(self.producer_id);
        checked.put_i16(self.producer_epoch);
        checked.put_i32(self.base_sequence);
        checked.put_i32(self.count);
        checked.put_slice(&payload);
        let mut batch = BytesMut::with_capacity(checked.len().saturating_add(21));
        batch.put_i64(0);
        batch.put_i32(i32::try_from(checked.len().saturating_add(9)).map_err(|_| BuildError::Full)?);
        batch.put_i32(-1);
        batch.put_i8(2);
        batch.put_u32(crc32c(&checked));
        batch.put_slice(&checked);
        Ok(batch.freeze())
    }
}

fn put_varlong(buffer: &mut BytesMut, value: i64) {
    put_uvarint(buffer, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_nullable(buffer: &mut BytesMut, bytes: Option<&[u8]>) {
    put_varlong(buffer, bytes.map_or(-1, |bytes| bytes.len() as i64));
    buffer.put_slice(bytes.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, BatchError, Batches};
    use super::*;
    use kafka_protocol::records::RecordBatchDecoder;

    fn build(compression: Compression) -> Bytes {
        let mut builder = BatchBuilder::new(compression).with_producer(7, 3, 40);
        builder
            .append(
                1_000,
                Some(b"k"),
                Some(b"value"),
                &[("h", Some(b"x")), ("n", None)],
            )
            .unwrap();
        builder.append(900, None, None, &[]).unwrap();
        builder.append(1_100, Some(b""), Some(&[9; 5_000]), &[]).unwrap();
        builder.build().unwrap()
    }

    #[test]
    fn the_codec_crate_reads_what_we_build() {
        for compression in Compression::ALL {
            let mut batch = build(compression);
            let set = RecordBatchDecoder::decode(&mut batch).unwrap();
            assert_eq!(set.records.len(), 3, "{compression:?}");
            let first = &set.records[0];
            assert_eq!(
                (first.producer_id, first.producer_epoch, first.sequence),
                (7, 3, 40)
            );
            assert_eq!((first.timestamp, first.key.as_deref()), (1_000, Some(&b"k"[..])));
            assert_eq!(first.headers.len(), 2);
            assert_eq!(
                (set.records[1].timestamp, set.records[1].value.as_ref()),
                (900, None)
            );
            assert_eq!((set.records[2].offset, set.records[2].sequence), (2, 42));
        }
    }

    #[test]
    fn we_read_what_we_build() {
        for compression in Compression::ALL {
            let bytes = build(compression);
            let two = Bytes::from([&bytes[..], &bytes[..], &bytes[..20]].concat());
            let batches: Vec<Batch> = Batches::new(two).collect::<Result<_, _>>().unwrap();
            assert_eq!(batches.len(), 2);
            for batch in batches {
                batch.verify_crc().unwrap();
                assert_eq!((batch.header.record_count, batch.header.last_offset()), (3, 2));
                assert_eq!(
                    (batch.header.base_timestamp, batch.header.max_timestamp),
                    (1_000, 1_100)
                );
                assert_eq!(batch.header.compression(), Ok(compression));
                let records = batch.decompressed(1 << 20).unwrap();
                let views: Vec<_> = batch
                    .records(&records)
                    .unwrap()
                    .collect::<Result<_, _>>()
                    .unwrap();
                assert_eq!(
                    views[0].headers.collect::<Vec<_>>(),
                    [(&b"h"[..], Some(&b"x"[..])), (b"n", None)]
                );
                assert_eq!((views[1].timestamp_delta, views[1].offset_delta), (-100, 1));
                assert_eq!(views[2].value.map(<[u8]>::len), Some(5_000));
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut bytes = build(Compression::None).to_vec();
        bytes[70] ^= 1;
        let batch = Batch::take(&mut Bytes::from(bytes)).unwrap();
        assert!(matches!(batch.verify_crc(), Err(BatchError::CorruptCrc { .. })));
        assert!(matches!(
            BatchBuilder::new(Compression::None).build(),
            Err(BuildError::Empty)
        ));
    }
}
