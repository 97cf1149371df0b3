//! Topics with `storage=memory`: served as others are, bounded, on no disk, and empty after a start.

use std::path::Path;

use tidelog_net::messages as kp;
use tidelog_net::{ErrorCode, ResponseBody};
use tidelog_segment_log::disk::DiskOp;
use tidelog_segment_log::disk::sim::SimConfig;

use super::delete_records::delete as trim;
use super::device::names;
use super::harness::{Client, Cluster};
use super::offsets::epoch_end;
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];
const MIB: u64 = 1 << 20;
const IN_MEMORY: (&str, &str) = ("storage", "memory");
const INVALID_CONFIG: i16 = 40;

fn bounded(shards: usize, memory_max: &str) -> Cluster {
    let sets = [format!("storage.memory_max={memory_max}")];
    Cluster::with(shards, &[&sets[0]], SimConfig::default())
}

fn partition_directories(cluster: &mut Cluster, root: &str) -> Vec<String> {
    let mut device = cluster.device.borrow_mut();
    let path = Path::new(root).join("partitions");
    // The directory is made with its first partition.
    match names(&mut device.sim, Path::new(root))
        .iter()
        .any(|name| name == "partitions")
    {
        true => names(&mut device.sim, &path),
        false => Vec::new(),
    }
}

/// Bytes of records in memory, of all shards.
fn used(cluster: &mut Cluster) -> u64 {
    let shards = cluster.shards();
    (0..shards)
        .map(|at| cluster.shard(at).partitions.memory().used_bytes())
        .sum()
}

fn epochs(cluster: &mut Cluster, client: Client) -> Vec<i32> {
    let body = cluster.metadata(client, &["t"], false);
    let mut partitions = body.topics[0].partitions.clone();
    partitions.sort_by_key(|partition| partition.partition_index);
    partitions
        .iter()
        .map(|partition| partition.leader_epoch)
        .collect()
}

/// Whatever reaches the device for a partition.
fn of_partitions(op: &DiskOp) -> bool {
    match op {
        DiskOp::Write { file, .. } | DiskOp::Sync { file } | DiskOp::Fallocate { file, .. } => {
            file.path().starts_with("/sim/data/partitions")
        }
        _ => false,
    }
}

/// Writes until it is refused; how many batches were acknowledged.
fn fill(cluster: &mut Cluster, client: Client, batch_bytes: usize) -> (i64, String) {
    for acked in 0..2_000 {
        let answer = cluster.produce(client, "t", 0, large(batch_bytes));
        match answer.error {
            ErrorCode::None => {}
            ErrorCode::KafkaStorageError => {
                return (acked, answer.error_message.expect("why").to_string());
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("the memory is never full");
}

#[test]
fn records_are_acknowledged_and_read_on_every_shard_without_the_disk() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        let reader = cluster.connect(shards - 1);
        cluster.create(client, "t", 3, &[IN_MEMORY]);
        cluster.hold(of_partitions);
        for partition in 0..3 {
            for nth in 0..40_i64 {
                let bytes = [10, 900, 30_000, 70_000][nth as usize % 4];
                assert_eq!(cluster.put(client, "t", partition, large(bytes)), nth, "acks=all");
            }
            let all = cluster.get_all(reader, "t", partition);
            assert_eq!(all.len(), 40);
            let lengths = all.iter().map(|(_, value)| value.len());
            let wanted = (0..40).map(|nth| [10, 900, 30_000, 70_000][nth % 4]);
            assert!(lengths.eq(wanted));
            assert_eq!(cluster.get_all_from(reader, "t", partition, 37).len(), 3);
            assert_eq!(cluster.list(reader, "t", partition, -1).0, 40);
            assert_eq!(cluster.list(reader, "t", partition, -2).0, 0);
            let (offset, _, error) = cluster.list(reader, "t", partition, super::harness::EPOCH_MS);
            assert_eq!((offset, error), (0, 0), "found by its timestamp");
        }
        cluster.release();
        assert_eq!(partition_directories(&mut cluster, "/sim/data"), [""; 0]);
        // A parked fetch is woken as any other.
        let parked = cluster.send(reader, 12, fetch_request(&[("t", 1, 40)], 10_000, 1));
        cluster.run();
        assert!(cluster.received(reader).is_none());
        cluster.put(client, "t", 1, batch(&["news"]));
        let (correlation, body) = cluster.received(reader).expect("woken");
        assert_eq!(correlation, parked);
        assert_eq!(values(&partitions(body)[0]), [(40, "news".to_owned())]);
    }
}

#[test]
fn a_start_finds_the_topic_empty_and_clients_can_tell() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[IN_MEMORY]);
        cluster.create(client, "disk", 1, &[]);
        cluster.put(client, "disk", 0, batch(&["kept"]));
        for partition in 0..3 {
            cluster.put(client, "t", partition, batch(&["lost", "lost too"]));
        }
        let mut before = epochs(&mut cluster, client);
        for ending in [Cluster::restart, Cluster::kill, Cluster::power_cut] {
            ending(&mut cluster);
            let client = cluster.connect(0);
            let after = epochs(&mut cluster, client);
            for (partition, (before, after)) in before.iter().zip(&after).enumerate() {
                let partition = partition as i32;
                assert!(after > before, "{after} is not above {before}");
                assert_eq!(cluster.list(client, "t", partition, -2).0, 0);
                assert_eq!(cluster.list(client, "t", partition, -1).0, 0);
                let beyond = cluster.get(client, "t", partition, 2);
                assert_eq!(beyond.partition.error, ErrorCode::OffsetOutOfRange);
                // Who read under the old epoch is told that it ended where the log begins now.
                assert_eq!(cluster.put(client, "t", partition, batch(&["a", "b", "c"])), 0);
                assert_eq!(
                    epoch_end(&mut cluster, client, partition, *before),
                    (0, *before, 0)
                );
                assert_eq!(epoch_end(&mut cluster, client, partition, *after), (0, *after, 3));
                assert_eq!(cluster.get_all(client, "t", partition).len(), 3);
            }
            assert_eq!(cluster.get_all(client, "disk", 0)[0].1, "kept");
            before = after;
        }
    }
}

#[test]
fn the_bound_is_told_and_what_goes_makes_room() {
    for shards in SHARDS {
        let mut cluster = bounded(shards, "4MiB");
        let client = cluster.connect(0);
        let pools = |cluster: &mut Cluster| {
            let shard = cluster.shard(0);
            shard.receive_budget.limit_bytes() + shard.fetch_budget.limit_bytes()
        };
        let free = pools(&mut cluster);
        let keeps = [IN_MEMORY, ("retention.ms", "-1")];
        cluster.create(client, "t", 1, &keeps);
        let owner = cluster.owner("t", 0);
        let (acked, text) = fill(&mut cluster, client, 50_000);
        assert!((60..84).contains(&acked), "{acked} of 50 kB in 4 MiB");
        assert!(text.contains("storage.memory_max (4MiB)"), "{text}");
        cluster.advance_ms(60);
        let full = used(&mut cluster);
        assert!((3 * MIB..=4 * MIB).contains(&full), "{full}");
        let shard = cluster.shard(owner);
        assert!(shard.metrics().produce_refused_full.get() > 0);
        let withheld = free - pools(&mut cluster);
        assert_eq!(
            withheld as u64,
            full.div_ceil(shards as u64),
            "they count against memory.limit"
        );
        assert_eq!(
            cluster.get_all(client, "t", 0).len() as i64,
            acked,
            "all is there"
        );
        // DeleteRecords, retention and the deletion of the topic each give memory back.
        assert_eq!(trim(&mut cluster, client, 0, acked / 2), (acked / 2, 0));
        cluster.advance_ms(200);
        assert!(used(&mut cluster) < full * 3 / 4, "{}", used(&mut cluster));
        cluster.put(client, "t", 0, batch(&["resumed"]));
        let (more, _) = fill(&mut cluster, client, 50_000);
        assert!(more >= acked / 3, "{more} after {acked}");
        assert_eq!(cluster.alter(client, "t", &[("retention.bytes", "1048576")]), 0);
        cluster.advance_ms(6_000);
        assert!(used(&mut cluster) < 2 * MIB, "{}", used(&mut cluster));
        cluster.put(client, "t", 0, batch(&["resumed again"]));
        cluster.delete(client, "t");
        cluster.advance_ms(200);
        assert_eq!(used(&mut cluster), 0);
        assert_eq!(pools(&mut cluster), free);
    }
}

#[test]
fn a_topic_that_finds_no_memory_opens_when_there_is_some() {
    let mut cluster = bounded(1, "1MiB");
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[IN_MEMORY]);
    // What is left is less than what a batch is refused at: small segments take the rest.
    fill(&mut cluster, client, 1_000);
    let before = used(&mut cluster);
    cluster.create(client, "many", 60, &[IN_MEMORY]);
    assert!(used(&mut cluster) <= MIB && used(&mut cluster) > before);
    let refused = cluster.produce(client, "many", 59, batch(&["x"]));
    assert_eq!(refused.error, ErrorCode::KafkaStorageError);
    cluster.delete(client, "t");
    cluster.advance_ms(2_500);
    for partition in 0..3 {
        cluster.put(client, "many", partition, batch(&["x"]));
    }
    let body = cluster.produce(client, "many", 59, batch(&["x"]));
    assert_eq!(body.error, ErrorCode::None, "{:?}", body.error_message);
}

#[test]
fn storage_is_chosen_once_and_described() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[IN_MEMORY]);
    cluster.create(client, "disk", 1, &[]);
    assert_eq!(cluster.alter(client, "t", &[("storage", "disk")]), INVALID_CONFIG);
    assert_eq!(cluster.alter(client, "disk", &[IN_MEMORY]), INVALID_CONFIG);
    assert_eq!(
        cluster.alter(client, "disk", &[("storage", "disk")]),
        0,
        "no change"
    );
    assert_eq!(cluster.alter(client, "t", &[("retention.ms", "5000")]), 0);
    let replace = |cluster: &mut Cluster, configs: &[(&str, &str)]| {
        let ResponseBody::AlterConfigs(body) = cluster.ask(client, 2, replace_request("t", configs)) else {
            panic!("not an answer")
        };
        let answer = &body.responses[0];
        let why = answer.error_message.as_ref().map(ToString::to_string);
        (answer.error_code, why.unwrap_or_default())
    };
    let (code, why) = replace(&mut cluster, &[("retention.ms", "6000")]);
    assert_eq!(code, INVALID_CONFIG, "left out is a change too");
    assert!(why.contains("storage=memory among"), "{why}");
    assert_eq!(replace(&mut cluster, &[IN_MEMORY, ("retention.ms", "6000")]).0, 0);
    let refused = cluster.ask(client, 7, create_request("u", 1, &[("storage", "tape")]));
    assert!(
        matches!(&refused, ResponseBody::CreateTopics(body) if body.topics[0].error_code == INVALID_CONFIG)
    );

    use kp::describe_configs_request::DescribeConfigsResource;
    let resource = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configuration_keys(Some(vec![text("storage")]));
    let request = kp::DescribeConfigsRequest::default().with_resources(vec![resource]);
    let ResponseBody::DescribeConfigs(body) = cluster.ask(client, 4, request) else {
        panic!("not an answer")
    };
    let config = &body.results[0].configs[0];
    assert_eq!(config.value.as_deref(), Some("memory"));
    assert_eq!(config.config_source, 1);
}

#[test]
fn directories_are_chosen_counted_and_told_without_them() {
    const A: &str = "/sim/a";
    const B: &str = "/sim/b";
    for shards in SHARDS {
        let mut cluster = Cluster::with_directories(shards, &[], SimConfig::default(), &[A, B]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 5, &[IN_MEMORY]);
        cluster.create(client, "disk", 4, &[]);
        for root in [A, B] {
            assert_eq!(partition_directories(&mut cluster, root).len(), 2, "{root}");
        }
        let ResponseBody::DescribeLogDirs(body) = cluster.ask(client, 4, log_dirs_request(None)) else {
            panic!("not an answer")
        };
        for result in &body.results {
            let topics: Vec<&str> = result.topics.iter().map(|topic| topic.name.as_str()).collect();
            assert_eq!(topics, ["disk"]);
        }
        // A directory that is gone takes nothing of it along.
        cluster.roots.truncate(1);
        cluster.restart();
        let client = cluster.connect(0);
        for partition in 0..5 {
            assert_eq!(cluster.put(client, "t", partition, batch(&["x"])), 0);
        }
    }
}
