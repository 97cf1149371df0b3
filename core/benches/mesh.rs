//! A request and its answer through the rings between two shards. `just bench`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{Criterion, criterion_group, criterion_main};
use tidelog_core::mesh::{Endpoint, mesh};

/// Taken from a peer in one turn.
const LIMIT: usize = 64;

fn pair() -> (Endpoint<u64, u64>, Endpoint<u64, u64>) {
    let mut ends = mesh(2).expect("eventfds");
    let high = ends.pop().expect("shard 1");
    (ends.pop().expect("shard 0"), high)
}

fn answer_all(
    end: &mut Endpoint<u64, u64>,
    requests: &mut Vec<(usize, u64)>,
    answers: &mut Vec<(usize, u64)>,
) {
    end.receive(LIMIT, requests, answers);
    for (from, request) in requests.drain(..) {
        end.answer(from, request + 1);
    }
}

/// The instructions alone, both ends on one thread.
fn one_thread(criterion: &mut Criterion) {
    let (mut low, mut high) = pair();
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    criterion.bench_function("ring round trip, one thread", |bencher| {
        bencher.iter(|| {
            low.request(1, 1).expect("room");
            answer_all(&mut high, &mut requests, &mut answers);
            low.receive(LIMIT, &mut requests, &mut answers);
            assert_eq!(answers.pop(), Some((1, 2)));
        });
    });
}

/// With the cache lines going between cores; both ends spin, nobody sleeps.
fn two_threads(criterion: &mut Criterion) {
    let (mut low, mut high) = pair();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let peer = thread::spawn(move || {
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        while !stopped.load(Ordering::Relaxed) {
            answer_all(&mut high, &mut requests, &mut answers);
            std::hint::spin_loop();
        }
    });
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    criterion.bench_function("ring round trip, two threads spinning", |bencher| {
        bencher.iter(|| {
            low.request(1, 1).expect("room");
            while answers.is_empty() {
                low.receive(LIMIT, &mut requests, &mut answers);
                std::hint::spin_loop();
            }
            assert_eq!(answers.pop(), Some((1, 2)));
        });
    });
    stop.store(true, Ordering::Relaxed);
    peer.join().expect("the peer ends");
}

criterion_group!(benches, one_thread, two_threads);
criterion_main!(benches);
