//! `tidelog topic add-partitions`.

use clap::Args;

use super::{Done, report, with_done};
use crate::connect::ClientArgs;
use crate::failure::Failure;

const AFTER_HELP: &str = "\
Records keep their partition; new records with a key may go to another one than before.
A topic cannot be given fewer partitions.

Examples:
  tidelog topic add-partitions logs -p 16";

/// Arguments of `tidelog topic add-partitions`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct AddPartitionsArgs {
    /// Name of the topic
    name: String,
    /// Number of partitions it shall have afterwards
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Only check that it could be done
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Adds the partitions.
pub fn run(args: AddPartitionsArgs) -> Result<u8, Failure> {
    let mut client = args.client.connect()?;
    let result = client.create_partitions(&args.name, args.partitions, args.validate_only);
    let done = match args.validate_only {
        true => Done::CouldExtend,
        false => Done::Extended,
    };
    report(args.client.output, with_done(vec![(args.name, result)], done))
}
