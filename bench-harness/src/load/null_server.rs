//! A server that does nothing: it hops over requests and answers each with the same bytes.
//!
//! What the generator reaches against it is the generator's own ceiling. One thread for each connection;
//! the threads end when their connections close.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use bytes::Bytes;

use super::LoadError;
use crate::limits::{FRAME_BYTES_MAX, LOAD_CONNECTIONS_MAX};

const READ_BYTES: usize = 256 * 1024;

/// Serves on a free port of this machine and returns its address.
///
/// `answer` is a whole frame; the correlation id of the request is put at byte 4. It is found at byte
/// `correlation_at` of the request.
pub fn start(answer: Bytes, correlation_at: usize) -> Result<SocketAddr, LoadError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(LoadError::io("listening"))?;
    let address = listener.local_addr().map_err(LoadError::io("listening"))?;
    thread::spawn(move || {
        for stream in listener.incoming().take(LOAD_CONNECTIONS_MAX) {
            let Ok(stream) = stream else { return };
            let answer = answer.clone();
            // An error here is the end of that connection, which the generator reports.
            thread::spawn(move || serve(stream, &answer, correlation_at));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, answer: &Bytes, correlation_at: usize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let head_bytes = correlation_at + 4;
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    // Bytes of the current request that are still to come and are only thrown away, and its id.
    let mut to_skip = 0;
    let mut owed: Option<[u8; 4]> = None;
    let mut answers = Vec::new();
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut at = 0;
        loop {
            let skipped = to_skip.min(filled - at);
            at += skipped;
            to_skip -= skipped;
            if to_skip > 0 {
                break;
            }
            if let Some(id) = owed.take() {
                let answer_at = answers.len();
                answers.extend_from_slice(answer);
                answers[answer_at + 4..answer_at + 8].copy_from_slice(&id);
            }
            let Some(head) = buffer[at..filled].get(..head_bytes) else {
                break;
            };
            let (Some(size), Some(id)) = (head.first_chunk::<4>(), head.last_chunk::<4>()) else {
                break;
            };
            to_skip = match tidelog_net::frame::parse_size(size, FRAME_BYTES_MAX) {
                Ok(size) => (size + 4).saturating_sub(head_bytes),
                Err(error) => return Err(std::io::Error::other(error)),
            };
            owed = Some(*id);
            at += head_bytes;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        stream.write_all(&answers)?;
        answers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::pipeline::{self, Goal};
    use crate::load::template::{Batch, Template};
    use crate::load::topic;

    #[test]
    fn the_generator_drives_it_with_small_and_large_requests() {
        for (batch_bytes, in_flight, connections) in [(100, 16, 8), (64 * 1024, 4, 2), (1 << 20, 3, 1)] {
            let batch = Batch::of_records(100, batch_bytes).expect("fine");
            let templates: Vec<Template> = (0..3).map(|n| Template::bare_append(n, &batch)).collect();
            let answer = templates[0].canned_answer("").expect("fine");
            let address = start(answer, 4).expect("a free port").to_string();
            let streams = topic::connect(&address, connections).expect("it listens");
            let goal = Goal {
                requests: Some(100),
                duration: None,
            };
            let (work, times) = pipeline::run(streams, &templates, in_flight, goal).expect("no error");
            assert_eq!((work.requests, times.len()), (100, 100));
            assert_eq!(work.records, 100 * batch.records);
            assert_eq!(work.bytes, 100 * batch.bytes.len() as u64);
        }
    }
}
