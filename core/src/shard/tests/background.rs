//! Background work: what is done for all partitions is cut into steps, between which requests are served.

use tidelog_net::{ErrorCode, ResponseBody};

use super::super::partitions::DirectoryId;
use super::super::turn::TICK_MS;
use super::harness::Cluster;
use super::requests::*;
use crate::reactor::Progress;

const MANY: i32 = 10_000;

/// Steps of `items` until all is done; how many.
fn steps_to_the_end(cluster: &mut Cluster, items: u32) -> u32 {
    for step in 0..2 * MANY as u32 {
        if !cluster.shard(0).has_background() {
            return step;
        }
        cluster.step(0, items);
    }
    panic!("the work does not come to an end");
}

#[test]
fn a_tick_over_ten_thousand_partitions_is_cut_into_steps() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "many", MANY, &[]);
    assert_eq!(cluster.shard(0).partitions.segments(), 0, "none was counted yet");
    cluster.steps_held = true;
    cluster.pass_ms(TICK_MS);
    cluster.run();
    assert!(cluster.shard(0).has_background(), "the tick's round waits");
    let items = 100;
    for _ in 0..MANY as u32 / items / 2 {
        cluster.step(0, items);
    }
    assert_eq!(
        cluster.put(client, "many", MANY - 1, batch(&["x"])),
        0,
        "requests are served in the middle of it"
    );
    assert_eq!(cluster.shard(0).partitions.segments(), 0, "it is not done");
    let rest = steps_to_the_end(&mut cluster, items);
    assert!(rest >= MANY as u32 / items / 2, "{rest}");
    assert_eq!(cluster.shard(0).partitions.segments(), MANY as usize);
}

#[test]
fn a_checkpoint_of_many_partitions_is_cut_into_steps() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "many", 1_000, &[]);
    cluster.steps_held = true;
    cluster.shard(0).partitions.want_checkpoint(DirectoryId::HOME);
    cluster.turn(0);
    let gathered = steps_to_the_end(&mut cluster, 10);
    assert!(
        gathered > 100,
        "{gathered} steps for 1,000 partitions, ten at a time"
    );
    cluster.run();
    assert!(
        cluster.shard(0).has_background(),
        "terms are confirmed in steps too"
    );
    let confirmed = steps_to_the_end(&mut cluster, 10);
    assert!(confirmed > 100, "{confirmed}");
    cluster.run();
    assert!(!cluster.shard(0).has_background());
}

/// The partitions that are not open yet answer a retriable error, the others serve.
#[test]
fn an_image_of_many_partitions_is_applied_in_steps() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "before", 1, &[]);
    cluster.steps_held = true;
    let creator = cluster.connect(0);
    cluster.send(creator, 7, create_request("many", 200, &[]));
    cluster.run();
    for _ in 0..100 {
        assert_eq!(cluster.step(0, 10), Progress::Pending, "one opening a step");
        cluster.run();
    }
    assert_eq!(cluster.put(client, "before", 0, batch(&["x"])), 0);
    let early = cluster.produce(client, "many", 199, batch(&["x"]));
    assert_eq!(
        early.error,
        ErrorCode::NotLeaderOrFollower,
        "{:?}",
        early.error_message
    );
    assert!(
        cluster.received(creator).is_none(),
        "not answered before all is open"
    );
    cluster.steps_held = false;
    cluster.run();
    let (_, answer) = cluster.received(creator).expect("an answer");
    let ResponseBody::CreateTopics(answer) = answer else {
        panic!("not a create answer: {answer:?}")
    };
    assert_eq!(answer.topics[0].error_code, 0);
    assert_eq!(cluster.put(client, "many", 199, batch(&["x"])), 0, "used at once");
}

/// Two shards go on with one image while a third, which took no turns, has several before it.
#[test]
fn of_images_that_wait_only_the_newest_is_applied() {
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(0);
    cluster.stalled = Some(1);
    let sent = cluster.send(client, 7, create_request("gone", 9, &[]));
    // Longer than shard.silent_ms: nothing waits for the shard any more.
    cluster.advance_ms(7_000);
    assert_eq!(cluster.received(client).map(|(answered, _)| answered), Some(sent));
    cluster.create(client, "kept", 9, &[]);
    cluster.delete(client, "gone");
    cluster.create(client, "last", 9, &[]);
    cluster.stalled = None;
    cluster.advance_ms(1_000);
    for topic in ["kept", "last"] {
        for partition in 0..9 {
            assert_eq!(cluster.put(client, topic, partition, batch(&["x"])), 0, "{topic}");
        }
    }
    let owned: usize = (0..3).map(|shard| cluster.shard(shard).partitions.len()).sum();
    assert_eq!(owned, 18, "nothing is left of the topic that is gone");
    let epochs = &cluster.shard(1).leader_epochs;
    assert_eq!(epochs.len(), 18, "nor of its epochs");
}

/// An opening comes into the gathering: the checkpoint is begun anew, and names what was opened.
#[test]
fn a_checkpoint_is_gathered_anew_when_partitions_are_opened_meanwhile() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 50, &[]);
    cluster.steps_held = true;
    cluster.shard(0).partitions.want_checkpoint(DirectoryId::HOME);
    cluster.turn(0);
    assert_eq!(cluster.step(0, 10), Progress::Pending, "some are gathered");
    cluster.send(client, 7, create_request("u", 50, &[]));
    cluster.run();
    cluster.steps_held = false;
    cluster.run();
    assert!(cluster.received(client).is_some(), "created");
    let epoch_of = |cluster: &mut Cluster| {
        let body = cluster.metadata(client, &["u"], false);
        body.topics[0].partitions[49].leader_epoch
    };
    let epoch = epoch_of(&mut cluster);
    assert_eq!(cluster.put(client, "u", 49, batch(&["x"])), 0);
    cluster.restart();
    let client = cluster.connect(0);
    assert_eq!(cluster.get_all(client, "u", 49), [(0, "x".to_owned())]);
    let body = cluster.metadata(client, &["u"], false);
    assert_eq!(
        body.topics[0].partitions[49].leader_epoch, epoch,
        "the term was kept"
    );
}
