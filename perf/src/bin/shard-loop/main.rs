//! `shard-loop`: the broker's own loop around a machine that does next to nothing.
//!
//! What the loop costs beside a bare ring (`echo`, driven by `tidelog-load echo` as `speed-of-light echo` is), and
//! how long requests wait for background work (`background`, with a client of its own).

mod background;
mod machine;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tidelog_core::mesh::{Waker, mesh};
use tidelog_core::metrics::ShardMetrics;
use tidelog_core::reactor::{Shared, Start, spawn};

use machine::{Echo, Work};

/// The broker's loop around an echo.
#[derive(Debug, Parser)]
#[command(name = "shard-loop", version)]
struct Cli {
    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Answer 128 bytes with 64, until killed.
    Echo {
        /// Address to listen on; port 0 takes a free one. It is printed as `listening HOST:PORT`.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: String,
        /// The broker's `runtime.spin_us`.
        #[arg(long, default_value_t = 0)]
        spin_us: u64,
    },
    /// Round trips while background work never ends, as JSON.
    Background {
        /// What the shard does besides answering.
        #[arg(long, value_enum, default_value = "cut")]
        work: Work,
        /// How long round trips are counted.
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Core of the shard.
        #[arg(long, default_value_t = 0)]
        core: usize,
        /// Core of the client.
        #[arg(long, default_value_t = 1)]
        client_core: usize,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shard-loop: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> io::Result<()> {
    match cli.program {
        Program::Echo { listen, spin_us } => {
            let spin = Duration::from_micros(spin_us);
            let shard = Running::start(&listen, Work::None, spin, None)?;
            let mut out = io::stdout().lock();
            writeln!(out, "listening {}", shard.address)?;
            out.flush()?;
            drop(out);
            shard.join().map(drop)
        }
        Program::Background {
            work,
            seconds,
            core,
            client_core,
        } => background::run(work, seconds, core, client_core),
    }
}

/// A shard's thread around an echo machine.
struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    waker: Waker,
    metrics: mpsc::Receiver<ShardMetrics>,
    ended: mpsc::Receiver<io::Result<bool>>,
    thread: JoinHandle<()>,
}

impl Running {
    fn start(listen: &str, work: Work, spin: Duration, pin: Option<usize>) -> io::Result<Self> {
        let endpoint = mesh(1)?.remove(0);
        let waker = endpoint.own_waker().clone();
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            stopping: AtomicBool::new(false),
            connections: vec![AtomicUsize::new(0)],
            connections_max: 1_000,
        });
        let (metrics_sender, metrics) = mpsc::channel();
        let (started_sender, started) = mpsc::channel();
        let (ended_sender, ended) = mpsc::channel();
        let thread = spawn(
            Start {
                memory: tidelog_segment_log::disk::heap::HeapPool::of_shards(0, 1).remove(0),
                shard: Box::new(move |endpoint| Echo::new(endpoint, work, metrics_sender)),
                endpoint,
                listeners: vec![(0, listener)],
                shared: Arc::clone(&shared),
                files_max: 100,
                hot_window_bytes: 0,
                spin,
                pin,
                started: started_sender,
            },
            // The receiver is gone only when the process is ending.
            move |result| drop(ended_sender.send(result)),
        )?;
        started
            .recv()
            .map_err(|_| io::Error::other("the shard ended while it started"))??;
        Ok(Self {
            address,
            shared,
            waker,
            metrics,
            ended,
            thread,
        })
    }

    /// Stops the shard; what it counted.
    fn stop(self) -> io::Result<ShardMetrics> {
        self.shared.stopping.store(true, Ordering::Release);
        self.waker.ring();
        self.join()
    }

    /// Waits for the shard's end.
    fn join(self) -> io::Result<ShardMetrics> {
        let lost = || io::Error::other("the shard's thread panicked");
        self.thread.join().map_err(|_| lost())?;
        self.ended.recv().map_err(|_| lost())??;
        self.metrics.recv().map_err(|_| lost())
    }
}
