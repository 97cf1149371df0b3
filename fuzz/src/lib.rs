//! Fuzz targets of the wire decoders; `just fuzz` builds and runs them.
//!
//! `message` is one program for every message of the field tables: the environment variable
//! `TIDELOG_FUZZ_MESSAGE` names which one, so that a new API has its target with its row in the tables.

pub mod checks;
pub mod counting;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;
