//! Records without a key: refused by compacted topics, by name, in every codec; taken by all others.

use bytes::Bytes;
use tidelog_net::ErrorCode;
use tidelog_net::records::{BatchBuilder, Compression};

use super::harness::{Cluster, EPOCH_MS};
use crate::limits::RECORD_ERRORS_MAX;

fn keyed(compression: Compression, keys: &[Option<&str>]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for key in keys {
        builder
            .append(EPOCH_MS, key.map(str::as_bytes), Some(b"value"), &[])
            .expect("a record");
    }
    builder.build().expect("a batch")
}

#[test]
fn a_compacted_topic_names_the_records_that_have_no_key() {
    for shards in [1, 3] {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        for (topic, policy) in [("compacted", "compact"), ("both", "delete,compact")] {
            cluster.create(client, topic, 3, &[("cleanup.policy", policy)]);
            for partition in 0..3 {
                for compression in Compression::ALL {
                    let mixed = keyed(compression, &[Some("a"), None, Some(""), None]);
                    let answer = cluster.produce(client, topic, partition, mixed);
                    assert_eq!(answer.error, ErrorCode::InvalidRecord, "{compression:?}");
                    assert_eq!(answer.base_offset, -1);
                    let text = answer.error_message.expect("says why");
                    assert!(text.contains("without a key: 2 of 4"), "{text}");
                    let at: Vec<i32> = answer
                        .record_errors
                        .iter()
                        .map(|error| error.batch_index)
                        .collect();
                    assert_eq!(at, [1, 3], "{compression:?}");
                    assert!(answer.record_errors.iter().all(|error| error.message.is_some()));
                }
                for (at, compression) in Compression::ALL.into_iter().enumerate() {
                    let whole = keyed(compression, &[Some("a"), Some("")]);
                    assert_eq!(cluster.put(client, topic, partition, whole), 2 * at as i64);
                }
            }
        }
    }
}

#[test]
fn the_records_named_are_bounded() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[("cleanup.policy", "compact")]);
    let answer = cluster.produce(client, "t", 0, keyed(Compression::Zstd, &[None; 5_000]));
    assert_eq!(answer.record_errors.len(), RECORD_ERRORS_MAX);
    let text = answer.error_message.expect("says why");
    assert!(text.contains("5000 of 5000"), "{text}");
}

#[test]
fn a_bomb_in_a_compacted_topic_is_refused() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[("cleanup.policy", "compact")]);
    let mut builder = BatchBuilder::new(Compression::Zstd);
    let zeros = vec![0; 129 << 20];
    builder
        .append(EPOCH_MS, Some(b"key"), Some(&zeros), &[])
        .expect("a record");
    let answer = cluster.produce(client, "t", 0, builder.build().expect("a batch"));
    assert_eq!(answer.error, ErrorCode::MessageTooLarge);
    // One whose bytes are of no codec.
    let mut foreign = keyed(Compression::Gzip, &[Some("a")]).to_vec();
    foreign[61..].fill(7);
    let crc = tidelog_net::records::crc32c(&foreign[21..]);
    foreign[17..21].copy_from_slice(&crc.to_be_bytes());
    let answer = cluster.produce(client, "t", 0, Bytes::from(foreign));
    assert_eq!(answer.error, ErrorCode::CorruptMessage);
}

#[test]
fn other_topics_take_records_without_a_key_and_are_not_looked_into() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[]);
    for (at, compression) in Compression::ALL.into_iter().enumerate() {
        let batch = keyed(compression, &[None, Some("a")]);
        assert_eq!(cluster.put(client, "t", 0, batch), 2 * at as i64);
    }
    // Bytes of no codec are stored as they are: nothing was decompressed.
    let mut foreign = keyed(Compression::Gzip, &[None]).to_vec();
    foreign[61..].fill(7);
    let crc = tidelog_net::records::crc32c(&foreign[21..]);
    foreign[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(cluster.put(client, "t", 0, Bytes::from(foreign)), 10);
    // The policy counts as it is now.
    assert_eq!(cluster.alter(client, "t", &[("cleanup.policy", "compact")]), 0);
    let answer = cluster.produce(client, "t", 0, keyed(Compression::None, &[None]));
    assert_eq!(answer.error, ErrorCode::InvalidRecord);
}
