//! How results and failures look to people.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use anstyle::{AnsiColor, Style};
use seaworthy_api::ClientError;
use seaworthy_base::{Code, Exit, Fault};

/// What a verb fails with: the fault and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    pub(crate) exit: Exit,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let exit = match fault.code {
            Code::Internal => Exit::Internal,
            Code::ControlNotRunning => Exit::NotRunning,
            _ => Exit::UserFixable,
        };
        Self { fault, exit }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        error.to_fault().into()
    }
}

/// An I/O failure of ours while doing `what`.
pub(crate) fn io_failure(what: &str, error: &std::io::Error) -> Failure {
    Failure {
        fault: Fault::new(Code::Internal, what).because(error.to_string()),
        exit: Exit::Internal,
    }
}

const RED: Style = AnsiColor::Red.on_default().bold();
const GREEN: Style = AnsiColor::Green.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Whether standard error shows colours.
pub(crate) fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints to standard output; a reader that went away is no failure.
pub(crate) fn print(text: &str) {
    anstream::stdout().write_all(text.as_bytes()).ok();
}

/// `1 route`, `2 routes`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Prints to standard error.
pub(crate) fn talk(text: &str) {
    anstream::stderr().write_all(format!("{text}\n").as_bytes()).ok();
}

/// Shows a failure and returns its exit code.
pub(crate) fn fail(failure: &Failure) -> Exit {
    talk(show(&failure.fault, "error", RED).trim_end());
    failure.exit
}

/// A warning on standard error.
pub(crate) fn warn(fault: &Fault) {
    talk(show(fault, "warning", YELLOW).trim_end());
}

/// `error: what (code)`, causes, evidence, and the next command.
fn show(fault: &Fault, word: &str, style: Style) -> String {
    let mut out = String::new();
    let _infallible =
        writeln!(out, "{style}{word}:{style:#} {} {DIM}({}){DIM:#}", fault.what, fault.code);
    for cause in &fault.causes {
        let _infallible = writeln!(out, "  caused by: {cause}");
    }
    for line in &fault.evidence {
        let _infallible = writeln!(out, "  {DIM}|{DIM:#} {line}");
    }
    for step in &fault.next {
        let _infallible = writeln!(out, "{GREEN}hint:{GREEN:#} {step}");
    }
    out
}

/// A fault inside a listing: indented, the same parts.
pub(crate) fn fault_lines(fault: &Fault, indent: &str) -> String {
    let mut out = String::new();
    let _infallible = writeln!(out, "{indent}{RED}{}{RED:#} {}", fault.code, fault.what);
    for cause in &fault.causes {
        let _infallible = writeln!(out, "{indent}  caused by: {cause}");
    }
    for line in &fault.evidence {
        let _infallible = writeln!(out, "{indent}  {DIM}|{DIM:#} {line}");
    }
    for step in &fault.next {
        let _infallible = writeln!(out, "{indent}  {GREEN}hint:{GREEN:#} {step}");
    }
    out
}

/// A document as JSON on standard output.
pub(crate) fn json(document: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(document).unwrap_or_default();
    print(&format!("{text}\n"));
}

/// The colour of an instance's state.
pub(crate) fn state_style(state: &str) -> Style {
    match state {
        "ready" => GREEN,
        "starting" | "draining" | "stopping" => YELLOW,
        "stopped" => DIM,
        _ => RED,
    }
}
