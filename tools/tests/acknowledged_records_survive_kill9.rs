//! A record that was acknowledged is there after kill -9, at its offset, byte-equal, in order.

mod common;

use std::thread;
use std::time::Duration;

use common::{Broker, wait_until};
use tidelog_bench::client::{Acks, ClientConfig, Compression};
use tidelog_bench::history::{WriteOptions, check, write};

#[test]
fn every_acknowledged_record_is_there_after_kill9_under_load() {
    let directory = tempfile::tempdir().expect("directory");
    let data = directory.path().join("data");
    let history = directory.path().join("history");
    let mut broker = Broker::start(&data);
    let address = broker.address.clone();
    broker.run(&["topic", "create", "t", "-p", "3"], b"").ok();
    let config = ClientConfig {
        request_timeout: Duration::from_secs(5),
        ..ClientConfig::with_bootstrap(&address).expect("an address")
    };
    let options = WriteOptions {
        topic: "t".to_owned(),
        history: history.clone(),
        acks: Acks::All,
        count: Some(8_000),
        duration: None,
        batch_records: 10,
        filler_bytes: 500,
        compression: Compression::None,
    };
    let writer = thread::spawn({
        let config = config.clone();
        move || write(config, &options)
    });
    for kills in 1..=3 {
        wait_until("records are acknowledged", || {
            acked_lines(&history) >= kills * 800
        });
        assert!(
            !writer.is_finished(),
            "the broker is killed while it is written to"
        );
        broker.kill9();
        broker = Broker::start_at(&data, &address);
    }
    let report = writer.join().expect("the writer").expect("a history");
    assert!(report.failures > 0, "kill -9 was felt: {report:?}");
    assert!(report.acked >= 2_400, "{report:?}");
    let found = check(config, &history).expect("readable");
    assert_eq!(found.violations, [], "{found:?}");
    assert_eq!((found.acked, found.found), (report.acked, report.acked));
}

#[test]
fn records_of_the_command_line_are_there_after_kill9() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    let input: String = (0..1_000).map(|n| format!("line {n}\n")).collect();
    broker.run(&["produce", "t"], input.as_bytes()).ok();
    broker.kill9();
    let broker = Broker::start(data.path());
    let read = broker.run(&["consume", "t", "-e"], b"").ok();
    assert!(read.stdout == input.as_bytes(), "{} bytes", read.stdout.len());
    broker.run(&["produce", "t"], b"after\n").ok();
    let read = broker
        .run(&["consume", "t", "-e", "-o", "-1", "-f", "%o %s\\n"], b"")
        .ok();
    assert_eq!(read.lines(), ["1000 after"]);
}

fn acked_lines(history: &std::path::Path) -> usize {
    let text = std::fs::read(history).unwrap_or_default();
    let needle = b"\"acked\"";
    text.windows(needle.len()).filter(|w| w == needle).count()
}
