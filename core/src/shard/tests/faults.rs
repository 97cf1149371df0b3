//! What the disk does wrong, and what clients see of it.

use tidelog_net::{ErrorCode, ResponseBody};
use tidelog_segment_log::disk::DiskOp;
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig};
use tidelog_segment_log::ids::{PartitionKey, TopicId};
use tidelog_segment_log::log::PartitionLog;

use super::device::partition_syncs;
use super::harness::{Client, Cluster};
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

fn fail_next(cluster: &mut Cluster, kind: OpKind) {
    let fault = ScriptedFault {
        kind,
        nth: 1,
        fault: Fault::Eio,
    };
    cluster.device.borrow_mut().sim.script(fault);
}

/// The log of partition `partition` of topic "t".
fn log(cluster: &mut Cluster, partition: i32) -> &mut PartitionLog {
    let owner = cluster.owner("t", partition);
    let shard = cluster.shard(owner);
    let topic = shard.image.topic("t").expect("a topic").topic_id;
    let key = PartitionKey {
        topic: TopicId(topic.into_bytes()),
        partition,
    };
    shard
        .partitions
        .get_mut(&key)
        .and_then(|p| p.log_mut())
        .expect("open")
}

/// What was acknowledged is there, at its offset.
fn assert_has(cluster: &mut Cluster, client: Client, partition: i32, acked: &[(i64, String)]) {
    let there = cluster.get_all(client, "t", partition);
    for record in acked {
        assert!(
            there.contains(record),
            "{record:?} was acknowledged and is lost: {there:?}"
        );
    }
}

#[test]
fn a_failed_sync_is_an_error_and_the_partition_comes_back_with_all_that_was_acknowledged() {
    for shards in SHARDS {
        for kind in [OpKind::Sync, OpKind::WriteNow] {
            let mut cluster = Cluster::new(shards);
            let client = cluster.connect(0);
            cluster.create(client, "t", 3, &[]);
            for partition in 0..3 {
                let mut acked = Vec::new();
                for round in 0..4 {
                    let value = format!("{round}");
                    let base = cluster.put(client, "t", partition, batch(&[&value]));
                    acked.push((base, value));
                    let reader = cluster.connect(shards - 1);
                    let end = cluster.list(client, "t", partition, -1).0;
                    cluster.send(reader, 12, fetch_request(&[("t", partition, end)], 1000, 1));
                    let epoch = log(&mut cluster, partition).leader_epoch();
                    fail_next(&mut cluster, kind);
                    let lost = cluster.produce(client, "t", partition, batch(&["unknown"]));
                    assert_eq!(lost.error, ErrorCode::KafkaStorageError, "{kind:?}");
                    assert!(
                        log(&mut cluster, partition).leader_epoch() > epoch,
                        "a raised epoch"
                    );
                    let (_, body) = cluster.received(reader).expect("the fetch is told");
                    assert_eq!(partitions(body).len(), 1);
                    assert_has(&mut cluster, client, partition, &acked);
                }
            }
            cluster.power_cut();
            let client = cluster.connect(0);
            for partition in 0..3 {
                cluster.put(client, "t", partition, batch(&["after"]));
                let rounds = cluster.get_all(client, "t", partition);
                for round in 0..4 {
                    assert!(rounds.iter().any(|(_, value)| *value == round.to_string()));
                }
            }
        }
    }
}

#[test]
fn a_term_is_in_force_only_when_a_checkpoint_carries_it() {
    /// The first step of a checkpoint.
    fn checkpoint_renames(op: &DiskOp) -> bool {
        matches!(op, DiskOp::Rename { to, .. } if to.to_string_lossy().ends_with(".previous"))
    }
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[]);
    cluster.put(client, "t", 0, batch(&["a"]));
    // A checkpoint is under way when the partition fails and opens again with a raised term.
    cluster.hold(checkpoint_renames);
    cluster.advance_ms(31_000);
    assert_eq!(cluster.device.borrow().held(), 1, "a checkpoint is being written");
    fail_next(&mut cluster, OpKind::Sync);
    assert_eq!(
        cluster.produce(client, "t", 0, batch(&["b"])).error,
        ErrorCode::KafkaStorageError
    );
    assert!(log(&mut cluster, 0).needs_term_checkpoint(), "open again");
    // That checkpoint ends; the next one, which carries the term, does not.
    cluster.release();
    cluster.hold(checkpoint_renames);
    cluster.run();
    assert!(
        log(&mut cluster, 0).needs_term_checkpoint(),
        "no checkpoint carries it yet"
    );
    let refused = cluster.produce(client, "t", 0, batch(&["c"]));
    assert_eq!(refused.error, ErrorCode::NotLeaderOrFollower);
    cluster.release();
    cluster.run();
    cluster.put(client, "t", 0, batch(&["d"]));
}

#[test]
fn a_config_that_changes_while_a_partition_opens_again_is_in_force() {
    fn partition_lists(op: &DiskOp) -> bool {
        matches!(op, DiskOp::List { path } if path.to_string_lossy().contains("partitions"))
    }
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        cluster.hold(partition_lists);
        fail_next(&mut cluster, OpKind::Sync);
        let answer = cluster.produce(client, "t", 0, batch(&["a"]));
        assert_eq!(answer.error, ErrorCode::KafkaStorageError);
        assert_eq!(cluster.device.borrow().held(), 1, "it opens again");
        let answer = cluster.produce(client, "t", 0, batch(&["b"]));
        assert_eq!(answer.error, ErrorCode::NotLeaderOrFollower, "retriable");
        cluster.send(client, 1, alter_request("t", &[("segment.bytes", "1048576")]));
        cluster.run();
        cluster.release();
        cluster.run();
        let (_, body) = cluster.received(client).expect("altered");
        assert!(matches!(body, ResponseBody::IncrementalAlterConfigs(_)));
        assert_eq!(log(&mut cluster, 0).config().segment_bytes, 1 << 20);
    }
}

#[test]
fn a_full_disk_is_retriable_reads_go_on_and_writes_resume() {
    for shards in SHARDS {
        let disk = SimConfig {
            capacity_bytes: Some(12 << 20),
            ..Default::default()
        };
        let mut cluster = Cluster::with(shards, &[], disk);
        let client = cluster.connect(0);
        cluster.create(client, "ballast", 1, &[]);
        cluster.create(client, "t", 1, &[]);
        for _ in 0..30 {
            cluster.put(client, "ballast", 0, large(100_000));
        }
        let mut acked = 0;
        loop {
            let answer = cluster.produce(client, "t", 0, large(100_000));
            match answer.error {
                ErrorCode::None => acked += 1,
                ErrorCode::KafkaStorageError => break,
                other => panic!("{other:?}"),
            }
            assert!(acked < 200, "the disk is never full");
        }
        assert!(acked > 10);
        let mut offset = 0;
        while offset < acked {
            let got = values(&cluster.get(client, "t", 0, offset));
            offset = got.last().expect("reads go on").0 + 1;
        }
        cluster.delete(client, "ballast");
        cluster.advance_ms(200);
        let base = cluster.put(client, "t", 0, batch(&["resumed"]));
        assert!(base >= acked);
    }
}

#[test]
fn nothing_acknowledged_is_lost_to_power_cuts() {
    for shards in SHARDS {
        for seed in 0..6 {
            let disk = SimConfig {
                seed,
                ..Default::default()
            };
            let mut cluster = Cluster::with(shards, &[], disk);
            let mut acked = vec![Vec::new(); 3];
            let client = cluster.connect(0);
            cluster.create(client, "t", 3, &[]);
            for round in 0..5 {
                let client = cluster.connect(round % shards);
                for n in 0..10 {
                    for (partition, acked) in acked.iter_mut().enumerate() {
                        let value = format!("{round} {n}");
                        let base = cluster.put(client, "t", partition as i32, batch(&[&value]));
                        acked.push((base, value));
                    }
                }
                // Some more is under way when the power goes.
                cluster.hold(partition_syncs);
                for partition in 0..3 {
                    cluster.send(
                        client,
                        9,
                        produce_request("t", 1, &[(partition, batch(&["lost?"]))]),
                    );
                }
                cluster.run();
                cluster.power_cut();
                let client = cluster.connect(0);
                for (partition, acked) in acked.iter().enumerate() {
                    assert_has(&mut cluster, client, partition as i32, acked);
                }
            }
        }
    }
}

#[test]
fn an_opening_that_fails_is_tried_again_until_the_disk_works() {
    for shards in SHARDS {
        for kind in [OpKind::Create, OpKind::Sync, OpKind::SyncDir] {
            let mut cluster = Cluster::new(shards);
            let client = cluster.connect(0);
            cluster.create(client, "t", 1, &[]);
            let base = cluster.put(client, "t", 0, batch(&["kept"]));
            fail_next(&mut cluster, OpKind::WriteNow);
            fail_next(&mut cluster, kind);
            let lost = cluster.produce(client, "t", 0, batch(&["unknown"]));
            assert_eq!(lost.error, ErrorCode::KafkaStorageError, "{kind:?}");
            let mut answers = Vec::new();
            for _ in 0..10 {
                cluster.pass_ms(500);
                answers.push(cluster.produce(client, "t", 0, batch(&["later"])).error);
                if answers.last() == Some(&ErrorCode::None) {
                    break;
                }
            }
            assert_eq!(answers.last(), Some(&ErrorCode::None), "{kind:?}: {answers:?}");
            assert_has(&mut cluster, client, 0, &[(base, "kept".to_owned())]);
        }
    }
}
