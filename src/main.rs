//! The `sidetrack` binary.
fn main() {}
