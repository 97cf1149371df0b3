//! `tidelog topic describe`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};
use tidelog_bench::client::{Client, ConfigEntry, TIMESTAMP_END, TIMESTAMP_START, Topic};

use crate::connect::ClientArgs;
use crate::failure::{DONE, Failure};
use crate::output::{OutputFormat, print_document, print_text, table};

const AFTER_HELP: &str = "\
Examples:
  tidelog topic describe logs
  tidelog topic describe logs --all-configs
  tidelog topic describe logs --output json | jq .partitions";

const PARTITION_COLUMNS: &[&str] = &[
    "partition",
    "leader",
    "leader_epoch",
    "replicas",
    "in_sync",
    "start_offset",
    "end_offset",
];
const CONFIG_COLUMNS: &[&str] = &["config", "value", "source"];

/// Arguments of `tidelog topic describe`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DescribeArgs {
    /// Name of the topic
    name: String,
    /// Print defaults too
    #[arg(long)]
    all_configs: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Describes the topic.
pub fn run(args: DescribeArgs) -> Result<u8, Failure> {
    let mut client = args.client.connect()?;
    let metadata = client.metadata(Some(std::slice::from_ref(&args.name)), false)?;
    let topic = metadata.topic(&args.name)?;
    let starts = offsets(&mut client, topic, TIMESTAMP_START)?;
    let ends = offsets(&mut client, topic, TIMESTAMP_END)?;
    let partitions = partition_rows(topic, &starts, &ends);
    let mut configs = client.describe_topic_configs(&args.name)?;
    if !args.all_configs {
        configs.retain(|c| c.source != "default");
    }
    match args.client.output {
        OutputFormat::Table => {
            let mut text = format!("topic     {}\ntopic id  {}\n\n", topic.name, topic.topic_id);
            text.push_str(&table(PARTITION_COLUMNS, &partitions));
            if !configs.is_empty() {
                text.push_str("\n\n");
                text.push_str(&table(CONFIG_COLUMNS, &config_rows(&configs)));
            }
            print_text(&text)?;
        }
        format => {
            let object = |columns: &[&str], rows: Vec<Vec<Value>>| -> Vec<Value> {
                rows.into_iter()
                    .map(|row| columns.iter().map(|c| (*c).to_owned()).zip(row).collect())
                    .collect()
            };
            let document = json!({
                "name": topic.name,
                "topic_id": topic.topic_id,
                "partitions": object(PARTITION_COLUMNS, partitions),
                "configs": object(CONFIG_COLUMNS, config_rows(&configs)),
            });
            print_document(format, &document)?;
        }
    }
    Ok(DONE)
}

fn offsets(client: &mut Client, topic: &Topic, timestamp: i64) -> Result<BTreeMap<i32, i64>, Failure> {
    let led: Vec<(i32, i64)> = topic
        .partitions
        .iter()
        .filter(|p| p.leader >= 0)
        .map(|p| (p.partition, timestamp))
        .collect();
    Ok(client.list_offsets(&topic.name, &led)?)
}

fn partition_rows(topic: &Topic, starts: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, i64>) -> Vec<Vec<Value>> {
    let offset = |offsets: &BTreeMap<i32, i64>, partition: i32| Value::from(offsets.get(&partition).copied());
    let row = |p: &tidelog_bench::client::Partition| {
        vec![
            Value::from(p.partition),
            Value::from(p.leader),
            Value::from(p.leader_epoch),
            Value::from(p.replicas.clone()),
            Value::from(p.in_sync_replicas.clone()),
            offset(starts, p.partition),
            offset(ends, p.partition),
        ]
    };
    topic.partitions.iter().map(row).collect()
}

fn config_rows(configs: &[ConfigEntry]) -> Vec<Vec<Value>> {
    let row = |c: &ConfigEntry| vec![json!(c.name), json!(c.value), json!(c.source)];
    configs.iter().map(row).collect()
}
