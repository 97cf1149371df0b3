//! One TCP connection to one broker: frames, correlation ids, version negotiation, timeouts.
//!
//! Owned by one thread. One request is in flight at a time; after any error the connection is spent
//! and must be dropped, because the next bytes on it may belong to an abandoned answer.
//!
//! | at | size | field of a frame |
//! |---|---|---|
//! | 0 | 4 | size of what follows, big endian |
//! | 4 | 4 | answer: correlation id; request: api key and version, then the correlation id |
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest};
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};

use super::codec;
use super::config::ClientConfig;
use super::error::ClientError;
use crate::limits;

const UNSUPPORTED_VERSION: i16 = 35;

/// An open connection whose broker's versions are known.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: String,
    client_id: String,
    request_timeout: Duration,
    frame_bytes_max: usize,
    next_correlation_id: i32,
    versions: BTreeMap<i16, VersionRange>,
}

impl Connection {
    /// Connects to `address` (`host:port`, every address it resolves to) and asks for the versions.
    pub fn open(address: &str, config: &ClientConfig) -> Result<Self, ClientError> {
        let stream = connect(address, config.connect_timeout)?;
        let mut connection = Connection {
            stream,
            address: address.to_owned(),
            client_id: config.client_id.clone(),
            request_timeout: config.request_timeout,
            frame_bytes_max: config.frame_bytes_max,
            next_correlation_id: 0,
            versions: BTreeMap::new(),
        };
        connection.negotiate()?;
        Ok(connection)
    }

    /// The address this connection was opened to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The versions the broker serves, by api key.
    pub fn versions(&self) -> &BTreeMap<i16, VersionRange> {
        &self.versions
    }

    /// The highest version within `client` that the broker serves too.
    pub fn version_of(&self, api: ApiKey, client: VersionRange) -> Result<i16, ClientError> {
        let broker = self.versions.get(&(api as i16));
        let common = broker.map(|b| b.intersect(&client)).filter(|c| !c.is_empty());
        common.map(|c| c.max).ok_or_else(|| ClientError::Unsupported {
            address: self.address.clone(),
            what: codec::name(api),
            broker: broker.map_or("none".to_owned(), |b| format!("{}-{}", b.min, b.max)),
            client: format!("{}-{}", client.min, client.max),
        })
    }

    /// Sends `request` in `version` and waits for its answer, `extra` longer than the request timeout.
    pub fn call<R: Request>(
        &mut self,
        api: ApiKey,
        version: i16,
        request: &R,
        extra: Duration,
    ) -> Result<R::Response, ClientError> {
        let frame = self.exchange(api, version, request, extra)?;
        codec::decode_response::<R>(frame, version).map_err(|detail| self.malformed(codec::name(api), detail))
    }

    /// Sends `request` without waiting: for acks=0, the one request that has no answer.
    pub fn send_only<R: Request>(
        &mut self,
        api: ApiKey,
        version: i16,
        request: &R,
    ) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.request_timeout;
        self.send(api, version, request, deadline).map(|_| ())
    }

    fn negotiate(&mut self) -> Result<(), ClientError> {
        let mut request = ApiVersionsRequest::default();
        request.client_software_name = StrBytes::from_static_str("tidelog");
        request.client_software_version = StrBytes::from_static_str(env!("CARGO_PKG_VERSION"));
        let ask = |connection: &mut Self, version| {
            connection.exchange(ApiKey::ApiVersions, version, &request, Duration::ZERO)
        };
        // Whoever refuses or garbles version 3 is asked once more in the version that everyone knows.
        let answer = match codec::decode_response::<ApiVersionsRequest>(ask(self, 3)?, 3) {
            Ok(answer) if answer.error_code != UNSUPPORTED_VERSION => answer,
            _ => codec::decode_response::<ApiVersionsRequest>(ask(self, 0)?, 0)
                .map_err(|detail| self.malformed("ApiVersions", detail))?,
        };
        if answer.error_code != 0 {
            return Err(ClientError::broker("ApiVersions", answer.error_code, None));
        }
        self.versions = answer
            .api_keys
            .iter()
            .map(|key| {
                (
                    key.api_key,
                    VersionRange {
                        min: key.min_version,
                        max: key.max_version,
                    },
                )
            })
            .collect();
        Ok(())
    }

    fn exchange<R: Request>(
        &mut self,
        api: ApiKey,
        version: i16,
        request: &R,
        extra: Duration,
    ) -> Result<Bytes, ClientError> {
        let timeout = self.request_timeout + extra;
        let deadline = Instant::now() + timeout;
        let sent = self.send(api, version, request, deadline)?;
        let frame = self.receive(codec::name(api), deadline, timeout)?;
        match codec::correlation_id(&frame) {
            Some(id) if id == sent => Ok(frame),
            other => {
                let got = other.map_or("none".to_owned(), |id| id.to_string());
                Err(self.malformed(codec::name(api), format!("correlation id {got}, expected {sent}")))
            }
        }
    }

    fn send<R: Request>(
        &mut self,
        api: ApiKey,
        version: i16,
        request: &R,
        deadline: Instant,
    ) -> Result<i32, ClientError> {
        let what = codec::name(api);
        let id = self.next_correlation_id;
        self.next_correlation_id = id.wrapping_add(1).max(0);
        let frame = codec::encode_request(api, version, id, &self.client_id, request)
            .map_err(|detail| ClientError::Configuration(format!("cannot encode {what}: {detail}")))?;
        if frame.len() > limits::REQUEST_BYTES_MAX {
            return Err(ClientError::TooLarge {
                what,
                size_bytes: frame.len() as u64,
                limit_bytes: limits::REQUEST_BYTES_MAX as u64,
            });
        }
        let sent = self
            .set_deadline(deadline)
            .and_then(|()| self.stream.write_all(&frame));
        sent.map_err(|e| self.lost(what, &e, self.request_timeout))?;
        Ok(id)
    }

    fn receive(
        &mut self,
        what: &'static str,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<Bytes, ClientError> {
        let mut size = [0u8; 4];
        self.read_full(&mut size, deadline)
            .map_err(|e| self.lost(what, &e, timeout))?;
        if self.versions.is_empty()
            && let Some(protocol) = foreign_protocol(&size)
        {
            return Err(self.malformed(what, format!("it begins like {protocol}")));
        }
        let size = i32::from_be_bytes(size);
        let Some(size) = usize::try_from(size).ok().filter(|s| *s >= 4) else {
            return Err(self.malformed(what, format!("frame size {size}")));
        };
        if size > self.frame_bytes_max {
            return Err(ClientError::TooLarge {
                what,
                size_bytes: size as u64,
                limit_bytes: self.frame_bytes_max as u64,
            });
        }
        self.read_body(size, deadline)
            .map_err(|e| self.lost(what, &e, timeout))
    }

    /// Reads `size` bytes, taking memory only as they arrive.
    fn read_body(&mut self, size: usize, deadline: Instant) -> io::Result<Bytes> {
        const STEP_BYTES: usize = 1024 * 1024;
        let mut body = BytesMut::new();
        while body.len() < size {
            let at = body.len();
            body.resize(size.min(at + STEP_BYTES), 0);
            let (_, fresh) = body.split_at_mut(at);
            self.read_full(fresh, deadline)?;
        }
        Ok(body.freeze())
    }

    fn read_full(&mut self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            self.set_deadline(deadline)?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => buffer = buffer.get_mut(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn set_deadline(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))
    }

    fn lost(&self, what: &'static str, error: &io::Error, timeout: Duration) -> ClientError {
        let address = self.address.clone();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TimedOut {
                address,
                what,
                timeout,
            },
            io::ErrorKind::UnexpectedEof => ClientError::Closed {
                address,
                what,
                detail: "end of stream".to_owned(),
            },
            _ => ClientError::Closed {
                address,
                what,
                detail: error.to_string(),
            },
        }
    }

    fn malformed(&self, what: &'static str, detail: String) -> ClientError {
        ClientError::Malformed {
            address: self.address.clone(),
            what,
            detail,
        }
    }
}

/// The protocol that a first answer beginning with these bytes is of, when it cannot be Kafka's.
fn foreign_protocol(first: &[u8; 4]) -> Option<&'static str> {
    match first {
        b"HTTP" => Some("HTTP"),
        b"SSH-" => Some("SSH"),
        // An alert or a handshake record of TLS 1.0 to 1.3; as a frame, more than 340 MB.
        [0x15 | 0x16, 3, 0..=4, _] => Some("TLS"),
        _ => None,
    }
}

fn connect(address: &str, timeout: Duration) -> Result<TcpStream, ClientError> {
    let unreachable = |detail: String| ClientError::Unreachable {
        address: address.to_owned(),
        detail,
    };
    let resolved = address
        .to_socket_addrs()
        .map_err(|e| unreachable(e.to_string()))?;
    let mut last = "the name resolves to no address".to_owned();
    for socket_address in resolved {
        match TcpStream::connect_timeout(&socket_address, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
                return Ok(stream);
            }
            Err(e) => last = e.to_string(),
        }
    }
    Err(unreachable(last))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn config() -> ClientConfig {
        ClientConfig {
            request_timeout: Duration::from_millis(300),
            ..ClientConfig::default()
        }
    }

    /// Serves one connection with `answer` as the reply to whatever comes first.
    fn serve_once(answer: Vec<u8>) -> (String, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let server = thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("accept");
            let mut request = [0u8; 512];
            let _ = peer.read(&mut request).expect("request");
            peer.write_all(&answer).expect("answer");
            let _ = peer.read(&mut request);
        });
        (address, server)
    }

    #[test]
    fn hostile_sizes_are_errors_and_take_no_memory() {
        for (size, expect_large) in [(-1i32, false), (0, false), (3, false), (i32::MAX, true)] {
            let (address, server) = serve_once(size.to_be_bytes().to_vec());
            let error = Connection::open(&address, &config()).expect_err("refused");
            assert_eq!(
                matches!(error, ClientError::TooLarge { .. }),
                expect_large,
                "{size}: {error}"
            );
            server.join().expect("server");
        }
    }

    #[test]
    fn a_server_of_another_protocol_is_told_apart() {
        let others: [(&[u8], &str); 3] = [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
            (b"SSH-2.0-x\r\n", "SSH"),
        ];
        for (answer, protocol) in others {
            let (address, server) = serve_once(answer.to_vec());
            let error = Connection::open(&address, &config()).expect_err("refused");
            assert!(matches!(error, ClientError::Malformed { .. }), "{error}");
            assert!(error.to_string().ends_with(protocol), "{error}");
            server.join().expect("server");
        }
    }

    #[test]
    fn silence_times_out_and_a_closed_port_is_unreachable() {
        let (address, server) = serve_once(Vec::new());
        let error = Connection::open(&address, &config()).expect_err("silent");
        assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
        server.join().expect("server");
        let error = Connection::open(&address, &config()).expect_err("closed");
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn a_foreign_correlation_id_is_refused() {
        let mut answer = 10i32.to_be_bytes().to_vec();
        answer.extend_from_slice(&77i32.to_be_bytes());
        answer.extend_from_slice(&[0; 6]);
        let (address, server) = serve_once(answer);
        let error = Connection::open(&address, &config()).expect_err("refused");
        assert!(error.to_string().contains("correlation id 77"), "{error}");
        server.join().expect("server");
    }

    #[test]
    fn versions_of_an_old_broker_are_read_from_its_version_0_answer() {
        // {error 35, one api key: ApiVersions 0-0}, then the repeated request gets the same with error 0.
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let server = thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("accept");
            for (id, code) in [(0i32, 35i16), (1, 0)] {
                let mut request = [0u8; 512];
                let _ = peer.read(&mut request).expect("request");
                let mut body = id.to_be_bytes().to_vec();
                body.extend_from_slice(&code.to_be_bytes());
                body.extend_from_slice(&1i32.to_be_bytes());
                for field in [3i16, 0, 8] {
                    body.extend_from_slice(&field.to_be_bytes());
                }
                peer.write_all(&(body.len() as i32).to_be_bytes()).expect("size");
                peer.write_all(&body).expect("body");
            }
        });
        let connection = Connection::open(&address, &config()).expect("open");
        assert_eq!(
            connection
                .version_of(ApiKey::Metadata, VersionRange { min: 1, max: 12 })
                .expect("common"),
            8
        );
        let error = connection
            .version_of(ApiKey::Fetch, VersionRange { min: 4, max: 12 })
            .expect_err("none");
        assert!(error.to_string().contains("Fetch"), "{error}");
        server.join().expect("server");
    }
}
