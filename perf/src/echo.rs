//! 128 bytes in, 64 out: what a request costs when nothing is done for it.

use std::io;

use tidelog_bench::load::bare::{self, ECHO_ANSWER_BYTES, ECHO_REQUEST_BYTES};

use crate::server::{Output, Service};

/// Room for a whole window of requests.
pub const INPUT_BYTES: usize = 16 * 1024;

pub struct Echo;

impl Service for Echo {
    fn take(&mut self, _connection: usize, input: &[u8], output: &mut Output) -> io::Result<usize> {
        let requests = input.chunks_exact(ECHO_REQUEST_BYTES);
        let taken = requests.len() * ECHO_REQUEST_BYTES;
        for request in requests {
            let mut answer = [0; ECHO_ANSWER_BYTES];
            answer[..8].copy_from_slice(&bare::head(ECHO_ANSWER_BYTES, 0));
            answer[4..8].copy_from_slice(&request[4..8]);
            output.bytes.extend_from_slice(&answer);
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_requests_are_answered_with_their_ids() {
        let mut input = vec![0; ECHO_REQUEST_BYTES * 2 + 5];
        input[4..8].copy_from_slice(&7i32.to_be_bytes());
        input[ECHO_REQUEST_BYTES + 4..ECHO_REQUEST_BYTES + 8].copy_from_slice(&8i32.to_be_bytes());
        let mut output = Output::default();
        assert_eq!(Echo.take(0, &input, &mut output).unwrap(), 2 * ECHO_REQUEST_BYTES);
        assert_eq!(output.bytes.len(), 2 * ECHO_ANSWER_BYTES);
        assert_eq!(output.bytes[4..8], 7i32.to_be_bytes());
        assert_eq!(output.bytes[ECHO_ANSWER_BYTES + 4..][..4], 8i32.to_be_bytes());
    }
}
