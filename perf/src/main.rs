//! `speed-of-light`: what is left of a broker without a broker, as a bar to hold it against.
//!
//! Each program is one thread around one bare io_uring ring and does only what the work cannot do without.
//! `tidelog-load` drives them with the same loop that drives a broker (`--protocol bare`). They run until
//! they are killed and trust their peer: they are for loopback only.

mod append;
mod append_cost;
mod buffer_ring;
mod echo;
mod files;
mod read;
mod ring;
mod server;
mod sync_latency;

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Bare servers to hold a broker against.
#[derive(Debug, Parser)]
#[command(name = "speed-of-light", version)]
struct Cli {
    /// Address to listen on; port 0 takes a free one. The address is printed as `listening HOST:PORT`.
    #[arg(long, global = true, default_value = "127.0.0.1:0")]
    listen: String,
    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Receive, CRC-32C, pwrite into files, answer with 32 bytes.
    Append {
        /// Directory for the files; it must exist.
        #[arg(long)]
        dir: PathBuf,
        /// Files, one for each partition.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
        count: u32,
        /// What is written into.
        #[arg(long, value_enum, default_value = "fresh")]
        files: files::Kind,
        /// When an append is answered.
        #[arg(long, value_enum, default_value = "none")]
        sync: append::Sync,
        /// What a broker does more, to see what it costs.
        #[arg(long, value_enum, value_delimiter = ',')]
        add: Vec<files::Extra>,
    },
    /// Send pieces of mapped files, one gathered send each.
    Read {
        /// Directory for the files; it must exist.
        #[arg(long)]
        dir: PathBuf,
        /// Files, one for each partition.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
        count: u32,
    },
    /// Answer 128 bytes with 64.
    Echo {
        /// How bytes are received.
        #[arg(long, value_enum, default_value = "single")]
        receive: Receive,
    },
    /// Append and fdatasync one after the other, and print how long a sync takes. Listens to nobody.
    SyncLatency {
        /// Directory for the file; it must exist.
        #[arg(long)]
        dir: PathBuf,
        /// What is written into.
        #[arg(long, value_enum, default_value = "fresh")]
        files: files::Kind,
        /// Bytes of each append.
        #[arg(long, default_value_t = 1024)]
        bytes: usize,
        /// Appends.
        #[arg(long, default_value_t = 2000)]
        count: u32,
    },
    /// Append batches through the log and by bare gathered writes, and print the CPU of both. Listens to nobody.
    AppendCost {
        /// Directory for the files; it must exist.
        #[arg(long)]
        dir: PathBuf,
        /// Bytes of each batch.
        #[arg(long, default_value_t = 65_536)]
        batch_bytes: usize,
        /// MiB of each round.
        #[arg(long, default_value_t = 512)]
        mib: u64,
        /// Rounds, in each of which everyone has a turn.
        #[arg(long, default_value_t = 9)]
        rounds: u32,
    },
}

/// How a server receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Receive {
    /// One receive at a time into the connection's own buffer.
    Single,
    /// A multishot receive into a ring of provided buffers that all connections share.
    Multishot,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("speed-of-light: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> io::Result<()> {
    match cli.program {
        Program::Append {
            dir,
            count,
            files,
            sync,
            add,
        } => {
            let service = append::Append::new(&dir, count, files, sync, &add)?;
            server::run(
                listen(&cli.listen)?,
                service,
                Receive::Single,
                append::INPUT_BYTES,
            )
        }
        Program::Read { dir, count } => {
            let service = read::Read::new(&dir, count)?;
            server::run(listen(&cli.listen)?, service, Receive::Single, read::INPUT_BYTES)
        }
        Program::Echo { receive } => {
            server::run(listen(&cli.listen)?, echo::Echo, receive, echo::INPUT_BYTES)
        }
        Program::SyncLatency {
            dir,
            files,
            bytes,
            count,
        } => sync_latency::run(&dir, files, bytes, count),
        Program::AppendCost {
            dir,
            batch_bytes,
            mib,
            rounds,
        } => append_cost::run(&dir, batch_bytes, mib, rounds),
    }
}

/// Listens, and says where only then: whoever waits for the line can connect.
fn listen(address: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    let mut out = io::stdout().lock();
    writeln!(out, "listening {}", listener.local_addr()?)?;
    out.flush()?;
    Ok(listener)
}
