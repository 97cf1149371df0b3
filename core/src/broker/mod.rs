//! The broker: settings, start-up checks, shards, the admin pages, and an orderly end.
//!
//! Runs on the process's first thread, which afterwards only waits for a signal or for a shard's end.
//! Order of a start: settings, ring probe, directory, listeners, shards, ready line. Each failure is
//! one sentence and an exit code; nothing is served before every shard has opened what it owns.

mod directories;
mod disk_health;
mod journals;
mod listen;
mod opening;
mod pin;
mod space;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tidelog_segment_log::disk::heap::HeapPool;
use tidelog_segment_log::disk::sigbus::end_process_on_fault;

use crate::admin_http::{AdminHttp, ClusterView, ViewFuture};
use crate::directory_space::DirectorySpace;
use crate::fatal::{FatalReason, fatal, install_panic_hook};
use crate::health::{Health, HealthRegistry};
use crate::limits::{OPENING_DESCRIPTORS, OPENINGS_PER_SHARD_MAX};
use crate::mesh::{Beats, Silence, SilenceWatch, Waker, mesh};
use crate::metrics::{DirectoryMetrics, ShardCells, ShardMetrics};
use crate::reactor::{self, Shared, Start};
use crate::settings::{
    HostFacts, HostPort, ListenerSettings, LogDurability, Profile, Settings, SettingsBuilder, SettingsError,
    format_size,
};
use crate::shard::{ControlSeed, Shard, ShardSeed, group_zero_directory, group_zero_evidence};
use crate::startup::{
    DescriptorShares, RingProbe, StartupError, bind_failed, divide_descriptors, io_uring_unavailable,
    raise_descriptor_limit,
};
use directories::Directories;
use disk_health::DiskHealth;
use opening::wait_until_open;
use space::Space;

/// What `tidelog serve` was told, as text.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--profile`
    pub profile: Option<String>,
    /// `--data-dir`, each
    pub data_dirs: Vec<PathBuf>,
    /// `--listen`, each
    pub listen: Vec<String>,
    /// `--advertise`, each
    pub advertise: Vec<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--metrics`
    pub metrics: Option<String>,
    /// `--shards`
    pub shards: Option<u16>,
    /// `--memory`
    pub memory: Option<String>,
    /// `--set`, each
    pub set: Vec<String>,
}

/// How long a port is waited for that a killed broker may still hold.
const KILLED_PORT_PATIENCE: Duration = Duration::from_secs(3);
/// A drain that was cut short by its deadline.
const CUT_SHORT: i32 = 1;

/// Runs the broker until SIGTERM or SIGINT. Answers the process's exit code: 0 after a complete drain, 1 when
/// it was cut short or the start failed, 2 for wrong settings.
pub fn serve(options: ServeOptions) -> i32 {
    let started = Instant::now();
    let result = settings(options)
        .map_err(StartupError::from)
        .and_then(|settings| run(settings, started));
    match result {
        Ok(code) => code,
        Err(StartupError { sentence, exit_code }) => {
            eprintln!("tidelog: {sentence}");
            i32::from(exit_code)
        }
    }
}

fn settings(options: ServeOptions) -> Result<Settings, SettingsError> {
    let mut builder = SettingsBuilder::new(HostFacts::detect());
    if let Some(profile) = options.profile.as_deref().and_then(Profile::parse) {
        builder = builder.profile(profile);
    }
    if let Some(path) = &options.config {
        builder = builder.file(path)?;
    }
    for set in &options.set {
        builder = builder.set(set)?;
    }
    for listen in &options.listen {
        builder = builder.listen(listen)?;
    }
    for advertise in &options.advertise {
        builder = builder.advertise(advertise)?;
    }
    builder = builder.data_dirs(&options.data_dirs)?;
    let shards = options.shards.map(|shards| shards.to_string());
    for (flag, key, value) in [
        ("--admin", "admin.listen", &options.admin),
        ("--metrics", "metrics.listen", &options.metrics),
        ("--memory", "memory.limit", &options.memory),
        ("--shards", "shards", &shards),
    ] {
        if let Some(value) = value {
            builder = builder.flag(flag, key, value)?;
        }
    }
    builder.build()
}

/// A Kafka listener, bound once per shard and address.
struct Bound {
    settings: ListenerSettings,
    /// Sockets per address, each with one per shard.
    addresses: Vec<Vec<TcpListener>>,
    port: u16,
}

fn bind(settings: &ListenerSettings, shards: usize, patience: Duration) -> Result<Bound, StartupError> {
    let text = settings.bind.to_string();
    let refused = |error: io::Error| bind_failed(&settings.name, &text, &error);
    let resolved = settings.bind.resolve().map_err(refused)?;
    let mut addresses: Vec<Vec<TcpListener>> = Vec::new();
    let mut port = settings.bind.port;
    let mut last_error = None;
    for mut address in resolved {
        // A port chosen by the kernel for the first address holds for the others.
        address.set_port(port);
        match listen::listen(address, shards, patience) {
            Ok(sockets) => {
                port = sockets
                    .first()
                    .and_then(|s| s.local_addr().ok())
                    .map_or(port, |a| a.port());
                addresses.push(sockets);
            }
            // A host without IPv6 still serves IPv4, and the other way round.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => last_error = Some(error),
            Err(error) if error.raw_os_error() == Some(97) => last_error = Some(error),
            Err(error) => return Err(refused(error)),
        }
    }
    match last_error {
        Some(error) if addresses.is_empty() => Err(refused(error)),
        _ => Ok(Bound {
            settings: settings.clone(),
            addresses,
            port,
        }),
    }
}

fn bind_page(name: &str, address: &HostPort) -> Result<TcpListener, StartupError> {
    let refused = |error: io::Error| bind_failed(name, &address.to_string(), &error);
    let resolved = address.resolve().map_err(refused)?;
    TcpListener::bind(resolved.as_slice()).map_err(refused)
}

/// What the admin pages see of the broker.
struct View {
    metrics: Vec<Arc<Mutex<ShardMetrics>>>,
    directories: Vec<(PathBuf, Arc<DirectorySpace>)>,
    health: Arc<Mutex<HealthRegistry>>,
}

impl ClusterView for View {
    fn shard_metrics(&self) -> ViewFuture<Vec<ShardMetrics>> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = self
            .metrics
            .iter()
            .enumerate()
            .map(|(shard, m)| {
                let mut copy = m.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A shard that takes no turns cannot say so itself.
                copy.silent = i64::from(health.get(&format!("shard-{shard}")).is_some());
                copy
            })
            .collect();
        Box::pin(std::future::ready(copies))
    }

    fn directories(&self) -> Vec<DirectoryMetrics> {
        self.directories
            .iter()
            .map(|(path, space)| DirectoryMetrics {
                path: path.clone(),
                total_bytes: space.total_bytes(),
                usable_bytes: space.usable_bytes(),
                takes_writes: space.takes_writes(),
                spare_bytes: i64::try_from(space.spares().bytes()).unwrap_or(i64::MAX),
                recycled: i64::try_from(space.spares().reused()).unwrap_or(i64::MAX),
                errors: space.health().errors(),
            })
            .collect()
    }

    fn health(&self) -> ViewFuture<HealthRegistry> {
        let copy = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(std::future::ready(copy))
    }
}

/// 22 characters of URL-safe base 64, the form of Kafka's cluster ids.
fn cluster_id_text(id: [u8; 16]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = u128::from_be_bytes(id);
    (0..22)
        .map(|at| {
            let value = if at < 21 {
                (bits >> (122 - 6 * at)) & 63
            } else {
                (bits << 4) & 63
            };
            char::from(DIGITS.get(value as usize).copied().unwrap_or(b'A'))
        })
        .collect()
}

fn run(settings: Settings, started: Instant) -> Result<i32, StartupError> {
    reactor::probe().map_err(|error| io_uring_unavailable(&error, RingProbe::detect()))?;
    let descriptors = raise_descriptor_limit()?;
    if let Some(warning) = descriptors.warning {
        tracing::warn!("{warning}");
    }
    let descriptors = divide_descriptors(descriptors.limit, settings.shards, settings.log_open_files_max)?;
    let shards = usize::from(settings.shards);
    let cores = pin::choose(settings.runtime_pin, shards)?;
    let health = Arc::new(Mutex::new(HealthRegistry::new()));
    let mut space = Space::new(Arc::clone(&health));
    let directories = Directories::open(&settings, &mut space)?;
    directories
        .opened
        .iter()
        .for_each(|opened| journals::report(&opened.directory));
    let home = &directories.home().directory;
    install_panic_hook(Some(directories.home().facts.path.clone()));
    end_process_on_fault(i32::from(FatalReason::Mapping.exit_code()))
        .map_err(|error| StartupError::machine(format!("SIGBUS cannot be handled: {error}")))?;

    let killed = !home.was_clean() && !home.is_first_start();
    let patience = if killed {
        KILLED_PORT_PATIENCE
    } else {
        Duration::ZERO
    };
    let listeners = settings
        .listeners
        .iter()
        .map(|listener| bind(listener, shards, patience))
        .collect::<Result<Vec<_>, _>>()?;
    let admin = bind_page("admin", &settings.admin_listen)?;
    let metrics_page = settings
        .metrics_listen
        .as_ref()
        .map(|address| bind_page("metrics", address))
        .transpose()?;

    set_health(&health, Health::NotReady, "shards are opening their partitions");
    let metrics: Vec<Arc<Mutex<ShardMetrics>>> = (0..shards)
        // Each under its own number from the start: a page may be asked for before a shard's first tick.
        .map(|shard| Arc::new(Mutex::new(ShardCells::new(shard as u16).snapshot())))
        .collect();
    let view = View {
        metrics: metrics.clone(),
        directories: directories
            .opened
            .iter()
            .map(|opened| (opened.facts.path.clone(), Arc::clone(&opened.space)))
            .collect(),
        health: Arc::clone(&health),
    };
    let admin = AdminHttp::start(admin, metrics_page, Arc::new(view))
        .map_err(|error| StartupError::machine(format!("the admin page cannot be served: {error}")))?;

    let settings = Arc::new(settings);
    let running = start_shards(
        &settings,
        &directories,
        &listeners,
        &metrics,
        (&cores, descriptors),
    )?;
    let topics = wait_until_open(&running.ready, &metrics, &health);
    directories
        .opened
        .iter()
        .for_each(|opened| journals::remove_replayed(&opened.directory));
    set_health(&health, Health::Ok, "");
    print_ready(
        &settings,
        &directories,
        &listeners,
        &admin,
        &cores,
        topics,
        started,
    );

    let complete = wait_for_end(
        running,
        &health,
        &metrics,
        settings.shard_silent_ms,
        space,
        DiskHealth::new(metrics.clone()),
    )?;
    if complete {
        directories.mark_clean()?;
    }
    if let Err(error) = admin.stop() {
        tracing::warn!(%error, "the admin page did not end in order");
    }
    eprintln!(
        "tidelog: {}",
        if complete {
            "stopped; everything is on disk"
        } else {
            "stopped; the drain was cut short"
        }
    );
    Ok(if complete { 0 } else { CUT_SHORT })
}

fn set_health(health: &Mutex<HealthRegistry>, state: Health, reason: &str) {
    health
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .set("shards", state, reason);
}

/// How often the shards' figures of the disk are looked at.
const DISK_LOOK: Duration = Duration::from_millis(500);
/// How often the shards' turns are looked at.
const SILENCE_LOOK: Duration = Duration::from_millis(100);

/// Reports shards that take no turns, once when it begins and once when it ends.
fn report_silence(watch: &mut SilenceWatch, now_ms: u64, silent_ms: u64, health: &Mutex<HealthRegistry>) {
    for change in watch.look(now_ms, None) {
        let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Silence::Began(shard) => {
                tracing::error!(
                    shard,
                    silent_ms,
                    "the shard takes no turns; requests for its partitions get a retriable error"
                );
                let reason =
                    format!("no turn for {silent_ms} ms; requests for its partitions get a retriable error");
                health.set(&format!("shard-{shard}"), Health::Degraded, reason);
            }
            Silence::Ended(shard, after_ms) => {
                tracing::warn!(shard, after_ms, "the shard takes turns again");
                health.remove(&format!("shard-{shard}"));
            }
        }
    }
}

/// Says how many partitions are unavailable, for want of their data directories.
fn report_unavailable(metrics: &[Arc<Mutex<ShardMetrics>>], health: &Mutex<HealthRegistry>) {
    let of = |shard: &Arc<Mutex<ShardMetrics>>| {
        shard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .partitions_unavailable
    };
    let unavailable: i64 = metrics.iter().map(of).sum();
    let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
    match unavailable {
        0 => health.remove("partitions"),
        some => health.set(
            "partitions",
            Health::Degraded,
            format!("{some} partitions are unavailable: their data directories have failed or are not given"),
        ),
    }
}

/// The shards' threads.
struct Running {
    wakers: Vec<Waker>,
    beats: Beats,
    shared: Arc<Shared>,
    ready: mpsc::Receiver<crate::shard::ShardReady>,
    ended: tokio::sync::mpsc::UnboundedReceiver<(usize, io::Result<bool>)>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

fn start_shards(
    settings: &Arc<Settings>,
    directories: &Directories,
    listeners: &[Bound],
    metrics: &[Arc<Mutex<ShardMetrics>>],
    (cores, descriptors): (&[usize], DescriptorShares),
) -> Result<Running, StartupError> {
    let shards = metrics.len();
    let endpoints = mesh(shards).map_err(|error| {
        StartupError::machine(format!(
            "no descriptors for the rings between shards ({error}); raise `ulimit -n`"
        ))
    })?;
    let beats = endpoints
        .first()
        .map(|endpoint| endpoint.beats().clone())
        .ok_or_else(|| StartupError::usage("shards must be at least 1"))?;
    let shared = Arc::new(Shared {
        stopping: AtomicBool::new(false),
        connections: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
        connections_max: descriptors.connections,
    });
    let advertised: Vec<(Arc<str>, String, u16)> = listeners
        .iter()
        .map(|bound| {
            let advertised = &bound.settings.advertised;
            let port = if advertised.port == 0 {
                bound.port
            } else {
                advertised.port
            };
            (
                Arc::from(bound.settings.name.as_str()),
                advertised.host.clone(),
                port,
            )
        })
        .collect();
    let directory = &directories.home().directory;
    let quiet_shards = Arc::new(AtomicUsize::new(0));
    let (ready_sender, ready) = mpsc::channel();
    let (ended_sender, ended) = tokio::sync::mpsc::unbounded_channel();
    // The page cache is the kernel's; a quarter of the machine's memory is likely to stay in it.
    let hot_bytes = HostFacts::detect().total_memory_bytes / 4;
    let mut wakers = Vec::with_capacity(shards);
    let mut threads = Vec::with_capacity(shards);
    let memory = HeapPool::of_shards(settings.storage_memory_max_bytes, shards);
    for ((endpoint, metrics), memory) in endpoints.into_iter().zip(metrics).zip(memory) {
        let own = endpoint.own();
        wakers.push(endpoint.own_waker().clone());
        let seed = ShardSeed {
            openings_max: openings_max(descriptors.files_per_shard),
            settings: Arc::clone(settings),
            listeners: advertised.clone(),
            cluster_id: directory.identity().cluster_id.clone(),
            directories: directories.seed(),
            memory: Arc::clone(&memory),
            control: (own == 0).then(|| ControlSeed {
                evidence: group_zero_evidence(directory),
                directory: group_zero_directory(directory),
                clean: directory.was_clean(),
                start_counter: directory.start_counter(),
            }),
            quiet_shards: Arc::clone(&quiet_shards),
            ready: ready_sender.clone(),
            metrics: Arc::clone(metrics),
        };
        let sockets = listeners
            .iter()
            .enumerate()
            .flat_map(|(listener, bound)| bound.addresses.iter().map(move |sockets| (listener, sockets)))
            .filter_map(|(listener, sockets)| Some((listener, sockets.get(own)?.try_clone())))
            .map(|(listener, socket)| socket.map(|socket| (listener, socket)))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| StartupError::machine(format!("a listener cannot be shared: {error}")))?;
        let (started_sender, started) = mpsc::channel();
        let ended_sender = ended_sender.clone();
        let thread = reactor::spawn(
            Start {
                shard: Box::new(move |endpoint| Shard::new(seed, endpoint)),
                endpoint,
                listeners: sockets,
                shared: Arc::clone(&shared),
                files_max: descriptors.files_per_shard,
                hot_window_bytes: hot_bytes / shards as u64,
                memory,
                spin: Duration::from_micros(settings.runtime_spin_us),
                pin: cores.get(own).copied(),
                started: started_sender,
            },
            // The receiver is gone only when the process is ending.
            move |result| drop(ended_sender.send((own, result))),
        )
        .map_err(|error| {
            StartupError::machine(format!("the thread of shard {own} cannot be made: {error}"))
        })?;
        threads.push(thread);
        match started.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(io_uring_unavailable(&error, RingProbe::detect())),
            Err(_) => fatal(FatalReason::Thread, "a shard ended while it started"),
        }
    }
    Ok(Running {
        wakers,
        beats,
        shared,
        ready,
        ended,
        threads,
    })
}

/// Partitions that a shard opens at once: each takes a file, a directory that is synced, and a descriptor for reading
/// from the device.
fn openings_max(files_per_shard: usize) -> usize {
    (files_per_shard / OPENING_DESCRIPTORS).clamp(1, OPENINGS_PER_SHARD_MAX)
}

/// Waits for a signal, then for the drain. True when every shard closed everything.
fn wait_for_end(
    mut running: Running,
    health: &Mutex<HealthRegistry>,
    metrics: &[Arc<Mutex<ShardMetrics>>],
    silent_ms: u64,
    mut space: Space,
    mut disk: DiskHealth,
) -> Result<bool, StartupError> {
    use tokio::signal::unix::{SignalKind, signal};
    let no_signals = |error: io::Error| StartupError::machine(format!("signals cannot be received: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(no_signals)?;
    let complete = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut watch = SilenceWatch::new(running.beats.clone(), silent_ms);
        let started = Instant::now();
        let mut look = tokio::time::interval(SILENCE_LOOK);
        let mut look_at_disk = tokio::time::interval(DISK_LOOK);
        let mut measure = tokio::time::interval(space::INTERVAL);
        loop {
            tokio::select! {
                _ = look.tick() => report_silence(&mut watch, started.elapsed().as_millis() as u64, silent_ms, health),
                _ = measure.tick() => {
                    space.look_again();
                    report_unavailable(metrics, health);
                }
                _ = look_at_disk.tick() => disk.look(health),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => tracing::info!("SIGHUP: settings cannot be reloaded yet; restart to change them"),
                ended = running.ended.recv() => shard_failed(ended),
            }
        }
        tracing::info!("stopping: no new requests, what is under way ends");
        set_health(health, Health::NotReady, "draining");
        running.shared.stopping.store(true, Ordering::Release);
        running.wakers.iter().for_each(Waker::ring);
        let mut complete = true;
        for _ in 0..running.wakers.len() {
            match running.ended.recv().await {
                Some((_, Ok(clean))) => complete &= clean,
                ended => shard_failed(ended),
            }
        }
        Ok(complete)
    });
    // A file system that does not answer must not hold the end up.
    runtime.shutdown_background();
    let complete = complete.map_err(no_signals)?;
    for thread in running.threads {
        if thread.join().is_err() {
            fatal(FatalReason::Thread, "a shard's thread panicked");
        }
    }
    Ok(complete)
}

/// No shard ends alone.
fn shard_failed(ended: Option<(usize, io::Result<bool>)>) {
    let detail = match ended {
        Some((shard, Err(error))) => format!("shard {shard}: {error}"),
        Some((shard, Ok(_))) => format!("shard {shard} ended without being told to"),
        None => "all shards ended without being told to".to_owned(),
    };
    fatal(FatalReason::Ring, &detail)
}

fn print_ready(
    settings: &Settings,
    directories: &Directories,
    listeners: &[Bound],
    admin: &AdminHttp,
    cores: &[usize],
    topics: usize,
    started: Instant,
) {
    let kafka: Vec<String> = listeners
        .iter()
        .flat_map(|bound| &bound.addresses)
        .filter_map(|sockets| sockets.first()?.local_addr().ok())
        .map(|address: SocketAddr| address.to_string())
        .collect();
    let bootstrap = listeners.first().map_or_else(String::new, |bound| {
        let advertised = &bound.settings.advertised;
        let port = if advertised.port == 0 {
            bound.port
        } else {
            advertised.port
        };
        format!("{}:{port}", advertised.host)
    });
    let durability = match settings.log_durability {
        LogDurability::Fsync => "fsync (acknowledged = on disk)".to_owned(),
        LogDurability::Interval => format!("interval ({} ms)", settings.log_durability_interval_ms),
        LogDurability::Os => "os (a power cut loses what the system did not write yet)".to_owned(),
    };
    let data: Vec<String> = directories
        .opened
        .iter()
        .map(|opened| {
            let created = if opened.facts.created { " (created)" } else { "" };
            format!(
                "{}{created}, {}",
                opened.facts.path.display(),
                opened.facts.filesystem
            )
        })
        .collect();
    let elapsed: Duration = started.elapsed();
    eprintln!(
        "tidelog: ready in {} ms\n  kafka       {}\n  admin       http://{}\n  data        {}, {topics} topics\n  \
         shards      {}, {}, memory {}, profile {}\n  durability  {durability}\n  try         tidelog topic list -b {bootstrap}",
        elapsed.as_millis(),
        kafka.join(", "),
        admin.admin_address,
        data.join("\n              "),
        settings.shards,
        pin::describe(cores),
        format_size(settings.memory_limit_bytes),
        settings.profile,
    );
}

#[cfg(test)]
mod tests {
    use super::cluster_id_text;

    #[test]
    fn cluster_ids_are_22_characters_of_base_64() {
        assert_eq!(cluster_id_text([0; 16]), "A".repeat(22));
        assert_eq!(cluster_id_text([0xff; 16]), format!("{}w", "_".repeat(21)));
        let mut id = [0; 16];
        id[15] = 1;
        assert_eq!(cluster_id_text(id), format!("{}Q", "A".repeat(21)));
    }
}
