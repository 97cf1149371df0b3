//! One file per command. Each has its arguments and a `run` that gives the exit code.

pub mod cluster;
pub mod completions;
pub mod consume;
pub mod man;
pub mod produce;
pub mod segment;
#[cfg(feature = "serve")]
pub mod serve;
pub mod topic;

use crate::cli::Command;
use crate::failure::Failure;

/// Runs one command.
pub fn run(command: Command) -> Result<u8, Failure> {
    match command {
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args),
        Command::Topic(args) => topic::run(args),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Segment(args) => segment::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}
