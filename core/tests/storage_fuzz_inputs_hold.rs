//! The inputs that the fuzz targets of the disk begin with, and every input that once broke one, on the
//! stable compiler and with every test run.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "../../fuzz/src/counting.rs"]
mod counting;
#[path = "../../fuzz/src/storage_checks.rs"]
mod storage_checks;
#[path = "../../fuzz/src/storage_seeds.rs"]
mod storage_seeds;

use std::fs;
use std::path::Path;
use storage_checks::{TARGETS, check};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

#[test]
fn every_seed_holds_and_so_do_its_beginnings_and_its_flipped_bits() {
    for (target, name, mut input) in storage_seeds::all() {
        assert!(check(target, &input), "{target}/{name}");
        for len in 0..input.len().min(200) {
            check(target, &input[..len]);
        }
        let step = (input.len() * 8 / 400).max(1);
        for bit in (8..input.len() * 8).step_by(step) {
            input[bit / 8] ^= 1 << (bit % 8);
            check(target, &input);
            input[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_target_has_seeds() {
    for target in TARGETS {
        assert!(!storage_seeds::seeds(target).is_empty(), "{target}");
    }
}

#[test]
fn committed_inputs_hold() {
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions-storage");
    let mut held = 0;
    let folders = fs::read_dir(inputs).expect("inputs are kept there, a folder for each target");
    for folder in folders.flatten() {
        let target = folder.file_name().into_string().unwrap();
        for file in fs::read_dir(folder.path()).unwrap().flatten() {
            let input = fs::read(file.path()).unwrap();
            assert!(
                check(&target, &input),
                "fuzz/regressions-storage/{target} is no target"
            );
            held += 1;
        }
    }
    assert!(held > 0, "an empty folder proves nothing");
}
