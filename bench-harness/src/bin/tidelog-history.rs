//! `tidelog-history`: writes records while noting what was acknowledged, and checks a broker
//! against such notes. Exit codes: 0 done, 1 failed, 2 usage, 3 a promise is broken, 4 no broker.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tidelog_bench::client::{Acks, ClientConfig, Compression, parse_compression};
use tidelog_bench::history::{self, CheckOptions, HistoryError, WriteOptions};
use tidelog_bench::limits;

/// Keeps a history of acknowledged records and checks a broker against it.
#[derive(Debug, Parser)]
#[command(name = "tidelog-history", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Produce stamped records and note, fsynced, which were acknowledged.
    Write(WriteArgs),
    /// Read the topic back and hold the broker to the history.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct WriteArgs {
    /// Broker addresses, HOST:PORT[,HOST:PORT..].
    #[arg(
        short = 'b',
        long = "bootstrap",
        alias = "bootstrap-server",
        env = "TIDELOG_BOOTSTRAP",
        default_value = "localhost:9092"
    )]
    bootstrap: String,
    /// Topic to write to.
    #[arg(long)]
    topic: String,
    /// History file; goes on with it when it exists.
    #[arg(long)]
    history: PathBuf,
    /// Acknowledgement to wait for: 0, 1 or all.
    #[arg(long, default_value = "all", value_parser = parse_acks)]
    acks: Acks,
    /// Records to send; without this and --seconds, 1000.
    #[arg(long)]
    count: Option<u64>,
    /// Seconds to go on for, through broker failures.
    #[arg(long)]
    seconds: Option<u64>,
    /// Records in one batch.
    #[arg(long, default_value_t = 10)]
    batch_records: usize,
    /// Most bytes of a value beyond its stamp.
    #[arg(long, default_value_t = 1000, value_parser = parse_filler)]
    value_bytes: usize,
    /// Codec: none, gzip, snappy, lz4 or zstd.
    #[arg(short = 'z', long, default_value = "none", value_parser = parse_compression)]
    compression: Compression,
    /// Milliseconds to wait for one answer.
    #[arg(long, default_value_t = 30_000)]
    timeout_ms: u64,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Broker addresses, HOST:PORT[,HOST:PORT..].
    #[arg(
        short = 'b',
        long = "bootstrap",
        alias = "bootstrap-server",
        env = "TIDELOG_BOOTSTRAP",
        default_value = "localhost:9092"
    )]
    bootstrap: String,
    /// History file that `write` kept.
    #[arg(long)]
    history: PathBuf,
    /// Acknowledged records the history must hold, so that an empty one does not pass.
    #[arg(long, default_value_t = 1)]
    min_acked: u64,
    /// Retention is on: acknowledged records below the log start are counted as retired, not as lost.
    #[arg(long)]
    retention: bool,
    /// Milliseconds to wait for one answer.
    #[arg(long, default_value_t = 30_000)]
    timeout_ms: u64,
}

fn parse_acks(text: &str) -> Result<Acks, String> {
    text.parse()
}

fn parse_filler(text: &str) -> Result<usize, String> {
    let most = limits::HISTORY_VALUE_BYTES_MAX;
    text.parse()
        .ok()
        .filter(|n| *n <= most)
        .ok_or_else(|| format!("a number up to {most}"))
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Write(args) => write(args),
        Command::Check(args) => check(args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidelog-history: {error}");
            let is_unreachable = matches!(&error, HistoryError::Client(e) if e.is_connection());
            ExitCode::from(if is_unreachable { 4 } else { 1 })
        }
    }
}

fn config(bootstrap: &str, timeout_ms: u64) -> Result<ClientConfig, HistoryError> {
    let mut config = ClientConfig::with_bootstrap(bootstrap)?;
    config.client_id = "tidelog-history".to_owned();
    config.request_timeout = Duration::from_millis(timeout_ms.max(1));
    config.connect_timeout = config.connect_timeout.min(config.request_timeout);
    Ok(config)
}

fn write(args: WriteArgs) -> Result<ExitCode, HistoryError> {
    let is_unlimited = args.count.is_none() && args.seconds.is_none();
    let options = WriteOptions {
        topic: args.topic,
        history: args.history,
        acks: args.acks,
        count: if is_unlimited { Some(1000) } else { args.count },
        duration: args.seconds.map(Duration::from_secs),
        batch_records: args.batch_records,
        filler_bytes: args.value_bytes,
        compression: args.compression,
    };
    let report = history::write(config(&args.bootstrap, args.timeout_ms)?, &options)?;
    println!(
        "sent {} acked {} unknown_batches {} failures {}",
        report.sent, report.acked, report.unknown_batches, report.failures
    );
    if let Some(failure) = report.last_failure {
        eprintln!("tidelog-history: last failure: {failure}");
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: CheckArgs) -> Result<ExitCode, HistoryError> {
    let options = CheckOptions {
        allow_retired: args.retention,
    };
    let config = config(&args.bootstrap, args.timeout_ms)?;
    let report = history::check_with(config, &args.history, options)?;
    println!(
        "acked {} found {} retired {} unknown_present {} unknown_absent {} foreign {} violations {}",
        report.acked,
        report.found,
        report.retired,
        report.unknown_present,
        report.unknown_absent,
        report.foreign,
        report.violation_count
    );
    for violation in &report.violations {
        println!("violation: {violation}");
    }
    if report.violation_count > 0 || report.found + report.retired != report.acked {
        return Ok(ExitCode::from(3));
    }
    if report.acked < args.min_acked {
        eprintln!(
            "tidelog-history: only {} records were acknowledged, so little was checked",
            report.acked
        );
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}
