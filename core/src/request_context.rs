//! Who asks what, since when and until when: handed to every handler, log line and metric.
//!
//! Owned by the shard of the connection; cheap to clone (shared strings) when a request crosses shards.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name of whoever has not logged in (Kafka's own).
pub const ANONYMOUS: &str = "ANONYMOUS";

/// Who a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// `User` in Kafka's terms.
    pub kind: Arc<str>,
    /// The name within its kind.
    pub name: Arc<str>,
}

impl Principal {
    /// `User:ANONYMOUS`.
    pub fn anonymous() -> Self {
        Principal {
            kind: "User".into(),
            name: ANONYMOUS.into(),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.name)
    }
}

/// Identity of a connection: the shard that owns it, its slot there, and the slot's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// Owning shard.
    pub shard: u16,
    /// Slot in the shard's connection table.
    pub slot: u32,
    /// Raised each time the slot is used again.
    pub generation: u32,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard, self.slot, self.generation)
    }
}

/// What a client said of itself in ApiVersions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientSoftware {
    /// `client_software_name`, empty when it did not say.
    pub name: Arc<str>,
    /// `client_software_version`, empty when it did not say.
    pub version: Arc<str>,
}

/// The part that stays the same over a connection's life (until it logs in again).
#[derive(Debug, Clone)]
pub struct ConnectionContext {
    /// Which connection.
    pub connection: ConnectionId,
    /// Name of the listener it came in on; addresses in answers are this listener's.
    pub listener: Arc<str>,
    /// The other end; `None` when the system no longer knew it.
    pub peer: Option<SocketAddr>,
    /// Who it is.
    pub principal: Principal,
    /// What it runs.
    pub client_software: ClientSoftware,
}

/// One request.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The connection's share.
    pub on: Arc<ConnectionContext>,
    /// Client id of this request's header, empty when null.
    pub client_id: Arc<str>,
    /// Kafka API key.
    pub api_key: i16,
    /// Version of the API.
    pub api_version: i16,
    /// Correlation id, to be sent back as it came.
    pub correlation_id: i32,
    /// When the last byte of the frame was there.
    pub arrived_at: Instant,
    /// When an answer is no longer worth waiting for; `None` for requests that do not wait.
    pub deadline: Option<Instant>,
    /// Ties log lines of one request together over shards.
    pub trace_id: u64,
}

impl RequestContext {
    /// Time since the frame arrived; zero when clocks of two threads disagree by a tick.
    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.arrived_at)
    }

    /// Time left until the deadline: `None` when there is none, zero when it has passed.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(now))
    }
}

impl fmt::Display for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connection={} listener={} principal={} client_id={:?} api={}v{} correlation={} trace={:016x}",
            self.on.connection,
            self.on.listener,
            self.on.principal,
            self.client_id,
            self.api_key,
            self.api_version,
            self.correlation_id,
            self.trace_id
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn context(api_key: i16) -> RequestContext {
        RequestContext {
            on: Arc::new(ConnectionContext {
                connection: ConnectionId {
                    shard: 1,
                    slot: 2,
                    generation: 3,
                },
                listener: "PLAINTEXT".into(),
                peer: None,
                principal: Principal::anonymous(),
                client_software: ClientSoftware::default(),
            }),
            client_id: "app".into(),
            api_key,
            api_version: 9,
            correlation_id: 7,
            arrived_at: Instant::now(),
            deadline: None,
            trace_id: 0xabc,
        }
    }

    #[test]
    fn a_log_line_can_be_made_of_it() {
        assert_eq!(
            context(3).to_string(),
            "connection=1-2-3 listener=PLAINTEXT principal=User:ANONYMOUS client_id=\"app\" api=3v9 \
             correlation=7 trace=0000000000000abc"
        );
    }

    #[test]
    fn a_deadline_in_the_past_leaves_nothing() {
        let mut ctx = context(1);
        assert_eq!(ctx.remaining(ctx.arrived_at), None);
        ctx.deadline = Some(ctx.arrived_at + Duration::from_millis(5));
        assert_eq!(ctx.remaining(ctx.arrived_at), Some(Duration::from_millis(5)));
        assert_eq!(
            ctx.remaining(ctx.arrived_at + Duration::from_secs(1)),
            Some(Duration::ZERO)
        );
        assert_eq!(
            ctx.elapsed(ctx.arrived_at + Duration::from_secs(1)),
            Duration::from_secs(1)
        );
    }
}
