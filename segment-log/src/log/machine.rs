//! Straight-line disk work that is polled by hand: how opening, recovery, closing and checkpoint
//! writing wait for the disk.
//!
//! Owned by one shard thread. A [`Machine`] holds one private future and a cell through which the
//! future submits [`DiskOp`]s and finds their results. [`Machine::step`] is the only thing that
//! polls it, with a waker that does nothing, so there is no runtime, no task and no scheduling: the
//! same inputs in the same order give the same operations in the same order. Recovery is a long
//! sequence of dependent reads with loops in it; written as an explicit state machine, each loop
//! variable would become a field and each read a state. It is a future by deliberate decision, and
//! nothing but this file knows how it is driven.
//!
//! Invariants:
//! - a token is `token_space << 32 | counter`, so that the owner routes completions by its upper half;
//! - completions of tokens that this machine did not submit are ignored;
//! - a dropped machine leaves its operations in flight: whoever drops it lets them end unseen.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::disk::{AlignedBytes, Completion, Disk, DiskOp, DiskOutput, FileHandle, ReadSource, Token};
use crate::recovery::unreadable::UnreadablePages;

/// Hands out the tokens of one space, each once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenCounter {
    space: u32,
    next: u32,
}

impl TokenCounter {
    pub(crate) fn new(space: u32) -> Self {
        Self { space, next: 1 }
    }

    /// For work beside the owner's own operations: these tokens never meet those of
    /// [`TokenCounter::new`], unless two thousand million are used while one is in flight.
    pub(crate) fn beside(space: u32) -> Self {
        Self { space, next: 1 << 31 }
    }

    pub(crate) fn space(&self) -> u32 {
        self.space
    }

    pub(crate) fn take(&mut self) -> Token {
        let token = Token(u64::from(self.space) << 32 | u64::from(self.next));
        self.next = self.next.wrapping_add(1);
        token
    }
}

#[derive(Debug)]
struct Cell {
    tokens: TokenCounter,
    submissions: Vec<(Token, DiskOp)>,
    in_flight: BTreeSet<Token>,
    results: BTreeMap<Token, io::Result<DiskOutput>>,
    unreadable: UnreadablePages,
}

/// The future's side: submits one operation and waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Io {
    cell: Arc<Mutex<Cell>>,
}

struct Operation {
    io: Io,
    op: Option<DiskOp>,
    token: Option<Token>,
}

impl Future for Operation {
    type Output = io::Result<DiskOutput>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let op = self.op.take();
        let io = self.io.clone();
        let mut cell = io.lock();
        if let Some(op) = op {
            let token = cell.tokens.take();
            cell.submissions.push((token, op));
            cell.in_flight.insert(token);
            self.token = Some(token);
            return Poll::Pending;
        }
        match self.token.and_then(|token| cell.results.remove(&token)) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

fn unexpected() -> io::Error {
    io::Error::other("the disk answered with another kind of output than was asked for")
}

impl Io {
    fn new(tokens: TokenCounter, in_flight: BTreeSet<Token>) -> Self {
        let cell = Cell {
            tokens,
            submissions: Vec::new(),
            in_flight,
            results: BTreeMap::new(),
            unreadable: UnreadablePages::default(),
        };
        Self {
            cell: Arc::new(Mutex::new(cell)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages that this machine found unreadable.
    pub(crate) fn with_unreadable<T>(&self, look: impl FnOnce(&mut UnreadablePages) -> T) -> T {
        look(&mut self.lock().unreadable)
    }

    /// The tokens go on from here when the machine is done.
    pub(crate) fn tokens(&self) -> TokenCounter {
        self.lock().tokens
    }

    /// Waits until all of these operations ended, however they did.
    pub(crate) async fn wait_for(&self, tokens: &BTreeSet<Token>) {
        std::future::poll_fn(|_| {
            let cell = self.lock();
            if tokens.iter().all(|token| cell.results.contains_key(token)) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn op(&self, op: DiskOp) -> Operation {
        Operation {
            io: self.clone(),
            op: Some(op),
            token: None,
        }
    }

    /// Whatever the disk answers.
    pub(crate) async fn output(&self, op: DiskOp) -> io::Result<DiskOutput> {
        self.op(op).await
    }

    pub(crate) async fn done(&self, op: DiskOp) -> io::Result<()> {
        match self.op(op).await? {
            DiskOutput::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn open(&self, path: &Path) -> io::Result<FileHandle> {
        match self
            .op(DiskOp::Open {
                path: path.to_path_buf(),
            })
            .await?
        {
            DiskOutput::File(file) => Ok(file),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn create(&self, path: &Path) -> io::Result<FileHandle> {
        match self
            .op(DiskOp::Create {
                path: path.to_path_buf(),
            })
            .await?
        {
            DiskOutput::File(file) => Ok(file),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn sync(&self, file: &FileHandle) -> io::Result<()> {
        self.done(DiskOp::Sync { file: file.clone() }).await
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.done(DiskOp::SyncDir {
            path: path.to_path_buf(),
        })
        .await
    }

    pub(crate) async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.done(DiskOp::CreateDir {
            path: path.to_path_buf(),
        })
        .await
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.done(DiskOp::Rename {
            from: from.to_path_buf(),
            to: to.to_path_buf(),
        })
        .await
    }

    /// Removes a name; one that is not there is no error.
    pub(crate) async fn unlink_if_present(&self, path: &Path) -> io::Result<()> {
        match self
            .done(DiskOp::Unlink {
                path: path.to_path_buf(),
            })
            .await
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        match self
            .op(DiskOp::List {
                path: path.to_path_buf(),
            })
            .await?
        {
            DiskOutput::Names(names) => Ok(names),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn names_if_present(&self, path: &Path) -> io::Result<Vec<String>> {
        match self.names(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    pub(crate) async fn len(&self, file: &FileHandle) -> io::Result<u64> {
        match self.op(DiskOp::Len { file: file.clone() }).await? {
            DiskOutput::Len(len) => Ok(len),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn read(
        &self,
        file: &FileHandle,
        position: u64,
        len: usize,
        source: ReadSource,
    ) -> io::Result<AlignedBytes> {
        match self
            .op(DiskOp::Read {
                file: file.clone(),
                position,
                len,
                source,
            })
            .await?
        {
            DiskOutput::Read(bytes) => Ok(bytes),
            _ => Err(unexpected()),
        }
    }

    /// Writes all of `data`, submitting again after a short write.
    pub(crate) async fn write_all(&self, file: &FileHandle, position: u64, data: Bytes) -> io::Result<()> {
        let mut written = 0usize;
        while written < data.len() {
            let rest = data.slice(written..);
            let position = position + written as u64;
            match self
                .op(DiskOp::Write {
                    file: file.clone(),
                    position,
                    data: rest,
                })
                .await?
            {
                DiskOutput::Written(0) => return Err(io::ErrorKind::WriteZero.into()),
                DiskOutput::Written(count) => written = written.saturating_add(count).min(data.len()),
                _ => return Err(unexpected()),
            }
        }
        Ok(())
    }
}

/// One piece of straight-line disk work and where it stands.
pub struct Machine<T> {
    io: Io,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl<T> std::fmt::Debug for Machine<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

impl<T> Machine<T> {
    pub(crate) fn new<F>(tokens: TokenCounter, start: impl FnOnce(Io) -> F) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        Self::with_in_flight(tokens, BTreeSet::new(), start)
    }

    /// As [`Machine::new`], and takes the completions of operations that were submitted before.
    pub(crate) fn with_in_flight<F>(
        tokens: TokenCounter,
        in_flight: BTreeSet<Token>,
        start: impl FnOnce(Io) -> F,
    ) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let io = Io::new(tokens, in_flight);
        let future = Box::pin(start(io.clone()));
        Self { io, future }
    }

    /// What it has submitted and not seen the end of.
    pub(crate) fn in_flight(&self) -> BTreeSet<Token> {
        self.io.lock().in_flight.clone()
    }

    /// Takes in completions, goes on as far as they allow and submits what is needed next.
    ///
    /// Not to be called again after it was `Ready`.
    pub fn step(&mut self, disk: &mut dyn Disk, completions: Vec<Completion>) -> Poll<T> {
        advance(&self.io, self.future.as_mut(), disk, completions)
    }

    /// Blocks until the work is done: for start-up, tools and tests, whose disk belongs to them
    /// alone (completions of other tokens are lost here).
    pub fn drive(mut self, disk: &mut dyn Disk) -> T {
        let mut completions = Vec::new();
        loop {
            if let Poll::Ready(output) = self.step(disk, std::mem::take(&mut completions)) {
                return output;
            }
            disk.take_completions(&mut completions);
            if completions.is_empty() {
                std::thread::yield_now();
            }
        }
    }
}

fn advance<F: Future + ?Sized>(
    io: &Io,
    future: Pin<&mut F>,
    disk: &mut dyn Disk,
    completions: Vec<Completion>,
) -> Poll<F::Output> {
    {
        let mut cell = io.lock();
        for completion in completions {
            if cell.in_flight.remove(&completion.token) {
                cell.results.insert(completion.token, completion.result);
            }
        }
    }
    let progress = future.poll(&mut Context::from_waker(Waker::noop()));
    let submissions = std::mem::take(&mut io.lock().submissions);
    for (token, op) in submissions {
        disk.submit(token, op);
    }
    progress
}

/// Does straight-line work that borrows from its caller, and blocks until it is done: for tools, whose
/// disk belongs to them alone.
pub(crate) fn drive_here<F: Future>(disk: &mut dyn Disk, start: impl FnOnce(Io) -> F) -> F::Output {
    let io = Io::new(TokenCounter::new(0), BTreeSet::new());
    let mut future = std::pin::pin!(start(io.clone()));
    let mut completions = Vec::new();
    loop {
        let taken = std::mem::take(&mut completions);
        if let Poll::Ready(output) = advance(&io, future.as_mut(), disk, taken) {
            return output;
        }
        disk.take_completions(&mut completions);
        if completions.is_empty() {
            std::thread::yield_now();
        }
    }
}
