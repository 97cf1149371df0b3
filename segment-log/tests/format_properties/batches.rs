//! Record batches as clients send them.

use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::batch::{
    BatchError, BatchHeader, Compression, TimestampType, patch_prefix, set_log_append_time, validate_crc,
};
use tidelog_segment_log::ids::{LeaderEpoch, Offset};

#[test]
fn patching_offset_and_epoch_keeps_a_batch_valid() {
    let batch = build_batch(&BatchSpec::default(), &[b"a", b"b"]);
    let mut stored = patch_prefix(&batch, Offset(1 << 40), LeaderEpoch(9)).to_vec();
    stored.extend_from_slice(&batch[21..]);
    assert_eq!(validate_crc(&stored), Ok(()));
    let header = BatchHeader::parse(&stored).expect("valid");
    assert_eq!(
        (header.base_offset, header.partition_leader_epoch),
        (Offset(1 << 40), LeaderEpoch(9))
    );
    assert_eq!(header.last_offset(), Offset((1 << 40) + 1));
    assert_eq!(header.total_len(), stored.len());
    assert_eq!(header.validate_new(), Ok(()));
    assert_eq!(header.compression(), Ok(Compression::None));
    assert!(!header.is_control() && !header.is_transactional() && !header.has_producer_id());
}

#[test]
fn log_append_time_is_set_and_the_checksum_holds_again() {
    let mut batch = build_batch(
        &BatchSpec {
            attributes: 0x32,
            ..BatchSpec::default()
        },
        &[b"a"],
    );
    let len = batch.len();
    batch.extend_from_slice(b"the next batch");
    set_log_append_time(&mut batch, 77).expect("valid");
    assert_eq!(validate_crc(&batch), Ok(()));
    assert_eq!(&batch[len..], b"the next batch");
    let header = BatchHeader::parse(&batch).expect("valid");
    assert_eq!(
        (header.max_timestamp, header.timestamp_type()),
        (77, TimestampType::LogAppendTime)
    );
    assert_eq!(header.compression(), Ok(Compression::Snappy));
    assert!(header.is_control() && header.is_transactional());
}

#[test]
fn batches_of_wrong_shape_are_refused_with_the_cause() {
    let batch = build_batch(&BatchSpec::default(), &[b"a", b"b"]);
    let changed = |at: usize, value: u8| {
        let mut bytes = batch.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(validate_crc(&changed(16, 1)), Err(BatchError::Magic(1)));
    assert_eq!(
        BatchHeader::parse(&batch[..30]),
        Err(BatchError::Truncated {
            needed: 61,
            available: 30
        })
    );
    assert_eq!(BatchHeader::parse(&changed(11, 48)), Err(BatchError::Length(48)));
    assert!(matches!(
        BatchHeader::parse(&changed(8, 0x80)),
        Err(BatchError::Length(_))
    ));
    assert!(matches!(
        validate_crc(&changed(8, 0x7f)),
        Err(BatchError::Truncated { .. })
    ));
    assert!(matches!(
        validate_crc(&changed(61, 0xff)),
        Err(BatchError::Crc { .. })
    ));
    let header = BatchHeader::parse(&changed(60, 3)).expect("parses");
    assert_eq!(
        header.validate_new(),
        Err(BatchError::Counts {
            record_count: 3,
            last_offset_delta: 1
        })
    );
    let header = BatchHeader::parse(&changed(22, 5)).expect("parses");
    assert_eq!(header.validate_new(), Err(BatchError::Compression(5)));
}
