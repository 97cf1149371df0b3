//! `tidelog segment`: segment files, offline. Only `repair` changes any, and only when it is told to.

mod derived;
mod dump;
mod inspect;
mod places;
mod repair;
mod selection;
mod stats;
#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod testing;
mod topics;
mod verify;

use clap::{Args, Subcommand};

use crate::failure::Failure;

/// Arguments of `tidelog segment`.
#[derive(Debug, Args)]
pub struct SegmentArgs {
    #[command(subcommand)]
    command: SegmentCommand,
}

#[derive(Debug, Subcommand)]
enum SegmentCommand {
    /// Print a segment's header and its entries
    Inspect(inspect::InspectArgs),
    /// Print records as JSON lines
    Dump(dump::DumpArgs),
    /// Check every byte of a segment, or of all segments below a directory
    Verify(verify::VerifyArgs),
    /// Count batches, records and bytes, by partition, codec and size
    Stats(stats::StatsArgs),
    /// Mend damaged segments of a stopped broker, keeping what is replaced
    Repair(repair::RepairArgs),
}

/// Runs a segment command.
pub fn run(args: SegmentArgs) -> Result<u8, Failure> {
    match args.command {
        SegmentCommand::Inspect(args) => inspect::run(args),
        SegmentCommand::Dump(args) => dump::run(args),
        SegmentCommand::Verify(args) => verify::run(args),
        SegmentCommand::Stats(args) => stats::run(args),
        SegmentCommand::Repair(args) => repair::run(args),
    }
}
