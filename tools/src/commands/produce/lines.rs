//! Input to lines: a thread that reads chunks, and the cutting of chunks into lines.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

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
    pending: Vec<u8>,
    /// Where the next line begins; what lies before it was given out.
    start: usize,
    /// Up to here there is no newline after `start`.
    searched: usize,
}

impl LineSplitter {
    /// Adds a chunk. Fails when a line is longer than any broker takes.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        self.pending.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
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
    pub fn next_line(&mut self) -> Option<&[u8]> {
        let mut fresh = self.pending.get(self.searched..)?;
        // Reading from a slice cannot fail; this is the standard library's fast search.
        self.searched += fresh.skip_until(b'\n').unwrap_or_default();
        let (line, newline) = self
            .pending
            .get(self.start..self.searched)?
            .split_last_chunk::<1>()?;
        if newline != b"\n" {
            return None;
        }
        self.start = self.searched;
        Some(line)
    }

    /// What is left after the last newline.
    pub fn finish(&mut self) -> Option<&[u8]> {
        let rest = self.pending.get(self.start..).filter(|rest| !rest.is_empty());
        self.start = self.pending.len();
        self.searched = self.start;
        rest
    }
}

/// Splits a line at the first delimiter; without one the whole line is the value.
pub fn split_key<'a>(line: &'a [u8], delimiter: &[u8]) -> (Option<&'a [u8]>, &'a [u8]) {
    let place = line
        .windows(delimiter.len().max(1))
        .position(|window| window == delimiter);
    let split = place.and_then(|at| Some((line.get(..at)?, line.get(at + delimiter.len()..)?)));
    match split {
        Some((key, value)) => (Some(key), value),
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
                while let Some(line) = splitter.next_line() {
                    lines.push(line.to_vec());
                }
            }
            lines.extend(splitter.finish().map(<[u8]>::to_vec));
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
        assert_eq!(split_key(b"a:b:c", b":"), (Some(&b"a"[..]), &b"b:c"[..]));
        assert_eq!(split_key(b"a::b", b"::"), (Some(&b"a"[..]), &b"b"[..]));
        assert_eq!(split_key(b":b", b":"), (Some(&b""[..]), &b"b"[..]));
        assert_eq!(split_key(b"abc", b":"), (None, &b"abc"[..]));
        assert_eq!(split_key(b"", b":"), (None, &b""[..]));
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
