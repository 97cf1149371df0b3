//! Memory lent between shards: one that is short gets it, nothing is lent twice, and all of it comes back.

use tidelog_segment_log::disk::sim::SimConfig;

use super::device::partition_syncs;
use super::harness::{Client, Cluster};
use super::requests::*;

const SETS: [&str; 2] = ["memory.limit=64MiB", "message.max_bytes=32MiB"];
const SHARDS: usize = 3;

/// Writers on one shard whose frames together need `parts` times a third of its receive pool. None is answered
/// before the disk is released.
fn hold_writers(cluster: &mut Cluster, shard: usize, parts: usize) -> Vec<Client> {
    let third = cluster.shard(shard).receive_budget.base_bytes() / 3;
    let writers: Vec<_> = (0..parts).map(|_| cluster.connect(shard)).collect();
    for (n, writer) in writers.iter().enumerate() {
        cluster.send(
            *writer,
            9,
            produce_request("t", -1, &[(n as i32 % 3, large(third))]),
        );
    }
    writers
}

fn limits(cluster: &mut Cluster) -> Vec<usize> {
    (0..SHARDS)
        .map(|shard| cluster.shard(shard).receive_budget.limit_bytes())
        .collect()
}

fn all_answered(cluster: &mut Cluster, writers: Vec<Client>) {
    for writer in writers {
        let (_, body) = cluster.received(writer).expect("each has its turn");
        assert!(produced(body)[0].error.is_ok());
    }
}

fn started() -> Cluster {
    let mut cluster = Cluster::with(SHARDS, &SETS, SimConfig::default());
    let client = cluster.connect(0);
    cluster.create(client, "t", 3, &[]);
    cluster.hold(partition_syncs);
    cluster
}

#[test]
fn a_shard_that_is_short_uses_what_others_do_not_need_and_gives_it_back() {
    let mut cluster = started();
    let base = cluster.shard(0).receive_budget.base_bytes();
    let writers = hold_writers(&mut cluster, 0, 5);
    cluster.run();
    let used = cluster.shard(0).receive_budget.used_bytes();
    assert!(used > base, "{used} bytes in use, the shard's own are {base}");
    let now = limits(&mut cluster);
    assert_eq!(now.iter().sum::<usize>(), SHARDS * base, "{now:?}");
    assert!(
        now.iter().all(|limit| *limit >= base / 2),
        "everybody keeps half: {now:?}"
    );
    cluster.release();
    cluster.run();
    all_answered(&mut cluster, writers);
    cluster.advance_ms(5_000);
    assert_eq!(limits(&mut cluster), [base; SHARDS], "all leases are back");
    let granted: u64 = (0..SHARDS)
        .map(|shard| cluster.shard(shard).metrics().leases_granted.get())
        .sum();
    assert!(granted > 0);
}

#[test]
fn where_all_are_short_requests_are_denied_and_every_frame_still_has_its_turn() {
    let mut cluster = started();
    let base = cluster.shard(0).receive_budget.base_bytes();
    let writers: Vec<_> = (0..SHARDS)
        .flat_map(|shard| hold_writers(&mut cluster, shard, 4))
        .collect();
    cluster.run();
    cluster.advance_ms(3_000);
    let now = limits(&mut cluster);
    assert_eq!(now.iter().sum::<usize>(), SHARDS * base);
    let denied: u64 = (0..SHARDS)
        .map(|shard| cluster.shard(shard).metrics().leases_denied.get())
        .sum();
    assert!(denied > 0, "there was nothing left to lend");
    cluster.release();
    cluster.run();
    cluster.advance_ms(5_000);
    all_answered(&mut cluster, writers);
    assert_eq!(limits(&mut cluster), [base; SHARDS]);
}
