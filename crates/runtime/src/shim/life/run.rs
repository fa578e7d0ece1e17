//! A running program: its process, its output, its ports and where they can be reached.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::time::Duration;

use seaworthy_base::Timestamp;
use seaworthy_sys::proc_tree;
use seaworthy_sys::seccomp::BindAnswerer;

use crate::health::Health;
use crate::logs::InstanceLog;
use crate::model::{ExitReason, Ports};
use crate::pace::Pace;
use crate::ports::free_port;
use crate::shim::launch::Started;
use crate::socket::{Address, Published};

/// Bytes taken from one stream at once: bounded, so that a program that writes without end does not
/// keep the shim from everything else.
const MOST_AT_ONCE: usize = 256 << 10;
/// How long a try to connect may take. On loopback it is answered at once; not so where a program has
/// more connections waiting than it asked for.
const TRY_PATIENCE: Duration = Duration::from_millis(5);

/// A running program. Times are the shim's monotonic ones.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) child: Child,
    outputs: [Option<File>; 2],
    pub(super) binds: Option<BindAnswerer>,
    ports: Vec<(String, u16)>,
    pub(super) began: Duration,
    pub(super) started: Timestamp,
    pub(super) pace: Pace,
    pub(super) health: Health,
    pub(super) listening: Vec<SocketAddr>,
    /// Whether its Unix socket takes connections, where it has one.
    pub(super) on_socket: bool,
    pub(super) listened: bool,
    /// Where it was last found, so that one that stops listening is seen to fail its checks.
    pub(super) address: Option<Address>,
    /// Bytes of memory and milliseconds of CPU, once sampled.
    pub(super) usage: Option<(u64, u64)>,
    /// The group's count of kills for lack of memory, and when it last grew.
    pub(super) oom_kills: u64,
    pub(super) oom_at: Option<Duration>,
    /// Set when we end it ourselves.
    pub(super) forced: Option<ExitReason>,
    /// What we saw of its end.
    pub(super) seen: Vec<String>,
}

impl Run {
    pub(super) fn new(started: Started, rule: &Ports, now: Duration, oom_before: u64) -> Self {
        let Started { child, outputs: [out, err], binds, ports, .. } = started;
        let binds = match (rule, binds) {
            (Ports::Fixed(port), Some(fd)) => Some(BindAnswerer::new(fd, *port, free_port)),
            _ => None,
        };
        Self {
            child,
            outputs: [Some(out), Some(err)],
            binds,
            ports,
            began: now,
            started: Timestamp::now(),
            pace: Pace::new(now),
            health: Health::default(),
            listening: Vec::new(),
            on_socket: false,
            listened: false,
            address: None,
            usage: None,
            oom_kills: oom_before,
            oom_at: None,
            forced: None,
            seen: Vec::new(),
        }
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().flatten().map(AsFd::as_fd).chain(self.binds.iter().map(AsFd::as_fd))
    }

    /// Takes what it wrote.
    pub(super) fn read_output(&mut self, log: &mut InstanceLog) {
        let mut piece = vec![0; 16 << 10];
        for (which, slot) in self.outputs.iter_mut().enumerate() {
            let mut taken = 0;
            while let Some(file) = slot.as_mut().filter(|_| taken < MOST_AT_ONCE) {
                match file.read(&mut piece) {
                    Ok(0) => *slot = None,
                    Ok(n) => {
                        log.take(which, piece.get(..n).unwrap_or_default());
                        taken += n;
                    }
                    Err(_) => break,
                }
            }
        }
    }

    /// The port that it should listen on: what it was told, or what stands for its fixed one.
    pub(super) fn expected(&self, rule: &Ports) -> Option<u16> {
        self.expected_at(0, rule)
    }

    fn expected_at(&self, index: usize, rule: &Ports) -> Option<u16> {
        match rule {
            Ports::Environment(_) => self.ports.get(index).map(|(_, port)| *port),
            Ports::Fixed(port) if index == 0 => {
                Some(self.binds.as_ref().map_or(*port, |binds| binds.substitute().unwrap_or(*port)))
            }
            Ports::Own(port) if index == 0 => Some(*port),
            Ports::Fixed(_) | Ports::Own(_) | Ports::Socket(_) => None,
        }
    }

    /// Whether it does not listen everywhere yet where it should.
    pub(super) fn is_missing(&self, rule: &Ports) -> bool {
        match rule {
            Ports::Socket(_) => !self.on_socket,
            _ => self.missing_ports(rule).next().is_some(),
        }
    }

    /// The ports at which it was not found yet.
    fn missing_ports<'a>(&'a self, rule: &'a Ports) -> impl Iterator<Item = u16> + 'a {
        let count = self.ports.len().max(1);
        (0..count)
            .filter_map(|index| self.expected_at(index, rule))
            .filter(|port| self.listening.iter().all(|found| found.port() != *port))
    }

    /// Whether one of these ports takes a connection: cheap, but a stranger's would do so too.
    pub(super) fn answers_at_missing(&self, rule: &Ports) -> bool {
        if let Ports::Socket(rule) = rule {
            return rule.publish().is_ok_and(|found| found != Published::Nothing);
        }
        // Before its `bind` was answered it has no port.
        if self.binds.as_ref().is_some_and(|binds| binds.substitute().is_none()) {
            return false;
        }
        let at: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        self.missing_ports(rule).any(|port| {
            at.iter()
                .any(|ip| Address::Tcp(SocketAddr::new(*ip, port)).connect(TRY_PATIENCE).is_ok())
        })
    }

    /// Looks at its socket, and at where it can be reached. One that was found is not tried again while it is the same:
    /// a program that has all it can do would seem to be gone.
    pub(super) fn find_address(&mut self, rule: &Ports) -> Option<Address> {
        let Ports::Socket(rule) = rule else { return self.address_of(0, rule).map(Address::Tcp) };
        let address = Address::Unix(rule.reached_at());
        self.on_socket = match rule.publish() {
            Ok(Published::Known) if self.on_socket => true,
            Ok(Published::Known | Published::New) => address.connect(TRY_PATIENCE).is_ok(),
            Ok(Published::Nothing) | Err(_) => false,
        };
        self.on_socket.then_some(address)
    }

    /// Where port number `index` can be reached, once it listens.
    pub(super) fn address_of(&self, index: usize, rule: &Ports) -> Option<SocketAddr> {
        let port = self.expected_at(index, rule)?;
        let found = self
            .listening
            .iter()
            .filter(|address| address.port() == port)
            .min_by_key(|address| address.is_ipv6())?;
        let ip: IpAddr = match found.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            // A wildcard IPv6 socket takes IPv4 too unless it was told not to; ::1 is right for both.
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Some(SocketAddr::new(ip, port))
    }

    /// Whether a stranger listens on one of its ports.
    pub(super) fn lost_its_port(&self) -> bool {
        let taken = proc_tree::listening_sockets();
        self.ports.iter().any(|(_, port)| taken.iter().any(|socket| socket.address.port() == *port))
    }
}
