//! `tidelog topic alter`.

use clap::{ArgGroup, Args};
use tidelog_bench::client::Client;

use super::{Done, report, with_done};
use crate::connect::ClientArgs;
use crate::failure::{FAILED, Failure};
use crate::settings::parse_key_value;

const AFTER_HELP: &str = "\
Examples:
  tidelog topic alter logs -c retention.ms=86400000
  tidelog topic alter logs --unset retention.ms";

/// Arguments of `tidelog topic alter`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
#[command(group(ArgGroup::new("change").args(["config", "unset"]).required(true).multiple(true)))]
pub struct AlterArgs {
    /// Name of the topic
    name: String,
    /// Configuration to set; may be repeated
    #[arg(short, long, value_name = "K=V", value_parser = parse_key_value)]
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
    refuse_unknown(&mut client, &args)?;
    let result = client.alter_topic_configs(&args.name, &args.config, &args.unset);
    report(
        args.client.output,
        with_done(vec![(args.name, result)], Done::Altered),
    )
}

/// A broker lets a key that does not exist be put back to its default; here it is a mistake.
fn refuse_unknown(client: &mut Client, args: &AlterArgs) -> Result<(), Failure> {
    if args.unset.is_empty() {
        return Ok(());
    }
    let known = client.describe_topic_configs(&args.name)?;
    match args
        .unset
        .iter()
        .find(|key| known.iter().all(|c| c.name != **key))
    {
        Some(key) => Err(Failure::new(FAILED, format!("there is no topic config {key}"))
            .hint("See them all with `tidelog topic describe NAME --all-configs`.")),
        None => Ok(()),
    }
}
