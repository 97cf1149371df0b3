//! `topic trim`: what was in front is gone for good, what follows is untouched, and the command says so.

mod common;

use common::{Broker, Ended};
use serde_json::{Value, json};

fn jsonl(ended: &Ended) -> Vec<Value> {
    let parse = |line: &&str| serde_json::from_str(line).expect("json");
    ended.lines().iter().map(parse).collect()
}

fn consume(broker: &Broker, topic: &str) -> Vec<String> {
    let read = broker
        .run(&["consume", topic, "-e", "-f", "%p %o %s\\n"], b"")
        .ok();
    let mut lines: Vec<String> = read.lines().iter().map(|line| (*line).to_owned()).collect();
    lines.sort();
    lines
}

#[test]
fn trimmed_records_stay_away_after_kill9() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["topic", "create", "t", "-p", "2"], b"").ok();
    for partition in ["0", "1"] {
        broker
            .run(&["produce", "t", "-p", partition], b"a\nb\nc\nd\n")
            .ok();
    }
    let trimmed = broker
        .run(
            &[
                "topic", "trim", "t", "--before", "3", "-p", "1", "--output", "jsonl",
            ],
            b"",
        )
        .ok();
    let row = json!({"partition": 1, "start_offset": 3, "status": "trimmed", "error": null});
    assert_eq!(jsonl(&trimmed), [row]);
    let again = broker
        .run(&["topic", "trim", "t", "--before", "2", "--output", "jsonl"], b"")
        .ok();
    let rows = [
        json!({"partition": 0, "start_offset": 2, "status": "trimmed", "error": null}),
        json!({"partition": 1, "start_offset": 3, "status": "unchanged", "error": null}),
    ];
    assert_eq!(jsonl(&again), rows);
    let left = ["0 2 c", "0 3 d", "1 3 d"];
    assert_eq!(consume(&broker, "t"), left);
    broker.kill9();
    let broker = Broker::start(data.path());
    assert_eq!(consume(&broker, "t"), left);
    let all = broker.run(&["topic", "trim", "t", "--before", "end"], b"").ok();
    let lines = all.lines();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["PARTITION", "START", "OFFSET", "STATUS", "ERROR"]
    );
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["0", "4", "trimmed", "-"]
    );
    assert_eq!(consume(&broker, "t"), [""; 0]);
    broker.run(&["produce", "t", "-p", "0"], b"e\n").ok();
    assert_eq!(consume(&broker, "t"), ["0 4 e"]);
}

#[test]
fn a_time_keeps_what_is_not_older() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["topic", "create", "t"], b"").ok();
    broker.run(&["produce", "t"], b"a\nb\n").ok();
    let none = broker
        .run(
            &["topic", "trim", "t", "--before", "@-1h", "--output", "json"],
            b"",
        )
        .ok();
    let none: Value = serde_json::from_slice(&none.stdout).expect("json");
    assert_eq!(none[0]["start_offset"], 0, "nothing is that old");
    assert_eq!(none[0]["status"], "unchanged");
    // Every record is older.
    let all = broker
        .run(
            &[
                "topic",
                "trim",
                "t",
                "--before",
                "@2100-01-01T00:00:00Z",
                "--output",
                "json",
            ],
            b"",
        )
        .ok();
    let all: Value = serde_json::from_slice(&all.stdout).expect("json");
    assert_eq!(all[0]["start_offset"], 2);
}

#[test]
fn what_cannot_be_trimmed_is_named() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["topic", "create", "t", "-p", "2"], b"").ok();
    broker.run(&["produce", "t", "-p", "0"], b"a\nb\nc\n").ok();
    broker.run(&["produce", "t", "-p", "1"], b"a\n").ok();
    let compact = ["topic", "create", "c", "-c", "cleanup.policy=compact"];
    broker.run(&compact, b"").ok();
    // One partition reaches so far, the other does not.
    let partly = broker.run(&["topic", "trim", "t", "--before", "2", "--output", "jsonl"], b"");
    assert_eq!(partly.code, Some(5), "{}", partly.stderr);
    let rows = jsonl(&partly);
    assert_eq!(
        (&rows[0]["start_offset"], &rows[0]["status"]),
        (&json!(2), &json!("trimmed"))
    );
    assert_eq!(
        (&rows[1]["start_offset"], &rows[1]["status"]),
        (&Value::Null, &json!("failed"))
    );
    assert!(
        rows[1]["error"]
            .as_str()
            .expect("text")
            .contains("OFFSET_OUT_OF_RANGE")
    );
    for words in ["t-1", "0 up to 1"] {
        assert!(partly.stderr.contains(words), "{}", partly.stderr);
    }
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["t", "--before", "9"], 1, &["t-0", "t-1", "OFFSET_OUT_OF_RANGE"]),
        (
            &["c", "--before", "end"],
            1,
            &["POLICY_VIOLATION", "cleanup.policy=compact,delete"],
        ),
        (&["nope", "--before", "1"], 1, &["topic nope", "topic list"]),
        (
            &["t", "--before", "1", "-p", "7"],
            1,
            &["no partition 7", "0 to 1"],
        ),
        (&["t", "--before", "-1"], 2, &["is not N, end or @TIME"]),
        (&["t"], 2, &["--before"]),
        (
            &["t", "--before", "1", "-b", "127.0.0.1:1"],
            4,
            &["cannot reach a broker at 127.0.0.1:1"],
        ),
    ];
    for (arguments, code, words) in cases {
        let ended = broker.run(&[&["topic", "trim"], *arguments].concat(), b"");
        assert_eq!(ended.code, Some(*code), "{arguments:?}: {}", ended.stderr);
        for word in *words {
            assert!(ended.stderr.contains(word), "no `{word}` in: {}", ended.stderr);
        }
    }
}
