//! The bytes that the bare servers of the `perf` room speak: what is left of a broker without a broker.
//!
//! Every message is a 4-byte big-endian size of what follows, then a 4-byte correlation id.
//!
//! | message | at | size | field |
//! |---|---|---|---|
//! | append request | 8 | 4 | file number |
//! | | 12 | | a record batch, whose CRC-32C the server checks |
//! | append answer | | 32 | the whole answer; the rest is zero |
//! | read request | 8 | 4 | file number |
//! | | 12 | 8 | position in the file |
//! | | 20 | 4 | bytes wanted |
//! | read answer | 8 | | the bytes |
//! | echo request | | 128 | the whole request |
//! | echo answer | | 64 | the whole answer |

/// Bytes of size and correlation id, which every message begins with.
pub const HEAD_BYTES: usize = 8;
/// Bytes in front of the batch of an append request.
pub const APPEND_HEAD_BYTES: usize = 12;
/// A whole append answer.
pub const APPEND_ANSWER_BYTES: usize = 32;
/// A whole read request.
pub const READ_REQUEST_BYTES: usize = 24;
/// A whole echo request.
pub const ECHO_REQUEST_BYTES: usize = 128;
/// A whole echo answer.
pub const ECHO_ANSWER_BYTES: usize = 64;
/// Bytes of each file that a read server holds.
pub const READ_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The head of a message of `total_bytes`, all of them counted.
///
/// # Panics
/// When the message is larger than a frame can say.
pub fn head(total_bytes: usize, correlation_id: i32) -> [u8; HEAD_BYTES] {
    let size = i32::try_from(total_bytes - 4).expect("a message fits a frame");
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&size.to_be_bytes());
    head[4..].copy_from_slice(&correlation_id.to_be_bytes());
    head
}

/// A read request.
pub fn read_request(correlation_id: i32, file: u32, position: u64, bytes: u32) -> [u8; READ_REQUEST_BYTES] {
    let mut request = [0; READ_REQUEST_BYTES];
    request[..HEAD_BYTES].copy_from_slice(&head(READ_REQUEST_BYTES, correlation_id));
    request[8..12].copy_from_slice(&file.to_be_bytes());
    request[12..20].copy_from_slice(&position.to_be_bytes());
    request[20..].copy_from_slice(&bytes.to_be_bytes());
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_request_says_where_and_how_much() {
        let request = read_request(7, 3, 1 << 20, 512);
        assert_eq!(request[..4], 20i32.to_be_bytes());
        assert_eq!(request[4..8], 7i32.to_be_bytes());
        assert_eq!(request[8..12], 3u32.to_be_bytes());
        assert_eq!(request[12..20], (1u64 << 20).to_be_bytes());
        assert_eq!(request[20..], 512u32.to_be_bytes());
    }
}
