//! `tidelog topic alter`.

use clap::Args;

use super::report;
use crate::connect::ClientArgs;
use crate::failure::Failure;
use crate::settings::parse_key_value;

const AFTER_HELP: &str = "\
Examples:
  tidelog topic alter logs -c retention.ms=86400000
  tidelog topic alter logs --unset retention.ms";

/// Arguments of `tidelog topic alter`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct AlterArgs {
    /// Name of the topic
    name: String,
    /// Configuration to set; may be repeated
    #[arg(short, long, value_name = "K=V", value_parser = parse_key_value, required_unless_present = "unset")]
    config: Vec<(String, String)>,
    /// Configuration to put back to its default; may be repeated
    #[arg(long, value_name = "K")]
    unset: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Alters the topic.
pub fn run(args: AlterArgs) -> Result<u8, Failure> {
    let mut client = args.client.connect()?;
    let result = client.alter_topic_configs(&args.name, &args.config, &args.unset);
    report(args.client.output, "altered", vec![(args.name, result)])
}
