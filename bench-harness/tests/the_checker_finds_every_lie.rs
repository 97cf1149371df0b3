//! `tidelog-history check` passes an honest broker and fails each kind of lie, with exit code 3.
//!
//! The broker is a fake whose log is a list of records, so that each test says exactly what is wrong.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest,
    ListOffsetsResponse, MetadataResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tidelog_bench::client::{Compression, Record, encode_batch};
use tidelog_bench::history::{Event, HistoryWriter, Stamp, make_value};

const RUN: u64 = 77;
const TOPIC: &str = "t";
const FILLER_BYTES: usize = 40;
const ACKED: u64 = 5;

/// What the fake broker holds and says of its one partition.
#[derive(Debug, Clone)]
struct Log {
    /// Batches in the order in which they are served, by their offset.
    batches: Vec<(i64, Bytes)>,
    start: i64,
    end: i64,
}

fn value(sequence: u64) -> Bytes {
    let stamp = Stamp {
        run: RUN,
        partition: 0,
        sequence,
    };
    make_value(stamp, FILLER_BYTES)
}

/// A batch of one record, at `offset`. The offset lies outside of the checksum.
fn batch(offset: i64, key: u64, value: Bytes) -> (i64, Bytes) {
    let record = Record {
        offset: 0,
        timestamp_ms: 0,
        key: Some(key.to_string().into()),
        value: Some(value),
        headers: Vec::new(),
    };
    let encoded = encode_batch(&[record], Compression::None).expect("a batch");
    let mut bytes = BytesMut::from(&encoded[..]);
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
    (offset, bytes.freeze())
}

fn honest_batch(sequence: u64) -> (i64, Bytes) {
    batch(sequence as i64, sequence, value(sequence))
}

/// The log that holds every record of [`write_history`].
fn honest() -> Log {
    Log {
        batches: (0..ACKED).map(honest_batch).collect(),
        start: 0,
        end: ACKED as i64,
    }
}

fn crc(sequence: u64) -> u32 {
    crc32fast::hash(&value(sequence))
}

fn sent(sequence: u64) -> Event {
    Event::Sent {
        partition: 0,
        sequence,
        crc: crc(sequence),
        sent_ms: 0,
    }
}

fn acked(sequence: u64, offset: i64) -> Event {
    Event::Acked {
        partition: 0,
        sequence,
        crc: crc(sequence),
        sent_ms: 0,
        offset,
    }
}

/// Sequences 0 to 4, acknowledged at the offsets of the same numbers.
fn write_history(path: &Path) {
    let (mut writer, _) = HistoryWriter::open(path, TOPIC, RUN).expect("new");
    for sequence in 0..ACKED {
        writer.sent(&[sent(sequence)]).expect("written");
        writer
            .acked(&[acked(sequence, sequence as i64)])
            .expect("written");
    }
}

/// Starts a broker of `log` and gives its address. It ends with the process.
fn serve(log: Log) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for peer in listener.incoming().map_while(Result::ok) {
            let log = log.clone();
            // The connection ends when the client closes it.
            thread::spawn(move || answer_all(peer, i32::from(address.port()), &log));
        }
    });
    address.to_string()
}

fn answer_all(mut peer: TcpStream, port: i32, log: &Log) -> io::Result<()> {
    loop {
        let mut size = [0; 4];
        peer.read_exact(&mut size)?;
        let mut frame = vec![0; i32::from_be_bytes(size) as usize];
        peer.read_exact(&mut frame)?;
        peer.write_all(&answer(Bytes::from(frame), port, log))?;
    }
}

fn answer(mut frame: Bytes, port: i32, log: &Log) -> Bytes {
    let key = i16::from_be_bytes([frame[0], frame[1]]);
    let version = i16::from_be_bytes([frame[2], frame[3]]);
    let api = ApiKey::try_from(key).expect("an api");
    let header = RequestHeader::decode(&mut frame, api.request_header_version(version)).expect("a header");
    let mut out = BytesMut::new();
    ResponseHeader::default()
        .with_correlation_id(header.correlation_id)
        .encode(&mut out, api.response_header_version(version))
        .expect("encodes");
    let encoded = match api {
        ApiKey::ApiVersions => api_versions().encode(&mut out, version),
        ApiKey::Metadata => metadata(port).encode(&mut out, version),
        ApiKey::ListOffsets => {
            let request = ListOffsetsRequest::decode(&mut frame, version).expect("a request");
            list_offsets(&request, log).encode(&mut out, version)
        }
        ApiKey::Fetch => {
            let request = FetchRequest::decode(&mut frame, version).expect("a request");
            fetch(&request, log).encode(&mut out, version)
        }
        other => panic!("{other:?} is not expected"),
    };
    encoded.expect("encodes");
    let mut framed = BytesMut::new();
    framed.put_i32(i32::try_from(out.len()).expect("small"));
    framed.extend_from_slice(&out);
    framed.freeze()
}

fn api_versions() -> ApiVersionsResponse {
    let versions = [
        (ApiKey::Fetch, 4, 12),
        (ApiKey::ListOffsets, 1, 7),
        (ApiKey::Metadata, 1, 12),
        (ApiKey::ApiVersions, 0, 3),
    ];
    let version = |(api, min, max): (ApiKey, i16, i16)| {
        ApiVersion::default()
            .with_api_key(api as i16)
            .with_min_version(min)
            .with_max_version(max)
    };
    ApiVersionsResponse::default().with_api_keys(versions.into_iter().map(version).collect())
}

fn topic_name() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

fn metadata(port: i32) -> MetadataResponse {
    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(1))
        .with_host(StrBytes::from_static_str("127.0.0.1"))
        .with_port(port);
    let partition = MetadataResponsePartition::default()
        .with_partition_index(0)
        .with_leader_id(BrokerId(1));
    let topic = MetadataResponseTopic::default()
        .with_name(Some(topic_name()))
        .with_partitions(vec![partition]);
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_topics(vec![topic])
}

fn list_offsets(request: &ListOffsetsRequest, log: &Log) -> ListOffsetsResponse {
    let is_start = request.topics[0].partitions[0].timestamp == -2;
    let partition = ListOffsetsPartitionResponse::default()
        .with_partition_index(0)
        .with_offset(if is_start { log.start } else { log.end });
    let topic = ListOffsetsTopicResponse::default()
        .with_name(topic_name())
        .with_partitions(vec![partition]);
    ListOffsetsResponse::default().with_topics(vec![topic])
}

fn fetch(request: &FetchRequest, log: &Log) -> FetchResponse {
    let from = request.topics[0].partitions[0].fetch_offset;
    let mut records = BytesMut::new();
    for (offset, bytes) in &log.batches {
        if *offset >= from {
            records.extend_from_slice(bytes);
        }
    }
    let partition = PartitionData::default()
        .with_partition_index(0)
        .with_high_watermark(log.end)
        .with_log_start_offset(log.start)
        .with_records(Some(records.freeze()));
    let topic = FetchableTopicResponse::default()
        .with_topic(topic_name())
        .with_partitions(vec![partition]);
    FetchResponse::default().with_responses(vec![topic])
}

/// Runs the checker on a history and a log; its exit code and what it printed.
fn check(history: impl FnOnce(&Path), log: Log) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("history");
    history(&path);
    run(&path, &serve(log), &[])
}

fn run(history: &Path, address: &str, more: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidelog-history"))
        .args(["check", "-b", address, "--timeout-ms", "5000", "--history"])
        .arg(history)
        .args(more)
        .output()
        .expect("tidelog-history starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The checker must end with 3 and say `words`.
fn assert_caught(log: Log, words: &str) {
    let (code, said) = check(write_history, log);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(words), "no `{words}` in: {said}");
}

#[test]
fn an_honest_broker_passes() {
    let (code, said) = check(write_history, honest());
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("acked 5 found 5") && said.contains("violations 0"),
        "{said}"
    );
}

#[test]
fn a_missing_record_is_caught() {
    let mut log = honest();
    log.batches.remove(2);
    assert_caught(log, "offset 2: skipped");
    // Lost at the end, where the broker does not admit that it ever was.
    let mut log = honest();
    log.batches.truncate(3);
    log.end = 3;
    assert_caught(log, "offset 4: acknowledged for sequence 4, but not in the log");
    // Lost at the start, as by a retention that nobody asked for.
    let mut log = honest();
    log.batches.remove(0);
    log.start = 1;
    assert_caught(log, "the log starts at 1");
    let mut log = honest();
    log.batches.clear();
    assert_caught(log, "nothing is served below the high watermark 5");
    let mut log = honest();
    log.batches.clear();
    log.end = 0;
    assert_caught(log, "acked 5 found 0");
}

#[test]
fn with_retention_only_what_lies_below_the_log_start_may_be_gone() {
    let history = tempfile::tempdir().expect("directory");
    let path = history.path().join("history");
    write_history(&path);
    let check = |log: Log| run(&path, &serve(log), &["--retention"]);
    let mut log = honest();
    log.batches.remove(0);
    log.start = 1;
    let (code, said) = check(log);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("acked 5 found 4 retired 1"), "{said}");
    // Behind the start and at the end nothing may be missing.
    let mut log = honest();
    log.batches.drain(0..2);
    log.start = 1;
    let (code, said) = check(log);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("offset 1: skipped"), "{said}");
    let mut log = honest();
    log.batches.truncate(3);
    (log.start, log.end) = (1, 3);
    let (code, said) = check(log);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("offset 4: acknowledged for sequence 4, but not in the log"),
        "{said}"
    );
}

#[test]
fn wrong_bytes_are_caught() {
    // With a checksum that holds: other bytes of the same length, another key, a value of no kind.
    let mut changed = BytesMut::from(&value(2)[..]);
    let last = changed.len() - 1;
    changed[last] ^= 1;
    for lie in [
        batch(2, 2, changed.freeze()),
        batch(2, 3, value(2)),
        batch(2, 2, "hello".into()),
        batch(2, 2, value(2).slice(..value(2).len() - 1)),
    ] {
        let mut log = honest();
        log.batches[2] = lie;
        assert_caught(log, "offset 2: acknowledged for sequence 2");
    }
    // With one that does not.
    let mut log = honest();
    let mut flipped = BytesMut::from(&log.batches[2].1[..]);
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    log.batches[2].1 = flipped.freeze();
    assert_caught(log, "served bytes do not verify");
}

#[test]
fn wrong_offsets_and_order_are_caught() {
    let mut log = honest();
    for (offset, bytes) in &mut log.batches {
        *offset += 1;
        let mut moved = BytesMut::from(&bytes[..]);
        moved[..8].copy_from_slice(&offset.to_be_bytes());
        *bytes = moved.freeze();
    }
    log.end += 1;
    assert_caught(log, "offset 0: skipped");

    let mut log = honest();
    log.batches[1] = batch(1, 2, value(2));
    log.batches[2] = batch(2, 1, value(1));
    assert_caught(
        log,
        "offset 1: acknowledged for sequence 1, but sequence 2 is there",
    );

    let mut log = honest();
    log.batches.swap(1, 2);
    assert_caught(log, "skipped: the next record is at 2");
}

#[test]
fn repetition_is_caught() {
    // The same offset twice, and the same record at a second offset.
    let mut log = honest();
    log.batches.insert(2, honest_batch(1));
    assert_caught(log, "the next record is at 1");
    let mut log = honest();
    log.batches.push(batch(5, 4, value(4)));
    log.end = 6;
    assert_caught(log, "sequence 4 is in the log 2 times");
}

#[test]
fn records_that_were_never_sent_are_caught() {
    let mut log = honest();
    log.batches.push(batch(5, 9, value(9)));
    log.end = 6;
    assert_caught(log, "was never sent like this");
}

#[test]
fn a_record_without_acknowledgement_may_be_there_once_or_not_at_all() {
    let with_unknown = |path: &Path| {
        write_history(path);
        let (mut writer, _) = HistoryWriter::open(path, TOPIC, RUN).expect("goes on");
        writer.sent(&[sent(5)]).expect("written");
    };
    let (code, said) = check(with_unknown, honest());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("unknown_present 0 unknown_absent 1"), "{said}");
    let mut log = honest();
    log.batches.push(honest_batch(5));
    log.end = 6;
    let (code, said) = check(with_unknown, log.clone());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("unknown_present 1 unknown_absent 0"), "{said}");
    log.batches.push(batch(6, 5, value(5)));
    log.end = 7;
    let (code, said) = check(with_unknown, log);
    assert_eq!(code, Some(3), "{said}");
}

#[test]
fn a_tampered_or_thin_history_does_not_pass() {
    // An offset that was given out twice is a lie that the history alone proves.
    let reused = |path: &Path| {
        write_history(path);
        let (mut writer, _) = HistoryWriter::open(path, TOPIC, RUN).expect("goes on");
        writer.acked(&[acked(5, 4)]).expect("written");
    };
    let (code, said) = check(reused, honest());
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("after offset 4 was given out"), "{said}");

    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("history");
    write_history(&path);
    let address = serve(honest());
    let (code, said) = run(&path, &address, &["--min-acked", "6"]);
    assert_eq!(code, Some(1), "five are not six: {said}");

    let text = std::fs::read_to_string(&path).expect("readable");
    let other_crc = text.replace(&crc(3).to_string(), &(crc(3) ^ 1).to_string());
    assert_ne!(text, other_crc);
    std::fs::write(&path, &other_crc).expect("write");
    let (code, said) = run(&path, &address, &[]);
    assert_eq!(code, Some(3), "{said}");

    let middle = text.len() / 2;
    std::fs::write(&path, format!("{}garbage{}", &text[..middle], &text[middle..])).expect("write");
    let (code, said) = run(&path, &address, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("line"), "{said}");
}
