//! A model of the parked protocol: loom walks through the orders in which its threads may run and the
//! values that their loads may see, with the doorbell that the shards use.
//!
//! Two senders with a message each, a kernel that posts a completion, and a receiver that drains, parks, looks
//! again and sleeps. Property: whoever sleeps and is not woken has taken everything. Controls: the same without
//! the fences, and with a sleep that does not look at the completion queue again, must be found out.

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Mutex};

use super::parked::{Atomics, Doorbell, atomic};

const SENDERS: usize = 2;
/// A message of each sender, and a completion.
const EVERYTHING: u64 = SENDERS as u64 + 1;
/// Switches away from a thread that could go on, per execution: what a lost wake-up takes, and one more.
const PREEMPTIONS_MAX: usize = 3;

atomic!(AtomicU64, u64);
atomic!(AtomicBool, bool);

/// With the fences.
struct Fenced;

impl Atomics for Fenced {
    type Mask = AtomicU64;
    type Flag = AtomicBool;

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// The negative control.
struct Unfenced;

impl Atomics for Unfenced {
    type Mask = AtomicU64;
    type Flag = AtomicBool;

    fn fence() {}
}

/// What the kernel knows of the receiver's ring: completions (a readable eventfd is one too), and whether
/// somebody sleeps in it.
#[derive(Default)]
struct Ring {
    completions: u64,
    readable: bool,
    asleep: bool,
}

struct Shared<A: Atomics> {
    bell: Doorbell<A>,
    /// The end of a sender's ring, as rtrb publishes it.
    tails: [AtomicU64; SENDERS],
    ring: Mutex<Ring>,
}

impl<A: Atomics> Shared<A> {
    fn new() -> Self {
        Self {
            bell: Doorbell::default(),
            tails: std::array::from_fn(|_| AtomicU64::new(0)),
            ring: Mutex::new(Ring::default()),
        }
    }

    fn with_ring<T>(&self, act: impl FnOnce(&mut Ring) -> T) -> T {
        act(&mut self.ring.lock().expect("no panic"))
    }

    fn send(&self, sender: usize) {
        self.tails[sender].store(1, Ordering::Release);
        if self.bell.announce(sender as u32) {
            self.with_ring(|ring| (ring.readable, ring.asleep) = (true, false));
        }
    }

    fn complete(&self) {
        self.with_ring(|ring| (ring.completions, ring.asleep) = (ring.completions + 1, false));
    }

    /// Takes the messages of those who announced one, as [`super::Endpoint::receive`] does.
    fn drain(&self) -> u64 {
        let mask = self.bell.take_inbound();
        let announced = (0..SENDERS).filter(|sender| mask & (1 << sender) != 0);
        announced
            .map(|sender| self.tails[sender].load(Ordering::Acquire))
            .sum()
    }

    /// Takes what there is until it would sleep, or has everything.
    fn receive(&self, taken: &mut u64, looks_again: bool) {
        while *taken < EVERYTHING {
            *taken += self.drain() + self.with_ring(|ring| std::mem::take(&mut ring.completions));
            if *taken == EVERYTHING || !self.bell.park() {
                continue;
            }
            // Entering the kernel's wait answers at once while there is a completion.
            let asleep = self.with_ring(|ring| {
                ring.asleep = !(looks_again && (ring.readable || ring.completions > 0));
                ring.readable = false;
                ring.asleep
            });
            if asleep {
                return;
            }
            self.bell.unpark();
        }
    }
}

fn explore<A: Atomics<Mask = AtomicU64, Flag = AtomicBool> + 'static>(looks_again: bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS_MAX);
    model.check(move || {
        let shared = Arc::new(Shared::<A>::new());
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || shared.send(sender))
            })
            .collect();
        let kernel = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || shared.complete())
        };
        let mut taken = 0;
        shared.receive(&mut taken, looks_again);
        for thread in senders.into_iter().chain([kernel]) {
            thread.join().expect("no panic");
        }
        // Whatever happens has happened: it goes on for as long as somebody woke it.
        while taken < EVERYTHING {
            assert!(
                !shared.with_ring(|ring| ring.asleep),
                "left behind a sleeping receiver"
            );
            shared.bell.unpark();
            shared.receive(&mut taken, looks_again);
        }
    });
}

#[test]
fn nothing_is_left_behind_a_sleeping_receiver() {
    explore::<Fenced>(true);
}

#[test]
#[should_panic(expected = "left behind")]
fn without_the_fences_a_wake_up_is_lost() {
    explore::<Unfenced>(true);
}

#[test]
#[should_panic(expected = "left behind")]
fn without_a_look_at_the_completions_one_is_slept_over() {
    explore::<Fenced>(false);
}
