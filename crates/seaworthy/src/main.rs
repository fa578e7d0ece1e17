//! The binary: one program, several roles. The role is looked at first, before anything is initialised.
//!
//! `shim`, `edge`, `control`, `backup-worker`, `acme-worker`, `database-server`, `hold-scope` and
//! `compress-log` are started by ourselves; everything else is a verb of
//! the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use seaworthy_api::Layout;
use seaworthy_base::Exit;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let rest = arguments.get(2..).unwrap_or_default();
    match arguments.get(1).map(String::as_str) {
        Some("shim") => seaworthy_runtime::shim::main().into(),
        Some("edge") => edge(rest).into(),
        Some("control") => control(rest).into(),
        Some("hold-scope") => seaworthy_control::scope::main().into(),
        Some("probe") => seaworthy_control::probe::main().into(),
        Some("backup-worker") => seaworthy_backup::worker::main().into(),
        Some("acme-worker") => seaworthy_acme::worker::main().into(),
        Some("database-server") => seaworthy_backup::managed::main(rest).into(),
        Some("compress-log") => compress(rest).into(),
        _ => seaworthy_cli::main(),
    }
}

/// The word after `name`.
fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

fn control(arguments: &[String]) -> Exit {
    let root = seaworthy_sys::process::current_uid() == 0;
    let layout = Layout::find(option(arguments, "--state").map(PathBuf::from).as_deref(), root);
    let Ok(program) = std::env::current_exe() else { return Exit::Internal };
    if arguments.iter().any(|argument| argument == "--keep") {
        return seaworthy_control::keeper::main(&layout, &program);
    }
    seaworthy_control::main(layout, program)
}

fn edge(arguments: &[String]) -> Exit {
    let number = |name: &str| option(arguments, name).and_then(|text| text.parse().ok());
    let user = option(arguments, "--user")
        .and_then(|text| text.split_once(':'))
        .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    let options = seaworthy_edge::EdgeOptions {
        number: number("--number").unwrap_or(0),
        threads: number("--threads").unwrap_or(1) as u16,
        log_dir: option(arguments, "--log-dir").map(PathBuf::from).unwrap_or_default(),
        public: option(arguments, "--public").map(PathBuf::from).unwrap_or_default(),
        unix_sockets: arguments.iter().any(|argument| argument == "--unix-sockets"),
        sockets: option(arguments, "--sockets").map(PathBuf::from),
        user,
    };
    match seaworthy_edge::main(&options) {
        Ok(()) => Exit::Ok,
        Err(error) => complain("edge", &error),
    }
}

fn compress(arguments: &[String]) -> Exit {
    // It may take as long as it likes; what serves goes first. Refused, it only competes.
    seaworthy_sys::process::yield_to_others();
    match arguments.first().map(|file| seaworthy_sys::logfile::compress(file.as_ref())) {
        Some(Ok(())) => Exit::Ok,
        Some(Err(error)) => complain("compress-log", &error),
        None => Exit::Usage,
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a role without a log of its own complains where its parent listens"
)]
fn complain(role: &str, error: &std::io::Error) -> Exit {
    eprintln!("{role}: {error}");
    Exit::Internal
}
