//! Processes of a sandbox: found by what they are, never by a number that somebody wrote down.
//!
//! A process belongs to a sandbox when its program, its working folder, its arguments or its
//! environment lie in the sandbox's folder, whose name is used once. Invariant: a pid is signalled
//! right after that was seen, so that one which the kernel gave away again is never hit.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its program and arguments, joined.
    pub command: String,
}

/// Every living process that belongs to the folder, lowest pid first.
pub fn inside(folder: &Path) -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc can be read");
    let pids =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<Process> = pids
        .filter(|pid| *pid != std::process::id() && belongs(*pid, folder))
        .map(describe)
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Whether a process lives (one that ended and waits to be reaped does not) and belongs to the folder.
pub fn belongs(pid: u32, folder: &Path) -> bool {
    let at = |name: &str| format!("/proc/{pid}/{name}");
    let linked =
        |name: &str| fs::read_link(at(name)).is_ok_and(|target| target.starts_with(folder));
    let needle = [folder.as_os_str().as_encoded_bytes(), b"/"].concat();
    let mentions = |name: &str| {
        fs::read(at(name)).is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
    };
    lives(pid) && (linked("exe") || linked("cwd") || mentions("cmdline") || mentions("environ"))
}

/// Whether a process of that number runs; a zombie does not.
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| {
        !matches!(rest.trim_start().as_bytes().first(), Some(b'Z' | b'X') | None)
    })
}

fn describe(pid: u32) -> Process {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Process {
        pid,
        command: String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned(),
    }
}

/// Sends a signal to a process of the folder; false when it is none (any more).
pub fn signal(pid: u32, folder: &Path, signal: Signal) -> bool {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|_| belongs(pid, folder));
    target.is_some_and(|target| kill_process(target, signal).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    #[test]
    fn only_processes_of_the_folder_are_found_and_ended() {
        let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut child = Command::new("sleep")
            .arg("60")
            .current_dir(mine.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let find = |folder: &Path| {
            inside(folder)
                .iter()
                .any(|process| process.pid == child.id() && process.command == "sleep 60")
        };
        eventually("the child is seen", Duration::from_secs(5), || find(mine.path()));
        assert!(!signal(child.id(), other.path(), Signal::KILL));
        assert!(lives(child.id()));
        assert!(signal(child.id(), mine.path(), Signal::KILL));
        eventually("the child is a zombie and counts as gone", Duration::from_secs(5), || {
            !lives(child.id())
        });
        child.wait().unwrap();
    }
}
