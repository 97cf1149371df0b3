//! A disk that fills up: what clients are told, what goes on, and that writes resume by themselves.

use tidelog_net::{ErrorCode, ResponseBody};
use tidelog_segment_log::disk::DiskOp;
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig};

use super::delete_records::delete as trim;
use super::harness::{Client, Cluster};
use super::requests::*;
use crate::directory_space::RoomChange;

const SHARDS: [usize; 2] = [1, 3];
const MIB: u64 = 1 << 20;

fn cluster_of(shards: usize, capacity: u64, sets: &[&str]) -> Cluster {
    let disk = SimConfig {
        capacity_bytes: Some(capacity),
        ..Default::default()
    };
    let mut cluster = Cluster::with(shards, sets, disk);
    cluster.looks_at_room = false;
    cluster
}

/// Writes until it is refused; the offsets that were acknowledged. The room is looked at every so often.
fn fill(cluster: &mut Cluster, client: Client, topic: &str, look_each: usize) -> Vec<i64> {
    let mut acked = Vec::new();
    loop {
        let answer = cluster.produce(client, topic, 0, large(50_000));
        match answer.error {
            ErrorCode::None => acked.push(answer.base_offset),
            ErrorCode::KafkaStorageError => return acked,
            other => panic!("{other:?}"),
        }
        assert!(acked.len() < 2_000, "the disk is never full");
        if look_each > 0 && acked.len().is_multiple_of(look_each) {
            cluster.look_at_room();
        }
    }
}

fn assert_reads(cluster: &mut Cluster, client: Client, topic: &str, acked: &[i64]) {
    let there: Vec<i64> = cluster
        .get_all_from(client, topic, 0, acked[0])
        .into_iter()
        .map(|(offset, _)| offset)
        .collect();
    for offset in acked {
        assert!(there.contains(offset), "{offset} was acknowledged: {there:?}");
    }
}

/// A batch of one record of an idempotent producer.
fn numbered(sequence: i32, bytes: usize) -> bytes::Bytes {
    sequenced(7, 0, sequence, &["x".repeat(bytes).as_str()])
}

#[test]
fn below_the_bound_writes_are_refused_and_all_else_goes_on() {
    for shards in SHARDS {
        let sets = ["storage.min_free=4MiB", "storage.reserve=1MiB"];
        let mut cluster = cluster_of(shards, 24 * MIB, &sets);
        let client = cluster.connect(0);
        cluster.create(client, "ballast", 1, &[]);
        cluster.create(client, "t", 1, &[]);
        for _ in 0..150 {
            cluster.put(client, "ballast", 0, large(50_000));
        }
        let acked = fill(&mut cluster, client, "t", 1);
        assert!(acked.len() > 20, "{}", acked.len());
        assert_eq!(cluster.look_at_room(), [], "nobody found the disk full");
        let owner = cluster.owner("t", 0);
        let refused = cluster.shard(owner).metrics.produce_refused_full.get();
        assert_eq!(refused, 1);
        // What needs room for partitions is refused, what gives room or changes little is not.
        let refused = cluster.ask(client, 7, create_request("more", 1, &[]));
        assert!(
            matches!(&refused, ResponseBody::CreateTopics(body) if body.topics[0].error_code == 56),
            "{refused:?}"
        );
        assert_reads(&mut cluster, client, "t", &acked);
        cluster.ask(client, 1, alter_request("t", &[("retention.ms", "86400000")]));
        assert_eq!(trim(&mut cluster, client, 0, 3), (3, 0));
        cluster.advance_ms(31_000);
        assert_eq!(
            cluster.produce(client, "t", 0, batch(&["x"])).error,
            ErrorCode::KafkaStorageError
        );
        cluster.delete(client, "ballast");
        cluster.advance_ms(100);
        assert_eq!(cluster.look_at_room(), [RoomChange::Roomy]);
        let base = cluster.put(client, "t", 0, batch(&["resumed"]));
        assert_eq!(base, acked.last().unwrap() + 1);
        cluster.create(client, "more", 1, &[]);
        cluster.power_cut();
        let client = cluster.connect(0);
        assert_reads(&mut cluster, client, "t", &acked[3..]);
    }
}

#[test]
fn on_a_disk_that_is_really_full_the_reserve_lets_topics_be_deleted() {
    for shards in SHARDS {
        // No look comes in time: the bound does not help.
        let sets = ["storage.min_free=0", "storage.reserve=2MiB"];
        let mut cluster = cluster_of(shards, 16 * MIB, &sets);
        let client = cluster.connect(0);
        cluster.create(client, "ballast", 1, &[]);
        cluster.create(client, "t", 1, &[]);
        for _ in 0..100 {
            cluster.put(client, "ballast", 0, large(50_000));
        }
        let acked = fill(&mut cluster, client, "t", 0);
        assert_reads(&mut cluster, client, "t", &acked);
        assert_eq!(
            cluster.look_at_room(),
            [RoomChange::ReserveReleased, RoomChange::Low]
        );
        // The checkpoint that is due, DeleteRecords and a deletion have room now; clients do not get it.
        cluster.advance_ms(31_000);
        let refused = cluster.produce(client, "t", 0, batch(&["x"]));
        assert_eq!(refused.error, ErrorCode::KafkaStorageError);
        assert_eq!(trim(&mut cluster, client, 0, 2), (2, 0));
        cluster.delete(client, "ballast");
        // The log's last operations end, then its files go one by one: found by a look of the next second.
        let mut looks = (0..5).map(|_| {
            cluster.advance_ms(200);
            cluster.look_at_room()
        });
        let changes = looks.find(|changes| !changes.is_empty());
        assert_eq!(changes, Some(vec![RoomChange::ReserveMade, RoomChange::Roomy]));
        let base = cluster.put(client, "t", 0, batch(&["resumed"]));
        assert!(base > *acked.last().unwrap());
        cluster.restart();
        let client = cluster.connect(0);
        assert_reads(&mut cluster, client, "t", &acked[2..]);
    }
}

#[test]
fn a_batch_that_was_taken_before_the_disk_was_full_is_found_again_by_its_retry() {
    for shards in SHARDS {
        let mut cluster = cluster_of(shards, 64 * MIB, &["storage.min_free=0", "storage.reserve=0"]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        let first = cluster.put(client, "t", 0, numbered(0, 40_000));
        // Its space is asked for when it is in the log already.
        let fault = |nth| ScriptedFault {
            kind: OpKind::Fallocate,
            nth,
            fault: Fault::NoSpace,
        };
        for nth in 1..=3 {
            cluster.device.borrow_mut().sim.script(fault(nth));
        }
        let stuck = cluster.produce(client, "t", 0, numbered(1, 900_000));
        assert_eq!(stuck.error, ErrorCode::KafkaStorageError, "it is told at once");
        let again = cluster.produce(client, "t", 0, numbered(1, 900_000));
        assert_eq!(again.error, ErrorCode::KafkaStorageError, "and again");
        assert_reads(&mut cluster, client, "t", &[first]);
        cluster.advance_ms(300);
        assert_eq!(cluster.look_at_room().last(), Some(&RoomChange::Low));
        assert_eq!(cluster.look_at_room().last(), Some(&RoomChange::Roomy));
        let found = cluster.produce(client, "t", 0, numbered(1, 900_000));
        assert_eq!((found.error, found.base_offset), (ErrorCode::None, first + 1));
        cluster.put(client, "t", 0, numbered(2, 100));
        let all = cluster.get_all(client, "t", 0);
        assert_eq!(all.len(), 3, "each once");
    }
}

#[test]
fn a_roll_that_finds_no_room_goes_on_when_there_is_some() {
    for shards in SHARDS {
        for kind in [OpKind::Create, OpKind::Write] {
            let mut cluster = cluster_of(shards, 64 * MIB, &["storage.min_free=0"]);
            let client = cluster.connect(0);
            cluster.create(client, "t", 1, &[("segment.bytes", "1048576")]);
            let mut acked = Vec::new();
            for _ in 0..20 {
                acked.push(cluster.put(client, "t", 0, large(50_000)));
            }
            let fault = ScriptedFault {
                kind,
                nth: 1,
                fault: Fault::NoSpace,
            };
            cluster.device.borrow_mut().sim.script(fault);
            let mut refused = 0;
            for _ in 0..60 {
                let answer = cluster.produce(client, "t", 0, large(50_000));
                match answer.error {
                    ErrorCode::None => acked.push(answer.base_offset),
                    ErrorCode::KafkaStorageError => {
                        refused += 1;
                        assert_reads(&mut cluster, client, "t", &acked);
                        cluster.advance_ms(100);
                        cluster.look_at_room();
                        cluster.look_at_room();
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(refused > 0, "{kind:?}: the roll met the full disk");
            assert!(acked.len() > 70, "{kind:?}: writes resumed");
            cluster.power_cut();
            let client = cluster.connect(0);
            assert_reads(&mut cluster, client, "t", &acked);
        }
    }
}

fn checkpoint_creations(op: &DiskOp) -> bool {
    matches!(op, DiskOp::Create { path } if path.to_string_lossy().contains("checkpoint"))
}

#[test]
fn a_checkpoint_that_finds_no_room_is_written_later_and_nothing_rests_on_it_before() {
    for kind in [OpKind::Create, OpKind::Write] {
        let mut cluster = cluster_of(1, 64 * MIB, &["storage.min_free=0"]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        let mut acked = vec![cluster.put(client, "t", 0, batch(&["a"]))];
        cluster.advance_ms(100);
        // The next checkpoint's own file.
        cluster.hold(checkpoint_creations);
        cluster.advance_ms(31_000);
        assert_eq!(cluster.device.borrow().held(), 1);
        let fault = ScriptedFault {
            kind,
            nth: 1,
            fault: Fault::NoSpace,
        };
        cluster.device.borrow_mut().sim.script(fault);
        cluster.release();
        cluster.run();
        assert!(
            !cluster.shard(0).partitions.all_open(),
            "{kind:?}: a checkpoint is owed"
        );
        let refused = cluster.produce(client, "t", 0, batch(&["b"]));
        assert_eq!(
            refused.error,
            ErrorCode::KafkaStorageError,
            "what room there is, is for it"
        );
        assert_reads(&mut cluster, client, "t", &acked);
        cluster.advance_ms(1_000);
        assert!(cluster.shard(0).partitions.all_open(), "{kind:?}: written");
        assert_eq!(
            cluster.look_at_room(),
            [RoomChange::ReserveReleased, RoomChange::Low]
        );
        assert_eq!(
            cluster.look_at_room(),
            [RoomChange::ReserveMade, RoomChange::Roomy]
        );
        acked.push(cluster.put(client, "t", 0, batch(&["b"])));
        cluster.power_cut();
        let client = cluster.connect(0);
        assert_reads(&mut cluster, client, "t", &acked);
    }
}

#[test]
fn a_stop_waits_for_room_for_its_checkpoint() {
    let mut cluster = cluster_of(1, 64 * MIB, &["storage.min_free=0"]);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[]);
    let acked = cluster.put(client, "t", 0, batch(&["a"]));
    cluster.advance_ms(100);
    cluster.hold(checkpoint_creations);
    cluster.begin_stop();
    cluster.run();
    assert_eq!(cluster.device.borrow().held(), 1, "the last checkpoint");
    let fault = ScriptedFault {
        kind: OpKind::Write,
        nth: 1,
        fault: Fault::NoSpace,
    };
    cluster.device.borrow_mut().sim.script(fault);
    cluster.release();
    cluster.run();
    assert!(
        !cluster.is_drained(),
        "without its checkpoint it does not count as closed"
    );
    cluster.advance_ms(1_000);
    assert!(cluster.is_drained());
    cluster.power_cut();
    let client = cluster.connect(0);
    assert_reads(&mut cluster, client, "t", &[acked]);
}

#[test]
fn files_kept_to_be_recycled_go_before_a_write_is_refused() {
    for shards in SHARDS {
        let sets = [
            "storage.min_free=8MiB",
            "storage.reserve=0",
            "storage.recycle_max=64MiB",
        ];
        let mut cluster = cluster_of(shards, 32 * MIB, &sets);
        let client = cluster.connect(0);
        let configs = [("segment.bytes", "1048576"), ("retention.bytes", "1048576")];
        cluster.create(client, "warm", 1, &configs);
        // Its extents are smaller than what lies between the two bounds.
        cluster.create(client, "t", 1, &configs[..1]);
        for _ in 0..100 {
            cluster.put(client, "warm", 0, large(50_000));
        }
        cluster.advance_ms(11_000);
        let spare = cluster.spares().bytes();
        assert!(spare > 2 * MIB, "{spare} bytes are kept");
        let mut put = 0;
        while cluster.spares().bytes() > 0 {
            assert_eq!(cluster.look_at_room(), [], "writes are taken");
            cluster.put(client, "t", 0, large(50_000));
            cluster.advance_ms(200);
            put += 1;
            assert!(put < 600, "{} bytes are still kept", cluster.spares().bytes());
        }
        assert_eq!(cluster.look_at_room(), [], "writes are taken");
        assert!(put > 10, "{put}");
    }
}
