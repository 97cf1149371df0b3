//! How the process ends when it must: one exit code per reason, a breadcrumb, and `_exit`.
//!
//! Any thread. A panic anywhere ends the whole process, so no shard dies while its siblings go on serving.
//! Invariants: nothing runs after the breadcrumb (no destructors, no exit handlers, which could flush
//! half-true state to disk); a second failure while dying exits at once; codes are 70-99 and never reused.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::raw::c_int;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Name of the breadcrumb file in the first data directory.
pub const BREADCRUMB_FILE: &str = "last-fatal.txt";

/// Why the process ended itself. The number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FatalReason {
    /// A panic: a bug of ours.
    Panic = 70,
    /// The commit journal failed and no fresh file could be had.
    Journal = 71,
    /// The metadata log failed, or a record of it cannot be applied.
    Metadata = 72,
    /// A shard's ring failed in a way that cannot be answered per connection.
    Ring = 73,
    /// A thread of a shard or of the control plane ended, or could not be started.
    Thread = 74,
    /// Memory was asked for outside the budgets and refused by the system.
    Memory = 75,
    /// The data directory with the metadata log has failed.
    DataDir = 76,
    /// The checkpoint or the identity file cannot be made durable.
    Checkpoint = 77,
    /// An invariant between shards does not hold (a lost credit, an answer nobody asked for).
    Invariant = 78,
    /// A mapped segment was truncated by another program, or its device failed, while it was touched.
    Mapping = 79,
}

impl FatalReason {
    /// Every reason, for documentation and tests.
    pub const ALL: [FatalReason; 10] = [
        FatalReason::Panic,
        FatalReason::Journal,
        FatalReason::Metadata,
        FatalReason::Ring,
        FatalReason::Thread,
        FatalReason::Memory,
        FatalReason::DataDir,
        FatalReason::Checkpoint,
        FatalReason::Invariant,
        FatalReason::Mapping,
    ];

    /// The exit code, 70-99.
    pub const fn exit_code(self) -> u8 {
        self as u8
    }

    /// A short stable name for logs.
    pub const fn name(self) -> &'static str {
        match self {
            FatalReason::Panic => "panic",
            FatalReason::Journal => "journal",
            FatalReason::Metadata => "metadata",
            FatalReason::Ring => "ring",
            FatalReason::Thread => "thread",
            FatalReason::Memory => "memory",
            FatalReason::DataDir => "data_dir",
            FatalReason::Checkpoint => "checkpoint",
            FatalReason::Invariant => "invariant",
            FatalReason::Mapping => "mapping",
        }
    }
}

/// What a thread was doing, kept per thread so that the panic hook can say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breadcrumb {
    /// Kafka API key of the request in hand.
    pub api_key: Option<i16>,
    /// Client id of the request in hand.
    pub client_id: Option<std::sync::Arc<str>>,
    /// Topic and partition in hand.
    pub partition: Option<(std::sync::Arc<str>, i32)>,
}

thread_local! {
    static BREADCRUMB: RefCell<Breadcrumb> = RefCell::new(Breadcrumb::default());
}

static BREADCRUMB_PATH: OnceLock<PathBuf> = OnceLock::new();
static DYING: AtomicBool = AtomicBool::new(false);

/// Says what this thread works on from here; cheap enough for each request.
pub fn set_breadcrumb(breadcrumb: Breadcrumb) {
    BREADCRUMB.with(|slot| {
        if let Ok(mut slot) = slot.try_borrow_mut() {
            *slot = breadcrumb;
        }
    });
}

/// This thread works on nothing in particular from here.
pub fn clear_breadcrumb() {
    set_breadcrumb(Breadcrumb::default());
}

/// Installs the panic hook. Call once, before the first shard; later calls change only nothing.
///
/// `directory`: where [`BREADCRUMB_FILE`] goes, normally the first data directory.
pub fn install_panic_hook(directory: Option<PathBuf>) {
    if let Some(directory) = directory {
        let _ = BREADCRUMB_PATH.set(directory.join(BREADCRUMB_FILE));
    }
    std::panic::set_hook(Box::new(|info| {
        let mut detail = match info.payload_as_str() {
            Some(text) => text.to_owned(),
            None => "panic without a text".to_owned(),
        };
        if let Some(at) = info.location() {
            let _ = write!(detail, " at {}:{}", at.file(), at.line());
        }
        fatal(FatalReason::Panic, &detail)
    }));
}

/// Logs, leaves the breadcrumb and ends the process with the reason's code. Never returns, never unwinds.
pub fn fatal(reason: FatalReason, detail: &str) -> ! {
    if DYING.swap(true, Ordering::SeqCst) {
        _exit(c_int::from(reason.exit_code()));
    }
    let breadcrumb = BREADCRUMB.with(|slot| slot.try_borrow().map(|b| b.clone()).unwrap_or_default());
    let thread = std::thread::current();
    let line = render(reason, detail, thread.name().unwrap_or("unnamed"), &breadcrumb);
    // Straight to the descriptor: a subscriber may be what panicked.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = BREADCRUMB_PATH.get()
        && let Ok(mut file) = std::fs::File::create(path)
    {
        let _ = file.write_all(line.as_bytes());
        let _ = file.sync_data();
    }
    _exit(c_int::from(reason.exit_code()))
}

/// The one line that is logged and left behind.
pub fn render(reason: FatalReason, detail: &str, thread: &str, breadcrumb: &Breadcrumb) -> String {
    let mut line = format!(
        "fatal: reason={} exit_code={} thread={thread:?}",
        reason.name(),
        reason.exit_code()
    );
    if let Some(api_key) = breadcrumb.api_key {
        let _ = write!(line, " api_key={api_key}");
    }
    if let Some(client_id) = &breadcrumb.client_id {
        let _ = write!(line, " client_id={client_id:?}");
    }
    if let Some((topic, partition)) = &breadcrumb.partition {
        let _ = write!(line, " topic={topic:?} partition={partition}");
    }
    let _ = writeln!(line, " detail={detail:?}");
    line
}

// SAFETY: the C library's `_exit` takes any integer, ends the process and does not return; the signature
// below is POSIX's.
unsafe extern "C" {
    safe fn _exit(status: c_int) -> !;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_in_range_and_unique() {
        let codes: HashSet<u8> = FatalReason::ALL.iter().map(|r| r.exit_code()).collect();
        let names: HashSet<&str> = FatalReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(
            (codes.len(), names.len()),
            (FatalReason::ALL.len(), FatalReason::ALL.len())
        );
        assert!(codes.iter().all(|c| (70..=99).contains(c)));
    }

    #[test]
    fn the_line_names_what_was_in_hand() {
        let breadcrumb = Breadcrumb {
            api_key: Some(1),
            client_id: Some("app\n".into()),
            partition: Some(("orders".into(), 3)),
        };
        let line = render(FatalReason::Ring, "EBADF", "shard-1", &breadcrumb);
        assert_eq!(
            line,
            "fatal: reason=ring exit_code=73 thread=\"shard-1\" api_key=1 client_id=\"app\\n\" \
             topic=\"orders\" partition=3 detail=\"EBADF\"\n"
        );
    }

    /// Runs itself again as a child that panics on a second thread: the whole child must end with 70.
    #[test]
    fn a_panic_on_any_thread_ends_the_process() {
        const ROLE: &str = "TIDELOG_TEST_PANIC_DIR";
        if let Some(dir) = std::env::var_os(ROLE) {
            install_panic_hook(Some(PathBuf::from(dir)));
            let thread = std::thread::Builder::new().name("shard-7".into()).spawn(|| {
                set_breadcrumb(Breadcrumb {
                    api_key: Some(18),
                    ..Breadcrumb::default()
                });
                panic!("on purpose");
            });
            let _ = thread.unwrap().join();
            std::process::exit(0);
        }
        let dir = tempfile::tempdir().unwrap();
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "fatal::tests::a_panic_on_any_thread_ends_the_process",
                "--nocapture",
            ])
            .env(ROLE, dir.path())
            .output()
            .unwrap();
        assert_eq!(
            out.status.code(),
            Some(70),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let left = std::fs::read_to_string(dir.path().join(BREADCRUMB_FILE)).unwrap();
        assert!(
            left.contains("thread=\"shard-7\" api_key=18 detail=\"on purpose at "),
            "{left}"
        );
    }
}
