//! One bare ring, made and used on the one thread: SINGLE_ISSUER and DEFER_TASKRUN, as the broker has it.

use std::io;

use io_uring::{IoUring, squeue};

const ENTRIES: u32 = 2048;

/// What a completion belongs to, in the upper byte of `user_data`; the lower bytes are an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Sync = 4,
    Writeback = 5,
}

/// One completion.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    pub kind: Kind,
    pub index: usize,
    pub result: i32,
    pub flags: u32,
}

pub struct Ring {
    pub inner: IoUring,
}

impl Ring {
    pub fn new() -> io::Result<Self> {
        let inner = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(ENTRIES * 4)
            .build(ENTRIES)?;
        Ok(Self { inner })
    }

    /// Queues an operation, entering the kernel first when the queue is full.
    ///
    /// # Safety
    /// What the entry points to must stay valid and in place until its completion was taken.
    pub unsafe fn push(&mut self, entry: squeue::Entry, kind: Kind, index: usize) -> io::Result<()> {
        let entry = entry.user_data((kind as u64) << 56 | index as u64);
        // SAFETY: passed on to our caller.
        if unsafe { self.inner.submission().push(&entry) }.is_ok() {
            return Ok(());
        }
        self.inner.submit()?;
        // SAFETY: as above.
        unsafe { self.inner.submission().push(&entry) }
            .map_err(|_| io::Error::other("the submission queue stays full after entering"))
    }

    /// Submits, waits for a completion and moves all there are into `done`.
    pub fn wait(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
        match self.inner.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        for entry in self.inner.completion() {
            let kind = match entry.user_data() >> 56 {
                1 => Kind::Accept,
                2 => Kind::Receive,
                3 => Kind::Send,
                4 => Kind::Sync,
                5 => Kind::Writeback,
                other => return Err(io::Error::other(format!("a completion of kind {other}"))),
            };
            done.push(Done {
                kind,
                index: (entry.user_data() & ((1 << 56) - 1)) as usize,
                result: entry.result(),
                flags: entry.flags(),
            });
        }
        Ok(())
    }
}
