//! A changed byte in a log is found by `segment verify` and never reaches a consumer.

mod common;

use common::{Broker, command, run, segments};
use rustix::process::Signal;

#[test]
fn a_changed_byte_is_found_and_not_served() {
    let data = tempfile::tempdir().expect("directory");
    let directory = data.path().to_str().expect("plain");
    let lines: Vec<String> = (0..20)
        .map(|n| format!("record {n} {}", "x".repeat(100)))
        .collect();
    let broker = Broker::start(data.path());
    for line in &lines {
        broker.run(&["produce", "t"], format!("{line}\n").as_bytes()).ok();
    }
    // Good on the directory of a running broker, and once it is closed.
    run(command(&["segment", "verify", directory]), b"").ok();
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    run(command(&["segment", "verify", directory]), b"").ok();

    let files = segments(data.path());
    assert_eq!(files.len(), 1, "{files:?}");
    let file = files[0].to_str().expect("plain");
    let inspected = run(command(&["segment", "inspect", file, "--output", "json"]), b"").ok();
    let document: serde_json::Value = serde_json::from_slice(&inspected.stdout).expect("json");
    assert_eq!(document["entry_count"], 20);
    let position = document["entries"][9]["position"].as_u64().expect("a position") as usize;

    let mut bytes = std::fs::read(file).expect("read");
    let end = document["entries"][10]["position"].as_u64().expect("a position") as usize;
    let at = bytes[position..end]
        .windows(4)
        .position(|w| w == b"xxxx")
        .expect("the value");
    bytes[position + at] ^= 1;
    std::fs::write(file, &bytes).expect("write");
    let verified = run(command(&["segment", "verify", directory]), b"");
    assert_eq!(verified.code, Some(3), "{verified:?}");
    assert!(
        verified
            .lines()
            .iter()
            .any(|l| l.contains(&format!("damage at {position}"))),
        "{verified:?}"
    );
    assert_eq!(run(command(&["segment", "inspect", file]), b"").code, Some(3));

    let broker = Broker::start(data.path());
    let read = broker.run(&["consume", "t", "-e"], b"");
    assert_eq!(read.code, Some(3), "{}", read.stderr);
    assert!(read.stderr.contains("t-0 at offset 9"), "{}", read.stderr);
    let served = read.lines();
    assert!(served.len() < lines.len(), "the changed record is not served");
    for line in served {
        assert!(lines.iter().any(|l| l == line), "never produced: {line}");
    }
}
