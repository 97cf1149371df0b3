//! `tidelog topic list`.

use clap::Args;
use serde_json::Value;

use crate::connect::ClientArgs;
use crate::failure::{DONE, Failure};
use crate::output::{OutputFormat, print_rows};

const AFTER_HELP: &str = "\
Examples:
  tidelog topic list
  tidelog topic list --output jsonl | jq -r .name";

/// Arguments of `tidelog topic list`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Lists the topics.
pub fn run(args: ListArgs) -> Result<u8, Failure> {
    let mut client = args.client.connect()?;
    let topics = client.metadata(None, false)?.topics;
    let row = |t: &tidelog_bench::client::Topic| {
        vec![
            Value::from(t.name.clone()),
            Value::from(t.partitions.len()),
            Value::from(t.partitions.iter().map(|p| p.replicas.len()).max().unwrap_or(0)),
            Value::from(t.topic_id.clone()),
        ]
    };
    let rows: Vec<Vec<Value>> = topics.iter().map(row).collect();
    print_rows(
        args.client.output,
        &["name", "partitions", "replicas", "topic_id"],
        &rows,
    )?;
    if rows.is_empty() && args.client.output == OutputFormat::Table {
        eprintln!("no topics yet; make one with `tidelog topic create NAME`");
    }
    Ok(DONE)
}
