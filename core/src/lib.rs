//! The CPU cores of Tidelog: reactor, shards, rings, partitions, coordinators and the broker itself.

#[cfg(test)]
#[path = "../../fuzz/src/counting.rs"]
mod counting;

/// Tests measure what is held.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

pub mod admin_http;
pub mod broker;
pub mod directory_health;
pub mod directory_space;
pub mod fatal;
pub mod guard;
pub mod health;
pub mod limits;
pub mod mesh;
pub mod metadata;
pub mod metrics;
pub mod reactor;
pub mod request_context;
pub mod secret;
pub mod settings;
pub mod shard;
pub mod startup;
pub mod topic_config;

pub use broker::{ServeOptions, serve};
