//! The open loop: one record a request at a fixed rate, whether or not the broker keeps up.
//!
//! Latency counts from the moment a record *should* have been sent, so a broker that stalls is charged
//! for every record that waited meanwhile (no coordinated omission). Acknowledgement and arrival at a
//! consumer are both taken. One thread for both sockets. The offset tells which record arrived: the topic
//! must be this run's own, and records go to its partitions in turn.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tidelog_net::StrBytes;
use tidelog_net::frame::FrameDecoder;
use tidelog_net::hot::{FetchPartition, FetchRequest, FetchTopic};

use super::LoadError;
use super::consume::{decode_fetch, encode_fetch, fetched, hop};
use super::process::thread_cpu_s;
use super::report::{Work, latencies, note};
use super::template::Template;
use crate::limits::{FRAME_BYTES_MAX, LOAD_IN_FLIGHT_MAX, LOAD_RATE_MAX, LOAD_STALL};

const READ_BYTES: usize = 64 * 1024;

/// How to send.
#[derive(Debug, Clone)]
pub struct Options {
    /// The topic, new for this run.
    pub topic: String,
    /// Records in one second.
    pub rate: u64,
    /// How long to send.
    pub duration: Duration,
    /// Records of the beginning that are not counted.
    pub warm_up: Duration,
}

/// What a run measured.
#[derive(Debug)]
pub struct Measured {
    /// Work done, warm-up included.
    pub work: Work,
    /// From the intended send to the acknowledgement.
    pub acks: Histogram<u64>,
    /// From the intended send to the arrival at the consumer; empty without one.
    pub end_to_end: Histogram<u64>,
    /// From the intended to the real send.
    pub late_sends: Histogram<u64>,
}

/// Sends `templates` in turn over `producer`; `consumer` reads along when there is one.
pub fn run(
    producer: TcpStream,
    consumer: Option<TcpStream>,
    templates: &[Template],
    options: &Options,
) -> Result<Measured, LoadError> {
    if templates.is_empty() || options.rate == 0 || options.rate > LOAD_RATE_MAX {
        return Err(LoadError::Options(format!(
            "at least one partition, and a rate of 1 to {LOAD_RATE_MAX} records a second"
        )));
    }
    // The kernel may otherwise wake a sleeper 50 us late; that a run works without is no reason to fail.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let producer = Socket::new(producer)?;
    let consumer = consumer.map(Socket::new).transpose()?;
    let records = (options.duration.as_secs_f64() * options.rate as f64) as u64;
    let mut run = Run {
        templates,
        options,
        producer,
        consumer,
        next_offsets: vec![0; templates.len()],
        started: Instant::now(),
        records,
        sent: 0,
        in_flight: VecDeque::new(),
        acked: 0,
        arrived: 0,
        measured: Measured {
            work: Work::default(),
            acks: latencies(),
            end_to_end: latencies(),
            late_sends: latencies(),
        },
    };
    let cpu_before_s = thread_cpu_s();
    if run.consumer.is_some() {
        run.fetch()?;
    }
    while !run.is_done() {
        run.send_due()?;
        match run.sleep()? {
            Ready { nothing: true, .. } if run.sent == run.records => {
                return Err(LoadError::Stalled {
                    seconds: LOAD_STALL.as_secs(),
                    in_flight: run.sent - run.acked,
                });
            }
            ready => {
                if ready.producer {
                    run.take_acks()?;
                }
                if ready.consumer {
                    run.take_arrivals()?;
                }
            }
        }
    }
    let mut measured = run.measured;
    measured.work.requests = run.acked;
    measured.work.records = run.acked;
    measured.work.bytes = run.acked * templates.first().map_or(0, |t| t.payload_bytes);
    measured.work.wall = run.started.elapsed();
    measured.work.generator_cpu_s = thread_cpu_s() - cpu_before_s;
    Ok(measured)
}

/// Which sockets have something to say.
struct Ready {
    producer: bool,
    consumer: bool,
    nothing: bool,
}

struct Run<'a> {
    templates: &'a [Template],
    options: &'a Options,
    producer: Socket,
    consumer: Option<Socket>,
    /// What the consumer reads next of each partition.
    next_offsets: Vec<i64>,
    started: Instant,
    records: u64,
    sent: u64,
    /// Records without an acknowledgement.
    in_flight: VecDeque<u64>,
    acked: u64,
    arrived: u64,
    measured: Measured,
}

impl Run<'_> {
    fn is_done(&self) -> bool {
        let all_arrived = self.consumer.is_none() || self.arrived >= self.records;
        self.acked >= self.records && all_arrived
    }

    /// When record `number` should be sent.
    fn due(&self, number: u64) -> Instant {
        let nanoseconds = u128::from(number) * 1_000_000_000 / u128::from(self.options.rate);
        self.started + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// How long the thread may sleep.
    fn wait(&self) -> Duration {
        if self.sent < self.records && self.in_flight.len() < LOAD_IN_FLIGHT_MAX {
            self.due(self.sent).saturating_duration_since(Instant::now())
        } else {
            LOAD_STALL
        }
    }

    /// Sleeps until a socket is ready or the next record is due. Not epoll, whose timeout has whole
    /// milliseconds.
    fn sleep(&self) -> Result<Ready, LoadError> {
        let wait = Timespec::try_from(self.wait()).map_err(|_| LoadError::Options("rate".to_owned()))?;
        let consumer = self.consumer.as_ref().unwrap_or(&self.producer);
        let mut sockets = [self.producer.interest(), consumer.interest()];
        match poll(&mut sockets, Some(&wait)) {
            Ok(count) => Ok(Ready {
                producer: !sockets[0].revents().is_empty(),
                consumer: self.consumer.is_some() && !sockets[1].revents().is_empty(),
                nothing: count == 0,
            }),
            Err(rustix::io::Errno::INTR) => Ok(Ready {
                producer: false,
                consumer: false,
                nothing: false,
            }),
            Err(error) => Err(LoadError::io("poll")(error)),
        }
    }

    fn is_counted(&self, number: u64) -> bool {
        self.due(number) >= self.started + self.options.warm_up
    }

    fn send_due(&mut self) -> Result<(), LoadError> {
        while self.sent < self.records && self.in_flight.len() < LOAD_IN_FLIGHT_MAX {
            let (due, now) = (self.due(self.sent), Instant::now());
            if due > now {
                break;
            }
            let template = &self.templates[self.sent as usize % self.templates.len()];
            self.producer
                .output
                .extend_from_slice(&template.head(self.sent as i32));
            self.producer.output.extend_from_slice(template.rest());
            if self.is_counted(self.sent) {
                note(&mut self.measured.late_sends, now.saturating_duration_since(due));
            }
            self.in_flight.push_back(self.sent);
            self.sent += 1;
        }
        self.producer.flush()
    }

    fn take_acks(&mut self) -> Result<(), LoadError> {
        self.producer.flush()?;
        self.producer.fill()?;
        let now = Instant::now();
        while let Some(frame) = self.producer.next_frame()? {
            let number = self
                .in_flight
                .pop_front()
                .ok_or_else(|| LoadError::Answer("more answers than requests".to_owned()))?;
            let template = &self.templates[number as usize % self.templates.len()];
            template.check_answer(&frame, number as i32)?;
            if self.is_counted(number) {
                let latency = now.saturating_duration_since(self.due(number));
                note(&mut self.measured.acks, latency);
            }
            self.acked += 1;
        }
        Ok(())
    }

    fn take_arrivals(&mut self) -> Result<(), LoadError> {
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        consumer.flush()?;
        consumer.fill()?;
        let now = Instant::now();
        let Some(frame) = consumer.next_frame()? else {
            return Ok(());
        };
        let answer = decode_fetch(frame)?;
        for (partition, _, records) in fetched(&answer)? {
            let index = usize::try_from(partition).unwrap_or(usize::MAX);
            let Some(offset) = self.next_offsets.get(index).copied() else {
                return Err(LoadError::Answer(format!(
                    "partition {partition} was not asked for"
                )));
            };
            let (next_offset, _) = hop(records, offset);
            for arrived in offset..next_offset {
                let number = arrived.cast_unsigned() * self.templates.len() as u64 + index as u64;
                if number >= self.sent {
                    return Err(LoadError::Options(format!(
                        "offset {arrived} of partition {partition} is not of this run; \
                         the topic must be new"
                    )));
                }
                if self.is_counted(number) {
                    let latency = now.saturating_duration_since(self.due(number));
                    note(&mut self.measured.end_to_end, latency);
                }
                self.arrived += 1;
            }
            self.next_offsets[index] = next_offset;
        }
        self.fetch()
    }

    /// Asks for what comes next; the broker answers when something is there.
    fn fetch(&mut self) -> Result<(), LoadError> {
        let partitions = self
            .next_offsets
            .iter()
            .enumerate()
            .map(|(index, offset)| FetchPartition {
                index: index as i32,
                fetch_offset: *offset,
                ..FetchPartition::default()
            });
        let request = encode_fetch(FetchRequest {
            topics: vec![FetchTopic {
                name: StrBytes::from_string(self.options.topic.clone()),
                partitions: partitions.collect(),
                ..FetchTopic::default()
            }],
            ..FetchRequest::default()
        })?;
        match &mut self.consumer {
            Some(consumer) => {
                consumer.output.extend_from_slice(&request);
                consumer.flush()
            }
            None => Ok(()),
        }
    }
}

/// A non-blocking socket with what is to be sent and what came in.
struct Socket {
    stream: TcpStream,
    output: BytesMut,
    input: BytesMut,
}

impl Socket {
    fn new(stream: TcpStream) -> Result<Self, LoadError> {
        stream
            .set_nonblocking(true)
            .map_err(LoadError::io("non-blocking socket"))?;
        Ok(Self {
            stream,
            output: BytesMut::new(),
            input: BytesMut::new(),
        })
    }

    fn interest(&self) -> PollFd<'_> {
        let is_full = !self.output.is_empty();
        let write = if is_full {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        PollFd::new(&self.stream, PollFlags::IN | write)
    }

    fn flush(&mut self) -> Result<(), LoadError> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(LoadError::io("sending")(error)),
            }
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), LoadError> {
        loop {
            let at = self.input.len();
            self.input.resize(at + READ_BYTES, 0);
            let result = self.stream.read(&mut self.input[at..]);
            self.input.truncate(at + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => return Err(LoadError::Closed { in_flight: 1 }),
                Ok(count) if count < READ_BYTES => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(LoadError::io("receiving")(error)),
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<bytes::Bytes>, LoadError> {
        FrameDecoder::new(FRAME_BYTES_MAX)
            .next_frame(&mut self.input)
            .map_err(|e| LoadError::Answer(e.to_string()))
    }
}
