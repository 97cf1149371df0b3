//! `tidelog cluster`.

mod info;

use clap::{Args, Subcommand};

use crate::failure::Failure;

/// Arguments of `tidelog cluster`.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Print the cluster id, its brokers, and what the first of them serves
    Info(info::InfoArgs),
}

/// Runs a cluster command.
pub fn run(args: ClusterArgs) -> Result<u8, Failure> {
    match args.command {
        ClusterCommand::Info(args) => info::run(args),
    }
}
