//! Scenarios of whole shards without I/O: what a client may rely on, with one shard and with three.

mod admin;
mod background;
mod chaos;
mod compacted;
mod delete_records;
mod denials;
mod device;
mod directories;
mod faults;
mod fetch;
mod fetch_sessions;
mod full_disk;
mod harness;
mod hostile;
mod leases;
mod limits;
mod log_dirs;
mod memory_storage;
mod offsets;
mod produce;
mod requests;
mod retention;
mod silence;
mod stopping;
mod topics;

pub(in crate::shard) use harness::settings;
