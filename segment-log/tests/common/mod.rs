//! What the tests of the log share: seeds, a disk that is waited for, batches, reads, the oracle of what a
//! partition must hold, shards with journals ([`shards`]), a simulated broker ([`world`]) and cuts of power after
//! each step ([`power_cut`]).
//!
//! A test takes it in by `mod common;`, one that is a directory by `#[path = "../common/mod.rs"] mod common;`.
//! A new simulation is a [`world::Scenario`] with its actions, and a list of what must have happened.

#![allow(dead_code, reason = "each test takes what it needs of it")]

pub mod batches;
pub mod cases;
pub mod disk;
pub mod events;
pub mod logs;
pub mod oracle;
pub mod power_cut;
pub mod reads;
pub mod seeds;
pub mod shards;
pub mod world;

/// Nothing, or what is wrong.
pub type Verdict = Result<(), String>;
