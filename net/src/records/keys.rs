//! Which records of a batch have no key, without holding the decompressed batch.
//!
//! Compacted topics take no record without a key, and the broker looks at each batch for them. The records
//! are read as a stream: of each its head is parsed and the rest is passed over, so a batch costs the
//! decoder's own memory, whatever it decompresses to. Snappy has no stream; its blocks cannot grow by more
//! than a small factor, and are decompressed as a whole.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::io::{self, BufRead, BufReader, Read};

use super::batch::Batch;
use super::compression::{Compression, DecompressError, decompress, open_stream};

/// Bytes read from the decoder at a time.
const BUFFER_BYTES: usize = 8 * 1024;

/// The records of a batch that have no key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WithoutKey {
    /// How many there are.
    pub count: u32,
    /// Positions in the batch of the first ones, from 0.
    pub positions: Vec<i32>,
}

/// Why a batch could not be looked through.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its records could not be decompressed, or to too much.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// Its records are not what its header says.
    #[error("record {position} of the batch is malformed")]
    Malformed {
        /// Position in the batch.
        position: i32,
    },
}

/// What stops the walk inside a record.
enum Fault {
    Malformed,
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Io(error)
    }
}

impl Batch {
    /// Finds the records without a key; names at most `positions_max` of them, counts all. Looks at no more
    /// than `max_bytes` of decompressed records.
    pub fn records_without_key(
        &self,
        max_bytes: usize,
        positions_max: usize,
    ) -> Result<WithoutKey, KeyError> {
        let codec = self.header.attributes & 0x7;
        let compression = Compression::from_code(codec).ok_or(DecompressError::UnknownCodec { codec })?;
        let payload = self.payload();
        match compression {
            Compression::None => self.walk_keys(compression, &payload[..], max_bytes, positions_max),
            Compression::Snappy => {
                let plain = decompress(compression, &payload, max_bytes)?;
                self.walk_keys(compression, &plain[..], max_bytes, positions_max)
            }
            _ => {
                let stream = BufReader::with_capacity(BUFFER_BYTES, open_stream(compression, &payload)?);
                self.walk_keys(compression, stream, max_bytes, positions_max)
            }
        }
    }

    fn walk_keys(
        &self,
        compression: Compression,
        stream: impl BufRead,
        max_bytes: usize,
        positions_max: usize,
    ) -> Result<WithoutKey, KeyError> {
        let mut stream = stream.take(u64::try_from(max_bytes).unwrap_or(u64::MAX));
        let mut found = WithoutKey::default();
        for position in 0..self.header.record_count {
            match has_key(&mut stream) {
                Ok(true) => {}
                Ok(false) => {
                    found.count = found.count.saturating_add(1);
                    if found.positions.len() < positions_max {
                        found.positions.push(position);
                    }
                }
                Err(Fault::Malformed) => return Err(KeyError::Malformed { position }),
                Err(Fault::Io(_)) if stream.limit() == 0 => {
                    return Err(DecompressError::TooLarge { max_bytes }.into());
                }
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(KeyError::Malformed { position });
                }
                Err(Fault::Io(source)) => {
                    return Err(DecompressError::Corrupt { compression, source }.into());
                }
            }
        }
        Ok(found)
    }
}

/// Reads one record's head and passes over the rest.
fn has_key(stream: &mut impl BufRead) -> Result<bool, Fault> {
    let length = varint(stream)?;
    let length = u64::try_from(length).map_err(|_| Fault::Malformed)?;
    let mut record = stream.take(length);
    let read = head(&mut record);
    // A head that reaches beyond its record is malformed; one that meets the stream's end is cut.
    let key_bytes = match read {
        Err(Fault::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof && record.limit() == 0 => {
            return Err(Fault::Malformed);
        }
        other => other?,
    };
    if key_bytes < -1 || key_bytes > i64::try_from(record.limit()).unwrap_or(i64::MAX) {
        return Err(Fault::Malformed);
    }
    let rest = record.limit();
    if io::copy(&mut record, &mut io::sink())? < rest {
        return Err(Fault::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(key_bytes >= 0)
}

/// Attributes, timestamp delta, offset delta; answers the key's length.
fn head(record: &mut impl BufRead) -> Result<i64, Fault> {
    byte(record)?;
    uvarlong(record, 10)?;
    uvarlong(record, 5)?;
    varint(record)
}

fn byte(stream: &mut impl BufRead) -> Result<u8, Fault> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn uvarlong(stream: &mut impl BufRead, bytes_max: u32) -> Result<u64, Fault> {
    let mut value = 0u64;
    for place in 0..bytes_max {
        let byte = u64::from(byte(stream)?);
        value |= (byte & 0x7f) << (place * 7);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Fault::Malformed)
}

fn varint(stream: &mut impl BufRead) -> Result<i64, Fault> {
    let value = u32::try_from(uvarlong(stream, 5)?).map_err(|_| Fault::Malformed)?;
    Ok(i64::from((value >> 1) as i32 ^ -((value & 1) as i32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::BatchBuilder;
    use bytes::Bytes;

    /// A batch whose record at each place has a key, an empty key or none.
    fn batch(compression: Compression, keys: &[Option<&[u8]>], value: &[u8]) -> Batch {
        let mut builder = BatchBuilder::new(compression);
        for key in keys {
            builder
                .append(1, *key, Some(value), &[("h", Some(b"v"))])
                .expect("a record");
        }
        let mut bytes = builder.build().expect("a batch");
        Batch::take(&mut bytes).expect("a batch")
    }

    #[test]
    fn records_without_a_key_are_found_in_every_codec() {
        let keys: &[Option<&[u8]>] = &[Some(b"a"), None, Some(b""), None, None, Some(&[7; 20_000])];
        for compression in Compression::ALL {
            let batch = batch(compression, keys, &[9; 10_000]);
            let found = batch.records_without_key(1 << 20, 2).expect("walked");
            assert_eq!(
                (found.count, &found.positions[..]),
                (3, &[1, 3][..]),
                "{compression:?}"
            );
            let all = batch.records_without_key(1 << 20, 9).expect("walked");
            assert_eq!(all.positions, [1, 3, 4], "{compression:?}");
        }
    }

    #[test]
    fn no_more_is_looked_at_than_allowed() {
        let keys = [None; 4];
        for compression in Compression::ALL {
            let batch = batch(compression, &keys, &[0; 1 << 20]);
            let outcome = batch.records_without_key(1 << 20, 9);
            assert!(
                matches!(
                    outcome,
                    Err(KeyError::Decompress(DecompressError::TooLarge {
                        max_bytes: 1_048_576
                    }))
                ),
                "{compression:?}: {outcome:?}"
            );
        }
    }

    #[test]
    fn what_the_header_does_not_keep_is_malformed() {
        for compression in Compression::ALL {
            let mut batch = batch(compression, &[Some(b"a"), None], b"v");
            batch.header.record_count = 3;
            let outcome = batch.records_without_key(1 << 20, 9);
            assert!(
                matches!(outcome, Err(KeyError::Malformed { position: 2 })),
                "{compression:?}: {outcome:?}"
            );
        }
        // Lengths that reach beyond the record, or are negative.
        for record in [
            &[12, 0, 0, 0, 20, 1, 0][..],
            &[12, 0, 0, 0, 3, 1, 0],
            &[2, 0, 0],
            &[1],
        ] {
            let mut batch = batch(Compression::None, &[None], b"");
            let mut bytes = batch.bytes[..61].to_vec();
            bytes.extend_from_slice(record);
            batch.bytes = Bytes::from(bytes);
            let outcome = batch.records_without_key(1 << 20, 9);
            assert!(
                matches!(outcome, Err(KeyError::Malformed { position: 0 })),
                "{record:?}: {outcome:?}"
            );
        }
    }

    #[test]
    fn cut_streams_are_refused() {
        for compression in Compression::ALL {
            let mut batch = batch(compression, &[Some(&b"key"[..]); 50], &[3; 3_000]);
            let cut = batch.bytes.len() - 20;
            batch.bytes.truncate(cut);
            assert!(batch.records_without_key(1 << 20, 9).is_err(), "{compression:?}");
        }
    }
}
