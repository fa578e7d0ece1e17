//! The service manager that started us: what it is told, and the descriptors that it keeps for us.
//!
//! The protocols of `sd_notify(3)` and `sd_listen_fds(3)`: datagrams of `NAME=value` lines to the socket that
//! `NOTIFY_SOCKET` names, with descriptors beside them (`SCM_RIGHTS`); those that it keeps come back as the descriptors
//! from 3 on. Why our own: it is one `sendmsg`. Invariants: descriptors are taken once, and are close-on-exec from then
//! on; a manager that does not listen costs an error and nothing else. Not here: what is kept (`seaworthy-control`).

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};

use crate::seccomp;

/// The variables that tell a service of its manager: one that becomes another program tells it to forget the last three,
/// because their descriptors are taken.
pub const TAKEN: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
/// The first descriptor that is handed over (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// No manager keeps more for us than we ask for; what says otherwise is not believed.
const MOST: i32 = 4096;
/// Longest name of a kept descriptor (`sd_pid_notify_with_fds(3)`).
pub const LONGEST_NAME: usize = 255;

/// The way to the manager.
#[derive(Debug)]
pub struct Manager {
    socket: OwnedFd,
}

impl Manager {
    /// The manager that waits for word from this process; `None` where nobody does.
    pub fn from_environment() -> Option<io::Result<Self>> {
        let place = std::env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty())?;
        Some(Self::at(&place))
    }

    /// The manager that listens at a path; `@` stands for an abstract name.
    fn at(place: &OsStr) -> io::Result<Self> {
        let address = match place.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &address)?;
        Ok(Self { socket })
    }

    /// Says something: lines of `NAME=value`, such as `READY=1`.
    pub fn say(&self, lines: &str) -> io::Result<()> {
        self.send(lines, &[])
    }

    /// Has a descriptor kept under a name: ASCII without `:` and control characters. It comes back
    /// with [`kept`] when this service is started again, whatever became of us.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.send(&format!("FDSTORE=1\nFDNAME={name}"), &[descriptor])
    }

    /// Has everything that is kept under a name closed.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))
    }

    fn send(&self, lines: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
        }
        let lines = [IoSlice::new(lines.as_bytes())];
        sendmsg(&self.socket, &lines, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// How long the manager waits for a `WATCHDOG=1` before it takes us for hung; `None` where it does not watch.
pub fn watchdog() -> Option<Duration> {
    let micros = std::env::var("WATCHDOG_USEC").ok()?.parse().ok().filter(|micros| *micros > 0)?;
    let meant = std::env::var("WATCHDOG_PID").ok().and_then(|pid| pid.parse().ok());
    meant.is_none_or(|pid: u32| pid == std::process::id()).then(|| Duration::from_micros(micros))
}

/// What the manager kept for this service, by name. Given out once: whoever asks again gets nothing.
pub fn kept() -> Vec<(String, OwnedFd)> {
    static GIVEN: AtomicBool = AtomicBool::new(false);
    if GIVEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID").and_then(|pid| u32::try_from(pid).ok()) != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, MOST);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut name = |_| names.next().unwrap_or_default().to_owned();
    let named: Vec<(i32, String)> = (FIRST..FIRST + count).map(|fd| (fd, name(fd))).collect();
    named.into_iter().filter_map(|(fd, name)| Some((name, inherited(fd)?))).collect()
}

/// A descriptor that was open when we were executed; from now on it is ours, and close-on-exec.
fn inherited(fd: i32) -> Option<OwnedFd> {
    // SAFETY: takes numbers only; one that is not open is refused.
    let done = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    (done == 0).then(|| seccomp::own(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn what_is_said_and_kept_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("notify");
        let heard = UnixDatagram::bind(&place).unwrap();
        let manager = Manager::at(place.as_os_str()).unwrap();
        let (kept, _other) = UnixDatagram::pair().unwrap();
        manager.say("READY=1").unwrap();
        manager.keep("a", kept.as_fd()).unwrap();
        manager.forget("a").unwrap();
        let mut texts = Vec::new();
        for _ in 0..3 {
            let mut buffer = [0; 100];
            let length = heard.recv(&mut buffer).unwrap();
            texts.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        assert_eq!(texts, ["READY=1", "FDSTORE=1\nFDNAME=a", "FDSTOREREMOVE=1\nFDNAME=a"]);
    }

    #[test]
    fn nobody_who_listens_is_an_error() {
        assert!(Manager::at(OsStr::new("/nowhere/notify")).is_err());
    }
}
