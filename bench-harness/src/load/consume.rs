//! Reading in a loop: each connection has one Fetch of all its partitions in flight, and reads on from the
//! beginning at the end. Answers are hopped over by batch header, records are never decoded.
//!
//! One thread for each connection; the calling thread waits for them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use tidelog_net::hot::{FetchPartition, FetchRequest, FetchTopic, FetchedResponse};
use tidelog_net::records::BATCH_HEADER_BYTES;
use tidelog_net::{ApiKey, ErrorCode, ResponseBody, StrBytes, client};

use super::process::thread_cpu_s;
use super::report::{Work, latencies, note};
use super::{LoadError, bare};
use crate::limits::{FRAME_BYTES_MAX, LOAD_DECODED_BYTES_MAX, LOAD_STALL};

/// What to read, and how much at a time.
#[derive(Debug, Clone)]
pub struct Options {
    /// The topic; unused by a bare server.
    pub topic: String,
    /// Partitions (files of a bare server), spread over the connections.
    pub partitions: i32,
    /// Bytes of one partition in one answer.
    pub partition_bytes: i32,
    /// Bytes of one answer.
    pub answer_bytes: i32,
    /// Bytes to read in all, or until `duration` has passed.
    pub bytes: Option<u64>,
    /// Time to read for.
    pub duration: Option<Duration>,
}

/// Reads from a broker until the goal is reached.
pub fn run(streams: Vec<TcpStream>, options: &Options) -> Result<(Work, Histogram<u64>), LoadError> {
    run_threads(streams, options, read_kafka)
}

/// Reads from a bare server until the goal is reached.
pub fn run_bare(streams: Vec<TcpStream>, options: &Options) -> Result<(Work, Histogram<u64>), LoadError> {
    run_threads(streams, options, read_bare)
}

type Reader = fn(TcpStream, &Options, Vec<i32>, u64) -> Result<(Work, Histogram<u64>), LoadError>;

fn run_threads(
    streams: Vec<TcpStream>,
    options: &Options,
    read: Reader,
) -> Result<(Work, Histogram<u64>), LoadError> {
    let connections = streams.len();
    if connections == 0 || options.partitions < connections as i32 {
        return Err(LoadError::Options(format!(
            "{connections} connections cannot share {} partitions: at least one each",
            options.partitions
        )));
    }
    let bytes_each = options.bytes.map_or(u64::MAX, |b| b.div_ceil(connections as u64));
    let started = Instant::now();
    let mut total = Work::default();
    let mut times = latencies();
    thread::scope(|scope| {
        let mut readers = Vec::with_capacity(connections);
        for (at, stream) in streams.into_iter().enumerate() {
            let own = (at as i32..options.partitions).step_by(connections).collect();
            readers.push(scope.spawn(move || read(stream, options, own, bytes_each)));
        }
        for reader in readers {
            let (work, histogram) = reader
                .join()
                .map_err(|_| LoadError::Answer("a reading thread panicked".to_owned()))??;
            total.requests += work.requests;
            total.records += work.records;
            total.bytes += work.bytes;
            total.generator_cpu_s += work.generator_cpu_s;
            times
                .add(&histogram)
                .map_err(|e| LoadError::Answer(e.to_string()))?;
        }
        Ok::<_, LoadError>(())
    })?;
    total.wall = started.elapsed();
    Ok((total, times))
}

/// One partition and where it is read next.
#[derive(Debug, Clone)]
struct Position {
    partition: i32,
    offset: i64,
}

fn read_kafka(
    mut stream: TcpStream,
    options: &Options,
    partitions: Vec<i32>,
    bytes_goal: u64,
) -> Result<(Work, Histogram<u64>), LoadError> {
    let mut positions: Vec<Position> = partitions
        .into_iter()
        .map(|partition| Position { partition, offset: 0 })
        .collect();
    let mut frame = Frame::new(&mut stream)?;
    let (mut work, mut times) = (Work::default(), latencies());
    let (started, cpu_before_s) = (Instant::now(), thread_cpu_s());
    while work.bytes < bytes_goal && options.duration.is_none_or(|d| started.elapsed() < d) {
        let sent = Instant::now();
        let request = fetch_request(&options.topic, &positions, options)?;
        stream.write_all(&request).map_err(LoadError::io("sending"))?;
        let bytes = frame.receive(&mut stream)?;
        note(&mut times, sent.elapsed());
        let answer = decode_fetch(bytes)?;
        let bytes_before = work.bytes;
        let mut wrapped = false;
        for (partition, log_start_offset, records) in fetched(&answer)? {
            let Some(position) = positions.iter_mut().find(|p| p.partition == partition) else {
                return Err(LoadError::Answer(format!(
                    "partition {partition} was not asked for"
                )));
            };
            let (next_offset, count) = hop(records, position.offset);
            // At the end: from the beginning again.
            if count == 0 && position.offset > log_start_offset {
                position.offset = log_start_offset.max(0);
                wrapped = true;
            } else {
                position.offset = next_offset;
            }
            work.records += count;
            work.bytes += records.len() as u64;
        }
        work.requests += 1;
        if work.bytes == bytes_before && !wrapped {
            return Err(LoadError::Options(format!(
                "topic {} has nothing to read; produce to it first",
                options.topic
            )));
        }
        drop(answer);
        frame.reclaim();
    }
    work.generator_cpu_s = thread_cpu_s() - cpu_before_s;
    Ok((work, times))
}

/// Partition, log start offset and records of each partition of an answer, errors taken out.
pub(super) fn fetched(answer: &FetchedResponse) -> Result<Vec<(i32, i64, &Bytes)>, LoadError> {
    if answer.error != ErrorCode::None {
        return Err(LoadError::Answer(format!("Fetch: {:?}", answer.error)));
    }
    let mut found = Vec::new();
    for fetched in answer.topics.iter().flat_map(|t| &t.partitions) {
        let head = &fetched.partition;
        if head.error != ErrorCode::None {
            return Err(LoadError::Answer(format!(
                "partition {}: {:?}",
                head.index, head.error
            )));
        }
        found.push((head.index, head.log_start_offset, &fetched.records));
    }
    Ok(found)
}

/// A Fetch of these positions that waits for nothing.
fn fetch_request(topic: &str, positions: &[Position], options: &Options) -> Result<Bytes, LoadError> {
    let partition = |position: &Position| FetchPartition {
        index: position.partition,
        fetch_offset: position.offset,
        max_bytes: options.partition_bytes,
        ..FetchPartition::default()
    };
    let request = FetchRequest {
        max_wait_ms: 0,
        min_bytes: 0,
        max_bytes: options.answer_bytes,
        topics: vec![FetchTopic {
            name: StrBytes::from_string(topic.to_owned()),
            partitions: positions.iter().map(partition).collect(),
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    };
    encode_fetch(request)
}

pub(super) fn encode_fetch(request: FetchRequest) -> Result<Bytes, LoadError> {
    let version = client::client_version(ApiKey::Fetch);
    client::encode_request(ApiKey::Fetch, version, 0, Some("tidelog-load"), &request.into())
        .map_err(|e| LoadError::Options(e.to_string()))
}

pub(super) fn decode_fetch(frame: Bytes) -> Result<FetchedResponse, LoadError> {
    let version = client::client_version(ApiKey::Fetch);
    let answer = client::decode_response(ApiKey::Fetch, version, frame, LOAD_DECODED_BYTES_MAX)
        .map_err(|e| LoadError::Answer(e.to_string()))?;
    match answer.body {
        ResponseBody::Fetch(body) => Ok(body),
        other => Err(LoadError::Answer(format!(
            "{:?} instead of Fetch",
            other.api_key()
        ))),
    }
}

/// The offset after the last whole batch of `records`, and the records from `from` on.
pub(super) fn hop(records: &[u8], from: i64) -> (i64, u64) {
    let (mut at, mut next_offset) = (0usize, from);
    while let Some(header) = records.get(at..at.saturating_add(BATCH_HEADER_BYTES)) {
        let field = |from: usize| {
            header[from..]
                .first_chunk::<4>()
                .map_or(-1, |b| i32::from_be_bytes(*b))
        };
        let base_offset = header.first_chunk::<8>().map_or(-1, |b| i64::from_be_bytes(*b));
        let (length, delta) = (field(8), field(23));
        let Ok(length) = usize::try_from(length) else {
            break;
        };
        at = at.saturating_add(12).saturating_add(length);
        if at > records.len() || length == 0 {
            break;
        }
        next_offset = base_offset
            .saturating_add(i64::from(delta))
            .saturating_add(1)
            .max(next_offset);
    }
    (
        next_offset,
        u64::try_from(next_offset.saturating_sub(from)).unwrap_or(0),
    )
}

/// An answer with one batch of full size for each partition, for the null server.
pub fn canned_answer(options: &Options) -> Result<Bytes, LoadError> {
    use tidelog_net::hot::{FetchPartitionResponse, FetchedPartition, FetchedTopic};
    let bytes = usize::try_from(options.partition_bytes).unwrap_or(1);
    let records = super::template::Batch::of_records(1024, bytes)?.bytes;
    let partition = |index: i32| FetchedPartition {
        partition: FetchPartitionResponse {
            index,
            log_start_offset: 0,
            records_len: records.len(),
            ..FetchPartitionResponse::default()
        },
        records: records.clone(),
    };
    let body = FetchedResponse {
        topics: vec![FetchedTopic {
            name: StrBytes::from_string(options.topic.clone()),
            partitions: (0..options.partitions).map(partition).collect(),
            ..FetchedTopic::default()
        }],
        ..FetchedResponse::default()
    };
    let version = client::client_version(ApiKey::Fetch);
    tidelog_net::response::encode_response(version, 0, &ResponseBody::Fetch(body))
        .map_err(|e| LoadError::Answer(e.to_string()))
}

/// Reads whole frames into one buffer that is used again.
struct Frame {
    buffer: BytesMut,
    lent: Option<Bytes>,
}

impl Frame {
    fn new(stream: &mut TcpStream) -> Result<Self, LoadError> {
        stream
            .set_read_timeout(Some(LOAD_STALL))
            .map_err(LoadError::io("read timeout"))?;
        Ok(Self {
            buffer: BytesMut::new(),
            lent: None,
        })
    }

    /// The next frame without its size prefix.
    fn receive(&mut self, stream: &mut TcpStream) -> Result<Bytes, LoadError> {
        let mut prefix = [0; 4];
        read_exact(stream, &mut prefix)?;
        let size = tidelog_net::frame::parse_size(&prefix, FRAME_BYTES_MAX)
            .map_err(|e| LoadError::Answer(e.to_string()))?;
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
        read_exact(stream, &mut self.buffer[..size])?;
        let whole = std::mem::take(&mut self.buffer).freeze();
        let frame = whole.slice(..size);
        self.lent = Some(whole);
        Ok(frame)
    }

    /// Takes the buffer back once nothing of the last frame is left.
    fn reclaim(&mut self) {
        if let Some(Ok(buffer)) = self.lent.take().map(Bytes::try_into_mut) {
            self.buffer = buffer;
        }
    }
}

fn read_exact(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(), LoadError> {
    stream.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => LoadError::Closed { in_flight: 1 },
        std::io::ErrorKind::WouldBlock => LoadError::Stalled {
            seconds: LOAD_STALL.as_secs(),
            in_flight: 1,
        },
        _ => LoadError::io("receiving")(error),
    })
}

fn read_bare(
    mut stream: TcpStream,
    options: &Options,
    files: Vec<i32>,
    bytes_goal: u64,
) -> Result<(Work, Histogram<u64>), LoadError> {
    let want = u32::try_from(options.partition_bytes)
        .ok()
        .filter(|b| (1..=bare::READ_FILE_BYTES).contains(&u64::from(*b)))
        .ok_or_else(|| {
            LoadError::Options("a read of a bare server takes 1 byte to a whole file".to_owned())
        })?;
    let mut frame = Frame::new(&mut stream)?;
    let (mut work, mut times) = (Work::default(), latencies());
    let (started, cpu_before_s) = (Instant::now(), thread_cpu_s());
    let mut position = 0u64;
    while work.bytes < bytes_goal && options.duration.is_none_or(|d| started.elapsed() < d) {
        for file in &files {
            let sent = Instant::now();
            let request = bare::read_request(0, file.cast_unsigned(), position, want);
            stream.write_all(&request).map_err(LoadError::io("sending"))?;
            let answer = frame.receive(&mut stream)?;
            note(&mut times, sent.elapsed());
            if answer.len() != want as usize + 4 {
                return Err(LoadError::Answer(format!(
                    "{} bytes, expected {want} and 4",
                    answer.len()
                )));
            }
            drop(answer);
            frame.reclaim();
            work.bytes += u64::from(want);
            work.requests += 1;
        }
        position += u64::from(want);
        if position + u64::from(want) > bare::READ_FILE_BYTES {
            position = 0;
        }
    }
    work.records = work.bytes / 1024;
    work.generator_cpu_s = thread_cpu_s() - cpu_before_s;
    Ok((work, times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::template::Batch;

    #[test]
    fn hopping_counts_records_and_leaves_a_cut_batch() {
        let one = Batch::of_records(100, 1_000).expect("fine").bytes;
        let mut second = BytesMut::from(&one[..]);
        second[..8].copy_from_slice(&10i64.to_be_bytes());
        let two = [&one[..], &second[..]].concat();
        assert_eq!(hop(&two, 0), (20, 20));
        assert_eq!(
            hop(&two, 4),
            (20, 16),
            "a batch may begin before the offset asked for"
        );
        assert_eq!(hop(&two[..two.len() - 1], 0), (10, 10));
        assert_eq!(hop(&[], 7), (7, 0));
        for at in 0..one.len() {
            let mut changed = BytesMut::from(&one[..]);
            changed[at] = 0xff;
            let (next_offset, _) = hop(&changed, 3);
            assert!(next_offset >= 3, "{at}: never goes back");
        }
    }
}
