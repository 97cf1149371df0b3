//! Cutting a stream of bytes into frames.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidelog_fuzz::checks::check_frames;

fuzz_target!(|input: &[u8]| check_frames(input));
