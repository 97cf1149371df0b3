//! No bytes from a peer panic the decoders or make them allocate beyond frame and budget.
//!
//! An allocator counts what each decode holds at its peak, per thread.

mod common;
#[path = "../../fuzz/src/counting.rs"]
mod counting;

use bytes::Bytes;
use common::{Sample, request_frame, response_frame};
use counting::{Counting, peak_of};
use tidelog_net::client::decode_response;
use tidelog_net::records::{Batches, Compression, DecompressError};
use tidelog_net::walker::{self, Message, walk};
use tidelog_net::wire::Reader;
use tidelog_net::{ApiKey, DecodeError, SERVED, decode_request};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Room for what is not sized by the frame: handles, an error text.
const CONSTANT_BYTES: usize = 4 * 1024;

fn budget(frame: &Bytes) -> usize {
    2 * frame.len()
}

fn check_request(frame: &Bytes) {
    let (outcome, peak) = peak_of(|| decode_request(frame.clone(), budget(frame)));
    assert!(
        peak <= budget(frame) + CONSTANT_BYTES,
        "{peak} bytes for {frame:?}"
    );
    if let Err(DecodeError::Refused { reason }) = outcome {
        panic!("the walker let through what the codec refuses: {reason}: {frame:?}");
    }
}

fn check_response(key: ApiKey, version: i16, frame: &Bytes) {
    let (_, peak) = peak_of(|| decode_response(key, version, frame.clone(), budget(frame)));
    assert!(
        peak <= budget(frame) + CONSTANT_BYTES,
        "{peak} bytes for {frame:?}"
    );
}

/// A small generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn mutations(frame: &Bytes, random: &mut Random, mut check: impl FnMut(&Bytes)) {
    for position in 0..frame.len() {
        check(&frame.slice(..position));
        for value in [0x00, 0xff, 0x7f, 0x80] {
            let mut bytes = frame.to_vec();
            bytes[position] = value;
            check(&Bytes::from(bytes));
        }
    }
    for _ in 0..100 {
        let mut bytes = frame.to_vec();
        for _ in 0..=random.below(6) {
            let position = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[position] = random.next() as u8,
                1 => {
                    bytes.remove(position);
                }
                _ => bytes.insert(position, random.next() as u8),
            }
        }
        check(&Bytes::from(bytes));
    }
}

fn versions(message: &Message) -> impl Iterator<Item = i16> {
    message.min..=message.max
}

#[test]
fn mutated_requests() {
    let mut random = Random(0x5eed_0001);
    for message in walker::REQUESTS {
        for version in versions(message) {
            for sample in [Sample::Full, Sample::KnownTags, Sample::UnknownTags] {
                mutations(
                    &request_frame(message, version, sample),
                    &mut random,
                    check_request,
                );
            }
        }
    }
}

#[test]
fn mutated_responses() {
    let mut random = Random(0x5eed_0002);
    for message in walker::RESPONSES {
        for version in versions(message) {
            let frame = response_frame(message, version, Sample::KnownTags);
            mutations(&frame, &mut random, |frame| {
                check_response(message.key, version, frame)
            });
        }
    }
}

#[test]
fn random_bodies() {
    let mut random = Random(0x5eed_0003);
    for _ in 0..300 {
        for api in SERVED {
            let version = api.min + random.below((api.max - api.min + 1) as usize) as i16;
            let mut bytes = vec![0, api.key.code() as u8, 0, version as u8, 0, 0, 0, 1, 0xff, 0xff];
            // Small bytes make more of the random structs whole.
            let mask = [0xff, 0x0f, 0x03][random.below(3)];
            for _ in 0..random.below(400) {
                bytes.push(random.next() as u8 & mask);
            }
            let frame = Bytes::from(bytes);
            check_request(&frame);
            check_response(api.key, version, &frame.slice(4..));
        }
    }
}

#[test]
fn hot_decoders_take_whatever_the_walker_lets_through() {
    let mut random = Random(0x5eed_0004);
    for key in [ApiKey::Produce, ApiKey::Fetch, ApiKey::Metadata] {
        let message = walker::request(key);
        for version in versions(message) {
            let frame = request_frame(message, version, Sample::Full);
            let header_bytes = if version >= message.flexible_from { 17 } else { 16 };
            mutations(&frame, &mut random, |frame| {
                let same_header = frame.get(..header_bytes)
                    == request_frame(message, version, Sample::Full).get(..header_bytes);
                if !same_header {
                    return;
                }
                let body = frame.slice(header_bytes..);
                let walked = walk(message, version, &mut Reader::new(&body, usize::MAX));
                let decoded = decode_request(frame.clone(), usize::MAX);
                if walked.is_ok() {
                    assert!(
                        decoded.is_ok(),
                        "{} v{version}: {decoded:?} {frame:?}",
                        message.name
                    );
                }
            });
        }
    }
}

#[test]
fn arrays_of_two_to_the_31_are_refused() {
    for api in SERVED {
        for version in api.min..=api.max {
            for fill in [0x7f, 0xff, 0x80] {
                let mut bytes = vec![0, api.key.code() as u8, 0, version as u8, 0, 0, 0, 1, 0xff, 0xff];
                if api.is_flexible(version) {
                    bytes.push(0);
                }
                bytes.extend_from_slice(&[fill; 12]);
                check_request(&Bytes::from(bytes));
            }
        }
    }
    // Metadata 1 with 2^31 - 1 topics in four bytes of them.
    let frame = Bytes::from_static(&[
        0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0, 1, b'a', 0,
    ]);
    let (outcome, peak) = peak_of(|| decode_request(frame.clone(), usize::MAX));
    assert!(matches!(outcome, Err(DecodeError::Malformed(_))), "{outcome:?}");
    assert!(peak < CONSTANT_BYTES);
}

#[test]
fn a_request_over_its_budget_is_told_apart() {
    // 60,000 topics with empty names: 3 bytes each on the wire, far more decoded.
    let mut bytes = vec![0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff];
    bytes.extend_from_slice(&60_000i32.to_be_bytes());
    bytes.extend_from_slice(&[0; 120_000]);
    let frame = Bytes::from(bytes);
    let (outcome, peak) = peak_of(|| decode_request(frame.clone(), 100_000));
    assert!(matches!(outcome, Err(DecodeError::TooBig { .. })), "{outcome:?}");
    assert!(peak < CONSTANT_BYTES);
    assert!(decode_request(frame, 8_000_000).is_ok());
}

#[test]
fn mutated_batches() {
    use tidelog_net::records::BatchBuilder;
    let mut random = Random(0x5eed_0005);
    for compression in Compression::ALL {
        let mut builder = BatchBuilder::new(compression);
        for number in 0..10 {
            let value = [number as u8; 40];
            builder
                .append(number, Some(b"key"), Some(&value), &[("h", Some(b"v"))])
                .unwrap();
        }
        let batch = builder.build().unwrap();
        const CAP: usize = 64 * 1024;
        mutations(&batch, &mut random, |bytes| {
            let (_, peak) = peak_of(|| {
                for batch in Batches::new(bytes.clone()).map_while(Result::ok) {
                    let _ = batch.verify_crc();
                    match batch.decompressed(CAP) {
                        Ok(records) => {
                            assert!(records.len() <= CAP);
                            if let Ok(records) = batch.records(&records) {
                                for record in records.map_while(Result::ok) {
                                    assert_eq!(record.headers.count(), record.headers.count_left() as usize);
                                }
                            }
                        }
                        Err(DecompressError::TooLarge { max_bytes }) => assert_eq!(max_bytes, CAP),
                        Err(_) => {}
                    }
                }
            });
            assert!(peak <= 4 * CAP + 256 * 1024, "{peak} bytes for {compression:?}");
        });
    }
}
