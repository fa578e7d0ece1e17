//! Long work on the screen: what is being done, what it prints, and how it ended.

use std::cell::Cell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use seaworthy_api::model::{Applied, Asker, Progress};
use seaworthy_base::{Code, Fault};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::render::{self, Failure};

/// A line that moves on a terminal; plain lines elsewhere.
#[derive(Debug)]
pub(crate) struct Screen {
    line: ProgressBar,
    /// Whether others go first: nothing of it has begun.
    waits: Cell<bool>,
}

/// How a step begins that is none: another deployment goes first.
const WAITING: &str = "waiting: ";
/// Said when who waits for others gives up.
const NOT_BEGUN: &str =
    "interrupted while it waited for its turn: nothing was begun, and nothing will be";

impl Screen {
    pub(crate) fn new() -> Self {
        let spinner = ProgressBar::new_spinner();
        spinner.set_style(ProgressStyle::default_spinner());
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self { line: spinner, waits: Cell::new(false) }
    }

    pub(crate) fn show(&self, progress: &Progress) {
        match progress {
            Progress::Step { text } => {
                self.waits.set(text.starts_with(WAITING));
                self.line.set_message(text.clone());
                if self.line.is_hidden() {
                    render::talk(text);
                }
            }
            Progress::Output { line } => self.line.suspend(|| render::talk(&format!("  {line}"))),
            Progress::Warning { fault } => self.line.suspend(|| render::warn(fault)),
            Progress::Done(_) | Progress::Failed { .. } => {}
        }
    }

    pub(crate) fn clear(&self) {
        self.line.finish_and_clear();
    }
}

/// A signal from here on: one that comes while nobody waits is found by who waits next.
pub(crate) fn on(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| render::io_failure("could not wait for signals", &error))
}

/// Shows work until it has ended; none when Ctrl-C was pressed: then it goes on without who asked, and
/// `interrupted` says so.
pub(crate) async fn follow(
    screen: &Screen,
    work: impl Future<Output = Result<Progress, Failure>>,
    interrupted: &str,
) -> Result<Option<Applied>, Failure> {
    let ended = tokio::select! {
        ended = work => ended?,
        _ = tokio::signal::ctrl_c() => {
            screen.clear();
            render::talk(if screen.waits.get() { NOT_BEGUN } else { interrupted });
            return Ok(None);
        }
    };
    screen.clear();
    done(ended).map(Some)
}

/// What the last line of an answer comes to.
fn done(ended: Progress) -> Result<Applied, Failure> {
    match ended {
        Progress::Done(applied) => Ok(applied),
        Progress::Failed { fault } => Err(fault.into()),
        _ => Err(Fault::new(Code::ControlCutOff, "control ended before the work was done")
            .next("seaworthy status   (the next control resolves what was begun)")
            .into()),
    }
}

/// Who asks, as the journal and those who have to wait will read it.
pub(crate) fn asker() -> Asker {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = env("SUDO_USER").or_else(|| env("USER")).or_else(|| env("LOGNAME"));
    let user = user.unwrap_or_else(|| match seaworthy_sys::process::current_uid() {
        0 => "root".to_owned(),
        uid => format!("user {uid}"),
    });
    let from = env("SSH_CONNECTION").and_then(|line| line.split(' ').next().map(str::to_owned));
    let who = match from {
        Some(from) => format!("{user} via ssh from {from}"),
        None => user,
    };
    Asker { who, process: std::process::id() }
}
