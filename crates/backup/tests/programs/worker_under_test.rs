//! The worker's role and that of a server that we run, and nothing else, so that their tests need no other crate's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((word, rest)) if word == "database-server" => {
            seaworthy_backup::managed::main(rest).into()
        }
        _ => seaworthy_backup::worker::main().into(),
    }
}
