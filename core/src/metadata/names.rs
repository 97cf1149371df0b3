//! Topic names: what is legal, what collides, what is reserved.

use super::error::{KafkaError, code};
use crate::limits::TOPIC_NAME_BYTES_MAX;

/// Checks 1-249 of `[a-zA-Z0-9._-]`, not `.` or `..`: INVALID_TOPIC_EXCEPTION otherwise.
pub fn check_topic_name(name: &str) -> Result<(), KafkaError> {
    let wrong = |reason: String| {
        Err(KafkaError::new(
            code::INVALID_TOPIC_EXCEPTION,
            format!("Topic name is invalid: {reason}"),
        ))
    };
    if name.is_empty() {
        return wrong("the empty string is not allowed".to_owned());
    }
    if name == "." || name == ".." {
        return wrong(format!("'{name}' is not allowed"));
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return wrong(format!(
            "the length is longer than the max allowed length {TOPIC_NAME_BYTES_MAX}"
        ));
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    {
        return wrong(format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ));
    }
    Ok(())
}

/// Two names with the same key collide: `.` and `_` are one in metric names.
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

/// Names that belong to the broker.
pub fn is_internal(name: &str) -> bool {
    matches!(
        name,
        "__consumer_offsets" | "__transaction_state" | "__share_group_state"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(check_topic_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert_eq!(
                check_topic_name(name).unwrap_err().code,
                code::INVALID_TOPIC_EXCEPTION,
                "{name}"
            );
        }
        assert_eq!(collision_key("a.b_c"), collision_key("a_b.c"));
        assert!(is_internal("__consumer_offsets") && !is_internal("orders"));
    }
}
