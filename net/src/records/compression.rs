//! The four codecs of Kafka, with a cap on what comes out.
//!
//! A few bytes can decompress to gigabytes; output stops at the cap and no length a peer wrote sizes an
//! allocation beyond what its bytes can honestly give.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use crate::limits::{DECOMPRESS_RESERVE_BYTES, ZSTD_WINDOW_LOG_MAX};
use bytes::{Buf, BufMut, Bytes};
use std::io::{Read, Write};

/// A codec of record batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy in the framing of the Java client.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Why records could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// More than the cap would come out: refuse the batch.
    #[error("the records decompress to more than {max_bytes} bytes")]
    TooLarge {
        /// The cap.
        max_bytes: usize,
    },
    /// The bytes are not of this codec: refuse the batch as corrupt.
    #[error("the records are not valid {codec}: {source}", codec = compression.name())]
    Corrupt {
        /// The codec.
        compression: Compression,
        /// What it says.
        source: std::io::Error,
    },
    /// A codec that does not exist.
    #[error("compression codec {codec} is not known")]
    UnknownCodec {
        /// Bits 0-2 of the attributes.
        codec: i16,
    },
}

impl Compression {
    /// Every codec.
    pub const ALL: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    /// The codec of attribute bits 0-2.
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Its attribute bits.
    pub const fn code(self) -> i16 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }

    /// Kafka's name of it, as in `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// The codec of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|compression| compression.name() == name)
    }
}

const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// What the Java client frames snappy in.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\x00";
const XERIAL_HEADER: &[u8; 16] = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01";
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;
/// A snappy copy of 3 bytes gives at most 64.
const SNAPPY_RATIO_MAX: usize = 22;

/// Compresses record bytes.
pub fn compress(compression: Compression, records: &[u8]) -> std::io::Result<Bytes> {
    match compression {
        Compression::None => Ok(Bytes::copy_from_slice(records)),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
            encoder.write_all(records)?;
            encoder.finish().map(Bytes::from)
        }
        Compression::Snappy => {
            let mut framed = XERIAL_HEADER.to_vec();
            for block in records.chunks(SNAPPY_BLOCK_BYTES) {
                let packed = snap::raw::Encoder::new().compress_vec(block)?;
                framed.put_u32(packed.len() as u32);
                framed.extend_from_slice(&packed);
            }
            Ok(Bytes::from(framed))
        }
        Compression::Lz4 => {
            let mut encoder = lz4::EncoderBuilder::new()
                .block_mode(lz4::BlockMode::Independent)
                .build(Vec::new())?;
            encoder.write_all(records)?;
            let (packed, outcome) = encoder.finish();
            outcome.map(|()| Bytes::from(packed))
        }
        Compression::Zstd => zstd::stream::encode_all(records, ZSTD_LEVEL).map(Bytes::from),
    }
}

/// Decompresses record bytes to at most `max_bytes`. Without compression the bytes are shared, not copied.
pub fn decompress(
    compression: Compression,
    payload: &Bytes,
    max_bytes: usize,
) -> Result<Bytes, DecompressError> {
    let corrupt = |source| DecompressError::Corrupt { compression, source };
    match compression {
        Compression::None if payload.len() > max_bytes => Err(DecompressError::TooLarge { max_bytes }),
        Compression::None => Ok(payload.clone()),
        Compression::Gzip => read_capped(
            compression,
            &mut flate2::read::MultiGzDecoder::new(&payload[..]),
            max_bytes,
        ),
        Compression::Snappy => decompress_snappy(payload, max_bytes),
        Compression::Lz4 => {
            let mut decoder = lz4::Decoder::new(&payload[..]).map_err(corrupt)?;
            let records = read_capped(compression, &mut decoder, max_bytes)?;
            decoder.finish().1.map_err(corrupt)?;
            Ok(records)
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&payload[..]).map_err(corrupt)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(corrupt)?;
            read_capped(compression, &mut decoder, max_bytes)
        }
    }
}

/// The decompressed records as a stream, for the codecs that have one.
pub(super) fn open_stream<'a>(
    compression: Compression,
    payload: &'a Bytes,
) -> Result<Box<dyn Read + 'a>, DecompressError> {
    let corrupt = |source| DecompressError::Corrupt { compression, source };
    Ok(match compression {
        Compression::None => Box::new(&payload[..]),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(&payload[..])),
        Compression::Lz4 => Box::new(lz4::Decoder::new(&payload[..]).map_err(corrupt)?),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&payload[..]).map_err(corrupt)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(corrupt)?;
            Box::new(decoder)
        }
        Compression::Snappy => {
            return Err(corrupt(std::io::ErrorKind::Unsupported.into()));
        }
    })
}

fn read_capped(
    compression: Compression,
    reader: &mut dyn Read,
    max_bytes: usize,
) -> Result<Bytes, DecompressError> {
    let mut records = Vec::with_capacity(max_bytes.min(DECOMPRESS_RESERVE_BYTES));
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    reader
        .take(limit)
        .read_to_end(&mut records)
        .map_err(|source| DecompressError::Corrupt { compression, source })?;
    if records.len() > max_bytes {
        return Err(DecompressError::TooLarge { max_bytes });
    }
    Ok(Bytes::from(records))
}

fn decompress_snappy(payload: &Bytes, max_bytes: usize) -> Result<Bytes, DecompressError> {
    let mut records = Vec::new();
    if !payload.starts_with(XERIAL_MAGIC) {
        snappy_block(payload, max_bytes, &mut records)?;
        return Ok(Bytes::from(records));
    }
    let mut rest = payload.get(XERIAL_HEADER.len()..).ok_or_else(snappy_corrupt)?;
    while !rest.is_empty() {
        let block_bytes = rest.try_get_u32().map_err(|_| snappy_corrupt())? as usize;
        let (block, behind) = rest.split_at_checked(block_bytes).ok_or_else(snappy_corrupt)?;
        snappy_block(block, max_bytes, &mut records)?;
        rest = behind;
    }
    Ok(Bytes::from(records))
}

fn snappy_corrupt() -> DecompressError {
    DecompressError::Corrupt {
        compression: Compression::Snappy,
        source: std::io::ErrorKind::InvalidData.into(),
    }
}

/// Decompresses one block onto the end of `records`.
fn snappy_block(block: &[u8], max_bytes: usize, records: &mut Vec<u8>) -> Result<(), DecompressError> {
    let corrupt = |error: snap::Error| DecompressError::Corrupt {
        compression: Compression::Snappy,
        source: error.into(),
    };
    let block_bytes = snap::raw::decompress_len(block).map_err(corrupt)?;
    let start = records.len();
    let end = start.saturating_add(block_bytes);
    if end > max_bytes {
        return Err(DecompressError::TooLarge { max_bytes });
    }
    if block_bytes > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(snappy_corrupt());
    }
    records.resize(end, 0);
    let target = records.get_mut(start..).ok_or_else(snappy_corrupt)?;
    let written = snap::raw::Decoder::new()
        .decompress(block, target)
        .map_err(corrupt)?;
    if written == block_bytes {
        Ok(())
    } else {
        Err(snappy_corrupt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_round_trips() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for compression in Compression::ALL {
            for records in [&b""[..], b"a", &text] {
                let packed = compress(compression, records).unwrap();
                let unpacked = decompress(compression, &packed, records.len()).unwrap();
                assert_eq!(unpacked, records, "{compression:?}");
            }
            assert_eq!(Compression::from_name(compression.name()), Some(compression));
            assert_eq!(Compression::from_code(compression.code()), Some(compression));
        }
        assert_eq!(Compression::from_code(5), None);
    }

    #[test]
    fn bombs_stop_at_the_cap() {
        let zeros = vec![0; 32 * 1024 * 1024];
        for compression in Compression::ALL {
            let packed = compress(compression, &zeros).unwrap();
            let outcome = decompress(compression, &packed, 1024 * 1024);
            assert!(
                matches!(outcome, Err(DecompressError::TooLarge { max_bytes: 1_048_576 })),
                "{compression:?}: {outcome:?}"
            );
        }
    }

    #[test]
    fn a_snappy_length_that_its_bytes_cannot_give_is_refused() {
        // Says 64 MiB, has one literal.
        let payload = Bytes::from_static(&[0x80, 0x80, 0x80, 0x20, 0x00, b'a']);
        let outcome = decompress(Compression::Snappy, &payload, usize::MAX);
        assert!(
            matches!(outcome, Err(DecompressError::Corrupt { .. })),
            "{outcome:?}"
        );
    }

    #[test]
    fn cut_and_foreign_bytes_are_corrupt() {
        for compression in [
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ] {
            let packed = compress(compression, &[7; 100_000]).unwrap();
            let cut = packed.slice(..packed.len() - 3);
            let outcome = decompress(compression, &cut, 1 << 20);
            assert!(
                matches!(outcome, Err(DecompressError::Corrupt { .. })),
                "{compression:?}: {outcome:?}"
            );
            let foreign = Bytes::from_static(b"hello, this is not compressed at all");
            assert!(
                decompress(compression, &foreign, 1 << 20).is_err(),
                "{compression:?}"
            );
        }
    }
}
