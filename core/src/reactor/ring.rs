//! One raw io_uring ring, made and used on its shard's thread only.
//!
//! Set up with SINGLE_ISSUER, DEFER_TASKRUN and TASKRUN_FLAG: completions appear only when this
//! thread enters the kernel, and the flag tells without a system call when entering is worthwhile.
//! A shard with nothing to do sleeps in this ring too.
//!
//! `user_data` is `kind (8 bits) | generation (24 bits) | slot (32 bits)`: a completion that
//! outlives its slot's owner never reaches the next one.

use std::io;
use std::time::Duration;

use io_uring::{IoUring, cqueue, squeue, types};

/// Entries of the data ring's submission queue.
pub(super) const RING_ENTRIES: u32 = 1024;
const RING_ENTRIES_MIN: u32 = 128;
/// How long ENOMEM at set-up is retried: a killed process's memlock charge is released late.
const SETUP_RETRY: Duration = Duration::from_secs(5);
/// And how often.
const SETUP_RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Disk = 4,
    Wake = 5,
    Cancel = 6,
}

/// The decoded `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub kind: Kind,
    /// 24 bits.
    pub generation: u32,
    pub slot: u32,
}

impl Tag {
    pub(super) fn encode(self) -> u64 {
        ((self.kind as u64) << 56) | (u64::from(self.generation & 0xff_ffff) << 32) | u64::from(self.slot)
    }

    fn decode(raw: u64) -> Option<Self> {
        let kind = match (raw >> 56) as u8 {
            1 => Kind::Accept,
            2 => Kind::Receive,
            3 => Kind::Send,
            4 => Kind::Disk,
            5 => Kind::Wake,
            6 => Kind::Cancel,
            _ => return None,
        };
        Some(Self {
            kind,
            generation: (raw >> 32) as u32 & 0xff_ffff,
            slot: raw as u32,
        })
    }
}

/// One reaped completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    pub tag: Tag,
    /// Bytes or descriptor, or minus errno.
    pub result: i32,
    flags: u32,
}

impl Reaped {
    pub(super) fn into_result(self) -> io::Result<u32> {
        if self.result < 0 {
            Err(io::Error::from_raw_os_error(-self.result))
        } else {
            Ok(self.result as u32)
        }
    }

    /// The provided buffer that a receive took. It is named by receives that failed, too.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether a receive left bytes in the socket.
    pub(super) fn more_waits(&self) -> bool {
        cqueue::sock_nonempty(self.flags)
    }
}

pub(super) struct RawRing {
    ring: IoUring,
    unsubmitted: usize,
}

impl RawRing {
    /// Makes the ring on the calling thread.
    ///
    /// # Errors
    /// What the kernel said: EPERM (seccomp or sysctl), ENOMEM (memlock), EMFILE, EINVAL (features).
    pub(super) fn new() -> io::Result<Self> {
        let started = std::time::Instant::now();
        let mut entries = RING_ENTRIES;
        let ring = loop {
            match build(entries) {
                Ok(ring) => break ring,
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    if started.elapsed() < SETUP_RETRY {
                        // The condition is in the kernel and cannot be awaited: poll it.
                        std::thread::sleep(SETUP_RETRY_PAUSE);
                    } else if entries > RING_ENTRIES_MIN {
                        entries /= 2;
                    } else {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Self { ring, unsubmitted: 0 })
    }

    /// Registers a ring of provided buffers.
    ///
    /// # Safety
    /// `entries` is the page-aligned address of `count` entries that stay there until this ring is dropped.
    pub(super) unsafe fn register_buffer_ring(&self, entries: u64, count: u16, group: u16) -> io::Result<()> {
        // SAFETY: passed on to our caller.
        unsafe {
            self.ring
                .submitter()
                .register_buf_ring_with_flags(entries, count, group, 0)
        }
    }

    /// Queues an operation, entering the kernel first when the queue is full.
    ///
    /// # Safety
    /// What the entry points to must stay valid and in place until its completion was reaped.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry, tag: Tag) -> io::Result<()> {
        let entry = entry.user_data(tag.encode());
        // SAFETY: passed on to our caller.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit()?;
            // SAFETY: as above.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                return Err(io::Error::other("the submission queue stays full after entering"));
            }
        }
        self.unsubmitted += 1;
        Ok(())
    }

    /// Whether a reap would find something, without a system call.
    pub(super) fn ready(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    pub(super) fn has_unsubmitted(&self) -> bool {
        self.unsubmitted > 0
    }

    /// Hands queued operations to the kernel.
    fn submit(&mut self) -> io::Result<()> {
        let entered = self.ring.submit();
        self.after_enter(entered)
    }

    /// Submits, lets the kernel run deferred work, and moves all completions into `out`.
    pub(super) fn enter_and_reap(&mut self, out: &mut Vec<Reaped>) -> io::Result<()> {
        const GET_EVENTS: u32 = 1;
        let to_submit = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed, and the queue was filled through `push`.
        let entered = unsafe { self.ring.submitter().enter::<u64>(to_submit, 0, GET_EVENTS, None) };
        self.after_enter(entered)?;
        self.reap(out);
        Ok(())
    }

    /// Submits and sleeps in the kernel until something completes or `wait` has passed; then as
    /// [`RawRing::enter_and_reap`].
    pub(super) fn sleep_and_reap(&mut self, wait: Duration, out: &mut Vec<Reaped>) -> io::Result<()> {
        let wait = types::Timespec::from(wait);
        let entered = self
            .ring
            .submitter()
            .submit_with_args(1, &types::SubmitArgs::new().timespec(&wait));
        self.after_enter(entered)?;
        self.reap(out);
        Ok(())
    }

    fn after_enter(&mut self, entered: io::Result<usize>) -> io::Result<()> {
        const EINTR: i32 = 4;
        const EAGAIN: i32 = 11;
        const EBUSY: i32 = 16;
        const ETIME: i32 = 62;
        match entered {
            Ok(_) => {}
            // Entries not taken stay queued; a full completion queue is reaped by our caller.
            Err(error) if matches!(error.raw_os_error(), Some(EINTR | EAGAIN | EBUSY | ETIME)) => {}
            Err(error) => return Err(error),
        }
        self.unsubmitted = self.ring.submission().len();
        Ok(())
    }

    fn reap(&mut self, out: &mut Vec<Reaped>) {
        for entry in self.ring.completion() {
            if let Some(tag) = Tag::decode(entry.user_data()) {
                out.push(Reaped {
                    tag,
                    result: entry.result(),
                    flags: entry.flags(),
                });
            }
        }
    }
}

fn build(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_cqsize(entries * 4)
        .build(entries)
}

/// Whether the kernel allows such a ring here: makes one and drops it.
///
/// # Errors
/// What the kernel said.
pub fn probe() -> io::Result<()> {
    build(8).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_its_encoding() {
        let tag = Tag {
            kind: Kind::Send,
            generation: 0xab_cdef,
            slot: u32::MAX - 1,
        };
        assert_eq!(Tag::decode(tag.encode()), Some(tag));
        assert_eq!(Tag::decode(0), None, "user_data of nobody");
    }
}
