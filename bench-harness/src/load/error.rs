//! Why a run of the load generator ended early.

use std::io;

use crate::client::ClientError;

/// Each one ends the run: figures of a run with errors would mean nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Setting up: connecting, creating the topic, looking up leaders.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An option that cannot be. Correct it.
    #[error("{0}")]
    Options(String),
    /// A system call on a socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The server closed a connection while requests were in flight.
    #[error("the server closed a connection with {in_flight} requests in flight")]
    Closed {
        /// Requests without an answer on that connection.
        in_flight: usize,
    },
    /// Nothing was answered for [`crate::limits::LOAD_STALL`].
    #[error("no answer within {seconds} s, with {in_flight} requests in flight")]
    Stalled {
        /// The time allowed.
        seconds: u64,
        /// Requests without an answer, over all connections.
        in_flight: u64,
    },
    /// An answer that is not what the request asks for.
    #[error("an answer is not as it should be: {0}")]
    Answer(String),
    /// The process whose CPU time was asked for cannot be read.
    #[error("process {pid}: {detail}")]
    Process {
        /// Its id.
        pid: u32,
        /// What the operating system said.
        detail: String,
    },
}

impl LoadError {
    /// For `map_err`: an error of the operating system while doing `what`.
    pub fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> LoadError {
        move |error| LoadError::Io {
            what,
            source: error.into(),
        }
    }

    /// Whether the broker could not be reached at all.
    pub fn is_connection(&self) -> bool {
        matches!(self, LoadError::Client(error) if error.is_connection())
    }
}
