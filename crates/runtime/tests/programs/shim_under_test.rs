//! The shim's roles and nothing else, so that its tests need no other crate's binary.

use std::process::ExitCode;

use seaworthy_base::Exit;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("shim") => seaworthy_runtime::shim::main().into(),
        Some("compress-log") => {
            match arguments.get(2).map(|file| seaworthy_sys::logfile::compress(file.as_ref())) {
                Some(Ok(())) => Exit::Ok.into(),
                _ => Exit::Internal.into(),
            }
        }
        _ => Exit::Usage.into(),
    }
}
