//! The load generator: requests built once, answers counted and not decoded, the broker's own CPU time.
//!
//! It drives any Kafka-protocol broker, and the bare servers of the `perf` room through the same loop, so
//! that both get the same load. Everything runs in the calling thread except [`consume`] with several
//! connections, which has a thread for each, and the null server, which stands in for a broker to show what
//! the generator itself can do.
//!
//! | mode | module | what is in flight |
//! |---|---|---|
//! | produce, requests, echo | [`pipeline`] | closed loop: C connections, F requests each |
//! | consume | [`mod@consume`] | one Fetch for each connection |
//! | latency | [`latency`] | open loop at a fixed rate; latency counts from the intended send time |

pub mod bare;
pub mod consume;
mod error;
pub mod latency;
pub mod null_server;
pub mod pipeline;
pub mod process;
pub mod report;
pub mod template;
pub mod topic;

pub use error::LoadError;
