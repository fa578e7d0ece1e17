//! Waiting for processes of ours, children or adopted ones.
//!
//! A pidfd says when a process ended whoever its parent is; a child is reaped as well. Invariant: a pid
//! comes from a peer that answered just now, never from the database.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

/// Blocks until the process ended; returns at once when there is none.
pub(crate) fn wait_for_end(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
        loop {
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                _ => break,
            }
        }
    }
    reap(pid);
}

/// Takes a zombie away when it was our child.
pub(crate) fn reap(pid: Pid) {
    // ECHILD for a process that is not our child is the usual case after an adoption.
    waitpid(Some(pid), WaitOptions::NOHANG).ok();
}

/// The same, for a pid as it stands in a message.
pub(crate) fn reap_raw(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        reap(pid);
    }
}

/// Ends a process at once.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
}
