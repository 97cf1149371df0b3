//! Several data directories: where partitions go, that they are found again, and one that fails or is missing.

use std::collections::BTreeMap;

use tidelog_net::{ErrorCode, ResponseBody};
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig};

use super::device::{EROFS, names};
use super::harness::{Client, Cluster};
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];
const A: &str = "/sim/a";
const B: &str = "/sim/b";
const C: &str = "/sim/c";

fn cluster_of(shards: usize, roots: &[&str]) -> Cluster {
    Cluster::with_directories(shards, &[], SimConfig::default(), roots)
}

/// How many partitions have files in a directory.
fn count_in(cluster: &mut Cluster, root: &str) -> usize {
    let mut device = cluster.device.borrow_mut();
    let path = std::path::PathBuf::from(root).join("partitions");
    names(&mut device.sim, &path).len()
}

/// Code and partitions of each directory, as DescribeLogDirs tells.
fn told(cluster: &mut Cluster, client: Client) -> BTreeMap<String, (i16, Vec<(String, i32)>)> {
    let ResponseBody::DescribeLogDirs(body) = cluster.ask(client, 4, log_dirs_request(None)) else {
        panic!("not an answer")
    };
    let mut all = BTreeMap::new();
    for result in &body.results {
        let mut partitions = Vec::new();
        for topic in &result.topics {
            for partition in &topic.partitions {
                assert!(partition.partition_size >= 8_192, "{topic:?}");
                partitions.push((topic.name.to_string(), partition.partition_index));
            }
        }
        let before = all.insert(result.log_dir.to_string(), (result.error_code, partitions));
        assert_eq!(before, None);
    }
    all
}

/// Partitions of topic "t" in each of the directories.
fn partitions_in(cluster: &mut Cluster, client: Client, root: &str) -> Vec<i32> {
    let all = told(cluster, client);
    let (code, partitions) = &all[root];
    assert_eq!(*code, 0);
    partitions
        .iter()
        .filter(|(topic, _)| topic == "t")
        .map(|(_, partition)| *partition)
        .collect()
}

fn fill(cluster: &mut Cluster, client: Client, partitions: i32, value: &str) {
    for partition in 0..partitions {
        cluster.put(client, "t", partition, batch(&[value, &partition.to_string()]));
    }
}

fn assert_holds(cluster: &mut Cluster, client: Client, partition: i32, rounds: usize) {
    let all = cluster.get_all(client, "t", partition);
    let own = all
        .iter()
        .filter(|(_, value)| *value == partition.to_string())
        .count();
    assert_eq!(own, rounds, "partition {partition}: {all:?}");
}

#[test]
fn partitions_spread_over_directories_and_are_found_again() {
    for shards in SHARDS {
        let mut cluster = cluster_of(shards, &[A, B, C]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 9, &[]);
        fill(&mut cluster, client, 9, "x");
        let before = told(&mut cluster, client);
        for root in [A, B, C] {
            assert_eq!(count_in(&mut cluster, root), 3, "{root}");
            assert_eq!(before[root].1.len(), 3, "{root}");
        }
        for round in 0..3 {
            match round {
                0 => cluster.restart(),
                1 => cluster.kill(),
                _ => cluster.power_cut(),
            }
            let client = cluster.connect(0);
            assert_eq!(told(&mut cluster, client), before);
            (0..9).for_each(|partition| assert_holds(&mut cluster, client, partition, round + 1));
            fill(&mut cluster, client, 9, "y");
        }
        // Given in another order they are the same; more partitions go on where there are fewest.
        cluster.roots = vec![A.into(), C.into(), B.into()];
        cluster.restart();
        let client = cluster.connect(0);
        assert_eq!(told(&mut cluster, client), before);
        cluster.create(client, "u", 3, &[]);
        for root in [A, B, C] {
            assert_eq!(count_in(&mut cluster, root), 4, "{root}");
        }
        cluster.delete(client, "t");
        for root in [A, B, C] {
            assert_eq!(count_in(&mut cluster, root), 1, "{root}");
        }
    }
}

#[test]
fn a_clean_stop_is_clean_in_every_directory() {
    let mut cluster = cluster_of(1, &[A, B]);
    let client = cluster.connect(0);
    cluster.create(client, "t", 4, &[]);
    fill(&mut cluster, client, 4, "x");
    cluster.restart();
    assert!(cluster.directories.iter().all(|seed| seed.directory.was_clean()));
    let client = cluster.connect(0);
    let reopened = cluster.get(client, "t", 0, 0);
    assert_eq!(reopened.partition.error, ErrorCode::None);
    cluster.kill();
    assert!(cluster.directories.iter().all(|seed| !seed.directory.was_clean()));
}

#[test]
fn a_directory_that_fails_takes_its_partitions_along_and_no_others() {
    for shards in SHARDS {
        let mut cluster = cluster_of(shards, &[A, B]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 6, &[]);
        fill(&mut cluster, client, 6, "x");
        let (lost, kept) = (
            partitions_in(&mut cluster, client, B),
            partitions_in(&mut cluster, client, A),
        );
        assert_eq!((lost.len(), kept.len()), (3, 3));
        cluster.device.borrow_mut().broken = Some(B);
        // A fetch that waits is told, and so is what was under way.
        let reader = cluster.connect(shards - 1);
        cluster.send(reader, 12, fetch_request(&[("t", lost[0], 2)], 60_000, 1));
        let failed = cluster.produce(client, "t", lost[0], batch(&["z"]));
        assert_eq!(failed.error, ErrorCode::KafkaStorageError);
        cluster.advance_ms(32_000);
        assert!(cluster.received(reader).is_some(), "the fetch that waited");
        for partition in &lost {
            let answer = cluster.produce(client, "t", *partition, batch(&["z"]));
            assert_eq!(answer.error, ErrorCode::KafkaStorageError);
            assert!(
                answer
                    .error_message
                    .is_some_and(|text| text.contains("directory has failed"))
            );
            let answer = cluster.get(client, "t", *partition, 0);
            assert_eq!(answer.partition.error, ErrorCode::KafkaStorageError);
        }
        for partition in &kept {
            cluster.put(client, "t", *partition, batch(&["more"]));
            assert_holds(&mut cluster, client, *partition, 1);
        }
        let shown = told(&mut cluster, client);
        assert_eq!(shown[B], (ErrorCode::KafkaStorageError.code(), Vec::new()));
        assert_eq!(shown[A].1.len(), 3);
        let unavailable: usize = (0..shards)
            .map(|shard| cluster.shard(shard).partitions.unavailable())
            .sum();
        assert_eq!(unavailable, 3);
        // What is new goes to the one that works.
        cluster.create(client, "u", 2, &[]);
        cluster.put(client, "u", 0, batch(&["u"]));
        cluster.put(client, "u", 1, batch(&["u"]));
        // A start on the disk that works again has all that was acknowledged, in order or not.
        cluster.device.borrow_mut().broken = None;
        match shards {
            1 => cluster.restart(),
            _ => cluster.power_cut(),
        }
        let client = cluster.connect(0);
        (0..6).for_each(|partition| assert_holds(&mut cluster, client, partition, 1));
        fill(&mut cluster, client, 6, "again");
    }
}

#[test]
fn a_directory_that_is_missing_at_start_leaves_its_partitions_unavailable_until_it_is_back() {
    for shards in SHARDS {
        let mut cluster = cluster_of(shards, &[A, B, C]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 6, &[]);
        cluster.create(client, "dead", 3, &[]);
        fill(&mut cluster, client, 6, "x");
        let lost = partitions_in(&mut cluster, client, B);
        assert_eq!((lost.len(), count_in(&mut cluster, B)), (2, 3));
        // One of another path and content is not taken for it.
        cluster.roots = vec![A.into(), C.into(), "/sim/new".into()];
        cluster.restart();
        let client = cluster.connect(0);
        for partition in 0..6 {
            let answer = cluster.produce(client, "t", partition, batch(&["x", &partition.to_string()]));
            if lost.contains(&partition) {
                assert_eq!(answer.error, ErrorCode::KafkaStorageError);
                assert!(
                    answer
                        .error_message
                        .is_some_and(|text| text.contains("--data-dir"))
                );
                assert_eq!(
                    cluster.get(client, "t", partition, 0).partition.error,
                    ErrorCode::KafkaStorageError
                );
            } else {
                assert_eq!(answer.error, ErrorCode::None);
                assert_holds(&mut cluster, client, partition, 2);
            }
        }
        assert_eq!(cluster.device.borrow().held(), 0);
        // Metadata goes on: a topic with partitions there can be deleted, and others be made.
        cluster.delete(client, "dead");
        cluster.create(client, "u", 4, &[]);
        cluster.advance_ms(31_000);
        cluster.roots = vec![A.into(), B.into(), C.into(), "/sim/new".into()];
        cluster.power_cut();
        let client = cluster.connect(0);
        for partition in 0..6 {
            let rounds = if lost.contains(&partition) { 1 } else { 2 };
            assert_holds(&mut cluster, client, partition, rounds);
            cluster.put(client, "t", partition, batch(&["z"]));
        }
        cluster.run();
        assert_eq!(
            count_in(&mut cluster, B),
            2,
            "what the deleted topic left is removed"
        );
    }
}

/// The next sync fails, which is that of a batch for this partition.
fn fail_a_sync(cluster: &mut Cluster, client: Client, partition: i32) {
    let fault = ScriptedFault {
        kind: OpKind::Sync,
        nth: 1,
        fault: Fault::Eio,
    };
    cluster.device.borrow_mut().sim.script(fault);
    let answer = cluster.produce(client, "t", partition, batch(&["unknown"]));
    assert_eq!(
        answer.error,
        ErrorCode::KafkaStorageError,
        "partition {partition}"
    );
}

fn errors_of(cluster: &Cluster, place: usize) -> (i64, Option<String>) {
    let health = cluster.directories[place].space.health();
    (health.errors(), health.failure().map(str::to_owned))
}

#[test]
fn a_partition_that_meets_bad_sectors_again_and_again_does_not_fail_its_directory() {
    for shards in SHARDS {
        let mut cluster = cluster_of(shards, &[A, B]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 6, &[]);
        fill(&mut cluster, client, 6, "x");
        let there = partitions_in(&mut cluster, client, B);
        for _ in 0..12 {
            fail_a_sync(&mut cluster, client, there[0]);
            cluster.advance_ms(5_000);
        }
        assert_eq!(errors_of(&cluster, 1), (12, None));
        fill(&mut cluster, client, 6, "y");
        (0..6).for_each(|partition| assert_holds(&mut cluster, client, partition, 2));
    }
}

#[test]
fn a_moment_in_which_all_partitions_fail_does_not_fail_their_directory() {
    for shards in SHARDS {
        let mut cluster = cluster_of(shards, &[A, B]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 6, &[]);
        fill(&mut cluster, client, 6, "x");
        for partition in partitions_in(&mut cluster, client, B) {
            fail_a_sync(&mut cluster, client, partition);
        }
        cluster.advance_ms(20_000);
        assert_eq!(errors_of(&cluster, 1), (3, None));
        fill(&mut cluster, client, 6, "y");
        (0..6).for_each(|partition| assert_holds(&mut cluster, client, partition, 2));
    }
}

#[test]
fn errors_of_several_partitions_that_go_on_fail_their_directory_and_no_other() {
    for shards in SHARDS {
        let mut cluster = cluster_of(shards, &[A, B]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 6, &[]);
        fill(&mut cluster, client, 6, "x");
        let (lost, kept) = (
            partitions_in(&mut cluster, client, B),
            partitions_in(&mut cluster, client, A),
        );
        for partition in &lost {
            assert_eq!(errors_of(&cluster, 1).1, None);
            fail_a_sync(&mut cluster, client, *partition);
            cluster.advance_ms(6_000);
        }
        let (errors, failure) = errors_of(&cluster, 1);
        let failure = failure.expect("it failed");
        assert_eq!(errors, 3);
        assert!(
            failure.contains("3 partitions") && failure.contains("os error 5"),
            "{failure}"
        );
        for partition in &lost {
            let answer = cluster.produce(client, "t", *partition, batch(&["z"]));
            assert_eq!(answer.error, ErrorCode::KafkaStorageError);
            let text = answer.error_message.expect("a message");
            assert!(text.contains("directory has failed"), "{text}");
        }
        for partition in &kept {
            cluster.put(client, "t", *partition, batch(&["more"]));
            assert_holds(&mut cluster, client, *partition, 1);
        }
        assert_eq!(errors_of(&cluster, 0), (0, None));
        assert_eq!(
            told(&mut cluster, client)[B],
            (ErrorCode::KafkaStorageError.code(), Vec::new())
        );
        cluster.power_cut();
        let client = cluster.connect(0);
        (0..6).for_each(|partition| assert_holds(&mut cluster, client, partition, 1));
        fill(&mut cluster, client, 6, "again");
    }
}

#[test]
fn a_file_system_that_became_read_only_fails_its_directory_at_once() {
    for shards in SHARDS {
        let mut cluster = cluster_of(shards, &[A, B]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 6, &[]);
        fill(&mut cluster, client, 6, "x");
        let (lost, kept) = (
            partitions_in(&mut cluster, client, B),
            partitions_in(&mut cluster, client, A),
        );
        {
            let mut device = cluster.device.borrow_mut();
            (device.broken, device.errno) = (Some(B), EROFS);
        }
        let failed = cluster.produce(client, "t", lost[0], batch(&["z"]));
        assert_eq!(failed.error, ErrorCode::KafkaStorageError);
        let (errors, failure) = errors_of(&cluster, 1);
        assert_eq!(errors, 1);
        assert!(failure.is_some_and(|text| text.contains("os error 30")));
        // Those that were not written to are told as well.
        cluster.advance_ms(1_000);
        for partition in &lost {
            let answer = cluster.get(client, "t", *partition, 0);
            assert_eq!(answer.partition.error, ErrorCode::KafkaStorageError);
        }
        for partition in &kept {
            cluster.put(client, "t", *partition, batch(&["more"]));
        }
        cluster.device.borrow_mut().broken = None;
        cluster.restart();
        let client = cluster.connect(0);
        (0..6).for_each(|partition| assert_holds(&mut cluster, client, partition, 1));
    }
}

#[test]
fn partitions_that_cannot_be_opened_again_fail_their_directory() {
    for shards in SHARDS {
        let mut cluster = cluster_of(shards, &[A, B]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 6, &[]);
        fill(&mut cluster, client, 6, "x");
        let lost = partitions_in(&mut cluster, client, B);
        // Its checkpoints still can be written: what fails is the partitions.
        cluster.device.borrow_mut().broken = Some("/sim/b/partitions");
        for partition in &lost[..2] {
            cluster.produce(client, "t", *partition, batch(&["z"]));
        }
        cluster.advance_ms(60_000);
        assert_eq!(errors_of(&cluster, 1).1, None, "two of them");
        cluster.produce(client, "t", lost[2], batch(&["z"]));
        cluster.advance_ms(1_100);
        let failure = errors_of(&cluster, 1).1.expect("three of them");
        assert!(failure.contains("3 partitions"), "{failure}");
        cluster.device.borrow_mut().broken = None;
        cluster.power_cut();
        let client = cluster.connect(0);
        (0..6).for_each(|partition| assert_holds(&mut cluster, client, partition, 1));
    }
}

/// Runs itself again as a child, whose only data directory fails.
#[test]
fn the_directory_of_the_metadata_log_ends_the_process_when_it_fails() {
    const ROLE: &str = "TIDELOG_TEST_HOME_FAILS";
    if std::env::var_os(ROLE).is_some() {
        let mut cluster = cluster_of(1, &[A]);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            eprintln!("partition {partition}");
            fail_a_sync(&mut cluster, client, partition);
            cluster.advance_ms(6_000);
        }
        std::process::exit(0);
    }
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "shard::tests::directories::the_directory_of_the_metadata_log_ends_the_process_when_it_fails",
            "--nocapture",
        ])
        .env(ROLE, "yes")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(76), "{said}");
    assert!(said.contains("partition 2"), "not before the third: {said}");
    assert!(said.contains("reason=data_dir") && said.contains(A), "{said}");
}
