//! A small blocking Kafka client over `std::net`: for the command line, the history keeper, tests.
//!
//! A [`Client`] belongs to one thread; it opens one connection per broker, follows leaders, and
//! bounds every answer. It sends one request at a time and repeats nothing by itself: whether a
//! failed call may be repeated is the caller's decision, from [`ClientError`].

mod admin;
mod cluster;
mod codec;
mod config;
mod connection;
mod delete_records;
mod error;
mod fetch;
mod partitioner;
mod produce;
pub mod records;

pub use admin::{ConfigEntry, NewTopic, Outcomes};
pub use cluster::{Broker, Client, Metadata, Partition, Topic};
pub use config::{Acks, ClientConfig, SETTINGS, parse_addresses};
pub use connection::Connection;
pub use delete_records::LogStarts;
pub use error::{ClientError, code_name, is_retriable_code};
pub use fetch::{FetchTarget, Fetched, TIMESTAMP_END, TIMESTAMP_START};
pub use partitioner::{murmur2, partition_of_key};
pub use records::{Compression, Decoded, Record, decode_batches, encode_batch, parse_compression};
