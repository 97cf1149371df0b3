//! Input to lines: a thread that reads chunks, and the cutting of chunks into lines.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use bytes::{Bytes, BytesMut};

use crate::failure::{FAILED, Failure};
use crate::limits::{INPUT_CHUNK_BYTES, INPUT_CHUNKS_MAX, LINE_BYTES_MAX};

/// Starts reading `file` or stdin. The channel ends with the input, or after an error.
pub fn start_reader(file: Option<&Path>) -> Result<Receiver<io::Result<Vec<u8>>>, Failure> {
    let input: Box<dyn Read + Send> = match file {
        Some(path) => Box::new(
            File::open(path)
                .map_err(|e| Failure::new(FAILED, format!("cannot open {}: {e}", path.display())))?,
        ),
        None => Box::new(io::stdin()),
    };
    let (sender, receiver) = sync_channel(INPUT_CHUNKS_MAX);
    let read = move || read_chunks(input, |chunk| sender.send(chunk).is_ok());
    thread::Builder::new()
        .name("input".to_owned())
        .spawn(read)
        .map_err(|e| Failure::new(FAILED, format!("cannot start a thread: {e}")))?;
    Ok(receiver)
}

/// Hands over what each read gives, at once, until the end, an error, or nobody listens.
fn read_chunks(mut input: impl Read, mut hand_over: impl FnMut(io::Result<Vec<u8>>) -> bool) {
    loop {
        let mut chunk = vec![0; INPUT_CHUNK_BYTES];
        match input.read(&mut chunk) {
            Ok(0) => return,
            Ok(n) => {
                chunk.truncate(n);
                if !hand_over(Ok(chunk)) {
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                hand_over(Err(e));
                return;
            }
        }
    }
}

/// Cuts chunks into lines. A line ends with `\n`, which is not part of it; `\r` is.
#[derive(Debug, Default)]
pub struct LineSplitter {
    pending: BytesMut,
    searched: usize,
}

impl LineSplitter {
    /// Adds a chunk. Fails when a line is longer than any broker takes.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        if self.pending.len() + chunk.len() > LINE_BYTES_MAX {
            return Err(Failure::new(
                FAILED,
                format!("a line is longer than {LINE_BYTES_MAX} bytes"),
            ));
        }
        self.pending.extend_from_slice(chunk);
        Ok(())
    }

    /// The next whole line.
    pub fn next_line(&mut self) -> Option<Bytes> {
        let fresh = self.pending.get(self.searched..)?;
        match fresh.iter().position(|b| *b == b'\n') {
            Some(at) => {
                let mut line = self.pending.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                Some(line.freeze())
            }
            None => {
                self.searched = self.pending.len();
                None
            }
        }
    }

    /// What is left after the last newline.
    pub fn finish(&mut self) -> Option<Bytes> {
        self.searched = 0;
        let rest = self.pending.split();
        (!rest.is_empty()).then(|| rest.freeze())
    }
}

/// Splits a line at the first delimiter; without one the whole line is the value.
pub fn split_key(line: Bytes, delimiter: &[u8]) -> (Option<Bytes>, Bytes) {
    match line
        .windows(delimiter.len())
        .position(|window| window == delimiter)
    {
        Some(at) => (Some(line.slice(..at)), line.slice(at + delimiter.len()..)),
        None => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_the_input_is_cut() {
        let text = b"one\n\ntwo\r\nlast";
        for size in 1..=text.len() {
            let mut splitter = LineSplitter::default();
            let mut lines = Vec::new();
            for chunk in text.chunks(size) {
                splitter.push(chunk).expect("short");
                lines.extend(std::iter::from_fn(|| splitter.next_line()));
            }
            lines.extend(splitter.finish());
            assert_eq!(lines, [&b"one"[..], b"", b"two\r", b"last"], "chunks of {size}");
            assert_eq!(splitter.finish(), None);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut splitter = LineSplitter::default();
        let chunk = vec![b'x'; LINE_BYTES_MAX / 2];
        splitter.push(&chunk).expect("half");
        splitter.push(&chunk).expect("full");
        assert!(
            splitter
                .push(b"x")
                .expect_err("too long")
                .message()
                .contains("line")
        );
    }

    #[test]
    fn a_key_ends_at_the_first_delimiter() {
        let split =
            |line: &'static str, by: &str| split_key(Bytes::from_static(line.as_bytes()), by.as_bytes());
        assert_eq!(split("a:b:c", ":"), (Some("a".into()), "b:c".into()));
        assert_eq!(split("a::b", "::"), (Some("a".into()), "b".into()));
        assert_eq!(split(":b", ":"), (Some("".into()), "b".into()));
        assert_eq!(split("abc", ":"), (None, "abc".into()));
    }

    #[test]
    fn reading_stops_when_nobody_listens() {
        let mut chunks = 0;
        read_chunks(io::repeat(b'x'), |chunk| {
            assert_eq!(chunk.expect("memory").len(), INPUT_CHUNK_BYTES);
            chunks += 1;
            chunks < 3
        });
        assert_eq!(chunks, 3);
    }
}
