//! The closed loop: C connections with F requests in flight each, over non-blocking sockets in one thread.
//!
//! Invariants: answers come in the order of the requests, each is held to its request, and the run ends
//! only when everything sent was answered. Requests are never built here, only copied (small ones) or sent
//! from where they lie.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};

use super::LoadError;
use super::process::thread_cpu_s;
use super::report::{Work, latencies, note};
use super::template::{HEAD_BYTES, Template};
use crate::limits::{LOAD_ANSWERS_BYTES, LOAD_COPIED_REQUEST_BYTES_MAX, LOAD_STALL};

const EVENTS: usize = 1024;

/// When to stop sending; whichever comes first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Goal {
    /// Requests in all.
    pub requests: Option<u64>,
    /// Time from the first send.
    pub duration: Option<Duration>,
}

/// Sends `templates` in turn over every connection until the goal is reached.
///
/// Each connection begins with another template, so that partitions are loaded evenly. Returns the work
/// done and the times from send to answer.
pub fn run(
    streams: Vec<TcpStream>,
    templates: &[Template],
    in_flight: usize,
    goal: Goal,
) -> Result<(Work, Histogram<u64>), LoadError> {
    if templates.is_empty() || streams.is_empty() || in_flight == 0 {
        return Err(LoadError::Options(
            "at least one partition, connection and request in flight are needed".to_owned(),
        ));
    }
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(LoadError::io("epoll"))?;
    let mut peers = Vec::with_capacity(streams.len());
    for (at, stream) in streams.into_iter().enumerate() {
        stream
            .set_nonblocking(true)
            .map_err(LoadError::io("non-blocking socket"))?;
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(at as u64), interest)
            .map_err(LoadError::io("epoll"))?;
        peers.push(Peer::new(stream, at % templates.len()));
    }
    let cpu_before_s = thread_cpu_s();
    let mut run = Run {
        templates,
        window: in_flight,
        left: goal.requests.unwrap_or(u64::MAX),
        started: Instant::now(),
        work: Work::default(),
        latencies: latencies(),
        outstanding: 0,
    };
    let mut is_past = false;
    let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
    for peer in &mut peers {
        peer.send(&mut run)?;
    }
    while run.outstanding > 0 {
        events.clear();
        let stall = Timespec::try_from(LOAD_STALL).map_err(|_| LoadError::Options("stall".to_owned()))?;
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&stall)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(LoadError::io("epoll"))?,
        };
        if events.is_empty() {
            return Err(LoadError::Stalled {
                seconds: LOAD_STALL.as_secs(),
                in_flight: run.outstanding,
            });
        }
        if !is_past && goal.duration.is_some_and(|d| run.started.elapsed() >= d) {
            is_past = true;
            run.left = 0;
        }
        for event in &events {
            let at = event.data.u64() as usize;
            let Some(peer) = peers.get_mut(at) else { continue };
            peer.receive(&mut run)?;
            peer.send(&mut run)?;
        }
    }
    run.work.wall = run.started.elapsed();
    run.work.generator_cpu_s = thread_cpu_s() - cpu_before_s;
    Ok((run.work, run.latencies))
}

struct Run<'a> {
    templates: &'a [Template],
    window: usize,
    /// Requests that may still be sent.
    left: u64,
    started: Instant,
    work: Work,
    latencies: Histogram<u64>,
    /// Requests sent or being sent that are not answered.
    outstanding: u64,
}

/// A request that is on its way or waits for its answer.
struct Sent {
    template: usize,
    correlation_id: i32,
    at: Instant,
}

struct Peer {
    stream: TcpStream,
    in_flight: VecDeque<Sent>,
    next_template: usize,
    next_correlation_id: i32,
    /// Small requests that were copied, and how much of them is sent.
    copied: Vec<u8>,
    copied_sent: usize,
    /// A large request that is being sent: its head, its template, and how much of it is sent.
    large: Option<([u8; HEAD_BYTES], usize, usize)>,
    answers: Box<[u8]>,
    filled: usize,
}

impl Peer {
    fn new(stream: TcpStream, first_template: usize) -> Self {
        Self {
            stream,
            in_flight: VecDeque::new(),
            next_template: first_template,
            next_correlation_id: 0,
            copied: Vec::new(),
            copied_sent: 0,
            large: None,
            answers: vec![0; LOAD_ANSWERS_BYTES].into_boxed_slice(),
            filled: 0,
        }
    }

    /// Sends until the window is full, the socket is full or nothing is left to send.
    fn send(&mut self, run: &mut Run<'_>) -> Result<(), LoadError> {
        loop {
            if !self.flush(run.templates)? {
                return Ok(());
            }
            if run.left == 0 || self.in_flight.len() >= run.window {
                return Ok(());
            }
            let now = Instant::now();
            while run.left > 0 && self.in_flight.len() < run.window && self.large.is_none() {
                self.begin(run, now);
            }
        }
    }

    /// Takes the next request up: copies a small one, remembers a large one.
    fn begin(&mut self, run: &mut Run<'_>, now: Instant) {
        let index = self.next_template;
        let template = &run.templates[index];
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1);
        self.next_template = (index + 1) % run.templates.len();
        let head = template.head(correlation_id);
        if template.len() <= LOAD_COPIED_REQUEST_BYTES_MAX {
            self.copied.extend_from_slice(&head);
            self.copied.extend_from_slice(template.rest());
        } else {
            self.large = Some((head, index, 0));
        }
        self.in_flight.push_back(Sent {
            template: index,
            correlation_id,
            at: now,
        });
        run.left -= 1;
        run.outstanding += 1;
    }

    /// Sends what was begun. True: all of it is with the kernel.
    fn flush(&mut self, templates: &[Template]) -> Result<bool, LoadError> {
        while self.copied_sent < self.copied.len() {
            match written(self.stream.write(&self.copied[self.copied_sent..]))? {
                0 => return Ok(false),
                count => self.copied_sent += count,
            }
        }
        self.copied.clear();
        self.copied_sent = 0;
        while let Some((head, index, sent)) = &mut self.large {
            let rest = templates[*index].rest();
            let slices = match sent.checked_sub(HEAD_BYTES) {
                Some(of_rest) => [IoSlice::new(&rest[of_rest..]), IoSlice::new(&[])],
                None => [IoSlice::new(&head[*sent..]), IoSlice::new(rest)],
            };
            match written(self.stream.write_vectored(&slices))? {
                0 => return Ok(false),
                count => *sent += count,
            }
            if *sent == HEAD_BYTES + rest.len() {
                self.large = None;
            }
        }
        Ok(true)
    }

    /// Reads and checks the answers that are there.
    fn receive(&mut self, run: &mut Run<'_>) -> Result<(), LoadError> {
        loop {
            let space = self.answers.len() - self.filled;
            let count = match self.stream.read(&mut self.answers[self.filled..]) {
                Ok(0) => {
                    return Err(LoadError::Closed {
                        in_flight: self.in_flight.len(),
                    });
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(LoadError::io("receiving")(error)),
            };
            self.filled += count;
            self.take_answers(run)?;
            if count < space {
                return Ok(());
            }
        }
    }

    fn take_answers(&mut self, run: &mut Run<'_>) -> Result<(), LoadError> {
        let now = Instant::now();
        let mut at = 0;
        while let Some(prefix) = self.answers[at..self.filled].first_chunk::<4>() {
            let max_bytes = self.answers.len() - 4;
            let size = tidelog_net::frame::parse_size(prefix, max_bytes)
                .map_err(|e| LoadError::Answer(e.to_string()))?;
            let Some(frame) = self.answers[at + 4..self.filled].get(..size) else {
                break;
            };
            let sent = self
                .in_flight
                .pop_front()
                .ok_or_else(|| LoadError::Answer("more answers than requests".to_owned()))?;
            let template = &run.templates[sent.template];
            template.check_answer(frame, sent.correlation_id)?;
            note(&mut run.latencies, now.saturating_duration_since(sent.at));
            run.outstanding -= 1;
            run.work.requests += 1;
            run.work.records += template.records;
            run.work.bytes += template.payload_bytes;
            at += 4 + size;
        }
        self.answers.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }
}

/// Bytes written; 0 when the socket is full.
fn written(result: std::io::Result<usize>) -> Result<usize, LoadError> {
    match result {
        Ok(count) => Ok(count),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(error) => Err(LoadError::io("sending")(error)),
    }
}
