//! The long test; written further below.
fn main() {}
