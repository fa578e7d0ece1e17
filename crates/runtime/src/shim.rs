//! The shim: parent and subreaper of one instance. One thread polls, one probes; no async runtime.
//!
//! It starts the program, owns its output, restarts it, and answers control on a Unix socket. Invariants:
//! it holds `lock` in its run folder for life; it starts programs from its main thread only, so that they
//! die with it; a call of control's never blocks it; whatever control does or does not, the program is
//! kept running until it is told otherwise. Not here: whether the instance should exist.

mod clients;
mod launch;
mod life;
mod prober;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use seaworthy_base::{Exit, Timestamp};
use seaworthy_sys::process::{self, Lock};
use seaworthy_sys::spawn::{next_signal, signal_descriptor};

use crate::driver::MAX_LAST_WORDS;
use crate::model::Spec;
use clients::Clients;
use life::Life;

/// The role: reads a specification from standard input, runs the instance, ends when told to.
pub fn main() -> Exit {
    process::lower_memory_use();
    std::panic::set_hook(Box::new(|panic| complain(&panic.to_string())));
    match run() {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(&error.to_string());
            Exit::Internal
        }
    }
}

/// Where there is no log: standard error, a file in the instance's folder that must not grow for ever.
fn complain(what: &str) {
    let mut error = io::stderr();
    let size = rustix::fs::fstat(&error).map_or(0, |stat| stat.st_size);
    if size < MAX_LAST_WORDS as i64 {
        // There is nowhere left to say that this failed.
        writeln!(error, "{} {what}", Timestamp::now()).ok();
    }
}

fn run() -> io::Result<()> {
    // Control started us; its terminal is not ours.
    process::become_session_leader().ok();
    process::set_subreaper()?;
    let mut text = Vec::new();
    io::stdin().take(16 << 20).read_to_end(&mut text)?;
    let spec: Spec = serde_json::from_slice(&text)?;
    drop(text);
    let Some(_lock) = Lock::try_acquire(&spec.run_dir.join("lock"))? else {
        return Err(io::Error::other(format!("another shim owns `{}`", spec.run_dir.display())));
    };
    let signals = signal_descriptor(&[
        libc_signals::CHILD,
        libc_signals::TERM,
        libc_signals::INT,
        libc_signals::HUP,
    ])?;
    let socket = spec.run_dir.join("sock");
    std::fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    let mut life = Life::new(spec)?;
    let mut clients = Clients::default();
    life.start();
    while !life.is_over() {
        wait(&life, &clients, &signals, &listener)?;
        while let Some(signal) = next_signal(&signals) {
            match signal {
                // The terminal that control was started from is none of ours.
                libc_signals::CHILD | libc_signals::HUP => {}
                _ => life.stop(true),
            }
        }
        life.tick();
        clients.serve(&listener, &mut life);
    }
    clients.farewell(&life);
    std::fs::remove_file(&socket).ok();
    life.clear();
    Ok(())
}

/// Signal numbers as Linux fixes them on every architecture that is supported.
mod libc_signals {
    pub(super) const HUP: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const TERM: i32 = 15;
    pub(super) const CHILD: i32 = 17;
}

/// Sleeps until something can be done.
fn wait(
    life: &Life,
    clients: &Clients,
    signals: &impl AsFd,
    listener: &UnixListener,
) -> io::Result<()> {
    let mut fds = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
    fds.extend(
        life.descriptors().into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
    );
    fds.extend(clients.descriptors().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    let until = [life.next_moment(), clients.next_moment()].into_iter().flatten().min();
    let pause = until
        .map_or(Duration::from_secs(60), |moment| moment.saturating_duration_since(Instant::now()));
    let pause =
        Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
    match poll(&mut fds, Some(&pause)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
