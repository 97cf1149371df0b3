//! One message of the field tables, named by `TIDELOG_FUZZ_MESSAGE`, such as `FetchRequest`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tidelog_fuzz::checks::{check_message, message};
use tidelog_net::walker::Message;

static MESSAGE: LazyLock<&'static Message> = LazyLock::new(|| {
    let name = std::env::var("TIDELOG_FUZZ_MESSAGE").unwrap_or_default();
    message(&name).unwrap_or_else(|| {
        panic!("TIDELOG_FUZZ_MESSAGE is {name:?}; set it to a message such as FetchRequest")
    })
});

fuzz_target!(|input: &[u8]| check_message(&MESSAGE, input));
