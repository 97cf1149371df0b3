//! Metrics: plain cells per shard, sent by message, rendered as Prometheus text.
//!
//! A shard owns its [`ShardCells`] (not `Sync`, no atomics: an increment is an add). Whoever renders asks
//! each shard for a [`ShardMetrics`] copy. Invariants: counters only grow; every cell is in the tables below,
//! so none can be kept and not shown; each family is shown for the broker as a whole and, under a name of its
//! own, per shard, so that a sum over a name never counts twice.
#![forbid(unsafe_code)]

mod directories;
mod render;

use std::cell::Cell;

pub use directories::{DirectoryMetrics, render_directories};
pub use render::{CONTENT_TYPE, render};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(Cell<i64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.set(value);
    }

    /// Adds `n`, which may be below zero.
    pub fn add(&self, n: i64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    /// The number now.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

/// Buckets of a histogram: bucket i holds values up to 2^i microseconds, the last one everything.
pub const HISTOGRAM_BUCKETS: usize = 26;

/// Times, in buckets of powers of two microseconds (1 us to 16.8 s, then infinity).
#[derive(Debug)]
pub struct Histogram {
    buckets: [Cell<u64>; HISTOGRAM_BUCKETS],
    sum_us: Cell<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: std::array::from_fn(|_| Cell::new(0)),
            sum_us: Cell::new(0),
        }
    }
}

impl Histogram {
    /// Counts one time.
    pub fn observe(&self, time: std::time::Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // ceil(log2(us)): the smallest i with us <= 2^i.
        let at = u64::BITS - us.saturating_sub(1).leading_zeros();
        let at = usize::try_from(at)
            .unwrap_or(HISTOGRAM_BUCKETS)
            .min(HISTOGRAM_BUCKETS - 1);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.set(bucket.get() + 1);
        }
        self.sum_us.set(self.sum_us.get().saturating_add(us));
    }

    /// A copy.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            buckets: std::array::from_fn(|i| self.buckets.get(i).map_or(0, Cell::get)),
            sum_us: self.sum_us.get(),
        }
    }
}

/// A copy of a [`Histogram`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Counts per bucket, not cumulated.
    pub buckets: [u64; HISTOGRAM_BUCKETS],
    /// Sum of all times.
    pub sum_us: u64,
}

impl HistogramSnapshot {
    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    fn merge(&mut self, other: &HistogramSnapshot) {
        for (ours, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *ours += theirs;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }
}

/// A family: name without prefix, its help line, and how to read it from a snapshot.
struct Family<T> {
    name: &'static str,
    help: &'static str,
    read: fn(&ShardMetrics) -> T,
}

/// A family of gauges that differ in one label.
struct Labelled {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: &'static [LabelledValue],
}

/// A label's value, and how to read the number from a snapshot.
type LabelledValue = (&'static str, fn(&ShardMetrics) -> i64);

macro_rules! shard_metrics {
    (
        counters { $($counter:ident: $counter_help:literal,)* }
        gauges { $($gauge:ident: $gauge_help:literal,)* }
        labelled { $($family:ident[$label:ident]: $family_help:literal {
            $($value:ident: $cell:ident,)*
        })* }
        histograms { $($histogram:ident: $histogram_help:literal,)* }
    ) => {
        /// The cells of one shard. Owned by it; never shared.
        #[derive(Debug, Default)]
        pub struct ShardCells {
            shard: u16,
            $(#[doc = $counter_help] pub $counter: Counter,)*
            $(#[doc = $gauge_help] pub $gauge: Gauge,)*
            $($(#[doc = concat!($family_help, " ", stringify!($label), " ", stringify!($value))] pub $cell: Gauge,)*)*
            $(#[doc = $histogram_help] pub $histogram: Histogram,)*
        }

        /// A copy of one shard's cells, for sending.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct ShardMetrics {
            /// The shard.
            pub shard: u16,
            $(#[doc = $counter_help] pub $counter: u64,)*
            $(#[doc = $gauge_help] pub $gauge: i64,)*
            $($(#[doc = concat!($family_help, " ", stringify!($label), " ", stringify!($value))] pub $cell: i64,)*)*
            $(#[doc = $histogram_help] pub $histogram: HistogramSnapshot,)*
        }

        impl ShardCells {
            /// All zero.
            pub fn new(shard: u16) -> Self {
                ShardCells { shard, ..Default::default() }
            }

            /// A copy of all cells.
            pub fn snapshot(&self) -> ShardMetrics {
                ShardMetrics {
                    shard: self.shard,
                    $($counter: self.$counter.get(),)*
                    $($gauge: self.$gauge.get(),)*
                    $($($cell: self.$cell.get(),)*)*
                    $($histogram: self.$histogram.snapshot(),)*
                }
            }
        }

        impl ShardMetrics {
            /// Adds another shard's numbers to these.
            pub fn merge(&mut self, other: &ShardMetrics) {
                $(self.$counter = self.$counter.wrapping_add(other.$counter);)*
                $(self.$gauge = self.$gauge.wrapping_add(other.$gauge);)*
                $($(self.$cell = self.$cell.wrapping_add(other.$cell);)*)*
                $(self.$histogram.merge(&other.$histogram);)*
            }
        }

        static COUNTERS: &[Family<u64>] = &[$(
            Family { name: stringify!($counter), help: $counter_help, read: |m| m.$counter },
        )*];
        static GAUGES: &[Family<i64>] = &[$(
            Family { name: stringify!($gauge), help: $gauge_help, read: |m| m.$gauge },
        )*];
        static LABELLED: &[Labelled] = &[$(Labelled {
            name: stringify!($family),
            help: $family_help,
            label: stringify!($label),
            values: &[$((stringify!($value), |m| m.$cell),)*],
        },)*];
        static HISTOGRAMS: &[Family<HistogramSnapshot>] = &[$(
            Family { name: stringify!($histogram), help: $histogram_help, read: |m| m.$histogram },
        )*];
    };
}

shard_metrics! {
    counters {
        connections_accepted: "Connections accepted.",
        connections_closed: "Connections closed.",
        connections_idle_closed: "Connections closed because they were idle too long.",
        connections_refused: "Connections refused because a limit was reached.",
        requests: "Requests answered or refused.",
        request_errors: "Requests that ended in a top-level error or a closed connection.",
        frames_refused: "Frames refused for their size or form.",
        budget_waits: "Times a socket was not read because its budget was spent.",
        ring_full_waits: "Times a request waited because the ring to another shard was full.",
        received_bytes: "Bytes received from clients.",
        sent_bytes: "Bytes sent to clients.",
        produced_batches: "Record batches appended.",
        produced_records: "Records appended.",
        produced_bytes: "Bytes of record batches appended.",
        produce_rejected: "Record batches refused.",
        produce_refused_full: "Record batches refused because the disk was full, or nearly so.",
        fetched_bytes: "Bytes of record batches sent.",
        fetch_hot_bytes: "Bytes sent from the resident tail.",
        fetch_cold_bytes: "Bytes read from disk, verified and sent.",
        commits: "Times a partition's durable offset moved.",
        journal_commits: "Commits through the journal: one write and one sync for many partitions.",
        journal_partitions: "Partitions in these commits.",
        direct_commits: "Commits of one partition by syncing its segments.",
        journal_trims: "Journal files let go, since all they held is durable in segments.",
        journal_full: "Times a commit found the journal full and synced segments instead.",
        segments_removed: "Segments removed because they lay below the log start.",
        segments_removed_bytes: "Bytes of log in them.",
        segment_removal_failures: "Files of segments that could not be unlinked; each is tried again.",
        partition_fences: "Partitions fenced after a failed write or sync.",
        checksum_failures: "Stored bytes that did not verify and were not served.",
        guard_denials: "Requests denied by the guard.",
        fetch_sessions_evicted: "Idle fetch sessions that made room for another.",
        silence_refusals: "Parts of requests that got an error because their shard takes no turns.",
        spins: "Times the shard looked for work before it slept (runtime.spin_us).",
        spins_in_vain: "Of these, times there was none and it slept.",
        background_steps_late: "Steps of background work that took more than 100 us.",
        leases_granted: "Times memory was lent to another shard.",
        leases_denied: "Times another shard asked for memory and there was none to spare.",
        accepts_failed: "Times a connection could not be accepted, most often for want of descriptors.",
        descriptors_evicted: "Descriptors of log files closed to make room for others.",
        descriptors_refused: "Times there was no descriptor left for a log file.",
        maps_evicted: "Maps of log files dropped to make room for others.",
        topics_refused: "Topics that a client asked for and that were not made by themselves.",
        fetch_sessions_refused: "Fetch sessions not opened for want of room.",
    }
    gauges {
        connections: "Connections open.",
        fetches_parked: "Fetches waiting for records.",
        partitions: "Partitions owned.",
        partitions_opening: "Partitions being opened, or opened again after a fence.",
        partitions_at_start: "Partitions that the metadata gave to the shard when it started.",
        partitions_unavailable: "Partitions whose data directory failed or is missing.",
        socket_receive_bytes: "Bytes that the kernel may keep for connections to receive.",
        socket_send_bytes: "Bytes that the kernel may keep for connections to send.",
        segments: "Segments open.",
        retention_clock_held: "1 while retention by age does not believe a clock that leapt ahead.",
        partitions_failed: "Partitions that could not be opened; it is tried again where that can help.",
        sync_waiting_ms: "Age of the oldest sync under way, milliseconds, looked at once a second.",
        descriptors_open: "Descriptors of log files open.",
        maps_open: "Maps of log files kept.",
        silent: "1 while the shard takes no turns, for longer than shard.silent_ms.",
        journal_bytes: "Bytes of the journal's files.",
        fetch_sessions: "Fetch sessions open.",
        fetch_sessions_used_bytes: "Bytes that fetch sessions take.",
    }
    labelled {
        memory_bytes[pool]: "Bytes of memory in use." {
            control: memory_control,
            receive: memory_receive,
            fetch: memory_fetch,
            sockets: memory_sockets,
            storage: memory_storage,
        }
        memory_limit_bytes[pool]: "Bytes of memory that may be used now; the sockets are part of the others." {
            control: memory_limit_control,
            receive: memory_limit_receive,
            fetch: memory_limit_fetch,
            storage: memory_limit_storage,
        }
    }
    histograms {
        produce_time: "Time from the last byte of a Produce request to its answer.",
        fetch_time: "Time from the last byte of a Fetch request to its answer, waiting included.",
        request_time: "Time from the last byte of any other request to its answer.",
        loop_turn_time: "Time of one turn of the shard's loop.",
        background_step_time: "Time of one step of background work.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn cells_are_copied_and_summed() {
        let cells = ShardCells::new(3);
        cells.requests.increment();
        cells.requests.add(4);
        cells.connections.add(2);
        cells.connections.add(-1);
        cells.request_time.observe(Duration::from_micros(3));
        let mut copy = cells.snapshot();
        assert_eq!(
            (
                copy.shard,
                copy.requests,
                copy.connections,
                copy.request_time.count()
            ),
            (3, 5, 1, 1)
        );
        cells.requests.increment();
        assert_eq!(copy.requests, 5, "a copy does not change");
        copy.merge(&cells.snapshot());
        assert_eq!(
            (copy.requests, copy.connections, copy.request_time.count()),
            (11, 2, 2)
        );
    }

    #[test]
    fn buckets_are_powers_of_two() {
        for (us, bucket) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (1 << 24, 24),
            ((1 << 24) + 1, 25),
        ] {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_micros(us));
            assert_eq!(histogram.snapshot().buckets[bucket], 1, "{us}");
        }
        let histogram = Histogram::default();
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.snapshot().buckets[HISTOGRAM_BUCKETS - 1], 1);
    }
}
