//! What can go wrong between this client and a broker, told apart by what the caller does next.

use std::time::Duration;

use kafka_protocol::error::ParseResponseErrorCode;

/// A failed call. See each variant for what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made: nothing was sent. Try again later or at another address.
    #[error("cannot reach a broker at {address}: {detail}")]
    Unreachable {
        /// The address or addresses tried.
        address: String,
        /// What the operating system said.
        detail: String,
    },
    /// No answer in time. What was asked may or may not have been done.
    #[error("{address} did not answer {what} within {}", seconds(*.timeout))]
    TimedOut {
        /// The broker asked.
        address: String,
        /// What was asked.
        what: &'static str,
        /// The time allowed.
        timeout: Duration,
    },
    /// The connection ended before the answer. What was asked may or may not have been done.
    #[error("{address} closed the connection during {what}: {detail}")]
    Closed {
        /// The broker asked.
        address: String,
        /// What was asked.
        what: &'static str,
        /// What the operating system said.
        detail: String,
    },
    /// The peer's bytes are not an answer of the Kafka protocol. Give up on this address.
    #[error("{address} gave an answer to {what} that is not of the Kafka protocol: {detail}")]
    Malformed {
        /// The broker asked.
        address: String,
        /// What was asked.
        what: &'static str,
        /// What did not fit.
        detail: String,
    },
    /// The answer or the request is larger than the limit. Ask for less.
    #[error("{what} would take {size_bytes} bytes; the limit is {limit_bytes}")]
    TooLarge {
        /// What was asked.
        what: &'static str,
        /// The size announced.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The broker does not serve this request in a version this client speaks.
    #[error(
        "{address} does not serve {what} in a version that this client speaks (broker {broker}, client {client})"
    )]
    Unsupported {
        /// The broker asked.
        address: String,
        /// What was asked.
        what: &'static str,
        /// The broker's versions.
        broker: String,
        /// This client's versions.
        client: String,
    },
    /// The broker answered with an error code. [`ClientError::is_retriable`] tells whether to repeat.
    #[error("{subject}: {} ({code}): {}", code_name(*.code), .detail.as_deref().unwrap_or_else(|| explain(*.code)))]
    Broker {
        /// What the answer is about, such as `topic logs` or `logs-3`.
        subject: String,
        /// The Kafka error code.
        code: i16,
        /// The broker's own words, when it gave any.
        detail: Option<String>,
    },
    /// A setting or an argument is wrong. Correct it; nothing was sent.
    #[error("{0}")]
    Configuration(String),
}

impl ClientError {
    /// An error code of the broker about `subject`.
    pub fn broker(subject: impl Into<String>, code: i16, detail: Option<&str>) -> Self {
        let detail = detail.filter(|d| !d.is_empty()).map(str::to_owned);
        ClientError::Broker {
            subject: subject.into(),
            code,
            detail,
        }
    }

    /// The Kafka error code, when the broker answered with one.
    pub fn code(&self) -> Option<i16> {
        match self {
            ClientError::Broker { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// True when the same request may succeed later without any change.
    pub fn is_retriable(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } | ClientError::Closed { .. } => {
                true
            }
            ClientError::Broker { code, .. } => is_retriable_code(*code),
            _ => false,
        }
    }

    /// True when no broker could be talked to (as opposed to a broker that said no).
    pub fn is_connection(&self) -> bool {
        matches!(
            self,
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } | ClientError::Closed { .. }
        )
    }

    /// True when the request may have been carried out although no answer came.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            ClientError::TimedOut { .. }
                | ClientError::Closed { .. }
                | ClientError::Malformed { .. }
                | ClientError::Broker { code: 7, .. }
        )
    }
}

/// Kafka's name of an error code, such as `UNKNOWN_TOPIC_OR_PARTITION`.
pub fn code_name(code: i16) -> String {
    match code.err() {
        None => "NONE".to_owned(),
        Some(error) => screaming_snake(&format!("{error:?}")),
    }
}

/// True for the codes after which Kafka clients repeat the same request.
pub fn is_retriable_code(code: i16) -> bool {
    // 2 corrupt message, 3 unknown topic or partition, 5 leader not available, 6 not leader,
    // 7 request timed out, 9 replica not available, 13 network, 14-16 coordinator, 19-20 not enough
    // replicas, 41 not controller, 56 storage, 74 fenced epoch, 75 unknown epoch, 100 unknown id.
    matches!(
        code,
        2 | 3 | 5 | 6 | 7 | 9 | 13 | 14 | 15 | 16 | 19 | 20 | 41 | 56 | 74 | 75 | 100
    )
}

fn screaming_snake(camel: &str) -> String {
    let mut name = String::with_capacity(camel.len() + 8);
    for (at, letter) in camel.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// What a code means, for an answer that has no words of its own.
fn explain(code: i16) -> &'static str {
    match code {
        1 => "the log does not hold this offset",
        2 => "the bytes do not match their checksum",
        3 => "there is no such topic or partition",
        5 | 6 => "the partition has no leader here at the moment",
        7 => "the broker did not finish in time; it may be done or not",
        10 => "the batch is larger than the topic allows",
        17 => "the name is not allowed",
        19 | 20 => "too few copies are in sync",
        29..=31 => "access is denied",
        35 => "the broker does not serve this version",
        36 => "there is such a topic already",
        37 => "the number of partitions is not allowed",
        41 => "this broker is not the controller",
        44 => "the topic's cleanup.policy does not contain delete",
        56 => "the broker's disk failed",
        87 => "the broker refused a record",
        _ => "the broker gave no reason",
    }
}

fn seconds(timeout: Duration) -> String {
    format!("{} s", timeout.as_millis() as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_kafka_gives_them() {
        assert_eq!(code_name(0), "NONE");
        assert_eq!(code_name(3), "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(code_name(36), "TOPIC_ALREADY_EXISTS");
    }

    #[test]
    fn a_broker_error_says_what_and_why() {
        let error = ClientError::broker("topic logs", 36, Some("it is there"));
        assert_eq!(
            error.to_string(),
            "topic logs: TOPIC_ALREADY_EXISTS (36): it is there"
        );
        assert!(!error.is_retriable());
        assert!(ClientError::broker("logs-0", 6, None).is_retriable());
        assert_eq!(
            ClientError::broker("topic logs", 3, None).to_string(),
            "topic logs: UNKNOWN_TOPIC_OR_PARTITION (3): there is no such topic or partition"
        );
    }

    #[test]
    fn a_lost_connection_leaves_the_outcome_unknown() {
        let lost = ClientError::Closed {
            address: "a:1".into(),
            what: "Produce",
            detail: "reset".into(),
        };
        assert!(lost.is_outcome_unknown() && lost.is_connection());
        let refused = ClientError::Unreachable {
            address: "a:1".into(),
            detail: "refused".into(),
        };
        assert!(!refused.is_outcome_unknown() && refused.is_connection());
    }
}
