//! Scenarios of whole shards without I/O: what a client may rely on, with one shard and with three.

mod background;
mod chaos;
mod device;
mod faults;
mod fetch;
mod fetch_sessions;
mod harness;
mod hostile;
mod limits;
mod offsets;
mod produce;
mod requests;
mod silence;
mod stopping;
mod topics;
