//! Tests of the layers and checks.

use super::*;
use crate::settings::{Effect, LogDurability, RuntimePin};

const HOST: HostFacts = HostFacts {
    cgroup_memory_bytes: None,
    total_memory_bytes: 4 << 30,
    affinity_cpus: 2,
    quota_cpus: None,
};

fn builder() -> SettingsBuilder {
    SettingsBuilder::new(HOST)
}

fn toml(text: &str) -> Result<SettingsBuilder, SettingsError> {
    builder().toml(Path::new("t.toml"), text)
}

fn sentence<T: std::fmt::Debug>(result: Result<T, SettingsError>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn defaults_are_those_of_the_contract() {
    let s = builder().build().unwrap();
    assert_eq!(s.profile, Profile::Dev);
    assert_eq!(s.listeners.len(), 1);
    assert_eq!(s.listeners[0].name, "PLAINTEXT");
    assert_eq!(s.listeners[0].bind.to_string(), "localhost:9092");
    assert_eq!(s.listeners[0].advertised.to_string(), "localhost:9092");
    assert_eq!(s.admin_listen.to_string(), "127.0.0.1:9640");
    assert_eq!(s.metrics_listen, None);
    assert_eq!(s.data_dirs, [PathBuf::from("./tidelog-data")]);
    assert_eq!((s.shards, s.memory_limit_bytes), (2, 2 << 30));
    assert_eq!(s.log_durability, LogDurability::Fsync);
    assert_eq!(s.log_segment_bytes, 1 << 30);
    assert_eq!((s.auto_create_topics, s.default_partitions), (true, 1));
    assert_eq!((s.message_max_bytes, s.request_max_bytes), (1_048_588, 100 << 20));
    assert_eq!(s.fetch_max_bytes, 55 << 20);
    assert_eq!((s.log_retention_ms, s.log_retention_bytes), (604_800_000, -1));
    assert_eq!((s.node_id, s.rack.clone(), s.drain_timeout_ms), (1, None, 30_000));
    assert!(s.origins.values().all(|origin| !origin.source.is_configured()));
}

#[test]
fn later_layers_win() {
    let file = "profile = 'prod'\nshards = 1\n[log]\nsegment_bytes = '64MiB'\ndurability = 'os'\n";
    let s = toml(file).unwrap().build().unwrap();
    assert_eq!(
        (s.auto_create_topics, s.shards),
        (false, 1),
        "the file chose the profile"
    );
    assert_eq!(s.origins["log.segment_bytes"].source.to_string(), "t.toml:4");
    assert_eq!(
        s.origins["auto_create_topics"].source,
        Source::Profile(Profile::Prod)
    );
    let s = toml(file)
        .unwrap()
        .set("log.segment_bytes=128MiB")
        .unwrap()
        .set("auto_create_topics = on")
        .unwrap()
        .flag("--shards", "shards", "4")
        .unwrap()
        .profile(Profile::Perf)
        .build()
        .unwrap();
    assert_eq!(
        (s.log_segment_bytes, s.shards, s.auto_create_topics),
        (128 << 20, 4, true)
    );
    assert_eq!(
        (s.runtime_pin, s.log_durability),
        (RuntimePin::Always, LogDurability::Os)
    );
}

#[test]
fn toml_may_be_nested_dotted_or_quoted() {
    for text in [
        "[log.durability]\nmode = 'interval'\ninterval_ms = 250\n",
        "log.durability.mode = 'interval'\nlog.durability.interval_ms = '250ms'\n",
        "'log.durability' = 'interval'\n'log.durability.interval_ms' = 250\n",
    ] {
        let s = toml(text).unwrap().build().unwrap();
        assert_eq!(
            (s.log_durability, s.log_durability_interval_ms),
            (LogDurability::Interval, 250),
            "{text}"
        );
    }
    let s = toml(
        "data.dirs = ['/a', '/b']\n[listeners]\nIN = '*:9093'\n[advertised]\nIN = 'kafka.example:9093'\n",
    );
    let s = s.unwrap().build().unwrap();
    assert_eq!(s.data_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(
        s.listener("IN").unwrap().advertised.to_string(),
        "kafka.example:9093"
    );
}

#[test]
fn an_unknown_key_names_its_neighbour_and_place() {
    let text = sentence(toml("shards = 1\n[log]\nsegmnt_bytes = 5\n"));
    assert_eq!(
        text,
        "unknown setting \"log.segmnt_bytes\" (t.toml:3); the nearest known one is \"log.segment_bytes\""
    );
    let text = sentence(builder().set("memory.limt=1GiB"));
    assert!(
        text.contains("--set") && text.contains("\"memory.limit\""),
        "{text}"
    );
}

#[test]
fn bad_values_say_the_bounds() {
    for (set, part) in [
        ("memory.limit=1K", "64MiB"),
        ("memory.limit=lots", "not a size"),
        ("shards=0", "auto or 1 to 64 shards"),
        ("shards=two", "whole number"),
        ("log.durability=sometimes", "fsync, interval, os"),
        ("log.segment_bytes=3GiB", "1MiB to"),
        ("admin.listen=9640", "no port"),
        ("auto_create_topics=maybe", "neither true nor false"),
        ("data.dirs=", "directories"),
        ("commit.max_delay_us=1s", "0 to 100000 us"),
        ("profile=fast", "dev, prod or perf"),
        ("log.retention_ms=-2", "span"),
    ] {
        let text = sentence(builder().set(set).unwrap().build());
        assert!(text.contains(part) && text.contains("--set"), "{set}: {text}");
    }
    assert!(sentence(builder().set("shards")).contains("KEY=VALUE"));
    assert!(sentence(toml("shards = \n")).starts_with("t.toml:1: "));
    assert!(sentence(toml("rack = 1979-05-27\n")).contains("must be text"));
    assert!(sentence(toml("a.b.c.d.e.f.g.h.i = 1\n")).contains("nested too deeply"));
    assert!(sentence(toml("'log.durability' = 'os'\n[log.durability]\nmode = 'os'\n")).contains("twice"));
    assert!(sentence(builder().file(Path::new("/nonexistent.toml"))).contains("cannot be read"));
}

#[test]
fn a_wildcard_needs_an_advertised_address() {
    let text = sentence(builder().listen("0.0.0.0:9092").unwrap().build());
    assert!(text.contains("add --advertise PLAINTEXT=HOST:9092"), "{text}");
    let ok = builder()
        .listen("0.0.0.0:9092")
        .unwrap()
        .advertise("broker.example:9092")
        .unwrap();
    assert_eq!(
        ok.build().unwrap().listeners[0].advertised.to_string(),
        "broker.example:9092"
    );
    let text = sentence(
        builder()
            .listen("*:9092")
            .unwrap()
            .advertise("0.0.0.0:9092")
            .unwrap()
            .build(),
    );
    assert!(text.contains("wildcard"), "{text}");
    let text = sentence(builder().advertise("X=a:1").unwrap().build());
    assert!(text.contains("--listen X=HOST:PORT"), "{text}");
}

#[test]
fn listeners_of_the_command_line_replace_the_files() {
    let file = "[listeners]\nA = '*:1'\n[advertised]\nA = 'h:1'\n";
    let s = toml(file)
        .unwrap()
        .listen("B=127.0.0.1:0")
        .unwrap()
        .listen("C=127.0.0.1:0")
        .unwrap();
    let names: Vec<String> = s.build().unwrap().listeners.into_iter().map(|l| l.name).collect();
    assert_eq!(names, ["B", "C"]);
    let text = sentence(builder().listen("a:1").unwrap().listen("b:1"));
    assert!(text.contains("twice"), "{text}");
    let text = sentence(
        builder()
            .listen("A=a:1")
            .unwrap()
            .listen("B=a:1")
            .unwrap()
            .build(),
    );
    assert!(text.contains("both bind"), "{text}");
}

#[test]
fn settings_that_do_not_go_together() {
    let text = sentence(
        builder()
            .set("shards=16")
            .unwrap()
            .set("memory.limit=64MiB")
            .unwrap()
            .build(),
    );
    assert!(text.contains("--shards"), "{text}");
    let both = builder()
        .set("request.max_bytes=64K")
        .unwrap()
        .set("message.max_bytes=1M")
        .unwrap();
    assert!(sentence(both.build()).contains("request.max_bytes"));
}

#[test]
fn changes_say_when_they_take_effect() {
    let before = builder().build().unwrap();
    let after = builder()
        .set("shards=1")
        .unwrap()
        .set("default.partitions=3")
        .unwrap()
        .build()
        .unwrap();
    let changes = before.changes(&after);
    let seen: Vec<(&str, Effect)> = changes.iter().map(|c| (c.name.as_str(), c.effect)).collect();
    assert_eq!(
        seen,
        [("default.partitions", Effect::Live), ("shards", Effect::Restart)]
    );
    assert!(before.changes(&before).is_empty());
}

#[test]
fn data_directories_of_the_command_line() {
    use std::os::unix::ffi::OsStrExt;
    let dirs = [PathBuf::from("/a b"), PathBuf::from("/c")];
    assert_eq!(
        builder().data_dirs(&dirs).unwrap().build().unwrap().data_dirs,
        dirs
    );
    assert!(builder().data_dirs(&[]).unwrap().build().is_ok());
    for bytes in [&b"/\xff"[..], b"/a\nb"] {
        let dir = PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
        assert!(
            builder()
                .data_dirs(&[dir])
                .unwrap_err()
                .to_string()
                .contains("UTF-8")
        );
    }
    assert!(sentence(builder().data_dirs(&["/a".into(), "/a".into()]).unwrap().build()).contains("twice"));
}
