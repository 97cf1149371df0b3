//! Fuzz targets of what comes from the network and from the disk; `just fuzz` builds and runs them.
//!
//! `message` is one program for every message of the field tables: the environment variable
//! `TIDELOG_FUZZ_MESSAGE` names which one, so that a new API has its target with its row in the tables.
//! `structure` is one program for every structure on the disk and every codec: `TIDELOG_FUZZ_STRUCTURE` names it.

pub mod checks;
pub mod counting;
pub mod storage_checks;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;
