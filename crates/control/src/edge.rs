//! The edge process as control sees it: started, adopted, fed, replaced.
//!
//! Control holds the listening sockets too, so the death of the edge loses no connection that waits in
//! them; a new control takes them back (`adopt`). Invariants: what is sent is always the whole of an
//! input; versions only grow, also across controls; an edge that does not take a config keeps its old one.

mod adopt;
mod hear;
mod process;
mod quic;
mod shared;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use seaworthy_base::{Code, Fault};
use seaworthy_edge::model::{Config, Endpoints, Keys, Listener, Request};
use seaworthy_sys::fdpass::MAX_FDS;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::datagrams::{self, DatagramRecord, Datagrams};
use crate::edge_link::{Link, LinkError};
use crate::manager::{Kept, Kind, Purpose};
use crate::processes;
use process::spawn;
use tell::unless_dead;

pub(crate) use process::{EdgeOptions, Sockets};

/// How long an edge that runs may take to greet.
const GREETING: Duration = Duration::from_secs(10);
/// How long a new one may: it starts in a few milliseconds, but on a machine that is starved ten seconds were too few, and
/// an upgrade was taken back for nothing.
const STARTING: Duration = Duration::from_secs(30);

/// How long an edge finishes that had to be replaced.
const ENDING: Duration = Duration::from_secs(60 * 60);

/// What is remembered of the running edge, so that the next control finds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EdgeRecord {
    /// Its number.
    pub number: u32,
    /// Socket cookies by address: only these sockets are taken back.
    pub cookies: BTreeMap<SocketAddr, u64>,
    /// Numbers of older edges that still finish.
    #[serde(default)]
    pub draining: Vec<u32>,
    /// Its UDP sockets, and theirs.
    #[serde(default)]
    pub datagrams: DatagramRecord,
}

/// A listening socket that we hold.
#[derive(Debug)]
struct Held {
    socket: TcpListener,
    tls: bool,
}

/// The edge and its sockets.
#[derive(Debug)]
pub(crate) struct Edge {
    options: EdgeOptions,
    link: Option<Link>,
    /// Older edges that still finish, by number.
    draining: Vec<(u32, Link)>,
    number: u32,
    listeners: BTreeMap<SocketAddr, Held>,
    /// Where applications come in that call others.
    outlets: BTreeMap<SocketAddr, TcpListener>,
    /// What is done with their calls, and the system's authorities (PEM).
    ways: (Vec<seaworthy_edge::model::WayOut>, Option<String>),
    datagrams: Datagrams,
    version: u64,
    config: Config,
    endpoints: Endpoints,
    keys: Keys,
    /// What all edges count in: handed to each, given back by the one that is adopted.
    counts: Option<OwnedFd>,
    ended: Arc<Notify>,
    kept: Kept,
}

impl Edge {
    /// No edge yet. `ended` is notified when one dies.
    pub(crate) fn new(options: EdgeOptions, ended: Arc<Notify>, kept: Kept) -> Self {
        Self {
            options,
            link: None,
            draining: Vec::new(),
            number: 0,
            listeners: BTreeMap::new(),
            outlets: BTreeMap::new(),
            ways: (Vec::new(), None),
            datagrams: Datagrams::default(),
            version: 1,
            config: Config::default(),
            endpoints: Endpoints::default(),
            keys: Keys::default(),
            counts: None,
            ended,
            kept,
        }
    }

    /// The link to an edge that runs.
    async fn find(&self, number: u32) -> Option<Link> {
        let socket = self.options.layout.edge_socket(number);
        let ended = Arc::clone(&self.ended);
        let connecting =
            tokio::task::spawn_blocking(move || Link::connect(&socket, GREETING, ended));
        connecting.await.ok()?.ok()
    }

    /// Has systemd keep what is held, and nothing else.
    fn settle_kept(&mut self) {
        let public = self.listeners.iter().map(|(address, held)| {
            let kind = if held.tls { Kind::Https } else { Kind::Http };
            ((kind, *address), held.socket.as_fd())
        });
        let calls = self.outlets.iter();
        let calls = calls.map(|(address, socket)| ((Kind::Outgoing, *address), socket.as_fd()));
        let packets = self.datagrams.sockets();
        let packets = packets.map(|(address, slot, fd)| ((Kind::Http3(slot), address), fd));
        let all: Vec<(Purpose, BorrowedFd<'_>)> = public.chain(calls).chain(packets).collect();
        self.kept.settle(all.into_iter());
    }

    /// Whether no socket is held.
    pub(crate) fn is_bare(&self) -> bool {
        self.listeners.is_empty() && self.outlets.is_empty() && self.datagrams().is_empty()
    }

    /// What the next control must know, with sockets that are about to be held.
    pub(crate) fn record_with(
        &self,
        public: &[(SocketAddr, TcpListener, bool)],
        calls: &[(SocketAddr, TcpListener)],
        packets: &[datagrams::Bound],
    ) -> EdgeRecord {
        let mut record = self.record();
        let public = public.iter().map(|(address, socket, _)| (address, socket));
        let streams = public.chain(calls.iter().map(|(address, socket)| (address, socket)));
        record.cookies.extend(streams.map(|(address, socket)| (*address, cookie(socket))));
        packets.iter().for_each(|(address, group)| record.datagrams.add(*address, group));
        record
    }

    /// What the next control must know.
    pub(crate) fn record(&self) -> EdgeRecord {
        let public = self.listeners.iter().map(|(address, held)| (address, &held.socket));
        EdgeRecord {
            number: self.number,
            draining: self.draining.iter().map(|(number, _)| *number).collect(),
            datagrams: self.datagrams.record(),
            cookies: public
                .chain(&self.outlets)
                .map(|(address, socket)| (*address, cookie(socket)))
                .collect(),
        }
    }

    /// Adds a bound socket; it is served from the next [`Self::ensure`] or [`Self::listen`] on.
    pub(crate) fn hold(&mut self, address: SocketAddr, socket: TcpListener, tls: bool) {
        self.listeners.insert(address, Held { socket, tls });
    }

    /// The addresses held, and whether TLS is spoken there.
    pub(crate) fn addresses(&self) -> BTreeMap<SocketAddr, bool> {
        self.listeners.iter().map(|(address, held)| (*address, held.tls)).collect()
    }

    /// Process of the edge, and of the older ones that drain.
    pub(crate) fn pids(&self) -> (Option<u32>, Vec<u32>) {
        let living = |link: &&Link| !link.is_dead();
        (
            self.link.as_ref().filter(living).map(|link| link.pid),
            self.draining
                .iter()
                .map(|(_, link)| link)
                .filter(living)
                .map(|link| link.pid)
                .collect(),
        )
    }

    /// Guards that the running edge does not have.
    pub(crate) fn unguarded(&self) -> Vec<String> {
        self.link.as_ref().map(|link| link.unguarded.clone()).unwrap_or_default()
    }

    /// Whether no edge can be asked anything.
    pub(crate) fn is_gone(&self) -> bool {
        self.link.as_ref().is_none_or(Link::is_dead)
    }

    /// Sees to it that an edge runs and knows everything. Returns whether a new one was started.
    pub(crate) async fn ensure(&mut self) -> Result<bool, Fault> {
        self.draining.retain(|(_, link)| !link.has_ended());
        if !self.is_gone() {
            return Ok(false);
        }
        self.replace(ENDING).await.map(|()| true)
    }

    /// A new edge on the same sockets takes over; the old one finishes what it has.
    pub(crate) async fn replace(&mut self, deadline: Duration) -> Result<(), Fault> {
        let before = self.number;
        let link = match self.start_whole().await {
            Ok(link) => link,
            Err(fault) => {
                // The one before serves on, under its own number.
                self.number = before;
                self.datagrams.return_to(before);
                return Err(fault);
            }
        };
        let old = self.link.replace(link);
        self.part_from(before, old, deadline).await;
        crate::crash::point("edge-replaced");
        Ok(())
    }

    /// Has the edge of that number finish, if it is still there. One that did not answer in time is asked anew, and ended
    /// if that is in vain: it would go on taking connections, with what it knew.
    async fn part_from(&mut self, number: u32, old: Option<Link>, deadline: Duration) {
        if old.as_ref().is_some_and(Link::has_ended) {
            return;
        }
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let drains =
            async |link: &Link| link.ask(Request::Drain { deadline_ms }, Vec::new()).await.is_ok();
        let link = match &old {
            Some(link) if drains(link).await => old,
            _ => match self.find(number).await {
                Some(anew) if drains(&anew).await => Some(anew),
                _ => {
                    old.iter().for_each(Link::end);
                    None
                }
            },
        };
        self.draining.extend(link.map(|link| (number, link)));
    }

    /// Starts an edge that knows everything, or none.
    async fn start_whole(&mut self) -> Result<Link, Fault> {
        let link = self.start().await?;
        let Err(error) = self.introduce(&link).await else { return Ok(link) };
        link.end();
        Err(edge_fault("a new edge process did not take its configuration", &error))
    }

    async fn start(&mut self) -> Result<Link, Fault> {
        self.number += 1;
        // Also for an edge that a control before us started, whose leave we do not remember.
        self.options.sockets = self.options.sockets.max(self.needed(&self.endpoints));
        let (options, number, ended) = (self.options.clone(), self.number, Arc::clone(&self.ended));
        let started = tokio::task::spawn_blocking(move || {
            let (socket, mut process) = spawn(&options, number)?;
            Link::connect(&socket, STARTING, ended).inspect_err(|_| {
                // Nobody would ever tell it anything. It may have ended by itself.
                process.kill().and_then(|()| process.wait()).ok();
            })
        });
        let failed = |cause: String| {
            Fault::new(Code::EdgeDown, "the edge process could not be started")
                .because(cause)
                .next("seaworthy logs --control")
        };
        match started.await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(failed(error.to_string()).because_of_source(&error)),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    async fn introduce(&mut self, link: &Link) -> Result<(), LinkError> {
        self.share_counts(link).await;
        link.ask(Request::Keys(self.keys.clone()), Vec::new()).await?;
        link.ask(Request::Config(self.config.clone()), Vec::new()).await?;
        link.ask(Request::Endpoints(self.endpoints.clone()), Vec::new()).await?;
        let all: Vec<SocketAddr> =
            self.listeners.keys().chain(self.outlets.keys()).copied().collect();
        self.give_sockets(link, &all).await?;
        self.give_datagrams(link).await
    }

    async fn give_sockets(&self, link: &Link, addresses: &[SocketAddr]) -> Result<(), LinkError> {
        for addresses in addresses.chunks(MAX_FDS) {
            let (mut listeners, mut fds) = (Vec::new(), Vec::new());
            for address in addresses {
                let held = self.listeners.get(address).map(|held| (&held.socket, held.tls));
                let outlet = self.outlets.get(address).map(|socket| (socket, false));
                let outgoing = outlet.is_some();
                let Some((socket, tls)) = outlet.or(held) else { continue };
                listeners.push(Listener { address: *address, tls, outgoing });
                fds.push(OwnedFd::from(socket.try_clone().map_err(LinkError::Gone)?));
            }
            link.ask(Request::Listen { listeners }, fds).await?;
        }
        Ok(())
    }

    /// Makes the listeners what is wanted: `bound` are new sockets, everything not in `wanted` is closed.
    pub(crate) async fn listen(
        &mut self,
        bound: Vec<(SocketAddr, TcpListener, bool)>,
        wanted: &BTreeMap<SocketAddr, bool>,
    ) -> Result<(), Fault> {
        let added: Vec<SocketAddr> = bound.iter().map(|(address, ..)| *address).collect();
        for (address, socket, tls) in bound {
            self.hold(address, socket, tls);
        }
        let gone: Vec<SocketAddr> = self
            .listeners
            .keys()
            .filter(|address| !wanted.contains_key(address))
            .copied()
            .collect();
        let failed = |error| edge_fault("the edge did not take its new addresses", &error);
        self.tell_addresses(&added, &gone).await.map_err(failed)?;
        self.listeners.retain(|address, _| !gone.contains(address));
        self.settle_kept();
        Ok(())
    }

    /// Gives the sockets of new addresses to the edge, and has it close others.
    async fn tell_addresses(
        &self,
        added: &[SocketAddr],
        gone: &[SocketAddr],
    ) -> Result<(), LinkError> {
        let Some(link) = self.link.as_ref().filter(|link| !link.is_dead()) else { return Ok(()) };
        unless_dead(link, self.give_sockets(link, added).await)?;
        if gone.is_empty() {
            return Ok(());
        }
        let unlisten = Request::Unlisten { addresses: gone.to_vec() };
        unless_dead(link, link.ask(unlisten, Vec::new()).await.map(drop))
    }

    /// Ends the edge: what is under way gets `patience`.
    pub(crate) async fn stop(&mut self, patience: Duration) {
        let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(0);
        let older = self.draining.drain(..).map(|(_, link)| link);
        for link in self.link.take().into_iter().chain(older) {
            let pid = link.pid;
            if link.ask(Request::Drain { deadline_ms }, Vec::new()).await.is_err() {
                link.end();
            }
            let waiting = tokio::task::spawn_blocking(move || processes::wait_for_end(pid));
            if tokio::time::timeout(patience + Duration::from_secs(2), waiting).await.is_err() {
                link.end();
            }
        }
        self.listeners.clear();
        self.outlets.clear();
        self.datagrams = Datagrams::default();
        self.settle_kept();
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

fn cookie(socket: &TcpListener) -> u64 {
    seaworthy_sys::socket::socket_cookie(socket.as_fd()).unwrap_or(0)
}

fn edge_fault(what: &str, error: &LinkError) -> Fault {
    Fault::new(Code::EdgeDown, what).because_of(error).next("seaworthy status")
}

trait BecauseOfSource {
    fn because_of_source(self, error: &dyn std::error::Error) -> Self;
}

impl BecauseOfSource for Fault {
    fn because_of_source(self, error: &dyn std::error::Error) -> Self {
        match error.source() {
            Some(source) => self.because_of(source),
            None => self,
        }
    }
}
