//! The promise: bytes whose checksum fails are never served, and nothing is ever deleted because a file
//! looks wrong. Every damage to a file of a data directory is found, or rebuilt, or of no effect.
//!
//! A small directory that the log itself wrote is damaged in each way there is, opened, and read; the
//! oracle looks at the bytes alone. `TIDELOG_DAMAGE=all` takes every bit (`just damage`); else a sample
//! that is the same each time, since every bit takes minutes.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod agreement;
mod bits;
mod controls;
mod crashes;
mod files;
mod fixture;
mod oracle;
mod repairs;
