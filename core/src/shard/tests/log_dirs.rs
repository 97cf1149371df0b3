//! DescribeLogDirs: the bytes of every partition, whoever owns it, while it opens, and without its shard.

use std::collections::BTreeMap;

use tidelog_net::ResponseBody;
use tidelog_net::messages as kp;
use tidelog_segment_log::disk::DiskOp;
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault};

use super::harness::{Client, Cluster};
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

/// The code of the directory, and the bytes of each partition.
fn sizes(
    cluster: &mut Cluster,
    client: Client,
    asked: Option<&[(&str, &[i32])]>,
) -> (i16, BTreeMap<(String, i32), i64>) {
    let ResponseBody::DescribeLogDirs(body) = cluster.ask(client, 4, log_dirs_request(asked)) else {
        panic!("not an answer")
    };
    assert_eq!(body.results[0].usable_bytes, i64::MAX, "room without end");
    log_dir(&body)
}

fn log_dir(body: &kp::DescribeLogDirsResponse) -> (i16, BTreeMap<(String, i32), i64>) {
    assert_eq!((body.error_code, body.results.len()), (0, 1));
    let result = &body.results[0];
    assert_eq!(result.log_dir.as_str(), "/sim/data");
    assert_eq!(
        result.total_bytes, -1,
        "a simulated disk has no size that anybody knows"
    );
    let mut sizes = BTreeMap::new();
    for topic in &result.topics {
        assert!(!topic.partitions.is_empty());
        for partition in &topic.partitions {
            assert_eq!((partition.offset_lag, partition.is_future_key), (0, false));
            let at = (topic.name.to_string(), partition.partition_index);
            let twice = sizes.insert(at, partition.partition_size);
            assert_eq!(twice, None, "each once");
        }
    }
    (result.error_code, sizes)
}

#[test]
fn log_dirs_tell_the_bytes_of_every_partition_whoever_owns_it() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        assert_eq!(sizes(&mut cluster, client, None), (0, BTreeMap::new()));
        cluster.create(client, "t", 4, &[]);
        cluster.create(client, "u", 1, &[]);
        let (_, before) = sizes(&mut cluster, client, None);
        assert_eq!(before.len(), 5);
        assert!(before.values().all(|size| *size > 0), "{before:?}");
        for partition in 0..4 {
            for _ in 0..partition {
                cluster.put(client, "t", partition, large(10_000));
            }
        }
        let (_, after) = sizes(&mut cluster, client, None);
        for (at, size) in &after {
            let grown = if at.0 == "t" { i64::from(at.1) } else { 0 };
            let grown = grown * 10_000..=grown * 15_000;
            assert!(
                grown.contains(&(size - before[at])),
                "{at:?}: {before:?} {after:?}"
            );
        }
        // What is not there is left out; what is named twice is told once.
        let some: &[(&str, &[i32])] = &[("t", &[3, 1, 3, 9, -1]), ("v", &[0]), ("t", &[1]), ("u", &[7])];
        let (code, told) = sizes(&mut cluster, client, Some(some));
        let wanted = [1, 3].map(|partition| ("t".to_owned(), partition));
        assert_eq!(
            (code, told.keys().cloned().collect::<Vec<_>>()),
            (0, wanted.to_vec())
        );
        assert!(told.iter().all(|(at, size)| after[at] == *size));
        assert!(sizes(&mut cluster, client, Some(&[])).1.is_empty());
        for version in 1..=3 {
            let ResponseBody::DescribeLogDirs(body) = cluster.ask(client, version, log_dirs_request(None))
            else {
                panic!("not an answer")
            };
            assert_eq!(log_dir(&body), (0, after.clone()), "version {version}");
        }
        cluster.restart();
        let client = cluster.connect(0);
        assert_eq!(sizes(&mut cluster, client, None), (0, after));
    }
}

#[test]
fn a_partition_that_is_opening_is_listed_with_what_is_known() {
    fn openings(op: &DiskOp) -> bool {
        matches!(op, DiskOp::List { path } if path.iter().any(|part| part == "partitions"))
    }
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            cluster.put(client, "t", partition, large(10_000));
        }
        let (_, known) = sizes(&mut cluster, client, None);
        cluster.hold(openings);
        let fault = ScriptedFault {
            kind: OpKind::Sync,
            nth: 1,
            fault: Fault::Eio,
        };
        cluster.device.borrow_mut().sim.script(fault);
        let lost = cluster.produce(client, "t", 1, large(10_000));
        assert_eq!(lost.error, tidelog_net::ErrorCode::KafkaStorageError);
        let opening: usize = (0..shards)
            .map(|shard| cluster.shard(shard).partitions.opening())
            .sum();
        assert_eq!(opening, 1);
        assert_eq!(sizes(&mut cluster, client, None), (0, known));
        cluster.release();
        cluster.run();
    }
}

#[test]
fn a_silent_shard_leaves_its_partitions_out_and_the_directory_says_so() {
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(0);
    cluster.create(client, "t", 9, &[]);
    cluster.advance_ms(100);
    let (_, whole) = sizes(&mut cluster, client, None);
    let theirs = (0..9)
        .filter(|partition| cluster.owner("t", *partition) == 1)
        .count();
    assert!(theirs > 0);
    cluster.stalled = Some(1);
    let asked = cluster.send(client, 4, log_dirs_request(None));
    cluster.run();
    assert!(cluster.received(client).is_none(), "it waits");
    cluster.advance_ms(6_000);
    let (correlation, body) = cluster.received(client).expect("answered without it");
    let ResponseBody::DescribeLogDirs(body) = body else {
        panic!("not an answer")
    };
    let (code, told) = log_dir(&body);
    assert_eq!((correlation, code, told.len()), (asked, 7, 9 - theirs));
    assert!(told.iter().all(|(at, size)| whole[at] == *size));
    // While it is known to be silent nobody waits for it.
    assert_eq!(sizes(&mut cluster, client, None), (7, told));
    cluster.stalled = None;
    cluster.advance_ms(1_000);
    assert_eq!(sizes(&mut cluster, client, None), (0, whole));
}

#[test]
fn log_dirs_without_memory_for_the_answer_say_so() {
    let mut cluster = Cluster::with(1, &["memory.limit=64MiB"], Default::default());
    let client = cluster.connect(0);
    cluster.create(client, "t", 500, &[]);
    assert_eq!(sizes(&mut cluster, client, None).1.len(), 500);
    let all = cluster.shard(0).fetch_budget.limit_bytes();
    assert!(cluster.shard(0).fetch_budget.reserve(all));
    assert_eq!(sizes(&mut cluster, client, None), (7, BTreeMap::new()));
    cluster.shard(0).fetch_budget.release(all);
    assert_eq!(sizes(&mut cluster, client, None).1.len(), 500);
}
