//! Memory that shards lend each other.
//!
//! Each shard has the same share of `memory.limit`. One whose receive or fetch pool is used up asks another
//! for a lease, one shard after the next, and each answers at once: as much as it can spare, or nothing. A lease
//! moves part of a pool's bound from the lender to the borrower, so the sum over all shards never changes. It
//! goes back as a whole once the borrower has not needed it for [`LEASE_IDLE_MS`], and after [`LEASE_MAX_MS`] as
//! soon as what lies in it is released: a lender that became short itself has it again then.
//!
//! Invariants: a lender keeps at least half of its pool and never lends what is in use; who is short or has
//! borrowed does not lend, so that nothing goes in circles; one request per pool is under way; who was denied by
//! everybody waits [`DENIED_WAIT_MS`] before it asks again.

use super::budget::LEASE_PART;
use super::{Now, Shard, ShardAnswer, ShardRequest};

/// A lease that was not needed for so long is given back.
const LEASE_IDLE_MS: u64 = 1_000;
/// A lease ends after so long at the latest.
const LEASE_MAX_MS: u64 = 5_000;
/// Wait after nobody had anything to lend.
const DENIED_WAIT_MS: u64 = 100;
/// An answer that does not come for so long is not waited for.
const ASK_TIMEOUT_MS: u64 = 1_000;

/// A pool that can be lent from. The control pool cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Frames and what they lie in.
    Receive,
    /// Buffers of answers.
    Fetch,
}

const POOLS: [Pool; 2] = [Pool::Receive, Pool::Fetch];

struct Lease {
    lender: u16,
    bytes: usize,
    since_ms: u64,
    needed_ms: u64,
    is_owed: bool,
}

#[derive(Default)]
struct PoolLeases {
    /// The largest reservation that was refused since the last request.
    wanted_bytes: usize,
    /// When the request under way was sent.
    asked_ms: Option<u64>,
    not_before_ms: u64,
    /// How far behind this shard the next one to ask is.
    distance: usize,
    denials: usize,
    borrowed: Vec<Lease>,
}

impl PoolLeases {
    fn may_lend(&self, now_ms: u64) -> bool {
        let is_short = self.wanted_bytes > 0 || self.asked_ms.is_some() || now_ms < self.not_before_ms;
        !is_short && self.borrowed.is_empty()
    }
}

/// What a shard has borrowed, and what it asks for.
#[derive(Default)]
pub(super) struct Leases([PoolLeases; 2]);

impl Leases {
    /// A reservation was refused.
    pub(super) fn want(&mut self, pool: Pool, bytes: usize) {
        let leases = self.of(pool);
        leases.wanted_bytes = leases.wanted_bytes.max(bytes);
    }

    fn of(&mut self, pool: Pool) -> &mut PoolLeases {
        let [receive, fetch] = &mut self.0;
        match pool {
            Pool::Receive => receive,
            Pool::Fetch => fetch,
        }
    }
}

impl Shard {
    fn pool(&mut self, pool: Pool) -> &mut super::Budget {
        match pool {
            Pool::Receive => &mut self.receive_budget,
            Pool::Fetch => &mut self.fetch_budget,
        }
    }

    /// Asks for what was refused since the last turn.
    pub(super) fn ask_for_leases(&mut self, now: Now) {
        for pool in POOLS {
            let now_ms = now.monotonic_ms;
            let base_bytes = self.pool(pool).base_bytes();
            let leases = self.leases.of(pool);
            let is_asking = leases
                .asked_ms
                .is_some_and(|asked_ms| now_ms < asked_ms + ASK_TIMEOUT_MS);
            if leases.wanted_bytes == 0 || is_asking || now_ms < leases.not_before_ms || self.stopping {
                continue;
            }
            let shards = self.endpoint.shards();
            let own = usize::from(self.own);
            let others = (0..shards - 1).map(|n| (own + 1 + (leases.distance + n) % (shards - 1)) % shards);
            let Some(lender) = others.into_iter().find(|shard| !self.endpoint.is_silent(*shard)) else {
                continue;
            };
            let bytes = leases.wanted_bytes.max(base_bytes / LEASE_PART);
            leases.wanted_bytes = 0;
            leases.asked_ms = Some(now_ms);
            self.send(lender, ShardRequest::Lease(pool, bytes));
        }
    }

    /// Another shard asks for memory: it is told at once what it gets.
    pub(super) fn on_lease_asked(&mut self, now: Now, from: usize, pool: Pool, bytes: usize) {
        let may = !self.stopping && self.leases.of(pool).may_lend(now.monotonic_ms);
        let bytes = if may { self.pool(pool).lend(bytes) } else { 0 };
        if bytes > 0 {
            self.metrics.leases_granted.increment();
        } else {
            self.metrics.leases_denied.increment();
        }
        let lender = self.own;
        self.endpoint
            .answer(from, ShardAnswer::Lease { pool, bytes, lender });
    }

    /// What another shard lends.
    pub(super) fn on_leased(&mut self, now: Now, pool: Pool, bytes: usize, lender: u16) {
        let others = self.endpoint.shards() - 1;
        self.pool(pool).borrow(bytes);
        let leases = self.leases.of(pool);
        leases.asked_ms = None;
        if bytes > 0 {
            leases.denials = 0;
            leases.borrowed.push(Lease {
                lender,
                bytes,
                since_ms: now.monotonic_ms,
                needed_ms: now.monotonic_ms,
                is_owed: false,
            });
            return;
        }
        leases.distance = (leases.distance + 1) % others.max(1);
        leases.denials += 1;
        if leases.denials >= others {
            leases.denials = 0;
            leases.not_before_ms = now.monotonic_ms + DENIED_WAIT_MS;
        }
    }

    /// A lease comes back.
    pub(super) fn on_lease_returned(&mut self, pool: Pool, bytes: usize) {
        self.pool(pool).take_back(bytes);
    }

    /// Gives back what is not needed, and what was lent for too long; once per tick.
    pub(super) fn return_leases(&mut self, now: Now) {
        let now_ms = now.monotonic_ms;
        for pool in POOLS {
            let mut borrowed = std::mem::take(&mut self.leases.of(pool).borrowed);
            let mut returned = Vec::new();
            let budget = self.pool(pool);
            let slack = budget.base_bytes() / LEASE_PART;
            borrowed.retain_mut(|lease| {
                if budget.limit_bytes() - budget.used_bytes() < lease.bytes + slack {
                    lease.needed_ms = now_ms;
                }
                let is_over =
                    now_ms >= lease.needed_ms + LEASE_IDLE_MS || now_ms >= lease.since_ms + LEASE_MAX_MS;
                if is_over && !lease.is_owed {
                    lease.is_owed = true;
                    budget.owe(lease.bytes);
                }
                if lease.is_owed && budget.give_up(lease.bytes) {
                    returned.push((lease.lender, lease.bytes));
                    return false;
                }
                true
            });
            self.leases.of(pool).borrowed = borrowed;
            for (lender, bytes) in returned {
                self.send(usize::from(lender), ShardRequest::LeaseReturned(pool, bytes));
            }
        }
    }
}
