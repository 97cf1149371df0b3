//! The offline tools on what a real broker wrote, good and damaged.

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Broker, Ended, Process, command, run, segments};
use rustix::process::Signal;
use serde_json::Value;

fn plain(path: &Path) -> &str {
    path.to_str().expect("plain")
}

fn tool(arguments: &[&str], path: &Path) -> Ended {
    let mut all = vec!["segment", arguments[0], plain(path)];
    all.extend(&arguments[1..]);
    run(command(&all), b"")
}

fn json_lines(ended: &Ended) -> Vec<Value> {
    let parse = |line: &&str| serde_json::from_str(line).expect("json");
    ended.lines().iter().map(parse).collect()
}

/// A directory that a broker filled with `count` records, one in each batch but for the last ten.
fn filled(count: usize) -> (tempfile::TempDir, PathBuf) {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    for n in 0..count - 10 {
        let line = format!("value {n} {}\n", "x".repeat(200));
        broker
            .run(
                &["produce", "t", "-k", &format!("key {}", n % 5)],
                line.as_bytes(),
            )
            .ok();
    }
    let lines: String = (count - 10..count).map(|n| format!("value {n}\n")).collect();
    broker
        .run(&["produce", "t", "-z", "zstd", "-H", "h=1"], lines.as_bytes())
        .ok();
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    let file = segments(data.path()).pop().expect("one segment");
    (data, file)
}

fn entries(file: &Path) -> Vec<Value> {
    let inspected = tool(&["inspect", "-n", "0", "--output", "json"], file);
    let document: Value = serde_json::from_slice(&inspected.stdout).expect("json");
    document["entries"].as_array().expect("entries").clone()
}

#[test]
fn a_dump_is_every_record_that_went_in_and_filters_choose() {
    let (data, file) = filled(30);
    let records = json_lines(&tool(&["dump"], data.path()).ok());
    assert_eq!(records.len(), 30);
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record["offset"], n);
        let value = record["value"].as_str().expect("text");
        assert!(value == format!("value {n}") || value.starts_with(&format!("value {n} x")));
        assert_eq!(record["partition"], 0);
        let (codec, key) = if n < 20 {
            ("none", Value::from(format!("key {}", n % 5)))
        } else {
            ("zstd", Value::Null)
        };
        assert_eq!(
            (&record["batch"]["compression"], &record["key"]),
            (&Value::from(codec), &key)
        );
    }
    assert_eq!(records[25]["headers"][0]["name"], "h");
    assert_eq!(records[25]["headers"][0]["value"], "1");
    let chosen = |arguments: &[&str]| {
        let mut all = vec!["dump"];
        all.extend(arguments);
        let lines = json_lines(&tool(&all, &file).ok());
        lines
            .iter()
            .map(|r| r["offset"].as_i64().expect("offset"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        chosen(&["--from-offset", "18", "--to-offset", "23"]),
        [18, 19, 20, 21, 22]
    );
    assert_eq!(chosen(&["--key", "key 3"]), [3, 8, 13, 18]);
    let time = records[10]["timestamp_ms"].as_i64().expect("time");
    let (from, to) = (format!("@{time}"), format!("@{}", time + 1));
    assert!(chosen(&["--from-time", &from, "--to-time", &to]).contains(&10));
    assert_eq!(chosen(&["--to-time", "@1"]), Vec::<i64>::new());

    // A batch that would decompress to more than allowed is named and left out.
    let bounded = tool(&["dump", "--max-batch-bytes", "60"], &file);
    assert_eq!(bounded.code, Some(5), "{}", bounded.stderr);
    assert!(bounded.stderr.contains("offsets 20 to 29"), "{}", bounded.stderr);

    let listed = tool(&["inspect", "--key", "key 3", "--output", "json"], &file).ok();
    let document: Value = serde_json::from_slice(&listed.stdout).expect("json");
    let found: Vec<_> = document["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|e| e["base_offset"].clone())
        .collect();
    assert_eq!(found, [3, 8, 13, 18]);
    let listed = tool(
        &["inspect", "--records", "--from-offset", "28", "--output", "json"],
        &file,
    )
    .ok();
    let document: Value = serde_json::from_slice(&listed.stdout).expect("json");
    assert_eq!(document["records"][1]["value"], "value 29");
    assert_eq!(document["records"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_dump_ends_quietly_when_nobody_reads_on() {
    let (_data, file) = filled(40);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut process = Process(
        command(&["segment", "dump", plain(&file)])
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("tidelog starts"),
    );
    let stderr = BufReader::new(process.0.stderr.take().expect("piped"));
    let said: Vec<String> = stderr.lines().map_while(Result::ok).collect();
    assert_eq!((process.exit_code(), said), (Some(0), Vec::new()));
}

#[test]
fn every_damaged_place_is_named_with_its_bytes_and_offsets() {
    let (data, file) = filled(30);
    tool(&["verify"], data.path()).ok();
    let all = entries(&file);
    let of_offset = |offset: i64| {
        let at = |e: &&Value| e["base_offset"] == offset && e["kind"] == "Data";
        let entry = all.iter().find(at).expect("an entry");
        entry["position"].as_u64().expect("position")
    };
    let mut bytes = std::fs::read(&file).expect("read");
    // A payload, a header, and the header of the last one, which only the checkpoint proves.
    bytes[of_offset(4) as usize + 150] ^= 1;
    bytes[of_offset(9) as usize + 30] ^= 1;
    bytes[of_offset(20) as usize + 30] ^= 1;
    std::fs::write(&file, &bytes).expect("write");
    let verified = tool(&["verify", "--output", "jsonl"], data.path());
    assert_eq!(verified.code, Some(3), "{}", verified.stderr);
    let rows = json_lines(&verified);
    let row = rows.iter().find(|r| r["file"] == plain(&file)).expect("the file");
    let damage = row["damage"].as_array().expect("damage");
    let bounds = |d: &Value| ["position", "end", "first_offset", "next_offset"].map(|n| d[n].clone());
    assert_eq!(damage.len(), 3, "{row}");
    for (found, offset) in damage.iter().zip([4, 9]) {
        let expected: [Value; 4] = [
            of_offset(offset).into(),
            of_offset(offset + 1).into(),
            offset.into(),
            (offset + 1).into(),
        ];
        assert_eq!(bounds(found), expected, "{row}");
    }
    assert_eq!(
        (&damage[2]["position"], &damage[2]["first_offset"]),
        (&Value::from(of_offset(20)), &Value::from(20))
    );
    let dumped = tool(&["dump"], &file);
    assert_eq!(dumped.code, Some(3));
    let offsets: Vec<i64> = json_lines(&dumped)
        .iter()
        .map(|r| r["offset"].as_i64().expect("offset"))
        .collect();
    let whole: Vec<i64> = (0..20).filter(|n| *n != 4 && *n != 9).collect();
    assert_eq!(offsets, whole, "what lies behind damage is printed");
    // The same at any number of threads.
    assert_eq!(
        tool(&["verify", "--threads", "1", "--output", "jsonl"], data.path()).stdout,
        verified.stdout
    );
}

#[test]
fn what_is_derived_is_no_damage_and_a_lost_segment_is() {
    let (data, file) = filled(15);
    let index = file.with_extension("index");
    let good = std::fs::read(&index).expect("an index file after an orderly stop");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&index, &bad).expect("write");
    let verified = tool(&["verify"], data.path()).ok();
    assert!(verified.stderr.contains("derived"), "{}", verified.stderr);
    assert!(verified.stderr.contains(plain(&index)), "{}", verified.stderr);
    std::fs::write(&index, &good).expect("write");
    assert!(!tool(&["verify"], data.path()).ok().stderr.contains("derived"));

    let checkpoints: Vec<PathBuf> = std::fs::read_dir(data.path())
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("checkpoint-"))
        })
        .collect();
    let saved = std::fs::read(&checkpoints[0]).expect("read");
    std::fs::write(&checkpoints[0], b"nonsense").expect("write");
    let verified = tool(&["verify"], data.path()).ok();
    assert!(
        verified.stderr.contains(plain(&checkpoints[0])),
        "{}",
        verified.stderr
    );
    std::fs::write(&checkpoints[0], saved).expect("write");

    std::fs::remove_file(&index).expect("remove");
    std::fs::remove_file(&file).expect("remove");
    let verified = tool(&["verify"], data.path());
    assert_eq!(verified.code, Some(3), "{}", verified.stderr);
    let said = verified.lines().join("\n");
    assert!(
        said.contains(plain(&file)) && said.contains("offsets 0 to 14"),
        "{said}"
    );
}

#[test]
fn a_live_directory_is_verified_while_it_is_written() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    // Small segments, so that some are begun while the directory is looked at.
    broker
        .run(&["topic", "create", "t", "-c", "segment.bytes=1048576"], b"")
        .ok();
    broker.run(&["produce", "t"], b"first\n").ok();
    let mut producer = Process(
        broker
            .command(&["produce", "t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tidelog starts"),
    );
    let mut stdin = producer.0.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || {
        let line = format!("{}\n", "y".repeat(500));
        (0..40_000).all(|_| std::io::Write::write_all(&mut stdin, line.as_bytes()).is_ok())
    });
    let mut verified = 0;
    while !writer.is_finished() || verified < 5 {
        let ended = tool(&["verify"], data.path());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        verified += 1;
    }
    assert!(writer.join().expect("writer"), "all was written");
    assert_eq!(producer.exit_code(), Some(0));
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    tool(&["verify"], data.path()).ok();
    assert!(segments(data.path()).len() > 10, "it rolled all along");
}

#[test]
fn wrong_paths_say_what_would_be_right() {
    let directory = tempfile::tempdir().expect("directory");
    let foreign = directory.path().join("notes.txt");
    std::fs::write(&foreign, "hello").expect("write");
    for what in ["verify", "dump"] {
        let empty = tempfile::tempdir().expect("directory");
        let ended = tool(&[what], empty.path());
        assert_eq!(ended.code, Some(1), "{what}");
        assert!(ended.stderr.contains("no segment file in"), "{}", ended.stderr);
    }
    for what in ["verify", "dump", "inspect"] {
        let ended = tool(&[what], &foreign);
        assert_eq!(ended.code, Some(1), "{what}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("not a segment file"),
            "{what}: {}",
            ended.stderr
        );
        let ended = tool(&[what], &directory.path().join("nothing"));
        assert_eq!(ended.code, Some(1), "{what}: {}", ended.stderr);
        assert!(ended.stderr.contains("nothing"), "{what}: {}", ended.stderr);
    }
}
