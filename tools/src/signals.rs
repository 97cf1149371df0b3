//! SIGINT and SIGTERM in client commands: end soon, with 130 or 143.
//!
//! A thread of its own waits for the signals. The command looks at [`pending`] between two requests
//! and ends by itself; a command that is blocked (on stdin, say) is ended after a short grace.

use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Instant;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{FAILED, Failure};
use crate::limits::SIGNAL_GRACE;

static PENDING: AtomicU8 = AtomicU8::new(0);

/// Starts listening. Call once, from a client command.
pub fn watch() -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new(FAILED, format!("cannot listen for signals: {e}"));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let listen = move || {
        for signal in signals.forever() {
            let code = exit_code(signal);
            if PENDING.swap(code, Ordering::Relaxed) != 0 {
                std::process::exit(i32::from(code));
            }
            thread::spawn(move || {
                let end = Instant::now() + SIGNAL_GRACE;
                while let Some(left) = end
                    .checked_duration_since(Instant::now())
                    .filter(|l| !l.is_zero())
                {
                    thread::park_timeout(left);
                }
                std::process::exit(i32::from(code));
            });
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)
        .map(|_| ())
        .map_err(failed)
}

/// The exit code to end with, once a signal came.
pub fn pending() -> Option<u8> {
    Some(PENDING.load(Ordering::Relaxed)).filter(|code| *code != 0)
}

fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_exit_codes_of_a_shell() {
        assert_eq!((exit_code(SIGINT), exit_code(SIGTERM)), (130, 143));
        assert_eq!(pending(), None);
    }
}
