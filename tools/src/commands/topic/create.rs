//! `tidelog topic create`.

use clap::Args;
use tidelog_bench::client::NewTopic;

use super::{Done, refuse_twice, report, with_done};
use crate::connect::ClientArgs;
use crate::failure::Failure;
use crate::settings::parse_key_value;

const TOPIC_ALREADY_EXISTS: i16 = 36;
const BROKER_DEFAULT: i32 = -1;

const AFTER_HELP: &str = "\
Examples:
  tidelog topic create logs
  tidelog topic create logs metrics -p 8 -c retention.ms=86400000
  tidelog topic create fleeting -c storage=memory
  tidelog topic create logs --if-not-exists";

/// Arguments of `tidelog topic create`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CreateArgs {
    /// Names of the topics
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Number of partitions [default: the broker's]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Number of copies of each partition [default: the broker's]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replicas: Option<i16>,
    /// Configuration, such as retention.ms=86400000; may be repeated
    #[arg(short, long, value_name = "K=V", value_parser = parse_key_value)]
    config: Vec<(String, String)>,
    /// Accept a topic that is there already
    #[arg(long)]
    if_not_exists: bool,
    /// Only check that the topics could be created
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Creates the topics.
pub fn run(args: CreateArgs) -> Result<u8, Failure> {
    refuse_twice(&args.names)?;
    let mut client = args.client.connect()?;
    let done = match args.validate_only {
        true => Done::CouldCreate,
        false => Done::Created,
    };
    let topic = |name: &String| NewTopic {
        name: name.clone(),
        partitions: args.partitions.unwrap_or(BROKER_DEFAULT),
        replicas: args.replicas.unwrap_or(BROKER_DEFAULT as i16),
        configs: args.config.clone(),
    };
    let topics: Vec<NewTopic> = args.names.iter().map(topic).collect();
    let mut outcomes = with_done(client.create_topics(&topics, args.validate_only)?, done);
    if args.if_not_exists {
        for (_, result) in &mut outcomes {
            if result.as_ref().err().and_then(|e| e.code()) == Some(TOPIC_ALREADY_EXISTS) {
                *result = Ok(Done::AlreadyThere);
            }
        }
    }
    report(args.client.output, outcomes)
}
