//! The rings between shards: one for requests and one for answers per direction.
//!
//! Each [`Endpoint`] belongs to its shard's thread. Requests take one credit per answer still
//! owed, and an answer ring holds as many as there are credits, so *an answer never waits*. A full
//! request ring is told to the caller, who keeps the request; nothing here blocks.

mod parked;
#[cfg(test)]
mod parked_model;
mod silence;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

pub use parked::Doorbell;
pub use silence::{Beats, Silence, SilenceWatch};

/// The most shards a mesh can join: one bit each in the inbound mask.
const SHARDS_MAX: usize = crate::limits::SHARDS_MAX as usize;
const _: () = assert!(SHARDS_MAX <= u64::BITS as usize);

/// How one shard wakes another.
#[derive(Clone, Debug)]
pub struct Waker {
    bell: Arc<Doorbell>,
    eventfd: Arc<OwnedFd>,
}

impl Waker {
    fn announce(&self, bit: u32) {
        if self.bell.announce(bit) {
            self.ring();
        }
    }

    /// Makes the shard's eventfd readable.
    pub fn ring(&self) {
        // Fails only on a closed descriptor, and the Arc keeps it open.
        let _ = rustix::io::write(self.eventfd.as_fd(), &1u64.to_ne_bytes());
    }
}

struct Peer<Q, A> {
    requests_out: Producer<Q>,
    answers_out: Producer<A>,
    requests_in: Consumer<Q>,
    answers_in: Consumer<A>,
    /// Answers this shard still expects from the peer.
    owed: usize,
    credits: usize,
    waker: Waker,
}

/// One shard's end of all rings. Index = shard.
pub struct Endpoint<Q, A> {
    own: u32,
    own_waker: Waker,
    beats: Beats,
    /// Shards that get no request, one bit each: what they are sent waits with the caller.
    silent: u64,
    peers: Vec<Option<Peer<Q, A>>>,
}

/// Why a request was not taken; it is handed back.
#[derive(Debug)]
pub struct RingFull<Q>(pub Q);

/// Entries per ring for a number of shards: clamp(8192 / shards, 64, 1024).
pub fn ring_capacity(shards: usize) -> usize {
    (8192 / shards.max(1)).clamp(64, 1024)
}

/// Joins `shards` shards, each with every other, and answers one endpoint per shard.
///
/// # Errors
/// When an eventfd cannot be made (descriptor limit).
pub fn mesh<Q, A>(shards: usize) -> rustix::io::Result<Vec<Endpoint<Q, A>>> {
    assert!((1..=SHARDS_MAX).contains(&shards), "1 to {SHARDS_MAX} shards");
    let capacity = ring_capacity(shards);
    let mut wakers = Vec::with_capacity(shards);
    for _ in 0..shards {
        let eventfd = rustix::event::eventfd(
            0,
            // Not NONBLOCK: the ring would answer its read with EAGAIN instead of waiting.
            rustix::event::EventfdFlags::CLOEXEC,
        )?;
        wakers.push(Waker {
            bell: Arc::new(Doorbell::default()),
            eventfd: Arc::new(eventfd),
        });
    }
    let beats = Beats::new(shards);
    let mut endpoints: Vec<Endpoint<Q, A>> = wakers
        .iter()
        .enumerate()
        .map(|(own, waker)| Endpoint {
            own: own as u32,
            own_waker: waker.clone(),
            beats: beats.clone(),
            silent: 0,
            peers: (0..shards).map(|_| None).collect(),
        })
        .collect();
    for low in 0..shards {
        for high in low + 1..shards {
            let (up_requests, up_requests_in) = RingBuffer::new(capacity);
            let (up_answers, up_answers_in) = RingBuffer::new(capacity);
            let (down_requests, down_requests_in) = RingBuffer::new(capacity);
            let (down_answers, down_answers_in) = RingBuffer::new(capacity);
            endpoints[low].peers[high] = Some(Peer {
                requests_out: up_requests,
                answers_out: up_answers,
                requests_in: down_requests_in,
                answers_in: down_answers_in,
                owed: 0,
                credits: capacity,
                waker: wakers[high].clone(),
            });
            endpoints[high].peers[low] = Some(Peer {
                requests_out: down_requests,
                answers_out: down_answers,
                requests_in: up_requests_in,
                answers_in: up_answers_in,
                owed: 0,
                credits: capacity,
                waker: wakers[low].clone(),
            });
        }
    }
    Ok(endpoints)
}

impl<Q, A> Endpoint<Q, A> {
    /// This endpoint's shard.
    pub fn own(&self) -> usize {
        self.own as usize
    }

    /// How many shards the mesh joins.
    pub fn shards(&self) -> usize {
        self.peers.len()
    }

    /// The doorbell and eventfd of this shard.
    pub fn own_waker(&self) -> &Waker {
        &self.own_waker
    }

    /// This shard's doorbell, for parking.
    pub fn bell(&self) -> &Doorbell {
        &self.own_waker.bell
    }

    /// This shard's eventfd.
    pub fn eventfd(&self) -> &OwnedFd {
        &self.own_waker.eventfd
    }

    /// The turns of all shards.
    pub fn beats(&self) -> &Beats {
        &self.beats
    }

    /// Counts a turn of this shard.
    pub fn beat(&self) {
        self.beats.beat(self.own as usize);
    }

    /// From now on a shard gets no request, or gets them again.
    pub fn set_silent(&mut self, shard: usize, silent: bool) {
        self.silent = self.silent & !(1 << shard) | u64::from(silent) << shard;
    }

    /// Whether a shard gets no request.
    pub fn is_silent(&self, shard: usize) -> bool {
        self.silent & (1 << shard) != 0
    }

    /// Whether any shard gets no request.
    pub fn has_silent(&self) -> bool {
        self.silent != 0
    }

    /// Sends a request that will be answered exactly once.
    ///
    /// # Errors
    /// The request, when the ring or the credit is used up, or the peer is silent: keep it and try again later.
    pub fn request(&mut self, to: usize, request: Q) -> Result<(), RingFull<Q>> {
        let Some(peer) = self.peers.get_mut(to).and_then(Option::as_mut) else {
            return Err(RingFull(request));
        };
        if peer.owed >= peer.credits || self.silent & (1 << to) != 0 {
            return Err(RingFull(request));
        }
        match peer.requests_out.push(request) {
            Ok(()) => {
                peer.owed += 1;
                peer.waker.announce(self.own);
                Ok(())
            }
            Err(rtrb::PushError::Full(request)) => Err(RingFull(request)),
        }
    }

    /// Sends an answer to a request taken from `to`.
    ///
    /// # Panics
    /// If more answers are sent than requests were taken: a defect of ours.
    pub fn answer(&mut self, to: usize, answer: A) {
        let peer = self
            .peers
            .get_mut(to)
            .and_then(Option::as_mut)
            .expect("answers go to a peer");
        assert!(
            peer.answers_out.push(answer).is_ok(),
            "an answer never waits: one per request"
        );
        peer.waker.announce(self.own);
    }

    /// Takes what has come in, at most `limit` of each kind per peer. True: something may be left.
    pub fn receive(
        &mut self,
        limit: usize,
        requests: &mut Vec<(usize, Q)>,
        answers: &mut Vec<(usize, A)>,
    ) -> bool {
        let mask = self.own_waker.bell.take_inbound();
        let mut more = false;
        for (from, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            if mask & (1 << from) == 0 {
                continue;
            }
            for _ in 0..limit {
                let Ok(answer) = peer.answers_in.pop() else { break };
                assert!(peer.owed > 0, "an answer without a request");
                peer.owed -= 1;
                answers.push((from, answer));
            }
            for _ in 0..limit {
                let Ok(request) = peer.requests_in.pop() else {
                    break;
                };
                requests.push((from, request));
            }
            if !peer.answers_in.is_empty() || !peer.requests_in.is_empty() {
                let _ = self.own_waker.bell.announce(from as u32);
                more = true;
            }
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_cross_and_credit_bounds_them() {
        let mut ends = mesh::<u32, u32>(2).expect("mesh");
        let mut high = ends.pop().expect("shard 1");
        let mut low = ends.pop().expect("shard 0");
        let capacity = ring_capacity(2);
        for n in 0..capacity as u32 {
            low.request(1, n).expect("room");
        }
        assert!(
            matches!(low.request(1, 7), Err(RingFull(7))),
            "the credit is used up"
        );
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        while high.receive(16, &mut requests, &mut answers) {}
        assert_eq!(requests.len(), capacity);
        assert!(
            matches!(low.request(1, 7), Err(RingFull(7))),
            "taken is not answered"
        );
        for (from, n) in requests.drain(..) {
            high.answer(from, n * 2);
        }
        while low.receive(usize::MAX, &mut requests, &mut answers) {}
        assert_eq!(answers.len(), capacity);
        assert_eq!(answers.last(), Some(&(1, (capacity as u32 - 1) * 2)));
        low.request(1, 7).expect("credit is back");
    }
}
