//! The parked protocol: how a shard is woken exactly when it sleeps.
//!
//! One [`Doorbell`] per receiving shard, shared by all senders. *Parked* means that the receiver's
//! drain task awaits its eventfd.
//!
//! Sender: push the message, set its own bit in the receiver's inbound mask, `fence(SeqCst)`, load
//! parked; ring the eventfd only if it is set. Receiver: store parked, `fence(SeqCst)`, look at the
//! mask and the completion queue again, and only then await.
//!
//! Invariant: with both fences at least one side sees the other's store, so no message is left
//! behind a sleeping receiver.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// The shared half: an inbound mask (one bit per sending shard) and the parked flag.
#[derive(Debug, Default)]
pub struct Doorbell {
    inbound: AtomicU64,
    parked: AtomicBool,
}

impl Doorbell {
    /// Called by sender `bit` (below 64) after its message is in the ring. True: the receiver
    /// sleeps and must be woken through its eventfd.
    #[must_use]
    pub fn announce(&self, bit: u32) -> bool {
        self.inbound.fetch_or(1 << bit, Ordering::Release);
        fence(Ordering::SeqCst);
        self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::AcqRel)
    }

    /// Called by the receiver before it awaits. False: something has come in, do not await.
    #[must_use]
    pub fn park(&self) -> bool {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.inbound.load(Ordering::Acquire) == 0 {
            return true;
        }
        self.unpark();
        false
    }

    /// Called by the receiver when it runs again.
    pub fn unpark(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }

    /// Takes the mask of senders that announced something since the last call.
    pub fn take_inbound(&self) -> u64 {
        if self.inbound.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.inbound.swap(0, Ordering::Acquire)
    }

    /// Whether anything was announced and not yet taken.
    pub fn has_inbound(&self) -> bool {
        self.inbound.load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_announcement_before_parking_keeps_the_receiver_awake() {
        let bell = Doorbell::default();
        assert!(!bell.announce(3), "nobody sleeps yet");
        assert!(!bell.park(), "the announcement must be seen");
        assert_eq!(bell.take_inbound(), 1 << 3);
        assert!(bell.park());
        assert!(bell.announce(5), "a sleeping receiver must be woken");
        assert!(!bell.announce(6), "and woken once only");
        assert_eq!(bell.take_inbound(), 1 << 5 | 1 << 6);
    }

    #[test]
    fn no_message_is_left_behind_a_sleeping_receiver() {
        let bell = Arc::new(Doorbell::default());
        let (mut send, mut receive) = rtrb::RingBuffer::<u64>::new(8);
        let (wake_send, wake_receive) = std::sync::mpsc::channel::<()>();
        let sender_bell = Arc::clone(&bell);
        const MESSAGES: u64 = 20_000;
        let sender = std::thread::spawn(move || {
            for n in 0..MESSAGES {
                while send.push(n).is_err() {
                    std::thread::yield_now();
                }
                if sender_bell.announce(0) {
                    wake_send.send(()).expect("receiver lives");
                }
            }
        });
        let mut next = 0;
        while next < MESSAGES {
            bell.take_inbound();
            while let Ok(n) = receive.pop() {
                assert_eq!(n, next);
                next += 1;
            }
            if next < MESSAGES && bell.park() {
                wake_receive
                    .recv_timeout(std::time::Duration::from_secs(20))
                    .expect("a wake-up was lost");
                bell.unpark();
            }
        }
        sender.join().expect("sender");
    }
}
