//! What the shards' figures say of the disk: partitions that cannot be opened, and syncs that do not end.
//!
//! The control thread looks at the copies that shards leave behind; a shard never waits for it.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use crate::health::{Health, HealthRegistry};
use crate::metrics::ShardMetrics;

/// The component's name.
const COMPONENT: &str = "disk";
/// A sync that takes longer is reported, milliseconds.
const SYNC_LATE_MS: i64 = 1_000;

/// See the file's head.
pub(super) struct DiskHealth {
    metrics: Vec<Arc<Mutex<ShardMetrics>>>,
    is_degraded: bool,
}

impl DiskHealth {
    pub(super) fn new(metrics: Vec<Arc<Mutex<ShardMetrics>>>) -> Self {
        Self {
            metrics,
            is_degraded: false,
        }
    }

    /// Tells the registry how the disk is, and the log when that changes.
    pub(super) fn look(&mut self, health: &Mutex<HealthRegistry>) {
        let (mut failed, mut waiting_ms) = (0, 0);
        for shard in &self.metrics {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            failed += shard.partitions_failed;
            waiting_ms = waiting_ms.max(shard.sync_waiting_ms);
        }
        let reason = reason(failed, waiting_ms);
        let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
        match &reason {
            Some(reason) => {
                health.set(COMPONENT, Health::Degraded, reason.as_str());
                if !self.is_degraded {
                    tracing::error!("the disk is degraded: {reason}");
                }
            }
            None => {
                health.remove(COMPONENT);
                if self.is_degraded {
                    tracing::warn!("the disk is as it should be again");
                }
            }
        }
        self.is_degraded = reason.is_some();
    }
}

fn reason(failed: i64, waiting_ms: i64) -> Option<String> {
    let mut reasons = Vec::new();
    if failed > 0 {
        reasons.push(format!("{failed} partitions cannot be opened, the log says why"));
    }
    if waiting_ms > SYNC_LATE_MS {
        reasons.push(format!("a sync has been under way for {waiting_ms} ms"));
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_degraded_while_partitions_fail_or_a_sync_hangs() {
        let shards: Vec<_> = (0..2)
            .map(|_| Arc::new(Mutex::new(ShardMetrics::default())))
            .collect();
        let health = Mutex::new(HealthRegistry::new());
        let mut disk = DiskHealth::new(shards.clone());
        let mut look = || {
            disk.look(&health);
            let health = health.lock().unwrap();
            health.get(COMPONENT).map(|c| (c.health, c.reason.clone()))
        };
        assert_eq!(look(), None);
        shards[1].lock().unwrap().partitions_failed = 2;
        shards[0].lock().unwrap().sync_waiting_ms = 1_001;
        let (state, reason) = look().unwrap();
        assert_eq!(state, Health::Degraded, "it still serves");
        assert!(
            reason.contains("2 partitions") && reason.contains("1001 ms"),
            "{reason}"
        );
        shards[1].lock().unwrap().partitions_failed = 0;
        assert!(!look().unwrap().1.contains("partitions"));
        shards[0].lock().unwrap().sync_waiting_ms = 1_000;
        assert_eq!(look(), None);
    }
}
