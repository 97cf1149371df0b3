//! `segment repair` on what a real broker wrote: it says what it would do, does it only when told to and only
//! to a stopped broker's files, keeps what it replaces, and the broker then serves all that is left.
//! `segment stats` counts what is there.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Broker, Ended, command, run, segments};
use rustix::process::Signal;
use serde_json::Value;

fn tool(what: &str, path: &Path, more: &[&str]) -> Ended {
    let mut all = vec![
        "segment",
        what,
        path.to_str().expect("plain"),
        "--output",
        "jsonl",
    ];
    all.extend(more);
    run(command(&all), b"")
}

fn json_lines(ended: &Ended) -> Vec<Value> {
    let parse = |line: &&str| serde_json::from_str(line).expect("json");
    ended.lines().iter().map(parse).collect()
}

/// A stopped broker's directory with `count` records of topic t, each a batch of its own.
fn filled(count: usize) -> (tempfile::TempDir, PathBuf) {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    for n in 0..count {
        let line = format!("value {n} {}\n", "x".repeat(100));
        broker.run(&["produce", "t"], line.as_bytes()).ok();
    }
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    let file = segments(data.path()).pop().expect("one segment");
    (data, file)
}

/// Where the batch of each offset begins.
fn positions(file: &Path) -> BTreeMap<i64, u64> {
    let inspected = run(
        command(&[
            "segment",
            "inspect",
            file.to_str().expect("plain"),
            "-n",
            "0",
            "--output",
            "json",
        ]),
        b"",
    );
    let document: Value = serde_json::from_slice(&inspected.stdout).expect("json");
    let entries = document["entries"].as_array().expect("entries");
    let data = entries.iter().filter(|entry| entry["kind"] == "Data");
    data.map(|entry| {
        let offset = entry["base_offset"].as_i64().expect("offset");
        (offset, entry["position"].as_u64().expect("position"))
    })
    .collect()
}

fn files_below(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            match entry.path().is_dir() {
                true => open.push(entry.path()),
                false => drop(files.insert(entry.path(), std::fs::read(entry.path()).expect("read"))),
            }
        }
    }
    files
}

fn consumed(data: &Path) -> Vec<i64> {
    let broker = Broker::start(data);
    let ended = broker
        .run(&["consume", "t", "-o", "start", "-e", "--output", "jsonl"], b"")
        .ok();
    let lines = json_lines(&ended);
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    let offset = |record: &Value| record["offset"].as_i64().expect("offset");
    lines.iter().map(offset).collect()
}

#[test]
fn a_damaged_partition_is_repaired_and_served_and_nothing_is_deleted() {
    let (data, file) = filled(12);
    let at = positions(&file);
    let mut bytes = std::fs::read(&file).expect("read");
    // A payload, and two headers beside each other.
    bytes[at[&3] as usize + 120] ^= 1;
    bytes[at[&6] as usize + 30] ^= 1;
    bytes[at[&7] as usize + 30] ^= 1;
    std::fs::write(&file, &bytes).expect("write");
    assert_eq!(tool("verify", data.path(), &[]).code, Some(3));
    let before = files_below(data.path());

    let planned = tool("repair", data.path(), &[]);
    assert_eq!(planned.code, Some(3), "{}", planned.stderr);
    assert!(planned.stderr.contains("--execute"), "{}", planned.stderr);
    assert_eq!(files_below(data.path()), before, "a dry run changes nothing");
    let lost: Vec<Value> = json_lines(&planned)
        .into_iter()
        .filter(|row| row["action"] == "lost")
        .collect();
    let bounds =
        |row: &Value| ["position", "bytes", "first_offset", "next_offset"].map(|name| row[name].clone());
    let expected: [[Value; 4]; 2] = [
        [at[&3].into(), (at[&4] - at[&3]).into(), 3.into(), 4.into()],
        [at[&6].into(), (at[&8] - at[&6]).into(), 6.into(), 8.into()],
    ];
    assert_eq!(lost.iter().map(bounds).collect::<Vec<_>>(), expected);
    assert!(
        lost.iter()
            .all(|row| row["partition"] == 0 && row["topic_id"].is_string())
    );

    let done = tool("repair", data.path(), &["--execute"]).ok();
    assert_eq!(done.stdout, planned.stdout, "it does what it said");
    let aside = file
        .parent()
        .expect("a partition")
        .join("set-aside")
        .join(file.file_name().expect("a name"));
    assert_eq!(std::fs::read(&aside).expect("kept"), bytes);
    assert!(!file.exists());
    tool("verify", data.path(), &[]).ok();
    assert!(
        tool("repair", data.path(), &[])
            .ok()
            .stderr
            .contains("nothing to repair")
    );

    let whole: Vec<i64> = (0..12).filter(|offset| ![3, 6, 7].contains(offset)).collect();
    assert_eq!(consumed(data.path()), whole);
    tool("verify", data.path(), &[]).ok();
}

#[test]
fn a_lost_segment_is_filled_and_the_log_goes_on_behind_it() {
    let (data, file) = filled(5);
    std::fs::remove_file(&file).expect("remove");
    std::fs::remove_file(file.with_extension("index")).expect("remove");
    assert_eq!(tool("verify", data.path(), &[]).code, Some(3));
    let done = tool("repair", data.path(), &["--execute"]).ok();
    let rows = json_lines(&done);
    assert_eq!(
        (&rows[0]["first_offset"], &rows[0]["next_offset"]),
        (&0.into(), &5.into())
    );
    tool("verify", data.path(), &[]).ok();
    let broker = Broker::start(data.path());
    broker.run(&["produce", "t"], b"after\n").ok();
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    assert_eq!(consumed(data.path()), [5]);
}

#[test]
fn a_running_broker_is_left_alone() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["produce", "t"], b"one\n").ok();
    for more in [&[][..], &["--execute"]] {
        let refused = tool("repair", data.path(), more);
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        assert!(refused.stderr.contains("in use"), "{}", refused.stderr);
    }
    let partition = segments(data.path()).pop().expect("one segment");
    let refused = tool("repair", partition.parent().expect("a partition"), &["--execute"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let file = tool("repair", &partition, &[]);
    assert_eq!(file.code, Some(2), "{}", file.stderr);
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    assert!(
        tool("repair", data.path(), &[])
            .ok()
            .stderr
            .contains("nothing to repair")
    );
}

#[test]
fn a_directory_without_its_identity_is_refused_until_one_is_made() {
    let (data, _file) = filled(3);
    let identity = data.path().join("identity");
    std::fs::remove_file(&identity).expect("remove");
    let serve = [
        "serve",
        "--data-dir",
        data.path().to_str().expect("plain"),
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--shards",
        "1",
        "--memory",
        "128MiB",
    ];
    let refused = run(command(&serve), b"");
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("--new-identity"), "{}", refused.stderr);
    assert_eq!(tool("verify", data.path(), &[]).code, Some(1));
    assert_eq!(tool("repair", data.path(), &["--execute"]).code, Some(1));
    assert_eq!(
        tool("repair", data.path(), &["--new-identity", "1"]).code,
        Some(3)
    );
    assert!(!identity.exists(), "a dry run");
    tool("repair", data.path(), &["--execute", "--new-identity", "1"]).ok();
    let again = tool("repair", data.path(), &["--execute", "--new-identity", "1"]);
    assert_eq!(again.code, Some(2), "{}", again.stderr);
    assert_eq!(consumed(data.path()), [0, 1, 2]);
    tool("verify", data.path(), &[]).ok();
}

#[test]
fn each_of_several_directories_can_have_its_identity_made_anew() {
    let root = tempfile::tempdir().expect("directory");
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    let start = || Broker::start_on(&[&a, &b], "127.0.0.1:0");
    let broker = start();
    broker.run(&["topic", "create", "spread", "-p", "4"], b"").ok();
    let line = "some value\n".repeat(40);
    broker.run(&["produce", "spread"], line.as_bytes()).ok();
    let all = ["consume", "spread", "-o", "start", "-e", "--output", "jsonl"];
    let before = json_lines(&broker.run(&all, b"").ok());
    assert_eq!(before.len(), 40);
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    let (home, other) = match a.join("metadata").exists() {
        true => (&a, &b),
        false => (&b, &a),
    };
    assert!(!segments(other).is_empty() && !segments(home).is_empty());
    std::fs::remove_file(other.join("identity")).expect("removed");

    let repair = ["--execute", "--new-identity", "1"];
    let refused = tool("repair", other, &repair);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("--metadata"), "{}", refused.stderr);
    let home_text = home.to_str().expect("plain");
    let other_node = tool("repair", other, &["--new-identity", "2", "--metadata", home_text]);
    assert_eq!(other_node.code, Some(2), "{}", other_node.stderr);
    assert!(!other.join("identity").exists(), "nothing was made");
    let mut with_metadata = repair.to_vec();
    with_metadata.extend(["--metadata", home_text]);
    tool("repair", other, &with_metadata).ok();

    // The topic is named where something is to be repaired.
    let file = segments(other).pop().expect("a segment");
    let mut bytes = std::fs::read(&file).expect("read");
    bytes[100] ^= 1;
    std::fs::write(&file, bytes).expect("write");
    let told = tool("repair", other, &["--metadata", home_text]);
    assert_eq!(told.code, Some(3), "{}", told.stderr);
    let rows = json_lines(&told);
    assert!(rows.iter().all(|row| row["topic"] == "spread"), "{rows:?}");
    tool("repair", other, &["--execute", "--metadata", home_text]).ok();

    let broker = start();
    let after = json_lines(&broker.run(&all, b"").ok());
    assert_eq!(after.len(), 40, "each partition is where the metadata log says");
    broker.run(&["produce", "spread"], b"more\n").ok();
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

#[test]
fn stats_count_what_is_there() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    let lines: String = (0..50)
        .map(|n| format!("value {n} {}\n", "x".repeat(100)))
        .collect();
    broker.run(&["produce", "t", "-z", "zstd"], lines.as_bytes()).ok();
    broker.run(&["produce", "t"], lines.as_bytes()).ok();
    let live = run(
        command(&[
            "segment",
            "stats",
            data.path().to_str().expect("plain"),
            "--output",
            "json",
        ]),
        b"",
    )
    .ok();
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    let document: Value = serde_json::from_slice(&live.stdout).expect("json");
    assert_eq!(document["total"]["records"], 100);
    let of_topic: Vec<Value> = json_lines(&tool("stats", &data.path().join("partitions"), &[]).ok())
        .into_iter()
        .filter(|counts| counts["records"] != 0)
        .collect();
    let [counts] = &of_topic[..] else {
        panic!("{of_topic:?}")
    };
    assert_eq!(
        (&counts["records"], &counts["partition"]),
        (&100.into(), &0.into())
    );
    let codecs = counts["codecs"].as_array().expect("codecs");
    let ratio = |name: &str| {
        let codec = codecs
            .iter()
            .find(|codec| codec["codec"] == name)
            .expect("it was used");
        (
            codec["records"].clone(),
            codec["ratio"].as_f64().expect("a ratio"),
        )
    };
    assert_eq!(ratio("none"), (50.into(), 1.0));
    let (records, zstd) = ratio("zstd");
    assert!(records == 50 && zstd > 3.0, "{zstd}");
    let sizes = counts["batch_sizes"].as_array().expect("sizes");
    let batches: u64 = sizes.iter().filter_map(|size| size["batches"].as_u64()).sum();
    assert_eq!(counts["batches"], batches);
    assert!(counts["first_timestamp_ms"].as_i64() <= counts["last_timestamp_ms"].as_i64());
    let table = run(
        command(&["segment", "stats", data.path().to_str().expect("plain")]),
        b"",
    )
    .ok();
    let text = table.lines().join("\n");
    assert!(
        text.contains("RATIO") && text.contains("zstd") && text.contains("all"),
        "{text}"
    );
}
