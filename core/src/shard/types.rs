//! What goes into a shard and comes out of it: inputs, effects, messages between shards, charges.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use bytes::Bytes;
use tidelog_segment_log::disk::HotBytes;
use tidelog_segment_log::disk::heap::HeapPool;
use tidelog_segment_log::ids::PartitionKey;

use super::admin::PartitionSize;
use super::control::{ControlAnswer, ControlOp, ControlSeed};
use super::leases::Pool;
use super::partition::{PartitionAnswer, PartitionOp};
use super::partitions::DirectoriesSeed;
use crate::metadata::MetadataImage;
use crate::metrics::ShardMetrics;
use crate::settings::Settings;

/// A socket of the engine: its slot and the slot's generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    /// Slot in the engine's table.
    pub slot: u32,
    /// Raised each time the slot is used again (24 bits).
    pub generation: u32,
}

/// The time an input is handled at.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Milliseconds of this shard's monotonic clock: deadlines.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970: timestamps of records.
    pub wall_ms: i64,
    /// When the turn began: how long a request takes is counted from there.
    pub instant: Instant,
}

/// A piece of an answer.
#[derive(Debug)]
pub enum SendPart {
    /// Bytes of their own.
    Bytes(Bytes),
    /// Bytes of a log, leased until they are sent.
    Log(HotBytes, usize),
}

impl SendPart {
    /// What is still to be sent of it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            SendPart::Bytes(bytes) => bytes,
            SendPart::Log(bytes, sent) => bytes.get(*sent..).unwrap_or(&[]),
        }
    }

    /// What is still to be sent of it, if that is a log's.
    pub fn log_bytes(&self) -> Option<HotBytes> {
        match self {
            SendPart::Bytes(_) => None,
            SendPart::Log(bytes, sent) => Some(bytes.slice((*sent).min(bytes.len())..bytes.len())),
        }
    }

    /// Drops the first `sent` bytes.
    pub fn advance(&mut self, sent: usize) {
        match self {
            SendPart::Bytes(bytes) => *bytes = bytes.slice(sent.min(bytes.len())..),
            SendPart::Log(_, from) => *from += sent,
        }
    }
}

/// The pieces of an answer that are still to be sent. Most answers are one.
#[derive(Debug)]
pub enum Parts {
    /// One piece.
    One(SendPart),
    /// Any number, in order.
    Many(VecDeque<SendPart>),
}

impl Parts {
    /// The pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = &SendPart> + Clone {
        let (one, many) = match self {
            Parts::One(part) => (Some(part), None),
            Parts::Many(parts) => (None, Some(parts)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Drops the first `sent` bytes. All of them sent: answers how many of `sent` belong to what comes after.
    pub fn advance(&mut self, mut sent: usize) -> Option<usize> {
        match self {
            Parts::One(part) => {
                let len = part.bytes().len();
                if sent < len {
                    part.advance(sent);
                    return None;
                }
                Some(sent - len)
            }
            Parts::Many(parts) => {
                while let Some(part) = parts.front_mut() {
                    let len = part.bytes().len();
                    if sent < len {
                        part.advance(sent);
                        return None;
                    }
                    sent -= len;
                    parts.pop_front();
                }
                Some(sent)
            }
        }
    }
}

/// A whole answer, with what it holds of the budgets until it is sent.
#[derive(Debug)]
pub struct Response {
    /// The frame, size prefix included.
    pub parts: Parts,
    /// Given back when it is out.
    pub charge: Charge,
}

/// What a request and its answer hold of a shard's budgets, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Of the receive budget: the request's frame.
    pub receive_bytes: usize,
    /// Of the fetch budget: buffers of the answer.
    pub fetch_bytes: usize,
}

/// What the engine is to do.
#[derive(Debug)]
pub enum Effect {
    /// Queue an answer on a socket.
    Respond(SocketId, Response),
    /// Close a socket now.
    Close(SocketId),
    /// Close it when everything queued is out.
    CloseAfterSend(SocketId),
    /// Reading may go on.
    ReadAgain(SocketId),
}

/// Where an answer belongs: a pending request of a shard, and its part of it.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo {
    /// The shard that asked.
    pub shard: u16,
    /// Its pending request.
    pub pending: u64,
    /// Which part of that request.
    pub part: u32,
}

/// A request between shards. Each is answered exactly once.
#[derive(Debug)]
pub enum ShardRequest {
    /// An accepted connection for a shard with fewer.
    Connection {
        /// The socket.
        socket: OwnedFd,
        /// The listener it came in on.
        listener: usize,
        /// The other end.
        peer: SocketAddr,
    },
    /// An operation on a partition of the receiver.
    Partition(ReplyTo, PartitionKey, PartitionOp),
    /// A watched mark has moved.
    Wake(ReplyTo),
    /// A fetch that watched has ended.
    Unwatch(PartitionKey, u16, u64),
    /// An operation on group 0, to shard 0.
    Control(ReplyTo, ControlOp),
    /// The metadata from now on.
    Image(Arc<MetadataImage>),
    /// What do the receiver's partitions take on the disk?
    Sizes(ReplyTo),
    /// Leader epochs of partitions that the sender has opened.
    Opened(Vec<(PartitionKey, i32)>),
    /// Memory is wanted: how much of which pool.
    Lease(Pool, usize),
    /// Memory that was lent comes back.
    LeaseReturned(Pool, usize),
}

/// An answer between shards.
#[derive(Debug)]
pub enum ShardAnswer {
    /// Nothing to tell.
    Done,
    /// A partition's answer.
    Partition(ReplyTo, PartitionAnswer),
    /// Group 0's answer.
    Control(ReplyTo, ControlAnswer),
    /// What the sender's partitions take on the disk, in bytes.
    Sizes(ReplyTo, Vec<PartitionSize>),
    /// The sender, a shard, serves the image of this version.
    ImageApplied(u64, u16),
    /// How much a shard lends, which may be nothing.
    Lease {
        /// Of which pool.
        pool: Pool,
        /// How much.
        bytes: usize,
        /// The shard.
        lender: u16,
    },
}

/// What a shard is made from.
pub struct ShardSeed {
    /// The settings at start.
    pub settings: Arc<Settings>,
    /// One advertised address per listener: host and port.
    pub listeners: Vec<(Arc<str>, String, u16)>,
    /// The cluster's id.
    pub cluster_id: String,
    /// The data directories.
    pub directories: DirectoriesSeed,
    /// The memory of partitions that are in no directory, as this shard uses it.
    pub memory: Arc<HeapPool>,
    /// Partitions that are opened at once, as the descriptors allow.
    pub openings_max: usize,
    /// Group 0; on shard 0 only.
    pub control: Option<ControlSeed>,
    /// Told once, when this shard serves what it owns.
    pub ready: std::sync::mpsc::Sender<ShardReady>,
    /// How many shards have ended all requests of their connections while stopping.
    pub quiet_shards: Arc<AtomicUsize>,
    /// Where metrics snapshots are left for the control thread.
    pub metrics: Arc<std::sync::Mutex<ShardMetrics>>,
}

/// What a shard says when it serves.
#[derive(Clone, Debug)]
pub struct ShardReady {
    /// Topics that exist.
    pub topics: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_dropped_and_the_rest_belongs_to_what_comes_after() {
        let part = |text: &'static str| SendPart::Bytes(Bytes::from_static(text.as_bytes()));
        let mut one = Parts::One(part("three"));
        assert_eq!(one.advance(3), None);
        assert!(one.iter().map(SendPart::bytes).eq([b"ee"]));
        assert_eq!(one.advance(7), Some(5));

        let mut many = Parts::Many(VecDeque::from([part("three"), part("of"), part("them")]));
        assert_eq!(many.advance(6), None);
        assert!(many.iter().map(SendPart::bytes).eq([&b"f"[..], b"them"]));
        assert_eq!(many.advance(5), Some(0));
        assert_eq!(Parts::Many(VecDeque::new()).advance(2), Some(2));
    }
}
