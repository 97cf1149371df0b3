//! A shard that gets no turns: what the others answer for it, and that all recovers when it comes back.

use tidelog_net::messages as kp;
use tidelog_net::{ErrorCode, ResponseBody};

use super::harness::{Client, Cluster};
use super::requests::*;
use crate::shard::ShardRequest;

const SHARDS: usize = 3;
const STALLED: usize = 1;
const SILENT_MS: u64 = 5_000;
/// Ticks, and the wait of a fetch, on top of the setting.
const BOUND_MS: u64 = SILENT_MS + 1_000;
/// Enough that each shard owns some.
const PARTITIONS: i32 = 6;

/// A cluster with a topic; a partition of the shard that is going to stall, and one of another shard.
fn cluster() -> (Cluster, Client, i32, i32) {
    let mut cluster = Cluster::new(SHARDS);
    let client = cluster.connect(0);
    cluster.create(client, "t", PARTITIONS, &[]);
    let theirs = (0..PARTITIONS).find(|p| cluster.owner("t", *p) == STALLED);
    let others = (0..PARTITIONS).find(|p| cluster.owner("t", *p) == 2);
    cluster.advance_ms(100);
    (
        cluster,
        client,
        theirs.expect("owns some"),
        others.expect("owns some"),
    )
}

fn metadata_is_answered(cluster: &mut Cluster, client: Client) {
    let body = cluster.ask(client, 12, metadata_request(&["t"], false));
    let ResponseBody::Metadata(body) = body else {
        panic!("not a metadata answer: {body:?}")
    };
    assert_eq!(body.topics[0].partitions.len(), PARTITIONS as usize);
}

fn list_error(body: &ResponseBody) -> i16 {
    match body {
        ResponseBody::ListOffsets(body) => body.topics[0].partitions[0].error_code,
        other => panic!("not an answer to ListOffsets: {other:?}"),
    }
}

#[test]
fn what_waits_for_a_silent_shard_is_answered_and_late_answers_are_dropped() {
    let (mut cluster, client, theirs, others) = cluster();
    let clients: Vec<Client> = (0..4).map(|_| cluster.connect(0)).collect();
    // Parked before the shard stalls.
    cluster.send(clients[0], 12, fetch_request(&[("t", theirs, 0)], 60_000, 1));
    cluster.run();
    cluster.stalled = Some(STALLED);
    let both = [(theirs, batch(&["a"])), (others, batch(&["b"]))];
    cluster.send(clients[1], 9, produce_request("t", -1, &both));
    cluster.send(clients[2], 7, list_request("t", theirs, -1));
    cluster.send(
        clients[3],
        12,
        fetch_request(&[("t", theirs, 0), ("t", others, 1)], 500, 1),
    );
    cluster.advance_ms(SILENT_MS - 1_000);
    for waiting in &clients {
        assert!(
            cluster.received(*waiting).is_none(),
            "not silent for long enough yet"
        );
    }
    cluster.advance_ms(BOUND_MS - SILENT_MS + 1_000);
    let errors = |body| {
        partitions(body)
            .iter()
            .map(|p| p.partition.error)
            .collect::<Vec<_>>()
    };
    let (_, body) = cluster.received(clients[0]).expect("the parked fetch");
    assert_eq!(errors(body), [ErrorCode::NotLeaderOrFollower]);
    let (_, body) = cluster.received(clients[1]).expect("the produce");
    let mut codes: Vec<_> = produced(body).iter().map(|p| (p.index, p.error)).collect();
    codes.sort_by_key(|(index, _)| *index != theirs);
    assert_eq!(
        codes,
        [(theirs, ErrorCode::RequestTimedOut), (others, ErrorCode::None)]
    );
    let (_, body) = cluster.received(clients[2]).expect("the list");
    assert_eq!(list_error(&body), ErrorCode::RequestTimedOut.code());
    let (_, body) = cluster.received(clients[3]).expect("the fetch of both");
    assert_eq!(errors(body), [ErrorCode::NotLeaderOrFollower, ErrorCode::None]);
    assert_eq!(cluster.put(client, "t", others, batch(&["c"])), 1, "others go on");
    metadata_is_answered(&mut cluster, client);
    cluster.advance_ms(30_000 - BOUND_MS);

    cluster.stalled = None;
    cluster.advance_ms(1_000);
    assert!(
        clients.iter().all(|client| cluster.received(*client).is_none()),
        "nothing twice"
    );
    // The produce was in the ring: it was carried out late, and its answer dropped.
    assert_eq!(cluster.put(client, "t", theirs, batch(&["d"])), 1);
    let refused = cluster.shard(0).metrics().silence_refusals.get();
    assert!(refused >= 4, "{refused}");
}

#[test]
fn requests_that_come_while_a_shard_is_silent_are_refused_and_paced() {
    let (mut cluster, client, theirs, others) = cluster();
    cluster.stalled = Some(STALLED);
    cluster.advance_ms(BOUND_MS);
    for _ in 0..3_000 {
        let body = cluster.ask(client, 9, produce_request("t", 1, &[(theirs, batch(&["x"]))]));
        assert_eq!(produced(body)[0].error, ErrorCode::RequestTimedOut);
    }
    let body = cluster.ask(client, 7, list_request("t", theirs, 0));
    assert_eq!(list_error(&body), ErrorCode::RequestTimedOut.code());
    // A fetch that may wait is not answered at once, so that its client does not ask in a loop.
    cluster.send(client, 12, fetch_request(&[("t", theirs, 0)], 60_000, 1));
    cluster.run();
    assert!(cluster.received(client).is_none());
    cluster.advance_ms(600);
    let (_, body) = cluster.received(client).expect("answered");
    assert_eq!(
        partitions(body)[0].partition.error,
        ErrorCode::NotLeaderOrFollower
    );
    // Records of others are not held back.
    let reader = cluster.connect(2);
    cluster.send(
        reader,
        12,
        fetch_request(&[("t", theirs, 0), ("t", others, 0)], 60_000, 1),
    );
    cluster.run();
    cluster.put(client, "t", others, batch(&["a"]));
    let (_, body) = cluster.received(reader).expect("woken");
    let mut read: Vec<_> = partitions(body);
    read.sort_by_key(|p| p.partition.index != theirs);
    assert_eq!(read[0].partition.error, ErrorCode::NotLeaderOrFollower);
    assert_eq!(values(&read[1]), [(0, "a".to_owned())]);

    cluster.stalled = None;
    cluster.advance_ms(1_000);
    assert_eq!(
        cluster.put(client, "t", theirs, batch(&["b"])),
        0,
        "none of the refused was written"
    );
}

#[test]
fn what_is_kept_for_a_silent_shard_does_not_grow() {
    let (mut cluster, client, theirs, _) = cluster();
    cluster.stalled = Some(STALLED);
    cluster.advance_ms(BOUND_MS);
    let before = cluster.shard(0).backlog[STALLED].len();
    for round in 0..20 {
        cluster.send(client, 12, fetch_request(&[("t", theirs, 0)], 60_000, 1));
        cluster.advance_ms(600);
        let (_, body) = cluster.received(client).expect("answered");
        assert_eq!(
            partitions(body)[0].partition.error,
            ErrorCode::NotLeaderOrFollower
        );
        cluster.create(client, &format!("new-{round}"), 1, &[]);
    }
    // The newest image, and which of the new topics others have opened.
    let kept = &cluster.shard(0).backlog[STALLED];
    let opened = kept.iter().filter(|kept| matches!(kept, ShardRequest::Opened(_)));
    assert!(opened.count() <= 20);
    let others = kept
        .iter()
        .filter(|kept| !matches!(kept, ShardRequest::Opened(_)));
    assert_eq!(others.count(), before + 1, "{kept:?}");
    cluster.stalled = None;
    cluster.advance_ms(1_000);
    for round in 0..20 {
        assert_eq!(cluster.put(client, &format!("new-{round}"), 0, batch(&["a"])), 0);
    }
}

#[test]
fn topics_are_made_while_a_shard_is_silent() {
    let (mut cluster, client, ..) = cluster();
    cluster.stalled = Some(STALLED);
    let sent = cluster.send(client, 7, create_request("early", PARTITIONS, &[]));
    cluster.advance_ms(BOUND_MS);
    let (answered, _) = cluster
        .received(client)
        .expect("no longer waits for the silent shard");
    assert_eq!(answered, sent);
    cluster.create(client, "late", PARTITIONS, &[]);
    let late = (0..PARTITIONS)
        .find(|p| cluster.owner("late", *p) == 2)
        .expect("owns some");
    assert_eq!(cluster.put(client, "late", late, batch(&["a"])), 0);
    cluster.stalled = None;
    cluster.advance_ms(1_000);
    for topic in ["early", "late"] {
        let theirs = (0..PARTITIONS).find(|p| cluster.owner(topic, *p) == STALLED);
        assert_eq!(
            cluster.put(client, topic, theirs.expect("owns some"), batch(&["a"])),
            0
        );
    }
}

#[test]
fn shards_that_all_stood_still_blame_nobody() {
    let (mut cluster, client, theirs, _) = cluster();
    cluster.pass_ms(60_000);
    assert_eq!(cluster.put(client, "t", theirs, batch(&["a"])), 0);
    cluster.advance_ms(1_000);
    assert_eq!(cluster.shard(0).metrics().silence_refusals.get(), 0);
}

#[test]
fn nothing_waits_for_ever_for_the_shard_that_keeps_the_metadata() {
    let (mut cluster, _, _, others) = cluster();
    let client = cluster.connect(2);
    cluster.stalled = Some(0);
    let created = |body| match body {
        ResponseBody::CreateTopics(body) => (body.topics[0].name.to_string(), body.topics[0].error_code),
        other => panic!("not a create answer: {other:?}"),
    };
    let timed_out = ErrorCode::RequestTimedOut.code();
    cluster.send(client, 7, create_request("waits", 1, &[]));
    cluster.advance_ms(BOUND_MS);
    let (_, body) = cluster.received(client).expect("refused");
    assert_eq!(created(body), ("waits".to_owned(), timed_out));
    let body = cluster.ask(client, 7, create_request("comes", 1, &[]));
    assert_eq!(created(body), ("comes".to_owned(), timed_out));
    let body = cluster.ask(
        client,
        4,
        kp::InitProducerIdRequest::default().with_transactional_id(None),
    );
    let ResponseBody::InitProducerId(body) = body else {
        panic!("not an answer to InitProducerId: {body:?}")
    };
    assert_eq!(body.error_code, ErrorCode::CoordinatorLoadInProgress.code());
    metadata_is_answered(&mut cluster, client);
    let body = cluster.ask(client, 12, metadata_request(&["new"], true));
    assert!(matches!(body, ResponseBody::Metadata(body) if body.topics[0].error_code != 0));
    assert_eq!(cluster.put(client, "t", others, batch(&["a"])), 0);
    cluster.stalled = None;
    cluster.advance_ms(1_000);
    assert!(cluster.received(client).is_none(), "nothing twice");
    let exists = ErrorCode::TopicAlreadyExists.code();
    let body = cluster.ask(client, 7, create_request("waits", 1, &[]));
    assert_eq!(created(body).1, exists, "what was in the ring was done late");
    cluster.create(client, "comes", 1, &[]);
}
