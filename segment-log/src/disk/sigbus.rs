//! What a fault in a map means: its file was truncated by somebody else, or the device failed under it.
//!
//! The kernel then sends SIGBUS, which by default ends the process without a word. Maps are touched only where
//! pages were resident a moment before, so this takes a truncation in that moment. There is no way back into the
//! code that touched the map, so the process ends, and says why. A send that the kernel makes from a map raises no
//! signal: it fails, and the connection is closed.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

/// What is written to standard error.
const LINE: &[u8] = b"fatal: reason=mapping detail=\"a segment file was truncated by another program, or its \
device failed, while it was being read through a map; what was acknowledged is read again at the next start\"\n";

static EXIT_CODE: AtomicI32 = AtomicI32::new(1);

/// From now on SIGBUS ends the process with this exit code and one line on standard error.
///
/// # Errors
/// The handler could not be installed.
pub fn end_process_on_fault(exit_code: i32) -> io::Result<()> {
    EXIT_CODE.store(exit_code, Ordering::Relaxed);
    let handler: extern "C" fn(libc::c_int) = on_sigbus;
    // SAFETY: all zeros is a valid `sigaction`: an empty mask, no flags, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: `action` is whole and outlives the call; the handler calls nothing that must not be called in one.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn on_sigbus(_signal: libc::c_int) {
    // SAFETY: `write` and `_exit` may be called in a signal handler; the line is static memory. A failed write is
    // nobody's concern any more.
    unsafe {
        let _ = libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
        libc::_exit(EXIT_CODE.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs itself again as a child, which reads a map behind the end of its file.
    #[test]
    fn a_fault_in_a_map_ends_the_process_with_a_reason() {
        const ROLE: &str = "TIDELOG_TEST_SIGBUS_FILE";
        if let Some(path) = std::env::var_os(ROLE) {
            end_process_on_fault(79).unwrap();
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(path)
                .unwrap();
            let map = memmap2::MmapOptions::new()
                .len(8192)
                .map_raw_read_only(&file)
                .unwrap();
            file.set_len(0).unwrap();
            // SAFETY: the address is inside the map; that its page is gone is what is tested.
            let byte = unsafe { map.as_ptr().add(4096).read_volatile() };
            panic!("read {byte}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mapped");
        std::fs::write(&path, [7; 8192]).unwrap();
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "disk::sigbus::tests::a_fault_in_a_map_ends_the_process_with_a_reason",
                "--nocapture",
            ])
            .env(ROLE, &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(79), "{said}");
        assert!(said.contains("fatal: reason=mapping"), "{said}");
    }
}
