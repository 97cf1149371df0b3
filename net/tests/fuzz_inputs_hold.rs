//! The inputs that the fuzz targets begin with, and every input that once broke one, on the stable
//! compiler: nothing panics and nothing takes more memory than its frame allows.

#[path = "../../fuzz/src/checks.rs"]
mod checks;
mod common;
#[path = "../../fuzz/src/counting.rs"]
mod counting;

use checks::{check_batches, check_frames, check_message, message};
use common::{Sample, request_frame, response_frame};
use counting::Counting;
use std::fs;
use std::path::{Path, PathBuf};
use tidelog_net::walker;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn regressions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions")
}

fn replay(target: &str, input: &[u8]) {
    match target {
        "frame" => check_frames(input),
        "batch" => check_batches(input),
        name => match message(name) {
            Some(message) => check_message(message, input),
            None => panic!("fuzz/regressions/{name} is no target: it must be a message, frame or batch"),
        },
    }
}

#[test]
fn committed_inputs_hold() {
    let mut replayed = 0;
    for folder in fs::read_dir(regressions()).expect("fuzz/regressions").flatten() {
        if !folder.path().is_dir() {
            continue;
        }
        let target = folder.file_name().into_string().expect("a name of ASCII");
        for file in fs::read_dir(folder.path()).expect("a folder of inputs").flatten() {
            replay(&target, &fs::read(file.path()).expect("an input"));
            replayed += 1;
        }
    }
    assert!(replayed > 0, "fuzz/regressions holds no input");
}

#[test]
fn seeds_hold() {
    for message in walker::REQUESTS.iter().chain(walker::RESPONSES) {
        for version in message.min..=message.max {
            for sample in [
                Sample::Full,
                Sample::Empty,
                Sample::UnknownTags,
                Sample::KnownTags,
            ] {
                if message.name.ends_with("Request") {
                    check_message(message, &request_frame(message, version, sample));
                } else {
                    let mut input = message.key.code().to_be_bytes().to_vec();
                    input.extend_from_slice(&version.to_be_bytes());
                    input.extend_from_slice(&response_frame(message, version, sample));
                    check_message(message, &input);
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "bytes held instead of")]
fn more_than_the_bound_is_told() {
    checks::assert_within(
        checks::CONSTANT_BYTES + 1,
        checks::CONSTANT_BYTES,
        &bytes::Bytes::new(),
    );
}
