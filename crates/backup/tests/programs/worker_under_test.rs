//! The worker's role and nothing else, so that its tests need no other crate's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    seaworthy_backup::worker::main().into()
}
