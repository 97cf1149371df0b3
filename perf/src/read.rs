//! Gathered sends from mapped files: what a hot fetch costs when nothing has to be found.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use memmap2::Mmap;
use tidelog_bench::load::bare::{self, HEAD_BYTES, READ_FILE_BYTES, READ_REQUEST_BYTES};

use crate::files::fill;
use crate::server::{Output, Service};

/// One request at a time.
pub const INPUT_BYTES: usize = 4096;

pub struct Read {
    maps: Vec<&'static [u8]>,
}

impl Read {
    /// Writes `count` files into `dir` and maps them for as long as the process lives.
    pub fn new(dir: &Path, count: u32) -> io::Result<Self> {
        let mut maps: Vec<&'static [u8]> = Vec::new();
        for number in 0..count {
            let path = dir.join(format!("read-{number}"));
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?;
            fill(&file, READ_FILE_BYTES)?;
            // SAFETY: the file is this process's own and is not written or cut again.
            let map = unsafe { Mmap::map(&file)? };
            // Pages are mapped before the first send.
            let _ = map.advise(memmap2::Advice::PopulateRead);
            maps.push(Box::leak(Box::new(map)));
        }
        Ok(Self { maps })
    }
}

impl Service for Read {
    fn take(&mut self, _connection: usize, input: &[u8], output: &mut Output) -> io::Result<usize> {
        let Some(request) = input.first_chunk::<READ_REQUEST_BYTES>() else {
            return Ok(0);
        };
        if !output.mapped.is_empty() {
            return Ok(0);
        }
        let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, rest @ ..] = *request;
        let [p0, p1, p2, p3, p4, p5, p6, p7, n0, n1, n2, n3] = rest;
        let file = u32::from_be_bytes([f0, f1, f2, f3]) as usize;
        let position = u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]) as usize;
        let len = u32::from_be_bytes([n0, n1, n2, n3]) as usize;
        let piece = self
            .maps
            .get(file)
            .and_then(|map| map.get(position..position.checked_add(len)?));
        output.mapped = piece.ok_or_else(|| io::Error::other("a read outside of the files"))?;
        let id = i32::from_be_bytes([i0, i1, i2, i3]);
        output.bytes.extend_from_slice(&bare::head(HEAD_BYTES + len, id));
        Ok(READ_REQUEST_BYTES)
    }
}
