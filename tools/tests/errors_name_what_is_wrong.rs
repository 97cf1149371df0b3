//! Wrong input ends with the exit code of the contract and one sentence that names what is wrong.

mod common;

use std::net::TcpListener;

use common::{Broker, Ended, command, run};

fn assert_says(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "no `{word}` in: {}", ended.stderr);
    }
    assert!(ended.stdout.is_empty(), "errors do not go to stdout");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn what_the_broker_refuses_is_named() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    broker.run(&["topic", "create", "t", "-p", "2"], b"").ok();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (
            &["consume", "nope", "-e"],
            1,
            &["topic nope", "no such topic", "topic create"],
        ),
        (&["topic", "describe", "nope"], 1, &["topic nope"]),
        (&["topic", "delete", "nope", "--yes"], 1, &["topic nope"]),
        (&["topic", "delete", "t"], 2, &["--yes"]),
        (
            &["topic", "create", "t"],
            1,
            &["already exists", "--if-not-exists"],
        ),
        (
            &["topic", "create", "t", "u"],
            5,
            &["created topic u", "already exists"],
        ),
        (&["topic", "create", "v", "v"], 2, &["topic v is named twice"]),
        (&["topic", "create", "no/slash"], 1, &["no/slash", "a-z"]),
        (&["topic", "create", "w", "-r", "3"], 1, &["-r 1"]),
        (
            &["topic", "create", "w", "-c", "x=1"],
            1,
            &["Unknown topic config name: x"],
        ),
        (
            &["topic", "alter", "t", "-c", "retention.ms=soon"],
            1,
            &["retention.ms"],
        ),
        (
            &["topic", "alter", "t", "--unset", "x"],
            1,
            &["no topic config x"],
        ),
        (&["topic", "add-partitions", "t", "-p", "1"], 1, &["2 partition"]),
        (
            &["consume", "t", "-p", "7", "-e"],
            1,
            &["no partition 7", "0 to 1"],
        ),
        (&["consume", "t", "-p", "0", "-o", "5"], 1, &["t-0", "offset 5"]),
        (
            &["consume", "t", "-g", "g"],
            2,
            &["consumer groups are not served yet"],
        ),
        (&["produce", "t", "-p", "2"], 1, &["no partition 2", "0 to 1"]),
        (&["produce", "no/slash"], 1, &["no/slash"]),
        (
            &["produce", "t", "--file", "/does/not/exist"],
            1,
            &["/does/not/exist"],
        ),
        (&["topic", "list", "-X", "nope=1"], 2, &["nope"]),
    ];
    for (arguments, code, words) in cases {
        assert_says(&broker.run(arguments, b"x\n"), *code, words);
    }
    let again = broker.run(&["topic", "create", "t", "--if-not-exists"], b"").ok();
    assert_eq!(again.stderr, "topic t is there already\n");
}

#[test]
fn a_record_that_is_too_large_is_refused_and_those_before_it_are_kept() {
    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    let large = [b"small\n", &vec![b'x'; 2_000_000][..], b"\nnever sent\n"].concat();
    let said = broker.run(&["produce", "t"], &large);
    assert_says(
        &said,
        5,
        &[
            "MESSAGE_TOO_LARGE",
            "max.message.bytes",
            "1 record to t before that",
        ],
    );
    assert_eq!(broker.run(&["consume", "t", "-e"], b"").ok().lines(), ["small"]);
    // Batches keep to what the topic takes.
    broker
        .run(
            &["topic", "create", "narrow", "-c", "max.message.bytes=5000"],
            b"",
        )
        .ok();
    let lines = "a line of some length\n".repeat(2_000);
    broker.run(&["produce", "narrow"], lines.as_bytes()).ok();
    let read = broker.run(&["consume", "narrow", "-e"], b"").ok();
    assert!(read.stdout == lines.as_bytes());
    // Two records that fit alone but not together go in two batches.
    let pair = [&vec![b'a'; 700_000][..], b"\n", &vec![b'b'; 700_000][..], b"\n"].concat();
    broker.run(&["produce", "pair"], &pair).ok();
    assert!(broker.run(&["consume", "pair", "-e"], b"").ok().stdout == pair);
}

#[test]
fn no_broker_and_a_wrong_port_are_told_apart() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("address").to_string()
    };
    let ended = run(command(&["topic", "list", "-b", &closed]), b"");
    assert_says(&ended, 4, &[&closed, "tidelog serve"]);

    // It accepts into its backlog and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = silent.local_addr().expect("address").to_string();
    let ended = run(
        command(&["topic", "list", "-b", &address, "--timeout", "300ms"]),
        b"",
    );
    assert_says(&ended, 4, &[&address, "within 0.3 s", "--timeout"]);

    let data = tempfile::tempdir().expect("directory");
    let broker = Broker::start(data.path());
    let ended = run(command(&["topic", "list", "-b", &broker.admin]), b"");
    assert_says(&ended, 1, &[&broker.admin, "HTTP"]);
    let ended = run(command(&["topic", "list", "-b", "http://localhost"]), b"");
    assert_says(&ended, 2, &["HOST:PORT"]);
}

#[test]
fn wrong_settings_stop_the_broker_before_it_begins() {
    let data = tempfile::tempdir().expect("directory");
    let path = data.path().join("data");
    let path = path.to_str().expect("plain");
    let cases: &[(&[&str], &str)] = &[
        (&["--set", "log.durability=maybe"], "log.durability"),
        (&["--set", "nonsense=1"], "nonsense"),
        (&["--memory", "lots"], "memory.limit"),
        (&["--listen", "0.0.0.0:0"], "--advertise"),
        (&["--config", "/does/not/exist"], "/does/not/exist"),
    ];
    for (arguments, named) in cases {
        let all = [&["serve", "--data-dir", path], *arguments].concat();
        assert_says(&run(command(&all), b""), 2, &[named]);
        assert!(
            !std::path::Path::new(path).exists(),
            "{arguments:?} left a directory"
        );
    }
}
