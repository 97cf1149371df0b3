//! Topics and their configuration: made, changed, deleted, and the same after a restart.

mod common;

use common::Broker;
use serde_json::Value;

fn json(broker: &Broker, arguments: &[&str]) -> Value {
    let all = [arguments, &["--output", "json"]].concat();
    serde_json::from_slice(&broker.run(&all, b"").ok().stdout).expect("json")
}

fn names(broker: &Broker) -> Vec<String> {
    let topics = json(broker, &["topic", "list"]);
    let rows = topics.as_array().expect("an array");
    rows.iter()
        .map(|t| t["name"].as_str().expect("text").to_owned())
        .collect()
}

#[test]
fn topics_are_the_same_after_kill9() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    let create = ["topic", "create", "a", "b", "-p", "2", "-c", "retention.ms=1000"];
    broker.run(&create, b"").ok();
    broker
        .run(&["topic", "alter", "a", "-c", "max.message.bytes=2000000"], b"")
        .ok();
    broker
        .run(&["topic", "alter", "a", "--unset", "retention.ms"], b"")
        .ok();
    broker.run(&["topic", "add-partitions", "a", "-p", "5"], b"").ok();
    broker.run(&["topic", "delete", "b", "--yes"], b"").ok();
    let before = json(&broker, &["topic", "describe", "a"]);
    assert_eq!(before["partitions"].as_array().map(Vec::len), Some(5));
    assert_eq!(before["configs"][0]["config"], "max.message.bytes");
    assert_eq!(before["configs"].as_array().map(Vec::len), Some(1), "{before}");
    broker.kill9();
    let broker = Broker::start(data.path());
    assert_eq!(names(&broker), ["a"]);
    let after = json(&broker, &["topic", "describe", "a"]);
    for kept in ["name", "topic_id", "configs"] {
        assert_eq!(after[kept], before[kept], "{kept}");
    }
    let epochs = |topic: &Value| -> Vec<i64> {
        let partitions = topic["partitions"].as_array().expect("an array");
        partitions
            .iter()
            .map(|p| p["leader_epoch"].as_i64().expect("a number"))
            .collect()
    };
    let (earlier, later) = (epochs(&before), epochs(&after));
    assert_eq!(later.len(), 5);
    assert!(
        earlier.iter().zip(&later).all(|(before, after)| after > before),
        "each open is an epoch of its own: {earlier:?}, {later:?}"
    );
}

#[test]
fn a_topic_made_again_is_empty() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["produce", "t"], b"old\n").ok();
    broker.run(&["topic", "delete", "t", "--yes"], b"").ok();
    broker.run(&["topic", "create", "t"], b"").ok();
    assert_eq!(broker.run(&["consume", "t", "-e"], b"").ok().stdout, b"");
    broker.run(&["produce", "t"], b"new\n").ok();
    let read = broker.run(&["consume", "t", "-e", "-f", "%o %s\\n"], b"").ok();
    assert_eq!(read.lines(), ["0 new"]);
}

#[test]
fn checking_only_changes_nothing() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker
        .run(&["topic", "create", "never", "--validate-only"], b"")
        .ok();
    assert_eq!(names(&broker), [""; 0]);
    broker.run(&["topic", "create", "t"], b"").ok();
    broker
        .run(
            &["topic", "add-partitions", "t", "-p", "9", "--validate-only"],
            b"",
        )
        .ok();
    let topic = json(&broker, &["topic", "describe", "t"]);
    assert_eq!(topic["partitions"].as_array().map(Vec::len), Some(1));
    let cluster = json(&broker, &["cluster", "info"]);
    assert_eq!(cluster["topics"], 1);
    assert_eq!(cluster["brokers"][0]["address"], broker.address.as_str());
}
