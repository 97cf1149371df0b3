//! The loop all servers share: accept, receive, hand bytes to the service, send what it answers.
//!
//! Invariants: each connection has at most one receive and one send in flight; its buffers are boxed and
//! stay in place until both have completed; a slot is never used again.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::{cqueue, opcode, types};

use crate::Receive;
use crate::buffer_ring::{BufferRing, GROUP};
use crate::ring::{Done, Kind, Ring};

/// What a server does with the bytes.
pub trait Service {
    /// Takes whole requests off the front of `input` and returns how many bytes it took. Answers go to
    /// `output`, now or later.
    fn take(&mut self, connection: usize, input: &[u8], output: &mut Output) -> io::Result<usize>;

    /// Called once all completions of a turn were handled.
    fn submit(&mut self, _ring: &mut Ring) -> io::Result<()> {
        Ok(())
    }

    /// A sync completed; adds (connection, answer) for all that waited for it.
    fn synced(&mut self, _file: usize, _result: i32, _answers: &mut Vec<(usize, Answer)>) -> io::Result<()> {
        Ok(())
    }
}

/// An answer of an append.
pub type Answer = [u8; tidelog_bench::load::bare::APPEND_ANSWER_BYTES];

/// What is to be sent next on a connection.
#[derive(Default)]
pub struct Output {
    pub bytes: Vec<u8>,
    /// Bytes of a map that follow `bytes`.
    pub mapped: &'static [u8],
}

impl Output {
    fn len(&self) -> usize {
        self.bytes.len() + self.mapped.len()
    }
}

struct Connection {
    fd: OwnedFd,
    input: Box<[u8]>,
    filled: usize,
    /// What is being sent, and how much of it is; the kernel reads it.
    sending: Output,
    sent: usize,
    /// The gathered send that the kernel reads.
    message: libc::msghdr,
    slices: [libc::iovec; 2],
    next: Output,
    is_sending: bool,
    is_receiving: bool,
    is_closed: bool,
}

/// Serves until the process is killed.
pub fn run<S: Service>(
    listener: TcpListener,
    mut service: S,
    receive: Receive,
    input_bytes: usize,
) -> io::Result<()> {
    let mut ring = Ring::new()?;
    let buffers = match receive {
        Receive::Single => None,
        Receive::Multishot => Some(BufferRing::new(&ring.inner)?),
    };
    let mut server = Server {
        connections: Vec::new(),
        buffers,
        input_bytes,
        listener: listener.as_raw_fd(),
    };
    server.accept(&mut ring)?;
    let (mut done, mut answers) = (Vec::new(), Vec::new());
    loop {
        ring.wait(&mut done)?;
        for one in done.drain(..) {
            match one.kind {
                Kind::Accept => server.accepted(&mut ring, one)?,
                Kind::Receive => server.received(&mut ring, &mut service, one)?,
                Kind::Send => server.sent(&mut ring, &mut service, one)?,
                // Nobody waits for it; its failure would be a later sync's to report.
                Kind::Writeback => {}
                Kind::Sync => {
                    service.synced(one.index, one.result, &mut answers)?;
                    for (connection, answer) in answers.drain(..) {
                        if let Some(connection) =
                            server.connections.get_mut(connection).and_then(Option::as_mut)
                        {
                            connection.next.bytes.extend_from_slice(&answer);
                        }
                    }
                }
            }
        }
        if let Some(buffers) = &mut server.buffers {
            buffers.publish();
        }
        service.submit(&mut ring)?;
        server.send_all(&mut ring)?;
    }
}

struct Server {
    /// Boxed: what the kernel reads must not move when the table grows.
    connections: Vec<Option<Box<Connection>>>,
    buffers: Option<BufferRing>,
    input_bytes: usize,
    listener: RawFd,
}

impl Server {
    fn accept(&mut self, ring: &mut Ring) -> io::Result<()> {
        let entry = opcode::Accept::new(
            types::Fd(self.listener),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        );
        // SAFETY: the entry points to nothing.
        unsafe { ring.push(entry.build(), Kind::Accept, 0) }
    }

    fn accepted(&mut self, ring: &mut Ring, done: Done) -> io::Result<()> {
        self.accept(ring)?;
        let fd = positive(done.result)?;
        // SAFETY: the kernel has just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::net::sockopt::set_tcp_nodelay(&fd, true)?;
        // SAFETY: a message of zeros is one without a name, slices or control bytes.
        let message = unsafe { std::mem::zeroed() };
        let empty = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        self.connections.push(Some(Box::new(Connection {
            fd,
            input: vec![0; self.input_bytes].into_boxed_slice(),
            filled: 0,
            sending: Output::default(),
            sent: 0,
            message,
            slices: [empty; 2],
            next: Output::default(),
            is_sending: false,
            is_receiving: false,
            is_closed: false,
        })));
        self.receive(ring, self.connections.len() - 1)
    }

    fn receive(&mut self, ring: &mut Ring, index: usize) -> io::Result<()> {
        let is_multishot = self.buffers.is_some();
        let Some(connection) = self.connections[index].as_deref_mut() else {
            return Ok(());
        };
        let fd = types::Fd(connection.fd.as_raw_fd());
        let entry = if is_multishot {
            opcode::RecvMulti::new(fd, GROUP).build()
        } else {
            let space = &mut connection.input[connection.filled..];
            if space.is_empty() {
                return Err(io::Error::other("a request is larger than the input buffer"));
            }
            opcode::Recv::new(fd, space.as_mut_ptr(), space.len() as u32).build()
        };
        connection.is_receiving = true;
        // SAFETY: the input buffer stays in place until the connection is dropped, which happens only once
        // nothing is in flight; until the completion nobody else touches the space behind `filled`.
        unsafe { ring.push(entry, Kind::Receive, index) }
    }

    fn received<S: Service>(&mut self, ring: &mut Ring, service: &mut S, done: Done) -> io::Result<()> {
        let Some(connection) = self.connections[done.index].as_deref_mut() else {
            return Ok(());
        };
        connection.is_receiving = cqueue::more(done.flags);
        if done.result == -libc::ENOBUFS {
            return self.receive(ring, done.index);
        }
        if done.result <= 0 {
            connection.is_closed = true;
            self.close_if_idle(done.index);
            return Ok(());
        }
        let count = done.result as usize;
        if let (Some(buffers), Some(id)) = (&mut self.buffers, cqueue::buffer_select(done.flags)) {
            let space = connection
                .input
                .get_mut(connection.filled..connection.filled + count);
            let space = space.ok_or_else(|| io::Error::other("the input buffer is full"))?;
            // A request may be cut by the buffer's end; small as they are, all are put together.
            space.copy_from_slice(buffers.bytes(id, count));
            buffers.give(id);
        }
        connection.filled += count;
        connection.take(service, done.index)?;
        if connection.is_receiving {
            return Ok(());
        }
        self.receive(ring, done.index)
    }

    fn sent<S: Service>(&mut self, ring: &mut Ring, service: &mut S, done: Done) -> io::Result<()> {
        let Some(connection) = self.connections[done.index].as_deref_mut() else {
            return Ok(());
        };
        connection.is_sending = false;
        if done.result < 0 {
            connection.is_closed = true;
            self.close_if_idle(done.index);
            return Ok(());
        }
        connection.sent += done.result as usize;
        if connection.sent < connection.sending.len() {
            return connection.send(ring, done.index);
        }
        connection.sending.bytes.clear();
        connection.sending.mapped = &[];
        connection.sent = 0;
        if connection.is_receiving && connection.filled > 0 && self.buffers.is_none() {
            // The kernel writes behind `filled`; what is before it waits for the next receive.
            return Ok(());
        }
        connection.take(service, done.index)
    }

    /// Sends what has come together in this turn, one send for each connection.
    fn send_all(&mut self, ring: &mut Ring) -> io::Result<()> {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            let Some(connection) = connection.as_deref_mut() else {
                continue;
            };
            if connection.is_sending || connection.is_closed || connection.next.len() == 0 {
                continue;
            }
            std::mem::swap(&mut connection.sending, &mut connection.next);
            connection.send(ring, index)?;
        }
        Ok(())
    }

    fn close_if_idle(&mut self, index: usize) {
        let idle = |c: &Connection| c.is_closed && !c.is_sending && !c.is_receiving;
        if self.connections[index].as_deref().is_some_and(idle) {
            self.connections[index] = None;
        }
    }
}

impl Connection {
    fn take<S: Service>(&mut self, service: &mut S, index: usize) -> io::Result<()> {
        let taken = service.take(index, &self.input[..self.filled], &mut self.next)?;
        if taken > 0 {
            self.input.copy_within(taken..self.filled, 0);
            self.filled -= taken;
        }
        Ok(())
    }

    fn send(&mut self, ring: &mut Ring, index: usize) -> io::Result<()> {
        let fd = types::Fd(self.fd.as_raw_fd());
        let bytes = &self.sending.bytes[self.sent.min(self.sending.bytes.len())..];
        let entry = if self.sending.mapped.is_empty() {
            opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).build()
        } else {
            let mapped = &self.sending.mapped[self.sent.saturating_sub(self.sending.bytes.len())..];
            let slice = |bytes: &[u8]| libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            self.slices = [slice(bytes), slice(mapped)];
            self.message.msg_iov = self.slices.as_mut_ptr();
            self.message.msg_iovlen = 2;
            opcode::SendMsg::new(fd, &raw const self.message)
                .flags(libc::MSG_WAITALL as u32)
                .build()
        };
        self.is_sending = true;
        // SAFETY: `sending`, `slices` and `message` lie in the boxed connection, or on the heap behind it,
        // and are not touched until this send completed; a map lives as long as the process.
        unsafe { ring.push(entry, Kind::Send, index) }
    }
}

fn positive(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}
