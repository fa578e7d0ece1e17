//! Answering `bind()` for programs that insist on a port (seccomp user notification, Linux 5.0 and later).
//!
//! A filter in the program stops at every `bind`; the shim looks at the address and, where it is the
//! port the program insists on, binds the socket to a free loopback port instead, so that several
//! copies "on 8000" run side by side and none can be reached from outside. Every other `bind` goes on
//! unchanged and is only reported. Invariants: what is read from the program is checked to be still
//! its own before it is acted upon; a program that changes the address between our look and the
//! kernel's gains nothing, because the substituted call is made by us with our copy. Not here: limits
//! on what a program may do; this is no sandbox.

use std::fs::File;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Proposed ports that are tried; each was free a moment before.
const PROPOSALS: u32 = 20;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
/// Let the system call go on as it was made.
const CONTINUE: u32 = 1;
const IOCTL_RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const IOCTL_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const IOCTL_ID_VALID: libc::Ioctl = 0x4008_2102_u32 as libc::Ioctl;

/// Puts the filter on the calling thread and returns the descriptor on which notifications come.
/// Needs `no_new_privs` or root. Safe between fork and exec: allocates nothing.
pub fn stop_at_bind() -> io::Result<RawFd> {
    let statement =
        |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 4),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, ARCH),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, RET_ALLOW),
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_bind as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, RET_USER_NOTIF),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and the filter it points to live through the call; the kernel copies them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd as RawFd) }
}

/// What a `bind` came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindEvent {
    /// It was for the fixed port; the socket is really bound to `bound`.
    Substituted {
        /// What the program asked for.
        asked: SocketAddr,
        /// Where it is.
        bound: SocketAddr,
    },
    /// It was for something else and went on unchanged.
    Passed(SocketAddr),
}

/// The shim's end: answers notifications for one instance.
#[derive(Debug)]
pub struct BindAnswerer {
    fd: OwnedFd,
    port: u16,
    /// Proposes free ports.
    propose: fn() -> Option<u16>,
    /// The free port that stands for the fixed one; chosen at the first bind and kept, so that workers
    /// that share the port by `SO_REUSEPORT` share this one.
    substitute: Option<u16>,
}

impl BindAnswerer {
    /// Answers on `fd` for one start of a program that insists on `port`, with ports that `propose` gives.
    /// Each start gets a new one: on the old one connections may linger, or a stranger listen.
    pub fn new(fd: OwnedFd, port: u16, propose: fn() -> Option<u16>) -> Self {
        Self { fd, port, propose, substitute: None }
    }

    /// The port that stands for the fixed one, once there is one.
    pub fn substitute(&self) -> Option<u16> {
        self.substitute
    }

    /// Answers one notification; `None` when it was for nothing of ours (another family, a caller that is gone).
    pub fn answer(&mut self) -> io::Result<Option<BindEvent>> {
        // SAFETY: the all-zero value is what the kernel demands before it fills the structure.
        let mut request: libc::seccomp_notif = unsafe { mem::zeroed() };
        // SAFETY: the descriptor is a seccomp listener and the structure has the kernel's layout.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_RECV, &raw mut request) } < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(error) };
        }
        let outcome = self.decide(&request);
        let (error, flags, event) = match outcome {
            Ok(Some(event @ BindEvent::Substituted { .. })) => (0, 0, Some(event)),
            Ok(event) => (0, CONTINUE, event),
            Err(error) => (-error.raw_os_error().unwrap_or(libc::EADDRINUSE), 0, None),
        };
        let response = libc::seccomp_notif_resp { id: request.id, val: 0, error, flags };
        // SAFETY: as above; a caller that is gone makes this ENOENT, which changes nothing.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_SEND, &raw const response) };
        Ok(event)
    }

    fn decide(&mut self, request: &libc::seccomp_notif) -> io::Result<Option<BindEvent>> {
        let Some(process) = thread_group(request.pid) else { return Ok(None) };
        let [number, pointer, length, ..] = request.data.args;
        let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        // Opened before the check: if the caller is alive after it, this names the caller and no later process.
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(None);
        };
        let Some(asked) = read_address(process, pointer, length) else { return Ok(None) };
        // SAFETY: the id is passed by pointer and only read.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_ID_VALID, &raw const request.id) } < 0 {
            return Ok(None);
        }
        if asked.port() != self.port {
            return Ok(Some(BindEvent::Passed(asked)));
        }
        let socket =
            rustix::process::pidfd_getfd(&pidfd, number as RawFd, PidfdGetfdFlags::empty())?;
        let bound = self.bind(&socket, asked)?;
        Ok(Some(BindEvent::Substituted { asked, bound }))
    }

    /// Binds the program's socket to loopback. UDP sockets of the same port are treated alike.
    fn bind(&mut self, socket: &OwnedFd, asked: SocketAddr) -> io::Result<SocketAddr> {
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        let ip: IpAddr = match asked.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => mapped.into(),
            IpAddr::V6(ip)
                if ip.is_unspecified() && !sockopt::ipv6_v6only(socket).unwrap_or(true) =>
            {
                mapped.into()
            }
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        self.bind_free(socket, ip)?;
        let bound = SocketAddr::try_from(rustix::net::getsockname(socket)?)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(match bound.ip() {
            IpAddr::V6(ip) => SocketAddr::new(ip.to_canonical(), bound.port()),
            IpAddr::V4(_) => bound,
        })
    }
}

impl BindAnswerer {
    /// To the substitute, or to the first proposed port that is free. A substitute that is taken is the
    /// program's own doing (a second `bind` of its port), and it is told what it would be told otherwise.
    fn bind_free(&mut self, socket: &OwnedFd, ip: IpAddr) -> io::Result<()> {
        if let Some(port) = self.substitute {
            return Ok(rustix::net::bind(socket, &SocketAddr::new(ip, port))?);
        }
        for _ in 0..PROPOSALS {
            let Some(port) = (self.propose)() else { break };
            match rustix::net::bind(socket, &SocketAddr::new(ip, port)) {
                Err(rustix::io::Errno::ADDRINUSE) => {}
                other => {
                    other?;
                    self.substitute = Some(port);
                    return Ok(());
                }
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }
}

impl AsFd for BindAnswerer {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The process of a thread.
fn thread_group(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Reads a socket address out of another process; `None` for families other than IP.
fn read_address(process: u32, pointer: u64, length: u64) -> Option<SocketAddr> {
    let mut raw = [0u8; 28];
    let wanted = usize::try_from(length).ok()?.min(raw.len());
    let memory = File::open(format!("/proc/{process}/mem")).ok()?;
    memory.read_exact_at(raw.get_mut(..wanted)?, pointer).ok()?;
    let family = u16::from_ne_bytes([raw[0], raw[1]]);
    let port = u16::from_be_bytes([raw[2], raw[3]]);
    match i32::from(family) {
        libc::AF_INET if wanted >= 16 => {
            Some(SocketAddr::new(Ipv4Addr::new(raw[4], raw[5], raw[6], raw[7]).into(), port))
        }
        libc::AF_INET6 if wanted >= 24 => {
            let ip: [u8; 16] = raw[8..24].try_into().ok()?;
            Some(SocketAddrV6::new(ip.into(), port, 0, 0).into())
        }
        _ => None,
    }
}

/// Takes a raw descriptor that this process just received or made.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass a descriptor that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
