//! What must hold for any bytes: no panic, and no more memory than the frame allows.
//!
//! One function per kind of input. The fuzz targets call them, and so does the test of `tidelog-net` that
//! replays the committed inputs, so that both check the same thing. The including crate has
//! `counting.rs` beside it and sets its `Counting` as the global allocator; without it the bounds would hold for nothing, so every check
//! begins by making sure that allocations are counted.

use crate::counting::peak_of;
use bytes::{Bytes, BytesMut};
use std::hint::black_box;
use tidelog_net::client::decode_response;
use tidelog_net::frame::{FrameDecoder, SIZE_PREFIX_BYTES};
use tidelog_net::limits::decode_budget_bytes;
use tidelog_net::records::{Batches, DecompressError};
use tidelog_net::walker::{self, Message};
use tidelog_net::{DecodeError, decode_request};

/// What a decode may hold beyond twice its frame: handles, an error text.
pub const CONSTANT_BYTES: usize = 4 * 1024;

/// The largest frame that [`check_frames`] lets a peer announce.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// The cap that [`check_batches`] gives to decompression.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024;

/// How many records without a key are named.
const KEY_POSITIONS_MAX: usize = 3;

/// What a decompression may hold: the output while it grows, the decoder's window, its tables.
pub const DECOMPRESSION_BYTES_MAX: usize = 4 * DECOMPRESSED_BYTES_MAX + 256 * 1024;

fn assert_allocations_are_counted() {
    let (_, peak) = peak_of(|| black_box(Vec::<u8>::with_capacity(CONSTANT_BYTES)));
    assert!(peak >= CONSTANT_BYTES, "the counting allocator is not in place");
}

/// A message of the field tables by Kafka's name of it, such as `FetchRequest`.
pub fn message(name: &str) -> Option<&'static Message> {
    walker::REQUESTS
        .iter()
        .chain(walker::RESPONSES)
        .find(|message| message.name == name)
}

/// Folds any number into the versions of a message, so that no input is spent on a refusal.
fn served_version(message: &Message, raw: i16) -> i16 {
    let span = i32::from(message.max) - i32::from(message.min) + 1;
    let past_min = (i32::from(raw) - i32::from(message.min)).rem_euclid(span);
    message.min + i16::try_from(past_min).expect("a span of versions is small")
}

/// Decodes bytes as one message.
///
/// The input is `api_key i16, version i16`, then what follows these two in a request frame, or a whole
/// response frame (both without their size prefix). The key is set to that of the message.
pub fn check_message(message: &Message, input: &[u8]) {
    assert_allocations_are_counted();
    let Some((head, rest)) = input.split_first_chunk::<4>() else {
        return;
    };
    let version = served_version(message, i16::from_be_bytes([head[2], head[3]]));
    if message.name.ends_with("Request") {
        let mut frame = BytesMut::with_capacity(input.len());
        frame.extend_from_slice(&message.key.code().to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(rest);
        check_request(frame.freeze());
    } else {
        check_response(message, version, Bytes::copy_from_slice(rest));
    }
}

/// The budgets to decode with: twice the frame, and what the broker grants. The first refuses most small
/// messages before the codec sees them, the second lets them through to it.
fn budgets(frame: &Bytes) -> [usize; 2] {
    [2 * frame.len(), decode_budget_bytes(frame.len())]
}

fn check_request(frame: Bytes) {
    for granted in budgets(&frame) {
        let (outcome, peak) = peak_of(|| decode_request(frame.clone(), granted));
        assert_within(peak, granted + CONSTANT_BYTES, &frame);
        assert_walker_was_right(outcome.err(), &frame);
    }
}

fn check_response(message: &Message, version: i16, frame: Bytes) {
    for granted in budgets(&frame) {
        let (outcome, peak) = peak_of(|| decode_response(message.key, version, frame.clone(), granted));
        assert_within(peak, granted + CONSTANT_BYTES, &frame);
        assert_walker_was_right(outcome.err(), &frame);
    }
}

fn assert_walker_was_right(error: Option<DecodeError>, frame: &Bytes) {
    if let Some(DecodeError::Refused { reason }) = error {
        panic!("the walker let through what the codec refuses: {reason}: {frame:?}");
    }
}

/// Fails with the input when more was held than it allows.
pub fn assert_within(peak_bytes: usize, max_bytes: usize, input: &Bytes) {
    assert!(
        peak_bytes <= max_bytes,
        "{peak_bytes} bytes held instead of {max_bytes} for {input:?}"
    );
}

/// Cuts bytes into frames, as they come in pieces of the length that the first byte says.
pub fn check_frames(input: &[u8]) {
    assert_allocations_are_counted();
    let Some((piece_bytes, wire)) = input.split_first() else {
        return;
    };
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut buffer = BytesMut::with_capacity(wire.len());
    let mut cut_bytes = 0;
    for piece in wire.chunks(usize::from(*piece_bytes).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            let (outcome, peak) = peak_of(|| decoder.next_frame(&mut buffer));
            assert!(peak <= CONSTANT_BYTES, "{peak} bytes held to cut a frame");
            match outcome {
                Ok(Some(frame)) => {
                    assert!(frame.len() <= FRAME_BYTES_MAX);
                    assert_eq!(frame, wire[cut_bytes + SIZE_PREFIX_BYTES..][..frame.len()]);
                    cut_bytes += SIZE_PREFIX_BYTES + frame.len();
                    // What the frame holds goes on to the decoders of every request.
                    let _ = decode_request(frame.clone(), 2 * frame.len());
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert_eq!(cut_bytes + buffer.len(), wire.len(), "bytes were lost");
}

/// Reads bytes as record batches: checks, decompresses with a cap, and walks every record.
pub fn check_batches(input: &[u8]) {
    assert_allocations_are_counted();
    let bytes = Bytes::copy_from_slice(input);
    let ((), peak) = peak_of(|| {
        for batch in Batches::new(bytes.clone()).map_while(Result::ok) {
            let _ = batch.verify_crc();
            let keys = batch.records_without_key(DECOMPRESSED_BYTES_MAX, KEY_POSITIONS_MAX);
            match batch.decompressed(DECOMPRESSED_BYTES_MAX) {
                Ok(plain) => {
                    assert!(plain.len() <= DECOMPRESSED_BYTES_MAX.max(input.len()));
                    let Ok(records) = batch.records(&plain) else {
                        continue;
                    };
                    let (mut walked, mut without_key) = (0u32, 0u32);
                    for record in records.map_while(Result::ok) {
                        assert_eq!(record.headers.count(), record.headers.count_left() as usize);
                        walked += 1;
                        without_key += u32::from(record.key.is_none());
                    }
                    // A batch that is whole says the same to both walks.
                    if i64::from(walked) == i64::from(batch.header.record_count) {
                        let keys = keys.expect("every record was walked");
                        assert_eq!(keys.count, without_key);
                        assert_eq!(keys.positions.len(), KEY_POSITIONS_MAX.min(without_key as usize));
                    }
                }
                Err(DecompressError::TooLarge { max_bytes }) => {
                    assert_eq!(max_bytes, DECOMPRESSED_BYTES_MAX);
                }
                Err(_) => {}
            }
        }
    });
    assert_within(peak, DECOMPRESSION_BYTES_MAX, &bytes);
}
