//! `tidelog-load`: loads a Kafka-protocol broker, or a bare server of the `perf` room, and says what that
//! cost it. Exit codes: 0 done, 1 failed, 2 usage, 4 no broker.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidelog_bench::client::{Acks, Client, ClientConfig};
use tidelog_bench::limits;
use tidelog_bench::load::pipeline::{self, Goal};
use tidelog_bench::load::process::ProcessCounters;
use tidelog_bench::load::report::{Quantiles, Report, Work};
use tidelog_bench::load::template::{Batch, Template};
use tidelog_bench::load::{LoadError, consume, latency, null_server, topic};

/// Loads a broker with prebuilt requests and reports throughput, latency and the broker's CPU time.
#[derive(Debug, Parser)]
#[command(name = "tidelog-load", version)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Produce batches, a window of them in flight.
    Produce(PipelineArgs),
    /// Produce one record a request (100 bytes and acks=1 unless told otherwise).
    Requests(PipelineArgs),
    /// Fetch in a loop, counting bytes without decoding records.
    Consume(ConsumeArgs),
    /// One record a request at a fixed rate; latency counts from the intended send time.
    Latency(LatencyArgs),
    /// 128-byte requests and 64-byte answers of a bare echo server.
    Echo(EchoArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Any Kafka-protocol broker.
    Kafka,
    /// A bare server of the `perf` room.
    Bare,
}

#[derive(Debug, Args)]
struct TargetArgs {
    /// Broker addresses, HOST:PORT[,HOST:PORT..], or the address of a bare server.
    #[arg(
        short = 'b',
        long = "bootstrap",
        env = "TIDELOG_BOOTSTRAP",
        default_value = "localhost:9092"
    )]
    bootstrap: String,
    /// What the server speaks.
    #[arg(long, value_enum, default_value = "kafka")]
    protocol: Protocol,
    /// Load a built-in server that does nothing, to see what the generator itself can do.
    #[arg(long)]
    own_ceiling: bool,
    /// Process on this machine whose CPU time and context switches are reported.
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TopicArgs {
    /// Topic to load.
    #[arg(long, default_value = "load")]
    topic: String,
    /// Partitions 0..N of it, loaded in turn (files of a bare server).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=limits::LOAD_PARTITIONS_MAX as i64))]
    partitions: i32,
    /// Create the topic with that many partitions unless it exists.
    #[arg(long)]
    create: bool,
}

#[derive(Debug, Args)]
struct PipelineArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    topic: TopicArgs,
    /// Acknowledgement to wait for: 1 or all.
    #[arg(long, value_parser = parse_acks)]
    acks: Option<Acks>,
    /// Bytes of a record's value.
    #[arg(long)]
    record_bytes: Option<usize>,
    /// Bytes of records in a batch, which is one request.
    #[arg(long)]
    batch_bytes: Option<usize>,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    goal: GoalArgs,
}

#[derive(Debug, Args)]
struct ShapeArgs {
    /// Connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=limits::LOAD_CONNECTIONS_MAX as i64))]
    connections: u32,
    /// Requests of each connection in flight.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=limits::LOAD_IN_FLIGHT_MAX as i64))]
    in_flight: Option<u32>,
}

#[derive(Debug, Args)]
struct GoalArgs {
    /// Bytes of batches to send or read, such as 2147483648.
    #[arg(long)]
    bytes: Option<u64>,
    /// Requests to send.
    #[arg(long)]
    requests: Option<u64>,
    /// Seconds to go on for; 10 when nothing else is given.
    #[arg(long)]
    seconds: Option<f64>,
}

#[derive(Debug, Args)]
struct EchoArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    goal: GoalArgs,
}

#[derive(Debug, Args)]
struct ConsumeArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    topic: TopicArgs,
    /// Connections, which share the partitions.
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Bytes of one partition in one answer.
    #[arg(long, default_value_t = 1 << 20)]
    partition_bytes: i32,
    /// Bytes of one answer.
    #[arg(long, default_value_t = 16 << 20)]
    answer_bytes: i32,
    #[command(flatten)]
    goal: GoalArgs,
}

#[derive(Debug, Args)]
struct LatencyArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    topic: TopicArgs,
    /// Acknowledgement to wait for: 1 or all.
    #[arg(long, default_value = "all", value_parser = parse_acks)]
    acks: Acks,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    /// Records in one second.
    #[arg(long, default_value_t = 2_000)]
    rate: u64,
    /// Seconds to send for.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds at the beginning that do not count.
    #[arg(long, default_value_t = 1.0)]
    warm_up_seconds: f64,
}

fn parse_acks(text: &str) -> Result<Acks, String> {
    match text.parse()? {
        Acks::None => Err("acks=0 has no answers to count; take 1 or all".to_owned()),
        acks => Ok(acks),
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().mode {
        Mode::Produce(args) => produce("produce", args, (1024, 64 * 1024, Acks::All, 16)),
        Mode::Requests(args) => produce("requests", args, (100, 100, Acks::Leader, 1)),
        Mode::Consume(args) => run_consume(args),
        Mode::Latency(args) => run_latency(args),
        Mode::Echo(args) => echo(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidelog-load: {error}");
            ExitCode::from(if error.is_connection() { 4 } else { 1 })
        }
    }
}

fn produce(
    mode: &'static str,
    args: PipelineArgs,
    (record_bytes, batch_bytes, acks, in_flight): (usize, usize, Acks, u32),
) -> Result<(), LoadError> {
    let record_bytes = args.record_bytes.unwrap_or(record_bytes);
    let batch = Batch::of_records(record_bytes, args.batch_bytes.unwrap_or(batch_bytes))?;
    let acks = args.acks.unwrap_or(acks);
    let templates = templates(&args.target, &args.topic, acks, &batch)?;
    let goal = goal(&args.goal, batch.bytes.len() as u64)?;
    let in_flight = args.shape.in_flight.unwrap_or(in_flight) as usize;
    run_pipeline(
        mode,
        &args.target,
        Some(&args.topic),
        &args.shape,
        in_flight,
        &templates,
        goal,
    )
}

fn echo(args: EchoArgs) -> Result<(), LoadError> {
    let templates = [Template::echo()];
    let goal = goal(&args.goal, templates[0].payload_bytes)?;
    let in_flight = args.shape.in_flight.unwrap_or(1) as usize;
    let target = TargetArgs {
        protocol: Protocol::Bare,
        ..args.target
    };
    run_pipeline("echo", &target, None, &args.shape, in_flight, &templates, goal)
}

fn templates(
    target: &TargetArgs,
    args: &TopicArgs,
    acks: Acks,
    batch: &Batch,
) -> Result<Vec<Template>, LoadError> {
    let template = |partition: i32| match target.protocol {
        Protocol::Kafka => Template::produce(&args.topic, partition, acks, batch),
        Protocol::Bare => Ok(Template::bare_append(partition.cast_unsigned(), batch)),
    };
    (0..args.partitions).map(template).collect()
}

fn goal(args: &GoalArgs, request_bytes: u64) -> Result<Goal, LoadError> {
    let of_bytes = args.bytes.map(|b| b.div_ceil(request_bytes.max(1)).max(1));
    let requests = match (args.requests, of_bytes) {
        (Some(requests), Some(of_bytes)) => Some(requests.min(of_bytes)),
        (one, other) => one.or(other),
    };
    let duration = match (args.seconds, requests) {
        (Some(seconds), _) => Some(duration(seconds)?),
        (None, None) => Some(Duration::from_secs(10)),
        (None, Some(_)) => None,
    };
    Ok(Goal { requests, duration })
}

fn duration(seconds: f64) -> Result<Duration, LoadError> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| LoadError::Options(format!("{seconds} is not a number of seconds")))
}

/// The address to load: the leader of the topic, the bare server, or the built-in server.
fn address(
    target: &TargetArgs,
    topic_args: Option<&TopicArgs>,
    template: &Template,
) -> Result<String, LoadError> {
    let name = topic_args.map_or("", |t| t.topic.as_str());
    match (target.protocol, topic_args) {
        _ if target.own_ceiling => {
            let correlation_at = if target.protocol == Protocol::Kafka { 8 } else { 4 };
            let answer = template.canned_answer(name)?;
            Ok(null_server::start(answer, correlation_at)?.to_string())
        }
        (Protocol::Kafka, Some(topic_args)) => kafka_address(target, topic_args),
        _ => Ok(target.bootstrap.clone()),
    }
}

fn kafka_address(target: &TargetArgs, args: &TopicArgs) -> Result<String, LoadError> {
    let mut config = ClientConfig::with_bootstrap(&target.bootstrap)?;
    config.client_id = "tidelog-load".to_owned();
    if args.create {
        topic::create(
            &mut Client::connect(config.clone())?,
            &args.topic,
            args.partitions,
        )?;
    }
    topic::leader_address(&config, &args.topic, args.partitions)
}

fn run_pipeline(
    mode: &'static str,
    target: &TargetArgs,
    topic_args: Option<&TopicArgs>,
    shape: &ShapeArgs,
    in_flight: usize,
    templates: &[Template],
    goal: Goal,
) -> Result<(), LoadError> {
    let address = address(target, topic_args, &templates[0])?;
    let connections = shape.connections as usize;
    let streams = topic::connect(&address, connections)?;
    let before = counters(target)?;
    let (work, times) = pipeline::run(streams, templates, in_flight, goal)?;
    let mut report = report(mode, target, &work, before)?.laid_out(connections, in_flight, templates.len());
    report.answer = Quantiles::of(&times);
    print(target, &report);
    Ok(())
}

fn run_consume(args: ConsumeArgs) -> Result<(), LoadError> {
    let goal = goal(&args.goal, 1)?;
    let options = consume::Options {
        topic: args.topic.topic.clone(),
        partitions: args.topic.partitions,
        partition_bytes: args.partition_bytes,
        answer_bytes: args.answer_bytes,
        bytes: goal.requests,
        duration: goal.duration,
    };
    let (address, read): (String, fn(_, &consume::Options) -> _) = match args.target.protocol {
        Protocol::Kafka if args.target.own_ceiling => {
            let answer = consume::canned_answer(&options)?;
            (null_server::start(answer, 8)?.to_string(), consume::run)
        }
        Protocol::Kafka => (kafka_address(&args.target, &args.topic)?, consume::run),
        Protocol::Bare => (args.target.bootstrap.clone(), consume::run_bare),
    };
    let connections = args.connections as usize;
    let streams = topic::connect(&address, connections)?;
    let before = counters(&args.target)?;
    let (work, times) = read(streams, &options)?;
    let partitions = args.topic.partitions as usize;
    let mut report = report("consume", &args.target, &work, before)?.laid_out(connections, 1, partitions);
    report.answer = Quantiles::of(&times);
    print(&args.target, &report);
    Ok(())
}

fn run_latency(args: LatencyArgs) -> Result<(), LoadError> {
    let batch = Batch::of_records(args.record_bytes, args.record_bytes)?;
    let templates = templates(&args.target, &args.topic, args.acks, &batch)?;
    let address = address(&args.target, Some(&args.topic), &templates[0])?;
    let is_broker = args.target.protocol == Protocol::Kafka && !args.target.own_ceiling;
    let mut streams = topic::connect(&address, if is_broker { 2 } else { 1 })?;
    let consumer = if is_broker { streams.pop() } else { None };
    let Some(producer) = streams.pop() else {
        return Err(LoadError::Options("a connection is needed".to_owned()));
    };
    let options = latency::Options {
        topic: args.topic.topic.clone(),
        rate: args.rate,
        duration: duration(args.seconds)?,
        warm_up: duration(args.warm_up_seconds)?,
    };
    let before = counters(&args.target)?;
    let measured = latency::run(producer, consumer, &templates, &options)?;
    let mut report = report("latency", &args.target, &measured.work, before)?.laid_out(1, 1, templates.len());
    report.answer = Quantiles::of(&measured.acks);
    report.end_to_end = Quantiles::of(&measured.end_to_end);
    report.late_send = Quantiles::of(&measured.late_sends);
    print(&args.target, &report);
    Ok(())
}

fn counters(target: &TargetArgs) -> Result<Option<ProcessCounters>, LoadError> {
    target.broker_pid.map(ProcessCounters::of).transpose()
}

fn report(
    mode: &'static str,
    target: &TargetArgs,
    work: &Work,
    before: Option<ProcessCounters>,
) -> Result<Report, LoadError> {
    let spent = match (before, counters(target)?) {
        (Some(before), Some(after)) => Some(after.since(&before)),
        _ => None,
    };
    Ok(Report::new(mode, work, spent.as_ref()))
}

fn print(target: &TargetArgs, report: &Report) {
    if target.json {
        println!("{}", serde_json::to_string(report).unwrap_or_default());
    } else {
        print!("{}", report.table());
    }
}
