//! The command line as a whole. Each command's own arguments stand in its file.

use clap::{Parser, Subcommand};

use crate::commands::{cluster, completions, consume, man, produce, segment, topic};

const AFTER_HELP: &str = "\
Examples:
  tidelog serve                                 start a broker on localhost:9092
  echo hello | tidelog produce greetings        send a line to a topic
  tidelog consume greetings -o start -e         read it back
  tidelog topic list                            see what is there

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 damage found,
4 broker unreachable or timed out, 5 partly done, 130 SIGINT, 143 SIGTERM.";

/// A log broker that speaks the Kafka protocol, and the tools to work with it
#[derive(Debug, Parser)]
#[command(name = "tidelog", version, after_help = AFTER_HELP, arg_required_else_help = true)]
#[command(
    disable_help_subcommand = true,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a broker
    #[cfg(feature = "serve")]
    Serve(crate::commands::serve::ServeArgs),
    /// Create, list, describe, alter, trim and delete topics
    Topic(topic::TopicArgs),
    /// Send lines of text to a topic
    Produce(produce::ProduceArgs),
    /// Read records from topics
    Consume(consume::ConsumeArgs),
    /// See the brokers of a cluster
    Cluster(cluster::ClusterArgs),
    /// Look at segment files offline, and repair them
    Segment(segment::SegmentArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write man pages into a directory
    Man(man::ManArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    /// Every line of the contract that is served.
    const SERVED: &[&str] = &[
        "serve",
        "serve --config f.toml --profile dev --data-dir a --data-dir b",
        "serve --listen localhost:9092 --listen INT=0.0.0.0:9093 --advertise INT=host:9093",
        "serve --admin 127.0.0.1:9640 --metrics 0.0.0.0:9641 --shards 2 --memory 1GiB --set a=b --set c=d",
        "serve --profile prod",
        "serve --profile perf",
        "topic create a b -p 3 -r 1 -c retention.ms=1000 -c x=y --if-not-exists --validate-only",
        "topic create a --partitions 3 --replicas 1 --config retention.ms=1000",
        "topic list",
        "topic list -b localhost:9092 --output json",
        "topic describe a",
        "topic alter a -c retention.ms=1000",
        "topic delete a b --yes",
        "topic add-partitions a -p 6",
        "topic trim a --before 5",
        "topic trim a --before end --output jsonl",
        "topic trim a --before @-15m -p 0,1",
        "topic trim a --before @2026-01-31T12:00:00Z --partition 0",
        "produce a",
        "produce a -p 1 -k key -H a=b --header c=d -z zstd --acks all --file path",
        "produce a -K : --compression lz4 --acks 1",
        "produce a --key-delimiter : --acks 0",
        "produce a -k key --tombstone",
        "consume a b -p 0,1 -o start -n 5 -e",
        "consume a --offset end --num 1 --exit-at-end --format %s",
        "consume a -o 42 -f %t",
        "consume a -o -42",
        "consume a -o @-15m",
        "consume a -o @1700000000000",
        "consume a -o @2026-01-31T12:00:00Z",
        "cluster info",
        "cluster info --bootstrap a:1,b:2 -X client.id=me --client-config f --timeout 5s --output jsonl",
        "segment inspect path",
        "segment inspect path --records --from-offset 1 --to-offset 9 --from-time @-15m --to-time @5 -k k -n 0",
        "segment dump path",
        "segment dump path --key k --max-batch-bytes 1024",
        "segment verify path",
        "segment verify path --threads 2 --output json",
        "segment stats path --max-batch-bytes 1024 --output jsonl",
        "segment repair path",
        "segment repair path --execute --output json",
        "segment repair path --execute --new-identity 1 --cluster-id id",
        "completions bash",
        "man dir",
    ];

    /// Commands of the contract that are not served yet, and lines that are wrong.
    const REFUSED: &[&str] = &[
        "group list",
        "topic trim a",
        "topic trim a --before -1",
        "topic trim a --before start",
        "topic trim a --before @soon",
        "topic trim a --before 5 -p x",
        "topic trim --before 5",
        "segment repair",
        "segment repair p --new-identity -1",
        "segment repair p --cluster-id id",
        "segment compact p",
        "segment dump p --from-offset -1",
        "segment dump p --from-time soon",
        "segment inspect p --to-offset x",
        "config check f",
        "health",
        "top",
        "user",
        "bench produce",
        "nonsense",
        "serve --unknown",
        "serve --profile fast",
        "serve --shards 0",
        "serve --set novalue",
        "topic create",
        "topic create a -p 0",
        "topic create a -c novalue",
        "topic alter a",
        "topic add-partitions a",
        "produce",
        "produce a -k x -K :",
        "produce a --tombstone",
        "produce a -z brotli",
        "produce a --acks 2",
        "produce a -H novalue",
        "produce a -p -1",
        "consume",
        "consume a -o begin",
        "consume a -o @nonsense",
        "consume a -f %q",
        "consume a -n 0",
        "consume a -p x",
        "consume a -g g",
        "consume a --isolation read_committed",
        "cluster",
        "cluster info --output xml",
        "cluster info --timeout soon",
        "completions tcsh",
    ];

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("tidelog").chain(line.split_whitespace()))
    }

    #[test]
    fn every_served_line_of_the_contract_parses() {
        for line in SERVED {
            if cfg!(not(feature = "serve")) && line.starts_with("serve") {
                continue;
            }
            if let Err(error) = parse(line) {
                panic!("`tidelog {line}`: {error}");
            }
        }
    }

    #[test]
    fn what_is_not_served_is_a_usage_error() {
        for line in REFUSED {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "`tidelog {line}`");
        }
    }

    #[test]
    fn help_is_data_and_ends_with_0() {
        let error = parse("--help").expect_err("help");
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::DisplayHelp, 0));
        assert!(error.to_string().contains("tidelog consume greetings"));
    }

    #[test]
    fn the_definition_is_sound_and_every_leaf_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut open = vec![command];
        while let Some(command) = open.pop() {
            let children: Vec<_> = command.get_subcommands().cloned().collect();
            if children.is_empty() {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.contains("tidelog "), "{} has no example", command.get_name());
                assert!(
                    command.get_about().is_some(),
                    "{} has no description",
                    command.get_name()
                );
            }
            open.extend(children);
        }
    }
}
