//! A real broker and the real command line, for the tests beside this directory.
//!
//! Every wait is for a condition and ends after [`PATIENCE`]. A broker is killed when its value is
//! dropped, so a test that panics leaves no process behind.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A `tidelog` command without anything of the caller's environment that changes what it does.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
    command
        .args(arguments)
        .env_remove("TIDELOG_BOOTSTRAP")
        .env_remove("TIDELOG_LOG");
    command
}

/// Kills its process when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("the process is there");
    }

    /// The exit code once it ends by itself.
    pub fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the process does not end");
            thread::park_timeout(Duration::from_millis(2));
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    /// stdout as lines of text.
    pub fn lines(&self) -> Vec<&str> {
        std::str::from_utf8(&self.stdout).expect("text").lines().collect()
    }

    /// Panics unless it ended with 0.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }
}

/// Runs a command with `input` as its stdin, to its end.
pub fn run(mut command: Command, input: &[u8]) -> Ended {
    let mut process = Process(
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tidelog starts"),
    );
    let stdout = collect(process.0.stdout.take().expect("piped"));
    let stderr = collect(process.0.stderr.take().expect("piped"));
    let mut stdin = process.0.stdin.take().expect("piped");
    let input = input.to_vec();
    // A command that ends before it read everything is no failure of this test.
    let writer = thread::spawn(move || stdin.write_all(&input).is_ok());
    let stdout = stdout.recv_timeout(PATIENCE).expect("stdout ends in time");
    let stderr = stderr.recv_timeout(PATIENCE).expect("stderr ends in time");
    let code = process.exit_code();
    writer.join().expect("the writer");
    Ended {
        code,
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if pipe.read_to_end(&mut bytes).is_ok() {
            let _ = sender.send(bytes);
        }
    });
    receiver
}

/// A broker of this build on a free port.
pub struct Broker {
    process: Process,
    /// `host:port` of its Kafka listener.
    pub address: String,
    /// `host:port` of its admin listener.
    pub admin: String,
    /// The lines of its ready message.
    pub ready: Vec<String>,
}

impl Broker {
    /// Starts on `data` and a free port.
    pub fn start(data: &Path) -> Self {
        Self::start_at(data, "127.0.0.1:0")
    }

    /// Starts on `data` at `address` and waits until it is ready.
    pub fn start_at(data: &Path, address: &str) -> Self {
        Self::start_on(&[data], address)
    }

    /// Starts on several data directories.
    pub fn start_on(data: &[&Path], address: &str) -> Self {
        let plain = |path: &Path| {
            path.to_str()
                .expect("a temporary directory has a plain name")
                .to_owned()
        };
        let data = data
            .iter()
            .flat_map(|path| ["--data-dir".to_owned(), plain(path)]);
        let mut process = Process(
            command(&["serve", "--listen", address])
                .args(data)
                .args(["--admin", "127.0.0.1:0", "--shards", "2", "--memory", "128MiB"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("tidelog serve starts"),
        );
        let ready = wait_until_ready(process.0.stderr.take().expect("piped"));
        let value = |name: &str| {
            let line = ready.iter().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {ready:?}"))
                .trim()
                .to_owned()
        };
        Broker {
            address: value("kafka "),
            admin: value("admin ").replace("http://", ""),
            ready,
            process,
        }
    }

    /// Runs a client command against this broker.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Ended {
        run(self.command(arguments), input)
    }

    /// A client command against this broker.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("TIDELOG_BOOTSTRAP", &self.address);
        command
    }

    /// Ends it without a chance to do anything, and waits until its port is free: the kernel takes
    /// a ring down after its process is gone, and an accept that waits in it holds the socket so long.
    pub fn kill9(mut self) {
        self.process.signal(Signal::KILL);
        assert_eq!(self.process.exit_code(), None, "killed");
        wait_until("the port is free", || TcpListener::bind(&self.address).is_ok());
    }

    /// Asks it to stop and gives its exit code.
    pub fn stop(mut self, signal: Signal) -> Option<i32> {
        self.process.signal(signal);
        self.process.exit_code()
    }
}

/// Reads up to the last line of the ready message; a thread goes on reading what follows, so that
/// the broker never waits for this test.
fn wait_until_ready(stderr: ChildStderr) -> Vec<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut lines: Vec<String> = Vec::new();
    loop {
        let line = receiver
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("the broker is not ready; it said {lines:#?}"));
        let is_last = line.trim_start().starts_with("try ");
        lines.push(line);
        if is_last {
            return lines;
        }
    }
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Segment files with records below a data directory.
pub fn segments(data: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let partitions = std::fs::read_dir(data.join("partitions")).expect("partitions");
    for partition in partitions {
        let partition = partition.expect("entry").path();
        for file in std::fs::read_dir(partition).expect("a directory") {
            let file = file.expect("entry").path();
            if file.extension().is_some_and(|e| e == "log") {
                files.push(file);
            }
        }
    }
    files
}
