//! Produce: acks, order, durability, checks of batches, idempotence.

use tidelog_net::ErrorCode;

use super::device::partition_syncs;
use super::harness::Cluster;
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

#[test]
fn a_created_topic_is_used_at_once_from_every_shard() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let clients: Vec<_> = (0..shards).map(|shard| cluster.connect(shard)).collect();
        for (n, client) in clients.iter().enumerate() {
            let topic = format!("t{n}");
            cluster.create(*client, &topic, 4, &[]);
            for partition in 0..4 {
                for (round, other) in clients.iter().enumerate() {
                    let base = cluster.put(*other, &topic, partition, batch(&["a", "b"]));
                    assert_eq!(base, 2 * round as i64);
                }
                for other in &clients {
                    let got = cluster.get(*other, &topic, partition, 1);
                    assert_eq!(got.partition.high_watermark, 2 * shards as i64);
                    assert_eq!(values(&got).len(), 2 * shards);
                }
            }
        }
    }
}

#[test]
fn acks_all_waits_for_the_disk_and_acks_one_does_not() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        let reader = cluster.connect(shards - 1);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            cluster.put(client, "t", partition, batch(&["durable"]));
            cluster.hold(partition_syncs);
            cluster.send(client, 9, produce_request("t", -1, &[(partition, batch(&["a"]))]));
            cluster.run();
            assert!(cluster.received(client).is_none(), "not on the disk yet");
            let one = cluster.connect(0);
            let body = cluster.ask(one, 9, produce_request("t", 1, &[(partition, batch(&["b"]))]));
            assert_eq!(produced(body)[0].base_offset, 2, "written is enough for acks=1");
            let got = cluster.get(reader, "t", partition, 1);
            assert_eq!((got.partition.error, got.partition.high_watermark), (ErrorCode::None, 1));
            assert!(values(&got).is_empty(), "what is not durable is not shown");
            assert_eq!(cluster.list(reader, "t", partition, -1).0, 1);
            cluster.release();
            cluster.run();
            let (_, body) = cluster.received(client).expect("durable");
            assert_eq!(produced(body)[0].base_offset, 1);
            assert_eq!(cluster.get(reader, "t", partition, 1).partition.high_watermark, 3);
        }
    }
}
