//! Fetch sessions: what is told again and what is not, epochs, forgetting, rotation, room.

use tidelog_net::ErrorCode;
use tidelog_net::hot::{FetchRequest, FetchedResponse, ForgottenTopic};

use super::harness::{Client, Cluster};
use super::requests::*;
use crate::limits::{FETCH_SESSION_IDLE_MS, FETCH_SESSIONS_PER_SHARD_MAX};

const SHARDS: [usize; 2] = [1, 3];

fn in_session(id: i32, epoch: i32, wants: &[(&str, i32, i64)]) -> FetchRequest {
    FetchRequest {
        session_id: id,
        session_epoch: epoch,
        ..fetch_request(wants, 0, 1)
    }
}

/// The first incremental request of a session, which may wait.
fn waiting_in_session(id: i32, max_wait_ms: i32) -> FetchRequest {
    FetchRequest {
        max_wait_ms,
        ..in_session(id, 1, &[])
    }
}

fn ask(cluster: &mut Cluster, client: Client, request: FetchRequest) -> FetchedResponse {
    fetched(cluster.ask(client, 12, request))
}

fn named(answer: &FetchedResponse) -> Vec<i32> {
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|p| p.partition.index).collect()
}

#[test]
fn of_two_hundred_partitions_only_the_changed_ones_are_told() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        cluster.create(client, "t", 200, &[]);
        let wants: Vec<_> = (0..200).map(|partition| ("t", partition, 0)).collect();
        let full = ask(&mut cluster, client, in_session(0, 0, &wants));
        let id = full.session_id;
        assert!(id != 0 && named(&full).len() == 200);
        assert!(named(&ask(&mut cluster, client, in_session(id, 1, &[]))).is_empty());
        for partition in [7, 120, 199] {
            cluster.put(client, "t", partition, batch(&["a"]));
        }
        let some = ask(&mut cluster, client, in_session(id, 2, &[]));
        assert_eq!((named(&some), some.session_id), (vec![7, 120, 199], id));
        let parts = some.topics.iter().flat_map(|topic| &topic.partitions);
        assert!(parts.clone().all(|p| values(p) == [(0, "a".to_owned())]));
        // The client has read two of them and says so; the third comes again.
        let read = in_session(id, 3, &[("t", 7, 1), ("t", 120, 1)]);
        assert_eq!(named(&ask(&mut cluster, client, read)), [199]);
    }
}

#[test]
fn a_parked_incremental_fetch_is_woken_by_a_partition_it_does_not_name() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let (client, reader) = (cluster.connect(0), cluster.connect(shards - 1));
        cluster.create(client, "t", 3, &[]);
        let wants = [("t", 0, 0), ("t", 1, 0), ("t", 2, 0)];
        let id = ask(&mut cluster, reader, in_session(0, 0, &wants)).session_id;
        let waiting = waiting_in_session(id, 60_000);
        cluster.send(reader, 12, waiting);
        cluster.run();
        assert!(cluster.received(reader).is_none());
        cluster.put(client, "t", 2, batch(&["a"]));
        let (_, body) = cluster.received(reader).expect("woken");
        assert_eq!(named(&fetched(body)), [2]);
    }
}

#[test]
fn epochs_ids_and_topic_ids_must_fit() {
    let mut cluster = Cluster::new(3);
    let (client, elsewhere) = (cluster.connect(0), cluster.connect(1));
    let topic_id = cluster.create(client, "t", 1, &[]);
    let id = ask(&mut cluster, client, in_session(0, 0, &[("t", 0, 0)])).session_id;
    let error = |cluster: &mut Cluster, client, id, epoch| {
        let answer = ask(cluster, client, in_session(id, epoch, &[]));
        assert!(answer.topics.is_empty() || answer.error.is_ok());
        answer.error
    };
    assert_eq!(
        error(&mut cluster, client, id, 2),
        ErrorCode::InvalidFetchSessionEpoch
    );
    assert_eq!(
        error(&mut cluster, client, id, -2),
        ErrorCode::InvalidFetchSessionEpoch
    );
    assert_eq!(
        error(&mut cluster, client, 0, 1),
        ErrorCode::FetchSessionIdNotFound
    );
    assert_eq!(
        error(&mut cluster, elsewhere, id, 1),
        ErrorCode::FetchSessionIdNotFound,
        "another shard"
    );
    let by_id = fetched(cluster.ask(client, 13, in_session(id, 1, &[])));
    assert_eq!(by_id.error, ErrorCode::FetchSessionTopicIdError);
    assert_eq!(
        error(&mut cluster, client, id, 1),
        ErrorCode::None,
        "none of it moved the epoch"
    );
    assert_eq!(
        error(&mut cluster, client, id, 1),
        ErrorCode::InvalidFetchSessionEpoch,
        "again"
    );
    // A new session takes the place of the old one; the final epoch closes it.
    let next = ask(&mut cluster, client, in_session(id, 0, &[("t", 0, 0)])).session_id;
    assert!(next != id && next != 0);
    assert_eq!(
        error(&mut cluster, client, id, 2),
        ErrorCode::FetchSessionIdNotFound
    );
    let last = ask(&mut cluster, client, in_session(next, -1, &[("t", 0, 0)]));
    assert_eq!(
        (last.error, last.session_id, named(&last)),
        (ErrorCode::None, 0, vec![0])
    );
    assert_eq!(
        error(&mut cluster, client, next, 1),
        ErrorCode::FetchSessionIdNotFound
    );
    assert_eq!(cluster.shard(0).fetch_sessions.used_bytes(), 0);
    let mut request = in_session(0, 0, &[("", 0, 0)]);
    request.topics[0].topic_id = topic_id;
    let by_id = fetched(cluster.ask(client, 13, request));
    assert!(by_id.session_id != 0 && by_id.error.is_ok());
}

#[test]
fn a_lost_answer_is_found_out_and_two_at_once_do_not_mix() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[]);
    let id = ask(&mut cluster, client, in_session(0, 0, &[("t", 0, 0)])).session_id;
    let waiting = waiting_in_session(id, 60_000);
    cluster.send(client, 12, waiting);
    cluster.send(client, 12, in_session(id, 2, &[]));
    cluster.run();
    let writer = cluster.connect(0);
    cluster.put(writer, "t", 0, batch(&["a"]));
    let (_, first) = cluster.received(client).expect("woken");
    let (_, second) = cluster.received(client).expect("answered behind it");
    let first = fetched(first);
    assert_eq!(
        first.error,
        ErrorCode::InvalidFetchSessionEpoch,
        "overtaken by the second"
    );
    assert!(first.topics.is_empty() && fetched(second).error.is_ok());
}

#[test]
fn what_failed_is_named_until_it_works_and_once_more_then() {
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[]);
    let wants = [("t", 0, 0), ("u", 0, 0)];
    let full = ask(&mut cluster, client, in_session(0, 0, &wants));
    let id = full.session_id;
    assert_eq!(named(&full).len(), 2);
    for epoch in 1..4 {
        let answer = ask(&mut cluster, client, in_session(id, epoch, &[]));
        assert_eq!(&*answer.topics[0].name, "u");
        let failed = &answer.topics[0].partitions[0].partition;
        assert_eq!(failed.error, ErrorCode::UnknownTopicOrPartition, "never silently");
    }
    cluster.create(client, "u", 1, &[]);
    let answer = ask(&mut cluster, client, in_session(id, 4, &[]));
    let works = &answer.topics[0].partitions[0].partition;
    assert!(works.error.is_ok() && works.high_watermark == 0);
    assert!(named(&ask(&mut cluster, client, in_session(id, 5, &[]))).is_empty());
}

#[test]
fn forgotten_partitions_are_not_read_and_an_empty_session_ends() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 2, &[]);
    let wants = [("t", 0, 0), ("t", 1, 0)];
    let id = ask(&mut cluster, client, in_session(0, 0, &wants)).session_id;
    for partition in 0..2 {
        cluster.put(client, "t", partition, batch(&["a"]));
    }
    let forget = |epoch, partitions: &[i32]| FetchRequest {
        forgotten_topics: vec![ForgottenTopic {
            name: text("t"),
            partitions: partitions.to_vec(),
            ..Default::default()
        }],
        ..in_session(id, epoch, &[])
    };
    assert_eq!(named(&ask(&mut cluster, client, forget(1, &[0, 9]))), [1]);
    let last = ask(&mut cluster, client, forget(2, &[1]));
    assert_eq!((last.session_id, last.error), (0, ErrorCode::None));
    assert_eq!(cluster.shard(0).fetch_sessions.used_bytes(), 0);
}

#[test]
fn no_partition_of_a_session_starves() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 5, &[]);
    for partition in 0..5 {
        for _ in 0..2 {
            cluster.put(client, "t", partition, large(1000));
        }
    }
    let wants: Vec<_> = (0..5).map(|partition| ("t", partition, 0)).collect();
    let one_batch = |request: FetchRequest| FetchRequest {
        max_bytes: 1,
        ..request
    };
    let id = ask(&mut cluster, client, one_batch(in_session(0, 0, &wants))).session_id;
    let mut served: Vec<i32> = Vec::new();
    for epoch in 1..6 {
        // The client does not move on, so each of them has records at any time.
        let answer = ask(&mut cluster, client, one_batch(in_session(id, epoch, &[])));
        served.extend(named(&answer));
    }
    served.sort_unstable();
    assert_eq!(served, [0, 1, 2, 3, 4]);
}

#[test]
fn sessions_are_bounded_and_only_idle_ones_make_room() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[]);
    let open = |cluster: &mut Cluster| ask(cluster, client, in_session(0, 0, &[("t", 0, 0)])).session_id;
    let first = open(&mut cluster);
    for _ in 1..FETCH_SESSIONS_PER_SHARD_MAX {
        assert!(open(&mut cluster) != 0);
    }
    assert_eq!(open(&mut cluster), 0, "served without a session");
    cluster.advance_ms(FETCH_SESSION_IDLE_MS);
    assert!(ask(&mut cluster, client, in_session(first, 1, &[])).error.is_ok());
    assert!(open(&mut cluster) != 0);
    let still = ask(&mut cluster, client, in_session(first, 2, &[]));
    assert!(still.error.is_ok(), "one that is used stays");
    let metrics = cluster.shard(0).metrics();
    let counted = (
        metrics.fetch_sessions_refused.get(),
        metrics.fetch_sessions_evicted.get(),
    );
    assert_eq!(counted, (1, 1));
}

#[test]
fn the_memory_of_sessions_is_bounded() {
    let mut cluster = Cluster::with(1, &["memory.limit=64MiB"], Default::default());
    let client = cluster.connect(0);
    let name = "x".repeat(200);
    let wants: Vec<_> = (0..2_000)
        .map(|partition| (name.as_str(), partition, 0))
        .collect();
    let ids: Vec<i32> = (0..20)
        .map(|_| ask(&mut cluster, client, in_session(0, 0, &wants)).session_id)
        .collect();
    assert!(ids[0] != 0 && ids[19] == 0, "{ids:?}");
    let used = cluster.shard(0).fetch_sessions.used_bytes();
    assert!(used <= (64 << 20) / 20, "{used}");
    // One that grows beyond the room that is left is closed.
    let more: Vec<_> = (2_000..6_000)
        .map(|partition| (name.as_str(), partition, 0))
        .collect();
    let answer = ask(&mut cluster, client, in_session(ids[0], 1, &more));
    assert_eq!(answer.error, ErrorCode::FetchSessionIdNotFound);
    assert!(cluster.shard(0).fetch_sessions.used_bytes() < used);
}

#[test]
fn a_session_whose_fetch_waits_is_not_idle() {
    let mut cluster = Cluster::new(1);
    let (client, others) = (cluster.connect(0), cluster.connect(0));
    cluster.create(client, "t", 1, &[]);
    let id = ask(&mut cluster, client, in_session(0, 0, &[("t", 0, 0)])).session_id;
    let waiting = waiting_in_session(id, 2 * FETCH_SESSION_IDLE_MS as i32);
    cluster.send(client, 12, waiting);
    for _ in 1..FETCH_SESSIONS_PER_SHARD_MAX {
        assert!(ask(&mut cluster, others, in_session(0, 0, &[("t", 0, 0)])).session_id != 0);
    }
    cluster.advance_ms(FETCH_SESSION_IDLE_MS + 1_000);
    assert!(cluster.received(client).is_none(), "it still waits");
    // All others are idle for long enough, and the waiting one was used before them.
    for _ in 1..FETCH_SESSIONS_PER_SHARD_MAX {
        assert!(ask(&mut cluster, others, in_session(0, 0, &[("t", 0, 0)])).session_id != 0);
    }
    let one_more = ask(&mut cluster, others, in_session(0, 0, &[("t", 0, 0)]));
    assert_eq!(one_more.session_id, 0, "nobody else is idle");
    cluster.advance_ms(FETCH_SESSION_IDLE_MS);
    let (_, body) = cluster.received(client).expect("its deadline");
    assert!(fetched(body).error.is_ok());
    let next = ask(&mut cluster, client, in_session(id, 2, &[]));
    assert!(next.error.is_ok(), "idle only since its answer");
}

#[test]
fn a_client_that_went_away_leaves_an_idle_session() {
    let mut cluster = Cluster::new(1);
    let (client, others) = (cluster.connect(0), cluster.connect(0));
    cluster.create(client, "t", 1, &[]);
    let id = ask(&mut cluster, client, in_session(0, 0, &[("t", 0, 0)])).session_id;
    let waiting = waiting_in_session(id, 60_000);
    cluster.send(client, 12, waiting);
    cluster.run();
    cluster.close(client);
    for _ in 1..FETCH_SESSIONS_PER_SHARD_MAX {
        assert!(ask(&mut cluster, others, in_session(0, 0, &[("t", 0, 0)])).session_id != 0);
    }
    cluster.advance_ms(FETCH_SESSION_IDLE_MS);
    assert!(ask(&mut cluster, others, in_session(0, 0, &[("t", 0, 0)])).session_id != 0);
    assert_eq!(cluster.shard(0).metrics().fetch_sessions_evicted.get(), 1);
}
