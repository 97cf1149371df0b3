//! SIGTERM and SIGINT stop the broker with 0 and lose nothing; client commands end with 130 and 143.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{Broker, Process, command, run};
use rustix::process::Signal;

#[test]
fn the_broker_drains_on_sigterm_and_sigint_and_keeps_everything() {
    let data = tempfile::tempdir().expect("directory");
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let broker = Broker::start(data.path());
        broker
            .run(&["produce", "t"], format!("round {round}\n").as_bytes())
            .ok();
        assert_eq!(broker.stop(signal), Some(0), "{signal:?}");
    }
    let verified = run(
        command(&["segment", "verify", data.path().to_str().expect("plain")]),
        b"",
    )
    .ok();
    assert!(
        verified.lines().iter().skip(1).all(|l| l.ends_with("good")),
        "{verified:?}"
    );
    let broker = Broker::start(data.path());
    assert!(
        broker.ready.iter().any(|line| line.contains("1 topic")),
        "{:?}",
        broker.ready
    );
    assert_eq!(
        broker.run(&["consume", "t", "-e"], b"").ok().lines(),
        ["round 0", "round 1"]
    );
}

#[test]
fn a_consumer_that_waits_does_not_hold_the_broker_up() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["produce", "t"], b"one\n").ok();
    let mut consumer = Process(
        broker
            .command(&["consume", "t", "-o", "start", "--timeout", "500ms"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts"),
    );
    let mut lines = BufReader::new(consumer.0.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "one");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    assert_eq!(
        consumer.exit_code(),
        Some(4),
        "the broker is gone for longer than --timeout"
    );
}

#[test]
fn client_commands_end_by_signal_with_the_codes_of_a_shell() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["produce", "t"], b"one\n").ok();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut consumer = Process(
            broker
                .command(&["consume", "t", "-o", "start"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("starts"),
        );
        // Once a record came out, the command listens for signals.
        let mut lines = BufReader::new(consumer.0.stdout.take().expect("piped")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "one");
        consumer.signal(signal);
        assert_eq!(consumer.exit_code(), Some(code), "{signal:?}");
    }
}

#[test]
fn a_second_broker_on_the_same_directory_or_port_is_refused() {
    let data = tempfile::tempdir().expect("directory");
    let other = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    let serve = |data: &std::path::Path, listen: &str| {
        let data = data.to_str().expect("plain");
        let admin = ["--admin", "127.0.0.1:0", "--shards", "1", "--memory", "128MiB"];
        run(
            command(&[&["serve", "--data-dir", data, "--listen", listen], &admin[..]].concat()),
            b"",
        )
    };
    let locked = serve(data.path(), "127.0.0.1:0");
    assert_eq!(locked.code, Some(1), "{}", locked.stderr);
    assert!(locked.stderr.contains("in use by another"), "{}", locked.stderr);
    let taken = serve(other.path(), &broker.address);
    assert_eq!(taken.code, Some(1), "{}", taken.stderr);
    assert!(taken.stderr.contains("port is in use"), "{}", taken.stderr);
}
