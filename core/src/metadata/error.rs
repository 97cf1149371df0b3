//! The error codes that admin requests answer with (numbers are the wire crate's table), and a code with its message.

/// The codes, by Kafka's names.
pub mod code {
    use tidelog_net::ErrorCode;

    /// No error.
    pub const NONE: i16 = ErrorCode::None.code();
    /// The topic or partition does not exist.
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = ErrorCode::UnknownTopicOrPartition.code();
    /// The name is illegal, reserved or collides.
    pub const INVALID_TOPIC_EXCEPTION: i16 = ErrorCode::InvalidTopicException.code();
    /// The topic exists.
    pub const TOPIC_ALREADY_EXISTS: i16 = ErrorCode::TopicAlreadyExists.code();
    /// The partition count is illegal.
    pub const INVALID_PARTITIONS: i16 = ErrorCode::InvalidPartitions.code();
    /// The replication factor is illegal or cannot be reached.
    pub const INVALID_REPLICATION_FACTOR: i16 = ErrorCode::InvalidReplicationFactor.code();
    /// The manual assignment is illegal.
    pub const INVALID_REPLICA_ASSIGNMENT: i16 = ErrorCode::InvalidReplicaAssignment.code();
    /// A configuration is unknown or illegal.
    pub const INVALID_CONFIG: i16 = ErrorCode::InvalidConfig.code();
    /// The request makes no sense.
    pub const INVALID_REQUEST: i16 = ErrorCode::InvalidRequest.code();
    /// A limit of this broker.
    pub const POLICY_VIOLATION: i16 = ErrorCode::PolicyViolation.code();
    /// No topic has this id.
    pub const UNKNOWN_TOPIC_ID: i16 = ErrorCode::UnknownTopicId.code();
}

use crate::limits::ERROR_MESSAGE_BYTES_MAX;

/// An error to be sent to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (error {code})")]
pub struct KafkaError {
    /// Kafka's error code.
    pub code: i16,
    /// Message for people.
    pub message: String,
}

impl KafkaError {
    /// A code with its message, cut to [`ERROR_MESSAGE_BYTES_MAX`]: it may quote what the client sent, and
    /// a string on the wire holds at most 32,767 bytes.
    pub fn new(code: i16, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > ERROR_MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX));
        }
        KafkaError { code, message }
    }
}

impl From<crate::topic_config::ConfigError> for KafkaError {
    fn from(error: crate::topic_config::ConfigError) -> Self {
        KafkaError::new(code::INVALID_CONFIG, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = KafkaError::new(code::INVALID_CONFIG, "\u{20ac}".repeat(30_000));
        assert_eq!(
            (error.code, error.message.len()),
            (40, ERROR_MESSAGE_BYTES_MAX / 3 * 3)
        );
        assert!(error.message.chars().all(|c| c == '\u{20ac}'));
    }
}
