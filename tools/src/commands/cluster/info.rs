//! `tidelog cluster info`.

use clap::Args;
use serde_json::{Value, json};
use tidelog_bench::client::Metadata;

use crate::connect::ClientArgs;
use crate::failure::{DONE, Failure};
use crate::output::{OutputFormat, print_document, print_text, table};

const AFTER_HELP: &str = "\
Examples:
  tidelog cluster info
  tidelog cluster info -b broker1:9092 --output json";

/// Arguments of `tidelog cluster info`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct InfoArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Prints the cluster.
pub fn run(args: InfoArgs) -> Result<u8, Failure> {
    let mut client = args.client.connect()?;
    let (_, versions) = client.api_versions()?;
    let cluster = client.describe_cluster()?;
    let topics = client.metadata(None, false)?.topics;
    let partitions: usize = topics.iter().map(|t| t.partitions.len()).sum();
    let apis = versions.len();
    match args.client.output {
        OutputFormat::Table => {
            let id = cluster.cluster_id.as_deref().unwrap_or("-");
            let facts = format!(
                "cluster id  {id}\ntopics      {}\npartitions  {partitions}\napis        {apis}\n",
                topics.len()
            );
            print_text(&format!("{facts}\n{}", table(COLUMNS, &broker_rows(&cluster))))?;
        }
        format => {
            let brokers: Vec<Value> = broker_rows(&cluster)
                .into_iter()
                .map(|row| COLUMNS.iter().map(|c| (*c).to_owned()).zip(row).collect())
                .collect();
            let document = json!({
                "cluster_id": cluster.cluster_id,
                "controller": cluster.controller,
                "topics": topics.len(),
                "partitions": partitions,
                "apis": versions.iter().map(|(key, range)| json!({"key": key, "min": range.min, "max": range.max})).collect::<Vec<_>>(),
                "brokers": brokers,
            });
            print_document(format, &document)?;
        }
    }
    Ok(DONE)
}

const COLUMNS: &[&str] = &["broker", "address", "rack", "is_controller"];

fn broker_rows(cluster: &Metadata) -> Vec<Vec<Value>> {
    let row = |b: &tidelog_bench::client::Broker| {
        vec![
            Value::from(b.node_id),
            Value::from(b.address.clone()),
            Value::from(b.rack.clone()),
            Value::from(b.node_id == cluster.controller),
        ]
    };
    cluster.brokers.iter().map(row).collect()
}
