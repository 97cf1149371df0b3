//! `tidelog topic`.

mod add_partitions;
mod alter;
mod create;
mod delete;
mod describe;
mod list;
mod trim;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidelog_bench::client::{self, ClientError};

use crate::failure::{DONE, Failure, PARTLY, USAGE};
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
    /// Delete the records in front of an offset or a time
    Trim(trim::TrimArgs),
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
        TopicCommand::Trim(args) => trim::run(args),
    }
}

/// What was done with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Created,
    CouldCreate,
    AlreadyThere,
    Deleted,
    Altered,
    Extended,
    CouldExtend,
}

impl Done {
    /// The word for programs.
    fn status(self) -> &'static str {
        match self {
            Done::Created => "created",
            Done::CouldCreate => "could create",
            Done::AlreadyThere => "already there",
            Done::Deleted => "deleted",
            Done::Altered => "altered",
            Done::Extended => "extended",
            Done::CouldExtend => "could extend",
        }
    }

    /// The sentence for people.
    fn sentence(self, name: &str) -> String {
        match self {
            Done::AlreadyThere => format!("topic {name} is there already"),
            done => format!("{} topic {name}", done.status()),
        }
    }
}

/// How each topic went.
type Outcomes = Vec<(String, Result<Done, ClientError>)>;

/// Says `done` for each success.
fn with_done(outcomes: client::Outcomes, done: Done) -> Outcomes {
    outcomes
        .into_iter()
        .map(|(name, result)| (name, result.map(|()| done)))
        .collect()
}

/// Reports how each topic went. Some done and some not is exit code 5.
fn report(format: OutputFormat, outcomes: Outcomes) -> Result<u8, Failure> {
    if format != OutputFormat::Table {
        let row = |(name, result): &(String, Result<Done, ClientError>)| {
            let (status, error) = match result {
                Ok(done) => (done.status(), Value::Null),
                Err(error) => ("failed", json!(error.to_string())),
            };
            vec![Value::from(name.clone()), Value::from(status), error]
        };
        let rows: Vec<Vec<Value>> = outcomes.iter().map(row).collect();
        print_rows(format, &["name", "status", "error"], &rows)?;
    }
    let mut failures = Vec::new();
    let mut done_count = 0;
    for (name, result) in outcomes {
        match result {
            Ok(done) => {
                done_count += 1;
                if format == OutputFormat::Table {
                    eprintln!("{}", done.sentence(&name));
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

/// Refuses a name that is given twice, which is a slip of the hand.
fn refuse_twice(names: &[String]) -> Result<(), Failure> {
    let twice = names
        .iter()
        .enumerate()
        .find(|(at, name)| names.iter().take(*at).any(|earlier| earlier == *name));
    match twice {
        Some((_, name)) => Err(Failure::new(USAGE, format!("topic {name} is named twice"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FAILED;

    #[test]
    fn some_done_and_some_not_is_partly() {
        let good = || ("a".to_owned(), Ok(Done::Created));
        let bad = || ("b".to_owned(), Err(ClientError::broker("topic b", 36, None)));
        assert_eq!(report(OutputFormat::Table, vec![good()]), Ok(DONE));
        assert_eq!(report(OutputFormat::Table, vec![good(), bad()]), Ok(PARTLY));
        assert_eq!(
            report(OutputFormat::Table, vec![bad(), bad()])
                .expect_err("none")
                .code(),
            FAILED
        );
    }

    #[test]
    fn a_name_given_twice_is_a_usage_error() {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(refuse_twice(&names("a b c")), Ok(()));
        let error = refuse_twice(&names("a b a")).expect_err("twice");
        assert_eq!((error.code(), error.message()), (USAGE, "topic a is named twice"));
    }

    #[test]
    fn a_topic_that_was_there_is_not_called_created() {
        assert_eq!(Done::AlreadyThere.sentence("a"), "topic a is there already");
        assert_eq!(Done::Created.sentence("a"), "created topic a");
    }
}
