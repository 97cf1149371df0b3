//! Client settings, under librdkafka's names.

use std::time::Duration;

use super::error::ClientError;
use super::records::{Compression, parse_compression};
use crate::limits;

/// When a Produce request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// No answer at all.
    None,
    /// Once the leader holds the records as its durability setting asks.
    Leader,
    /// Once every in-sync replica does.
    All,
}

impl Acks {
    /// The value on the wire.
    pub fn wire(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

impl std::str::FromStr for Acks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Acks::None),
            "1" => Ok(Acks::Leader),
            "all" | "-1" => Ok(Acks::All),
            other => Err(format!("`{other}` is not 0, 1 or all")),
        }
    }
}

/// Settings of a [`super::Client`].
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Addresses (`host:port`) tried in order until one answers.
    pub bootstrap: Vec<String>,
    /// Name the broker sees in its logs and metrics.
    pub client_id: String,
    /// Time for one address to accept a connection.
    pub connect_timeout: Duration,
    /// Time for one request to be answered.
    pub request_timeout: Duration,
    /// Largest answer accepted, in bytes.
    pub frame_bytes_max: usize,
    /// How long an empty fetch may park at the broker.
    pub fetch_wait: Duration,
    /// Bytes that end a parked fetch.
    pub fetch_bytes_min: i32,
    /// Bytes asked for in one fetch.
    pub fetch_bytes_max: i32,
    /// Bytes asked for in one fetch of one partition.
    pub fetch_partition_bytes_max: i32,
    /// Bytes of records gathered for one batch.
    pub batch_bytes: usize,
    /// How long records wait for others to join their batch.
    pub linger: Duration,
    /// When Produce is answered.
    pub acks: Acks,
    /// Codec of produced batches.
    pub compression: Compression,
}

/// The settings `-X` knows, with a short description each.
pub const SETTINGS: &[(&str, &str)] = &[
    ("acks", "0, 1 or all (also request.required.acks)"),
    ("batch.size", "bytes of records gathered for one batch"),
    ("bootstrap.servers", "HOST:PORT[,HOST:PORT..]"),
    ("client.id", "name the broker sees"),
    (
        "compression.type",
        "none, gzip, snappy, lz4 or zstd (also compression.codec)",
    ),
    ("fetch.max.bytes", "bytes asked for in one fetch"),
    ("fetch.min.bytes", "bytes that end a waiting fetch"),
    ("fetch.wait.max.ms", "how long an empty fetch waits at the broker"),
    (
        "linger.ms",
        "how long records wait for others to join their batch",
    ),
    (
        "max.partition.fetch.bytes",
        "bytes asked for of one partition (also fetch.message.max.bytes)",
    ),
    ("receive.message.max.bytes", "largest answer accepted"),
    (
        "request.timeout.ms",
        "time for one answer (also socket.timeout.ms)",
    ),
    ("security.protocol", "plaintext"),
    (
        "socket.connection.setup.timeout.ms",
        "time for one address to accept a connection",
    ),
];

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            bootstrap: vec!["localhost:9092".to_owned()],
            client_id: "tidelog".to_owned(),
            connect_timeout: limits::CONNECT_TIMEOUT,
            request_timeout: limits::REQUEST_TIMEOUT,
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            fetch_wait: limits::FETCH_WAIT,
            fetch_bytes_min: 1,
            fetch_bytes_max: limits::FETCH_BYTES_MAX,
            fetch_partition_bytes_max: limits::FETCH_PARTITION_BYTES_MAX,
            batch_bytes: limits::BATCH_BYTES,
            linger: limits::LINGER,
            acks: Acks::All,
            compression: Compression::None,
        }
    }
}

impl ClientConfig {
    /// Settings with these bootstrap addresses, each `host:port` or `host` (port 9092).
    pub fn with_bootstrap(list: &str) -> Result<Self, ClientError> {
        Ok(ClientConfig {
            bootstrap: parse_addresses(list)?,
            ..ClientConfig::default()
        })
    }

    /// Applies one setting under its librdkafka name. Unknown names and bad values are errors.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ClientError> {
        match key {
            "bootstrap.servers" | "metadata.broker.list" => self.bootstrap = parse_addresses(value)?,
            "client.id" => self.client_id = value.to_owned(),
            "socket.connection.setup.timeout.ms" => self.connect_timeout = millis(key, value)?,
            "socket.timeout.ms" | "request.timeout.ms" => self.request_timeout = millis(key, value)?,
            "fetch.wait.max.ms" => self.fetch_wait = millis(key, value)?,
            "fetch.min.bytes" => self.fetch_bytes_min = number(key, value, 1, 1 << 30)? as i32,
            "fetch.max.bytes" => self.fetch_bytes_max = number(key, value, 1, 1 << 30)? as i32,
            "max.partition.fetch.bytes" | "fetch.message.max.bytes" => {
                self.fetch_partition_bytes_max = number(key, value, 1, 1 << 30)? as i32;
            }
            "receive.message.max.bytes" => {
                self.frame_bytes_max = number(key, value, 1_000, i64::from(i32::MAX))? as usize;
            }
            "batch.size" => {
                self.batch_bytes = number(key, value, 1, limits::BATCH_BYTES_MAX as i64)? as usize;
            }
            "linger.ms" | "queue.buffering.max.ms" => {
                self.linger = Duration::from_millis(number(key, value, 0, 900_000)? as u64);
            }
            "acks" | "request.required.acks" => {
                self.acks = value.parse().map_err(|e: String| bad(key, &e))?;
            }
            "compression.type" | "compression.codec" => {
                self.compression = parse_compression(value).map_err(|e| bad(key, &e))?;
            }
            "security.protocol" if value.eq_ignore_ascii_case("plaintext") => {}
            "security.protocol" => return Err(bad(key, "only plaintext is served so far")),
            other => {
                let known: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
                return Err(ClientError::Configuration(format!(
                    "unknown client setting `{other}`; known are {}",
                    known.join(", ")
                )));
            }
        }
        Ok(())
    }
}

/// Splits `host:port,host:port`; a missing port is 9092, IPv6 addresses stand in brackets.
pub fn parse_addresses(list: &str) -> Result<Vec<String>, ClientError> {
    let addresses: Result<Vec<String>, ClientError> = list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(parse_address)
        .collect();
    match addresses {
        Ok(found) if found.is_empty() => Err(ClientError::Configuration(
            "no bootstrap server given; write HOST:PORT".to_owned(),
        )),
        other => other,
    }
}

fn parse_address(text: &str) -> Result<String, ClientError> {
    let wrong = || ClientError::Configuration(format!("`{text}` is not HOST:PORT (such as localhost:9092)"));
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || (host.starts_with('[') && host.ends_with(']')) => (
            host,
            port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(wrong)?,
        ),
        Some(_) if text.starts_with('[') && text.ends_with(']') => (text, 9092),
        Some(_) => return Err(wrong()),
        None => (text, 9092),
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

fn millis(key: &str, value: &str) -> Result<Duration, ClientError> {
    Ok(Duration::from_millis(number(key, value, 1, 3_600_000)? as u64))
}

fn number(key: &str, value: &str, min: i64, max: i64) -> Result<i64, ClientError> {
    value
        .parse::<i64>()
        .ok()
        .filter(|n| (min..=max).contains(n))
        .ok_or_else(|| {
            bad(
                key,
                &format!("`{value}` is not a whole number from {min} to {max}"),
            )
        })
}

fn bad(key: &str, why: &str) -> ClientError {
    ClientError::Configuration(format!("client setting {key}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_a_default_port_and_are_checked() {
        assert_eq!(
            parse_addresses("a, b:1,[::1]:2,[::1]").expect("fine"),
            ["a:9092", "b:1", "[::1]:2", "[::1]:9092"]
        );
        for wrong in ["", ",", "a:b", "a:0", "::1", "http://x:1", "a:70000"] {
            assert!(parse_addresses(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_listed_setting_is_known() {
        let value = |name: &str| match name {
            "acks" => "all",
            "bootstrap.servers" => "localhost:9092",
            "client.id" => "me",
            "compression.type" => "zstd",
            "security.protocol" => "PLAINTEXT",
            _ => "5000",
        };
        for (name, _) in SETTINGS {
            ClientConfig::default().set(name, value(name)).expect(name);
        }
    }

    #[test]
    fn wrong_settings_name_themselves() {
        let mut config = ClientConfig::default();
        let unknown = config.set("retires", "1").expect_err("unknown").to_string();
        assert!(
            unknown.contains("retires") && unknown.contains("linger.ms"),
            "{unknown}"
        );
        assert!(
            config
                .set("batch.size", "9999999")
                .expect_err("too large")
                .to_string()
                .contains("batch.size")
        );
        assert!(config.set("acks", "2").is_err());
        assert!(config.set("security.protocol", "ssl").is_err());
    }
}
