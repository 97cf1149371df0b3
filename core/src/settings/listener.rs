//! `[NAME=]HOST:PORT`. Pure but for [`HostPort::resolve`], which asks the system's resolver. Any thread.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use super::registry::{DEFAULT_LISTENER, is_member_name};

/// A host (name or address) and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Name or address; IPv6 without brackets; `*` for every address.
    pub host: String,
    /// Port; 0 lets the system choose.
    pub port: u16,
}

/// What is wrong with an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// No colon.
    #[error("{0:?} has no port; write HOST:PORT")]
    NoPort(String),
    /// Nothing before the colon.
    #[error("{0:?} has no host; write HOST:PORT, or *:PORT for every address")]
    NoHost(String),
    /// Not 0 to 65535.
    #[error("{0:?} does not end in a port of 0 to 65535")]
    BadPort(String),
    /// Not a host name, an IPv4 address or an IPv6 address in brackets.
    #[error("{0:?} does not begin with a host name or address (IPv6 goes in brackets)")]
    BadHost(String),
    /// Not 1 to 64 letters, digits, `_`, `-`.
    #[error("{0:?} is not a listener name; use letters, digits, _ and -")]
    BadName(String),
}

impl HostPort {
    /// Parses `HOST:PORT`, `[V6]:PORT` or `*:PORT`.
    pub fn parse(text: &str) -> Result<Self, HostPortError> {
        let text = text.trim();
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| HostPortError::NoPort(text.into()))?;
        if host.is_empty() {
            return Err(HostPortError::NoHost(text.into()));
        }
        let well_formed = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|_| well_formed);
        let port = port.ok_or_else(|| HostPortError::BadPort(text.into()))?;
        let bad_host = || HostPortError::BadHost(text.into());
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(bad_host)?;
                inner.parse::<Ipv6Addr>().map_err(|_| bad_host())?;
                inner
            }
            None => {
                let named = host.len() <= 253
                    && host
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
                if host != "*" && !named {
                    return Err(bad_host());
                }
                host
            }
        };
        Ok(HostPort {
            host: host.to_owned(),
            port,
        })
    }

    /// Binds every address: `0.0.0.0`, `[::]` or `*`.
    pub fn is_wildcard(&self) -> bool {
        self.host == "*" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }

    /// Addresses to bind: both families for `localhost` and `*`, else what the resolver says.
    ///
    /// # Errors
    /// The resolver's.
    pub fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        let both = |v4: Ipv4Addr, v6: Ipv6Addr| {
            Ok(vec![
                SocketAddr::new(v4.into(), self.port),
                SocketAddr::new(v6.into(), self.port),
            ])
        };
        match self.host.as_str() {
            "localhost" => both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
            "*" => both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
            host => Ok((host, self.port).to_socket_addrs()?.collect()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name.
    pub name: String,
    /// What it binds.
    pub bind: HostPort,
    /// What its clients are told; port 0 stands for the port that was bound.
    pub advertised: HostPort,
}

/// Splits `[NAME=]HOST:PORT`; without a name it is [`DEFAULT_LISTENER`].
pub fn split_named(text: &str) -> Result<(String, HostPort), HostPortError> {
    match text.split_once('=') {
        Some((name, _)) if !is_member_name(name) => Err(HostPortError::BadName(name.into())),
        Some((name, address)) => Ok((name.to_owned(), HostPort::parse(address)?)),
        None => Ok((DEFAULT_LISTENER.to_owned(), HostPort::parse(text)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in [
            "localhost:9092",
            "10.0.0.1:0",
            "[::1]:9092",
            "*:65535",
            "my-host_1.example:1",
        ] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), text);
        }
        assert!(matches!(
            HostPort::parse("localhost"),
            Err(HostPortError::NoPort(_))
        ));
        assert!(matches!(HostPort::parse(":9092"), Err(HostPortError::NoHost(_))));
        for text in ["a:", "a:70000", "a:+1", "a:-1", "a:x"] {
            assert!(
                matches!(HostPort::parse(text), Err(HostPortError::BadPort(_))),
                "{text}"
            );
        }
        for text in ["::1:9092", "[::1:9092", "[x]:1", "a b:1", "http://a:1"] {
            assert!(
                matches!(HostPort::parse(text), Err(HostPortError::BadHost(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn wildcards() {
        for (text, wild) in [
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("*:1", true),
            ("localhost:1", false),
        ] {
            assert_eq!(HostPort::parse(text).unwrap().is_wildcard(), wild, "{text}");
        }
    }

    #[test]
    fn localhost_is_both_families() {
        let addresses = HostPort::parse("localhost:9092").unwrap().resolve().unwrap();
        assert_eq!(
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.0.1:9092", "[::1]:9092"]
        );
        assert_eq!(
            HostPort::parse("127.0.0.1:5").unwrap().resolve().unwrap().len(),
            1
        );
    }

    #[test]
    fn names() {
        assert_eq!(split_named("IN=a:1").unwrap().0, "IN");
        assert_eq!(split_named("a:1").unwrap().0, DEFAULT_LISTENER);
        assert!(matches!(split_named("=a:1"), Err(HostPortError::BadName(_))));
        assert!(matches!(split_named("I N=a:1"), Err(HostPortError::BadName(_))));
    }
}
