//! Health of each component, and what follows for `/health/live` and `/health/ready`.
//!
//! Each shard and the control plane keep their own registry and send snapshots by message; whoever asks
//! merges them. Live: no component failed. Ready: the broker has said so, and every component is `Ok` or
//! `Degraded`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::limits::HEALTH_COMPONENTS_MAX;

/// State of one component, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Works.
    Ok,
    /// Works, but somebody should look.
    Degraded,
    /// Not serving yet (starting, recovering) or no more (draining).
    NotReady,
    /// Does not work and will not by itself.
    Failed,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Ok => "ok",
            Health::Degraded => "degraded",
            Health::NotReady => "not_ready",
            Health::Failed => "failed",
        })
    }
}

/// One component's state and the sentence that explains it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentHealth {
    /// State.
    pub health: Health,
    /// Why, empty when `Ok`.
    pub reason: String,
}

/// What one owner knows; a plain value, sent by message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HealthRegistry {
    components: BTreeMap<String, ComponentHealth>,
    dropped: u64,
}

impl HealthRegistry {
    /// Nothing known, so not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a component's state; a new component above the limit is counted, not kept.
    pub fn set(&mut self, component: &str, health: Health, reason: impl Into<String>) {
        if !self.components.contains_key(component) && self.components.len() >= HEALTH_COMPONENTS_MAX {
            self.dropped += 1;
            return;
        }
        self.components.insert(
            component.to_owned(),
            ComponentHealth {
                health,
                reason: reason.into(),
            },
        );
    }

    /// Forgets a component that is gone for good.
    pub fn remove(&mut self, component: &str) {
        self.components.remove(component);
    }

    /// State of one component.
    pub fn get(&self, component: &str) -> Option<&ComponentHealth> {
        self.components.get(component)
    }

    /// All components by name.
    pub fn components(&self) -> impl Iterator<Item = (&str, &ComponentHealth)> {
        self.components
            .iter()
            .map(|(name, health)| (name.as_str(), health))
    }

    /// Takes over what another owner knows; of two states of one component the worse one stays.
    pub fn merge(&mut self, other: &HealthRegistry) {
        for (name, theirs) in &other.components {
            if self
                .components
                .get(name)
                .is_none_or(|ours| ours.health < theirs.health)
            {
                self.set(name, theirs.health, theirs.reason.clone());
            }
        }
        self.dropped += other.dropped;
    }

    /// No component failed (a broker that knows of none is live: it is starting).
    pub fn is_live(&self) -> bool {
        self.components.values().all(|c| c.health < Health::Failed)
    }

    /// At least one component is known and all serve.
    pub fn is_ready(&self) -> bool {
        !self.components.is_empty() && self.components.values().all(|c| c.health <= Health::Degraded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_every_component() {
        let mut registry = HealthRegistry::new();
        assert!(
            registry.is_live() && !registry.is_ready(),
            "starting: live, not ready"
        );
        registry.set("shard-0", Health::Ok, "");
        registry.set("shard-1", Health::NotReady, "recovering 3 partitions");
        assert!(registry.is_live() && !registry.is_ready());
        registry.set("shard-1", Health::Degraded, "disk slow");
        assert!(registry.is_live() && registry.is_ready());
        registry.set("shard-1", Health::Failed, "ring gone");
        assert!(!registry.is_live() && !registry.is_ready());
        registry.remove("shard-1");
        assert!(registry.is_ready());
    }

    #[test]
    fn merging_keeps_the_worse() {
        let mut a = HealthRegistry::new();
        a.set("disk", Health::Ok, "");
        let mut b = HealthRegistry::new();
        b.set("disk", Health::Failed, "EIO");
        b.set("net", Health::Ok, "");
        a.merge(&b);
        assert_eq!(
            a.get("disk").map(|c| (c.health, c.reason.as_str())),
            Some((Health::Failed, "EIO"))
        );
        let mut back = HealthRegistry::new();
        back.set("disk", Health::Ok, "");
        a.merge(&back);
        assert_eq!(a.get("disk").map(|c| c.health), Some(Health::Failed));
        assert_eq!(a.components().count(), 2);
    }

    #[test]
    fn is_bounded() {
        let mut registry = HealthRegistry::new();
        for i in 0..HEALTH_COMPONENTS_MAX + 5 {
            registry.set(&format!("c{i}"), Health::Ok, "");
        }
        assert_eq!(
            (registry.components().count(), registry.dropped),
            (HEALTH_COMPONENTS_MAX, 5)
        );
    }
}
