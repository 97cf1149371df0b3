//! What was produced is consumed: bytes, keys, headers, order, offsets, by every codec.

mod common;

use common::{Broker, run};
use serde_json::Value;

#[test]
fn bytes_of_any_kind_come_back_equal_in_every_codec() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    // Every byte but the newline that ends a record, empty lines too.
    let mut input: Vec<u8> = (0..=255).filter(|b| *b != b'\n').collect();
    input.extend_from_slice(b"\n\nlast\n");
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("bytes-{codec}");
        broker.run(&["produce", &topic, "-z", codec], &input).ok();
        let read = broker.run(&["consume", &topic, "-e"], b"").ok();
        assert!(read.stdout == input, "{codec}: {:?}", read.stdout);
    }
    let file = data.path().join("input");
    std::fs::write(&file, &input).expect("write");
    let file = file.to_str().expect("plain");
    broker.run(&["produce", "from-file", "--file", file], b"").ok();
    assert_eq!(
        broker.run(&["consume", "from-file", "-e"], b"").ok().stdout,
        input
    );
}

#[test]
fn keys_headers_and_tombstones_are_kept() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    let headers = ["-H", "a=1", "-H", "a=2", "-H", "b="];
    let arguments = [&["produce", "t", "-K", ":"], &headers[..]].concat();
    broker.run(&arguments, b"k:v\nno key\n:empty key\n").ok();
    broker.run(&["produce", "t", "-k", "k", "--tombstone"], b"").ok();
    let read = broker
        .run(&["consume", "t", "-e", "-f", "%o|%k|%K|%s|%S|%h\\n"], b"")
        .ok();
    assert_eq!(
        read.lines(),
        [
            "0|k|1|v|1|a=1,a=2,b=",
            "1||-1|no key|6|a=1,a=2,b=",
            "2||0|empty key|9|a=1,a=2,b=",
            "3|k|1||-1|",
        ]
    );
    let read = broker
        .run(&["consume", "t", "-e", "--output", "json", "-o", "-1"], b"")
        .ok();
    let records: Value = serde_json::from_slice(&read.stdout).expect("json");
    assert_eq!(records[0]["key"], "k");
    assert_eq!(records[0]["value"], Value::Null);
}

#[test]
fn reading_begins_and_ends_where_it_was_told() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["topic", "create", "t", "-p", "3"], b"").ok();
    for partition in ["0", "1", "2"] {
        let lines: String = (0..10).map(|n| format!("{partition}-{n}\n")).collect();
        broker
            .run(&["produce", "t", "-p", partition], lines.as_bytes())
            .ok();
    }
    let read = |arguments: &[&str]| {
        let all = [&["consume", "t"], arguments].concat();
        let ended = broker.run(&all, b"").ok();
        let mut lines: Vec<String> = ended.lines().iter().map(|l| (*l).to_owned()).collect();
        lines.sort();
        lines
    };
    assert_eq!(read(&["-e"]).len(), 30, "-e alone reads what is there");
    assert_eq!(read(&["-e", "-o", "start", "-p", "0,2"]).len(), 20);
    assert_eq!(read(&["-e", "-p", "1", "-o", "8"]), ["1-8", "1-9"]);
    assert_eq!(read(&["-e", "-p", "1,1", "-o", "-1"]), ["1-9"]);
    assert_eq!(read(&["-e", "-o", "-1"]), ["0-9", "1-9", "2-9"]);
    assert_eq!(read(&["-p", "2", "-o", "start", "-n", "2"]), ["2-0", "2-1"]);
    assert_eq!(read(&["-e", "-o", "end"]), [""; 0]);
    assert_eq!(read(&["-e", "-o", "@-1h"]).len(), 30);
    assert_eq!(read(&["-e", "-o", "@2999-01-01T00:00:00Z"]), [""; 0]);
}

#[test]
fn a_waiting_consumer_gets_what_comes_and_ends_when_its_reader_left() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["topic", "create", "t"], b"").ok();
    // `sh` so that stdout is a pipe whose reader leaves after the first line.
    let mut shell = std::process::Command::new("sh");
    shell
        .args([
            "-c",
            "\"$0\" consume t -o start | head -n 1",
            env!("CARGO_BIN_EXE_tidelog"),
        ])
        .env("TIDELOG_BOOTSTRAP", &broker.address);
    let reader = std::thread::spawn(move || run(shell, b""));
    broker.run(&["produce", "t"], b"first\n").ok();
    let read = reader.join().expect("the reader").ok();
    assert_eq!((read.lines(), read.stderr.as_str()), (vec!["first"], ""));
}

#[test]
fn a_million_bytes_in_one_batch_and_many_batches_keep_their_order() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    let input: String = (0..60_000).map(|n| format!("record number {n:050}\n")).collect();
    for batch_bytes in ["batch.size=1000000", "batch.size=20000"] {
        let topic = batch_bytes.replace('=', "-");
        let said = broker
            .run(&["produce", &topic, "-X", batch_bytes], input.as_bytes())
            .ok()
            .stderr;
        assert!(said.contains("60000 records to"), "{said}");
        let read = broker.run(&["consume", &topic, "-e"], b"").ok();
        assert!(read.stdout == input.as_bytes(), "{topic}");
    }
}
