//! What tools ask of a cluster: answered as Kafka on one node does, whichever shard is asked.

use tidelog_net::messages as kp;
use tidelog_net::{RequestBody, ResponseBody};

use super::harness::{Client, Cluster};
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

#[test]
fn acls_are_not_served_and_every_item_says_so() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        for version in 1..=3 {
            let ResponseBody::DescribeAcls(body) =
                cluster.ask(client, version, kp::DescribeAclsRequest::default())
            else {
                panic!("not an answer")
            };
            assert_eq!((body.error_code, body.resources.len()), (54, 0));
            assert!(body.error_message.is_some_and(|text| text.contains("authorizer")));
            for count in [0, 1, 3] {
                let request =
                    kp::CreateAclsRequest::default().with_creations(vec![Default::default(); count]);
                let ResponseBody::CreateAcls(body) = cluster.ask(client, version, request) else {
                    panic!("not an answer")
                };
                let codes: Vec<i16> = body.results.iter().map(|one| one.error_code).collect();
                assert_eq!(codes, vec![54; count]);
                let request = kp::DeleteAclsRequest::default().with_filters(vec![Default::default(); count]);
                let ResponseBody::DeleteAcls(body) = cluster.ask(client, version, request) else {
                    panic!("not an answer")
                };
                let codes: Vec<i16> = body.filter_results.iter().map(|one| one.error_code).collect();
                assert_eq!(codes, vec![54; count]);
                assert!(body.filter_results.iter().all(|one| one.matching_acls.is_empty()));
            }
        }
    }
}

/// A request with so many items that its answer would not fit in a shard's memory.
fn assert_too_large(cluster: &mut Cluster, request: impl Into<RequestBody>, version: i16) {
    let client = cluster.connect(0);
    cluster.send(client, version, request);
    cluster.run();
    assert!(cluster.received_raw(client).is_none() && cluster.is_closed(client));
    assert_eq!(cluster.shard(0).fetch_budget.used_bytes(), 0);
}

/// A client that does not take its answers.
fn assert_is_charged(
    cluster: &mut Cluster,
    request: impl Into<RequestBody>,
    version: i16,
) -> (Client, usize) {
    let client = cluster.connect(0);
    cluster.stall(client, true);
    cluster.send(client, version, request);
    cluster.run();
    let queued = cluster.queued_bytes(client);
    assert!(queued > 64 << 10, "{queued}");
    assert_eq!(cluster.shard(0).fetch_budget.used_bytes(), queued);
    (client, queued)
}

#[test]
fn large_answers_are_charged_until_they_are_sent_and_refused_without_room() {
    let mut cluster = Cluster::with(1, &["memory.limit=64MiB"], Default::default());
    let acls = |count| {
        let creation = kp::create_acls_request::AclCreation::default()
            .with_resource_name(text("a name as long as they are"))
            .with_principal(text("User:somebody"));
        kp::CreateAclsRequest::default().with_creations(vec![creation; count])
    };
    let (client, _) = assert_is_charged(&mut cluster, acls(3_000), 3);
    cluster.stall(client, false);
    cluster.run();
    assert_eq!(cluster.shard(0).fetch_budget.used_bytes(), 0);
    assert!(cluster.received(client).is_some());
    assert_too_large(&mut cluster, acls(200_000), 3);
}
