//! Frames: a 4-byte big-endian size, then that many bytes.
//!
//! The size is judged before anything is allocated for it. What other protocols send first (an HTTP
//! verb, a TLS hello) reads as a huge size and is told apart, so that the log can say what happened.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of the size prefix.
pub const SIZE_PREFIX_BYTES: usize = 4;

/// Why a size prefix was refused. Each one means: close the connection; the variant says what to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The size is negative.
    #[error("frame size {size} is negative")]
    Negative {
        /// The size as sent.
        size: i32,
    },
    /// The size is above the limit.
    #[error("frame of {size_bytes} bytes is larger than the limit of {max_bytes} bytes")]
    TooLarge {
        /// The size as sent.
        size_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// The four bytes are the start of an HTTP request.
    #[error("this looks like an HTTP request; this port speaks the Kafka protocol")]
    LooksLikeHttp,
    /// The four bytes are the start of a TLS handshake.
    #[error("this looks like a TLS handshake; this listener is plaintext")]
    LooksLikeTls,
}

const HTTP_STARTS: [&[u8; 4]; 10] = [
    b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"DELE", b"PATC", b"CONN", b"TRAC", b"PRI ",
];

/// Judges a size prefix: the bytes that follow it, at most `max_bytes`.
pub fn parse_size(prefix: &[u8; 4], max_bytes: usize) -> Result<usize, FrameError> {
    let size = i32::from_be_bytes(*prefix);
    let Ok(size_bytes) = usize::try_from(size) else {
        return Err(FrameError::Negative { size });
    };
    if size_bytes <= max_bytes {
        return Ok(size_bytes);
    }
    if HTTP_STARTS.contains(&prefix) {
        return Err(FrameError::LooksLikeHttp);
    }
    if matches!(prefix, [0x16, 0x03, 0x00..=0x04, _]) {
        return Err(FrameError::LooksLikeTls);
    }
    Err(FrameError::TooLarge {
        size_bytes,
        max_bytes,
    })
}

/// A body with its size prefix in front. Copies the body; answers are built with the prefix in place.
pub fn encode_frame(body: &[u8]) -> Result<Bytes, FrameError> {
    let size = i32::try_from(body.len()).map_err(|_| FrameError::TooLarge {
        size_bytes: body.len(),
        max_bytes: i32::MAX as usize,
    })?;
    let mut frame = BytesMut::with_capacity(SIZE_PREFIX_BYTES.saturating_add(body.len()));
    frame.put_i32(size);
    frame.put_slice(body);
    Ok(frame.freeze())
}

/// Cuts frames out of a growing buffer, for clients and tests.
#[derive(Debug, Clone, Copy)]
pub struct FrameDecoder {
    max_bytes: usize,
}

impl FrameDecoder {
    /// A decoder that refuses frames above `max_bytes`.
    pub const fn new(max_bytes: usize) -> Self {
        Self { max_bytes }
    }

    /// Takes the next whole frame (without its prefix) off the front of `buffer`, or nothing when
    /// more bytes are needed. The size is judged as soon as its four bytes are there.
    pub fn next_frame(&self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some(prefix) = buffer.first_chunk::<SIZE_PREFIX_BYTES>() else {
            return Ok(None);
        };
        let size_bytes = parse_size(prefix, self.max_bytes)?;
        if buffer.len().saturating_sub(SIZE_PREFIX_BYTES) < size_bytes {
            return Ok(None);
        }
        buffer.advance(SIZE_PREFIX_BYTES);
        Ok(Some(buffer.split_to(size_bytes).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 100 * 1024 * 1024;

    #[test]
    fn sizes_are_judged_before_anything_else() {
        assert_eq!(parse_size(&[0, 0, 1, 0], MAX), Ok(256));
        assert_eq!(
            parse_size(&[0, 0, 1, 0], 255),
            Err(FrameError::TooLarge {
                size_bytes: 256,
                max_bytes: 255
            })
        );
        assert_eq!(
            parse_size(&[0xff; 4], MAX),
            Err(FrameError::Negative { size: -1 })
        );
        assert_eq!(parse_size(b"GET ", MAX), Err(FrameError::LooksLikeHttp));
        assert_eq!(parse_size(&[0x16, 3, 1, 2], MAX), Err(FrameError::LooksLikeTls));
        assert!(matches!(
            parse_size(&[0x7f, 0xff, 0xff, 0xff], MAX),
            Err(FrameError::TooLarge { .. })
        ));
    }

    #[test]
    fn frames_are_cut_whole_and_in_order() {
        let decoder = FrameDecoder::new(64);
        let mut buffer = BytesMut::new();
        let wire = [
            encode_frame(b"one").unwrap(),
            encode_frame(b"").unwrap(),
            encode_frame(b"two").unwrap(),
        ]
        .concat();
        let mut frames = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(frame) = decoder.next_frame(&mut buffer).unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(frames, [&b"one"[..], b"", b"two"]);
        buffer.put_slice(&[0xff; 4]);
        assert_eq!(
            decoder.next_frame(&mut buffer),
            Err(FrameError::Negative { size: -1 })
        );
    }
}
