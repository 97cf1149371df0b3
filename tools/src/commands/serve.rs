//! `tidelog serve`: hands the flags to the broker and its exit code back.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use tidelog_core::ServeOptions;
use tracing_subscriber::EnvFilter;

use crate::failure::{FAILED, Failure};
use crate::settings::parse_key_value;

const AFTER_HELP: &str = "\
Without flags: Kafka on localhost:9092, health and metrics on 127.0.0.1:9640, data in
./tidelog-data, every acknowledged record on disk, topics created when first used.

Examples:
  tidelog serve
  tidelog serve --data-dir /var/lib/tidelog --listen 0.0.0.0:9092 --advertise broker1.lan:9092
  tidelog serve --listen INT=10.0.0.5:9092 --listen EXT=0.0.0.0:9093 --advertise EXT=kafka.example.com:9093
  tidelog serve --config tidelog.toml --set log.durability=interval";

/// Arguments of `tidelog serve`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ServeArgs {
    /// Settings file (TOML); flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set of defaults: dev (topics made on first use), prod, or perf
    #[arg(long, value_name = "PROFILE", value_parser = ["dev", "prod", "perf"])]
    pub profile: Option<String>,
    /// Directory for data, made when missing; may be repeated [default: ./tidelog-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Vec<PathBuf>,
    /// Address to accept Kafka clients on; may be repeated [default: localhost:9092]
    #[arg(long, value_name = "[NAME=]HOST:PORT")]
    pub listen: Vec<String>,
    /// Address that clients are told to come back to; needed for a wildcard --listen
    #[arg(long, value_name = "[NAME=]HOST:PORT")]
    pub advertise: Vec<String>,
    /// Address for health, metrics and administration; keep it private [default: 127.0.0.1:9640]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// Address for metrics only, which may face a network
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<String>,
    /// Number of shards, each with a thread of its own [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub shards: Option<u16>,
    /// Memory to use at most, such as 512MiB or 4GiB [default: half of what is allowed]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// One setting of the settings file; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = checked_setting)]
    pub set: Vec<String>,
}

/// What is logged unless TIDELOG_LOG says otherwise.
const LOG_FILTER: &str = "info";

/// Logs to standard error, in colour only on a terminal. `TIDELOG_LOG` takes a filter such as `debug`.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("TIDELOG_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_env_filter(filter)
        .init();
}

/// Runs the broker until it is told to stop.
pub fn run(args: ServeArgs) -> Result<u8, Failure> {
    log_to_stderr();
    let code = tidelog_core::serve(ServeOptions {
        config: args.config,
        profile: args.profile,
        data_dirs: args.data_dir,
        listen: args.listen,
        advertise: args.advertise,
        admin: args.admin,
        metrics: args.metrics,
        shards: args.shards,
        memory: args.memory,
        set: args.set,
    });
    Ok(u8::try_from(code).unwrap_or(FAILED))
}

fn checked_setting(text: &str) -> Result<String, String> {
    parse_key_value(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_needs_a_key_and_a_value() {
        assert_eq!(checked_setting("a=b"), Ok("a=b".to_owned()));
        assert!(checked_setting("a").is_err());
    }
}
