//! The parked protocol: how a shard is woken exactly when it sleeps.
//!
//! One [`Doorbell`] per receiving shard, shared by all senders. *Parked* means that the receiver
//! sleeps in its ring, in which a read of its eventfd waits.
//!
//! Sender: push the message, set its own bit in the receiver's inbound mask, `fence(SeqCst)`, load
//! parked; ring the eventfd only if it is set. Receiver: set parked, `fence(SeqCst)`, look at the
//! mask again, and only then sleep; entering the sleep looks at the completion queue again.
//!
//! Invariant: with both fences at least one side sees what the other wrote, so no message is left
//! behind a sleeping receiver.
//!
//! Generic over its [`Atomics`], so that the model in `parked_model.rs` walks through the code that runs. The
//! flag is changed by swaps only: a store would do, but loom has no order between a store and another thread's
//! swap, so that with two senders it shows a lost wake-up that cannot be. A swap costs one locked instruction per
//! sleep.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// The atomics that a doorbell is made of.
pub trait Atomics {
    /// 64 bits.
    type Mask: Atomic<u64>;
    /// One bit.
    type Flag: Atomic<bool>;
    /// A sequentially consistent fence.
    fn fence();
}

/// What a doorbell does with one atomic.
pub trait Atomic<T> {
    /// An atomic that holds `value`.
    fn new(value: T) -> Self;
    /// Loads it.
    fn load(&self, order: Ordering) -> T;
    /// Stores `value` and answers what it replaced.
    fn swap(&self, value: T, order: Ordering) -> T;
    /// Sets the bits of `value` and answers what was there before.
    fn fetch_or(&self, value: T, order: Ordering) -> T;
}

/// Those of the standard library.
#[derive(Debug)]
pub struct StdAtomics;

impl Atomics for StdAtomics {
    type Mask = AtomicU64;
    type Flag = AtomicBool;

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// One atomic type of one module, as [`Atomic`].
macro_rules! atomic {
    ($atomic:ty, $value:ty) => {
        impl $crate::mesh::parked::Atomic<$value> for $atomic {
            fn new(value: $value) -> Self {
                <$atomic>::new(value)
            }

            fn load(&self, order: std::sync::atomic::Ordering) -> $value {
                self.load(order)
            }

            fn swap(&self, value: $value, order: std::sync::atomic::Ordering) -> $value {
                self.swap(value, order)
            }

            fn fetch_or(&self, value: $value, order: std::sync::atomic::Ordering) -> $value {
                self.fetch_or(value, order)
            }
        }
    };
}
#[cfg(test)]
pub(super) use atomic;

atomic!(AtomicU64, u64);
atomic!(AtomicBool, bool);

/// The shared half: an inbound mask (one bit per sending shard) and the parked flag.
#[derive(Debug)]
pub struct Doorbell<A: Atomics = StdAtomics> {
    inbound: A::Mask,
    parked: A::Flag,
}

impl<A: Atomics> Default for Doorbell<A> {
    fn default() -> Self {
        Self {
            inbound: Atomic::new(0),
            parked: Atomic::new(false),
        }
    }
}

impl<A: Atomics> Doorbell<A> {
    /// Called by sender `bit` (below 64) after its message is in the ring. True: the receiver
    /// sleeps and must be woken through its eventfd.
    #[must_use]
    pub fn announce(&self, bit: u32) -> bool {
        self.inbound.fetch_or(1 << bit, Ordering::Release);
        A::fence();
        self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::AcqRel)
    }

    /// Called by the receiver before it sleeps. False: something has come in, do not sleep.
    #[must_use]
    pub fn park(&self) -> bool {
        self.parked.swap(true, Ordering::Relaxed);
        A::fence();
        if self.inbound.load(Ordering::Acquire) == 0 {
            return true;
        }
        self.unpark();
        false
    }

    /// Called by the receiver when it runs again.
    pub fn unpark(&self) {
        self.parked.swap(false, Ordering::Relaxed);
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
        let bell: Doorbell = Doorbell::default();
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
        let bell: Arc<Doorbell> = Arc::new(Doorbell::default());
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
