//! Bytes of any kind: every decoder returns.

use proptest::prelude::*;
use tidelog_segment_log::batch;
use tidelog_segment_log::batch::{BatchError, BatchHeader, patch_prefix, set_log_append_time, validate_crc};
use tidelog_segment_log::checkpoint::Checkpoint;
use tidelog_segment_log::entry::{EntryError, decode_entry};
use tidelog_segment_log::identity::{CleanFlag, Identity};
use tidelog_segment_log::ids::{Incarnation, LeaderEpoch, Offset};
use tidelog_segment_log::producer_state::{ProducerStates, decode_log_start};
use tidelog_segment_log::segment_header::{SegmentHeader, SegmentHeaderError};
use tidelog_segment_log::segment_index::IndexFile;

use crate::{INCARNATION, reseal};

/// Every decoder of this crate; must return, whatever the bytes.
fn decode_with_everything(bytes: &[u8]) {
    let _ = decode_entry(bytes, &INCARNATION);
    let _ = SegmentHeader::decode(bytes);
    let _ = IndexFile::decode(bytes, &INCARNATION);
    let _ = Checkpoint::decode(bytes);
    let _ = Identity::decode(bytes);
    let _ = CleanFlag::decode(bytes);
    let _ = ProducerStates::decode(bytes);
    let _ = decode_log_start(bytes);
    let _ = validate_crc(bytes);
    let _ = batch::split_first(bytes);
    let _ = set_log_append_time(&mut bytes.to_vec(), 0);
    let _ = patch_prefix(bytes, Offset(1), LeaderEpoch(1));
    if let Ok(header) = BatchHeader::parse(bytes) {
        let _ = (
            header.last_offset(),
            header.last_sequence(),
            header.compression(),
            header.validate_new(),
        );
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        decode_with_everything(&bytes);
    }

    #[test]
    fn random_content_behind_right_frames_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        for magic in [b"TLOGIDX0", b"TLOGCKP0", b"TLOGIDT0", b"TLOGCLN0"] {
            let mut file = vec![0; 32];
            file[..8].copy_from_slice(magic);
            file[16..24].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            file.extend_from_slice(&bytes);
            reseal(&mut file);
            decode_with_everything(&file);
        }
        let mut payload = vec![0; 8];
        payload.extend_from_slice(&bytes);
        decode_with_everything(&payload);
    }
}

#[test]
fn zeros_never_decode() {
    let zeros = [0; 8192];
    assert_eq!(
        decode_entry(&zeros, &Incarnation([0; 16])),
        Err(EntryError::Magic)
    );
    assert_eq!(SegmentHeader::decode(&zeros), Err(SegmentHeaderError::Magic));
    assert!(IndexFile::decode(&zeros, &Incarnation([0; 16])).is_err());
    assert!(Checkpoint::decode(&zeros).is_err());
    assert!(Identity::decode(&zeros).is_err());
    assert!(CleanFlag::decode(&zeros).is_err());
    assert_eq!(validate_crc(&zeros), Err(BatchError::Magic(0)));
}
