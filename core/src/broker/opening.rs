//! Waiting until every shard has opened what it owns, and telling how far they are: in the log, and in health.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fatal::{FatalReason, fatal};
use crate::health::{Health, HealthRegistry};
use crate::metrics::ShardMetrics;
use crate::shard::ShardReady;

/// How often health is told.
const LOOK: Duration = Duration::from_millis(100);
/// How often the log is told.
const LOG: Duration = Duration::from_secs(1);

/// How many partitions are open, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    open: i64,
    wanted: i64,
}

impl Progress {
    fn of(metrics: &[Arc<Mutex<ShardMetrics>>]) -> Self {
        let mut all = Self::default();
        for shard in metrics {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.open += shard.partitions - shard.partitions_opening;
            all.wanted += shard.partitions_at_start;
        }
        all
    }

    fn sentence(self) -> String {
        match self.wanted {
            0 => "the metadata log is being opened".to_owned(),
            wanted => format!("{} of {wanted} partitions are open", self.open.clamp(0, wanted)),
        }
    }
}

/// Waits for all shards; how many topics there are.
pub(super) fn wait_until_open(
    ready: &Receiver<ShardReady>,
    metrics: &[Arc<Mutex<ShardMetrics>>],
    health: &Mutex<HealthRegistry>,
) -> usize {
    let mut topics = 0;
    let mut left = metrics.len();
    let mut logged_at = Instant::now();
    while left > 0 {
        match ready.recv_timeout(LOOK) {
            Ok(shard) => {
                topics = shard.topics;
                left -= 1;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                fatal(FatalReason::Thread, "a shard ended while it started")
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let sentence = Progress::of(metrics).sentence();
        if logged_at.elapsed() >= LOG {
            logged_at = Instant::now();
            tracing::info!("opening: {sentence}");
        }
        health.lock().unwrap_or_else(PoisonError::into_inner).set(
            "shards",
            Health::NotReady,
            format!("opening: {sentence}"),
        );
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn health_tells_how_far_the_opening_is_until_all_shards_are_ready() {
        let shard = |partitions, partitions_opening, partitions_at_start| {
            Arc::new(Mutex::new(ShardMetrics {
                partitions,
                partitions_opening,
                partitions_at_start,
                ..Default::default()
            }))
        };
        let metrics = [shard(30, 10, 50), shard(0, 0, 50)];
        let health = Mutex::new(HealthRegistry::new());
        let (sender, ready) = mpsc::channel();
        let reason = || {
            let health = health.lock().unwrap();
            health.get("shards").map(|shards| shards.reason.clone())
        };
        std::thread::scope(|scope| {
            let (metrics, health) = (&metrics, &health);
            let waiting = scope.spawn(move || wait_until_open(&ready, metrics, health));
            sender.send(ShardReady { topics: 7 }).unwrap();
            while reason().as_deref() != Some("opening: 20 of 100 partitions are open") {
                assert!(!waiting.is_finished());
                std::thread::yield_now();
            }
            metrics[1].lock().unwrap().partitions = 50;
            while reason().as_deref() != Some("opening: 70 of 100 partitions are open") {
                std::thread::yield_now();
            }
            sender.send(ShardReady { topics: 8 }).unwrap();
            assert_eq!(waiting.join().unwrap(), 8);
        });
        assert_eq!(Progress::default().sentence(), "the metadata log is being opened");
    }
}
