//! What must hold for any bytes: values come back, every flipped bit is seen, nothing panics.

mod any_bytes;
mod batches;
mod checkpoints;
mod entries;
mod producers;
mod segments;

use tidelog_segment_log::entry::{EntryHeader, padding_len};
use tidelog_segment_log::ids::Incarnation;

const INCARNATION: Incarnation = Incarnation([0xa5; 16]);

fn whole_entry(mut header: EntryHeader, payload: &[u8]) -> Vec<u8> {
    let mut entry = header.encode(&INCARNATION, payload).to_vec();
    entry.extend_from_slice(payload);
    entry.resize(entry.len() + padding_len(header.payload_len), 0);
    entry
}

/// A sealed file whose checksum is right again after its content was changed.
fn reseal(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
}
