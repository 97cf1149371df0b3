//! `tidelog`: the command line.
fn main() {}
