//! The admin page (metrics, health) and the read-only metrics page.
//!
//! One thread of its own with a tokio current-thread runtime: nothing here can block a shard, and a shard
//! that does not answer costs a page a 503, not a hang. Invariants: the metrics listener serves `/metrics`
//! and nothing else; at most [`ADMIN_REQUESTS_IN_FLIGHT_MAX`] requests are answered at once.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{Semaphore, watch};

use crate::health::HealthRegistry;
use crate::limits::{ADMIN_REQUESTS_IN_FLIGHT_MAX, METRICS_GATHER_TIMEOUT_MS};
use crate::metrics::{CONTENT_TYPE, DirectoryMetrics, ShardMetrics, render, render_directories};

/// A future that the pages await.
pub type ViewFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the pages see of the broker. Implementations ask the shards by message and never block.
pub trait ClusterView: Send + Sync + 'static {
    /// A copy of every shard's cells; fewer than there are shards when some cannot be asked.
    fn shard_metrics(&self) -> ViewFuture<Vec<ShardMetrics>>;

    /// The room on the data directories' file systems.
    fn directories(&self) -> Vec<DirectoryMetrics>;

    /// Health of all components, merged.
    fn health(&self) -> ViewFuture<HealthRegistry>;
}

/// The running pages. Dropping it without [`AdminHttp::stop`] leaves the thread to the process's end.
#[derive(Debug)]
pub struct AdminHttp {
    stop: watch::Sender<bool>,
    thread: JoinHandle<io::Result<()>>,
    /// Where the admin page is.
    pub admin_address: SocketAddr,
    /// Where the metrics page is.
    pub metrics_address: Option<SocketAddr>,
}

#[derive(Clone)]
struct Pages {
    view: Arc<dyn ClusterView>,
    in_flight: Arc<Semaphore>,
}

impl AdminHttp {
    /// Starts the thread on listeners that are bound already (so that a port in use is said before anything
    /// else runs).
    ///
    /// # Errors
    /// The system's, for the listeners, the runtime or the thread.
    pub fn start(
        admin: TcpListener,
        metrics: Option<TcpListener>,
        view: Arc<dyn ClusterView>,
    ) -> io::Result<Self> {
        let admin_address = admin.local_addr()?;
        let metrics_address = metrics.as_ref().map(TcpListener::local_addr).transpose()?;
        admin.set_nonblocking(true)?;
        if let Some(metrics) = &metrics {
            metrics.set_nonblocking(true)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("admin-http".to_owned())
            .spawn(move || runtime.block_on(serve(admin, metrics, view, stopped)))?;
        Ok(AdminHttp {
            stop,
            thread,
            admin_address,
            metrics_address,
        })
    }

    /// Stops accepting, lets answers in hand finish, and waits for the thread.
    ///
    /// # Errors
    /// What ended a page before it was stopped.
    pub fn stop(self) -> io::Result<()> {
        let _ = self.stop.send(true);
        self.thread
            .join()
            .map_err(|_| io::Error::other("the admin thread panicked"))?
    }
}

async fn serve(
    admin: TcpListener,
    metrics: Option<TcpListener>,
    view: Arc<dyn ClusterView>,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let pages = Pages {
        view,
        in_flight: Arc::new(Semaphore::new(ADMIN_REQUESTS_IN_FLIGHT_MAX)),
    };
    let admin = page(admin, admin_router(pages.clone()), stopped.clone());
    match metrics {
        Some(metrics) => {
            let metrics = page(metrics, metrics_router(pages), stopped);
            tokio::try_join!(admin, metrics).map(|_| ())
        }
        None => admin.await,
    }
}

async fn page(listener: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut drained = stopped.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    });
    // A client that keeps its connection open must not hold up the process.
    let cut_short = async move {
        let _ = drained.wait_for(|stop| *stop).await;
        tokio::time::sleep(Duration::from_millis(METRICS_GATHER_TIMEOUT_MS)).await;
    };
    tokio::select! {
        result = serving => result,
        () = cut_short => Ok(()),
    }
}

fn admin_router(pages: Pages) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics_page))
        .route("/health/live", get(live_page))
        .route("/health/ready", get(ready_page))
        .with_state(pages)
}

fn metrics_router(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .with_state(pages)
}

async fn index() -> &'static str {
    "Tidelog admin page\n/metrics\n/health/live\n/health/ready\n"
}

/// Runs one question to the shards within the limits on number and time.
async fn ask<T>(pages: &Pages, question: impl Future<Output = T>) -> Result<T, Response> {
    let busy = |text: &'static str| (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    let _permit = pages
        .in_flight
        .try_acquire()
        .map_err(|_| busy("too many requests at once\n"))?;
    let limit = Duration::from_millis(METRICS_GATHER_TIMEOUT_MS);
    tokio::time::timeout(limit, question)
        .await
        .map_err(|_| busy("a shard did not answer in time\n"))
}

async fn metrics_page(State(pages): State<Pages>) -> Response {
    match ask(&pages, pages.view.shard_metrics()).await {
        Ok(shards) => {
            let text = render(&shards) + &render_directories(&pages.view.directories());
            ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
        }
        Err(response) => response,
    }
}

async fn live_page(State(pages): State<Pages>) -> Response {
    health_page(&pages, HealthRegistry::is_live).await
}

async fn ready_page(State(pages): State<Pages>) -> Response {
    health_page(&pages, HealthRegistry::is_ready).await
}

async fn health_page(pages: &Pages, is_good: fn(&HealthRegistry) -> bool) -> Response {
    match ask(pages, pages.view.health()).await {
        Ok(health) => {
            let code = if is_good(&health) {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            let text = serde_json::to_string(&health).unwrap_or_else(|_| "{}".to_owned());
            (code, [(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(response) => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;
    use crate::metrics::ShardCells;
    use std::io::{Read, Write};
    use std::sync::Mutex;

    struct Fake {
        health: Mutex<HealthRegistry>,
        silent: bool,
    }

    impl ClusterView for Fake {
        fn shard_metrics(&self) -> ViewFuture<Vec<ShardMetrics>> {
            if self.silent {
                return Box::pin(std::future::pending());
            }
            let cells = ShardCells::new(0);
            cells.requests.add(42);
            let copy = cells.snapshot();
            Box::pin(async move { vec![copy] })
        }

        fn directories(&self) -> Vec<DirectoryMetrics> {
            vec![DirectoryMetrics {
                path: "/data".into(),
                total_bytes: 7,
                usable_bytes: 5,
                takes_writes: true,
                spare_bytes: 0,
                recycled: 0,
                errors: 0,
            }]
        }

        fn health(&self) -> ViewFuture<HealthRegistry> {
            let health = self.health.lock().unwrap().clone();
            Box::pin(async move { health })
        }
    }

    fn start(silent: bool) -> (AdminHttp, Arc<Fake>) {
        let fake = Arc::new(Fake {
            health: Mutex::new(HealthRegistry::new()),
            silent,
        });
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let http = AdminHttp::start(listen(), Some(listen()), Arc::clone(&fake) as _).unwrap();
        (http, fake)
    }

    fn ask(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    #[test]
    fn pages() {
        let (http, fake) = start(false);
        let admin = http.admin_address;
        let (code, text) = ask(admin, "/metrics");
        assert_eq!(code, 200);
        assert!(
            text.contains("tidelog_requests_total 42") && text.contains("version=0.0.4"),
            "{text}"
        );
        assert_eq!(ask(admin, "/health/live").0, 200);
        assert_eq!(
            ask(admin, "/health/ready").0,
            503,
            "not ready before anyone said so"
        );
        fake.health.lock().unwrap().set("shard-0", Health::Ok, "");
        let (code, text) = ask(admin, "/health/ready");
        assert!(code == 200 && text.contains("\"shard-0\""), "{text}");
        fake.health
            .lock()
            .unwrap()
            .set("shard-0", Health::Failed, "disk gone");
        let (code, text) = ask(admin, "/health/live");
        assert!(code == 503 && text.contains("disk gone"), "{text}");
        assert_eq!(ask(admin, "/nothing").0, 404);
        let metrics = http.metrics_address.unwrap();
        assert_eq!(ask(metrics, "/metrics").0, 200);
        assert_eq!(ask(metrics, "/health/live").0, 404, "metrics only");
        http.stop().unwrap();
        assert!(std::net::TcpStream::connect(admin).is_err(), "closed");
    }

    #[test]
    fn a_silent_shard_costs_a_503_and_an_open_connection_does_not_hold_up_a_stop() {
        let (http, _fake) = start(true);
        let idle = std::net::TcpStream::connect(http.admin_address).unwrap();
        assert_eq!(ask(http.admin_address, "/metrics").0, 503);
        http.stop().unwrap();
        drop(idle);
    }
}
