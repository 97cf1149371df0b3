//! `tidelog topic`.

mod add_partitions;
mod alter;
mod create;
mod delete;
mod describe;
mod list;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidelog_bench::client::ClientError;

use crate::failure::{DONE, Failure, PARTLY};
use crate::output::{OutputFormat, print_rows};

/// Arguments of `tidelog topic`.
#[derive(Debug, Args)]
pub struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Create topics
    Create(create::CreateArgs),
    /// List all topics
    List(list::ListArgs),
    /// Print a topic's partitions and configuration
    Describe(describe::DescribeArgs),
    /// Change a topic's configuration
    Alter(alter::AlterArgs),
    /// Delete topics and everything in them
    Delete(delete::DeleteArgs),
    /// Give a topic more partitions
    AddPartitions(add_partitions::AddPartitionsArgs),
}

/// Runs a topic command.
pub fn run(args: TopicArgs) -> Result<u8, Failure> {
    match args.command {
        TopicCommand::Create(args) => create::run(args),
        TopicCommand::List(args) => list::run(args),
        TopicCommand::Describe(args) => describe::run(args),
        TopicCommand::Alter(args) => alter::run(args),
        TopicCommand::Delete(args) => delete::run(args),
        TopicCommand::AddPartitions(args) => add_partitions::run(args),
    }
}

/// Reports how each topic went: `done` is the word for success. Some done and some not is exit code 5.
fn report(
    format: OutputFormat,
    done: &str,
    outcomes: Vec<(String, Result<(), ClientError>)>,
) -> Result<u8, Failure> {
    if format != OutputFormat::Table {
        let row = |(name, result): &(String, Result<(), ClientError>)| {
            let status = if result.is_ok() { done } else { "failed" };
            vec![
                Value::from(name.clone()),
                Value::from(status),
                result
                    .as_ref()
                    .err()
                    .map_or(Value::Null, |e| json!(e.to_string())),
            ]
        };
        let rows: Vec<Vec<Value>> = outcomes.iter().map(row).collect();
        print_rows(format, &["name", "status", "error"], &rows)?;
    }
    let mut failures = Vec::new();
    let mut done_count = 0;
    for (name, result) in outcomes {
        match result {
            Ok(()) => {
                done_count += 1;
                if format == OutputFormat::Table {
                    eprintln!("{done} topic {name}");
                }
            }
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    let last = failures.pop();
    for failure in &failures {
        failure.print();
    }
    match last {
        None => Ok(DONE),
        Some(last) if done_count == 0 => Err(last),
        Some(last) => {
            last.print();
            Ok(PARTLY)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FAILED;

    #[test]
    fn some_done_and_some_not_is_partly() {
        let good = || ("a".to_owned(), Ok(()));
        let bad = || ("b".to_owned(), Err(ClientError::broker("topic b", 36, None)));
        assert_eq!(report(OutputFormat::Table, "created", vec![good()]), Ok(DONE));
        assert_eq!(
            report(OutputFormat::Table, "created", vec![good(), bad()]),
            Ok(PARTLY)
        );
        assert_eq!(
            report(OutputFormat::Table, "created", vec![bad(), bad()])
                .expect_err("none")
                .code(),
            FAILED
        );
    }
}
