//! Record batches: checks, decompression with a cap, records.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidelog_fuzz::checks::check_batches;

fuzz_target!(|input: &[u8]| check_batches(input));
