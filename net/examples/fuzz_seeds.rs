//! Writes the seeds of the fuzz targets: `cargo run -p tidelog-net --example fuzz_seeds -- DIRECTORY`.
//!
//! One folder per target: every message of the field tables by its name, `frame` and `batch`. The seeds
//! of a message are the samples that the round-trip tests use, in every version.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Sample, request_frame, response_frame};
use std::path::{Path, PathBuf};
use std::{env, fs, io, process};
use tidelog_net::frame::encode_frame;
use tidelog_net::records::{BatchBuilder, Compression};
use tidelog_net::walker::{self, Message};

const SAMPLES: [(Sample, &str); 4] = [
    (Sample::Full, "full"),
    (Sample::Empty, "empty"),
    (Sample::UnknownTags, "unknown-tags"),
    (Sample::KnownTags, "known-tags"),
];

fn main() {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: fuzz_seeds DIRECTORY");
        process::exit(2);
    };
    if let Err(error) = write_all(&directory) {
        eprintln!("cannot write the seeds into {}: {error}", directory.display());
        process::exit(1);
    }
}

fn write_all(directory: &Path) -> io::Result<()> {
    for message in walker::REQUESTS {
        write_message(directory, message, |version, sample| {
            request_frame(message, version, sample).to_vec()
        })?;
    }
    for message in walker::RESPONSES {
        write_message(directory, message, |version, sample| {
            let mut seed = message.key.code().to_be_bytes().to_vec();
            seed.extend_from_slice(&version.to_be_bytes());
            seed.extend_from_slice(&response_frame(message, version, sample));
            seed
        })?;
    }
    write_frames(directory)?;
    write_batches(directory)
}

fn write_message(
    directory: &Path,
    message: &Message,
    seed: impl Fn(i16, Sample) -> Vec<u8>,
) -> io::Result<()> {
    for version in message.min..=message.max {
        for (sample, name) in SAMPLES {
            let file = format!("v{version}-{name}");
            write(directory, message.name, &file, &seed(version, sample))?;
        }
    }
    Ok(())
}

/// The first byte says in pieces of how many bytes the rest arrives.
fn write_frames(directory: &Path) -> io::Result<()> {
    for message in walker::REQUESTS {
        let frame = request_frame(message, message.max, Sample::Full);
        let wire = encode_frame(&frame).map_err(io::Error::other)?;
        let stream = [&[7], &wire[..], &wire[..]].concat();
        write(directory, "frame", message.name, &stream)?;
    }
    write(directory, "frame", "http", b"\x04GET / HTTP/1.1\r\n\r\n")
}

fn write_batches(directory: &Path) -> io::Result<()> {
    for compression in Compression::ALL {
        let mut builder = BatchBuilder::new(compression).with_producer(7, 1, 0);
        for number in 0..10u8 {
            let value = [number; 40];
            builder
                .append(
                    number.into(),
                    Some(b"key"),
                    Some(&value),
                    &[("h", Some(b"v")), ("n", None)],
                )
                .map_err(io::Error::other)?;
        }
        let batch = builder.build().map_err(io::Error::other)?;
        write(directory, "batch", &format!("{compression:?}"), &batch)?;
        write(
            directory,
            "batch",
            &format!("{compression:?}-twice"),
            &[&batch[..], &batch[..]].concat(),
        )?;
    }
    Ok(())
}

fn write(directory: &Path, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = directory.join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}
