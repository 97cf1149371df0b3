//! One structure of the disk, named by `TIDELOG_FUZZ_STRUCTURE`, such as `checkpoint`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tidelog_fuzz::storage_checks::{TARGETS, check};

static TARGET: LazyLock<String> = LazyLock::new(|| {
    let name = std::env::var("TIDELOG_FUZZ_STRUCTURE").unwrap_or_default();
    assert!(
        TARGETS.contains(&name.as_str()),
        "TIDELOG_FUZZ_STRUCTURE is {name:?}; set it to one of {TARGETS:?}"
    );
    name
});

fuzz_target!(|input: &[u8]| {
    assert!(check(&TARGET, input), "a target of the list is served");
});
