//! The UDP sockets of HTTP/3, which control holds as it holds those that listen for TCP.
//!
//! An address has several ([`seaworthy_sys::datagram`]): each edge that is alive reads one, so that an edge that
//! finishes keeps its connections while the next one takes all new ones; under systemd a copy of each lies with it, for the
//! case that control and edge both end. Invariants: two living edges never have one slot; new connections go to the newest edge once it knows everything; where no slot is free the
//! edge that has finished longest is cut off. Not here: when edges come and go ([`crate::edge`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use seaworthy_base::{Code, Fault};
use seaworthy_edge::model::{Group, HTTP3, Reply, Request};
use seaworthy_sys::{datagram, socket};
use serde::{Deserialize, Serialize};

use crate::edge_link::{Link, LinkError};

/// Addresses at most: all their sockets fit into one message.
const MOST: usize = seaworthy_sys::fdpass::MAX_FDS / datagram::SLOTS as usize;
/// How long an edge may take to let go of an address that it had a moment ago.
const LETTING_GO: Duration = Duration::from_secs(3);

/// What the next control must know to take them back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatagramRecord {
    /// Socket cookies by address, in the order of the slots.
    cookies: BTreeMap<SocketAddr, Vec<u64>>,
    /// Slots by the number of the edge.
    slots: BTreeMap<u32, u8>,
}

impl DatagramRecord {
    /// Where they were bound.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.cookies.keys().copied()
    }

    /// Writes a group down.
    pub(crate) fn add(&mut self, address: SocketAddr, group: &[UdpSocket]) {
        let cookies = group.iter().map(|one| socket::socket_cookie(one.as_fd()).unwrap_or(0));
        self.cookies.insert(address, cookies.collect());
    }

    /// Whether these are the sockets that were written down for an address.
    fn has(&self, address: SocketAddr, sockets: &[OwnedFd]) -> bool {
        let is_udp_there = |fd: &OwnedFd| {
            let copy = fd.try_clone().map(UdpSocket::from);
            datagram::is_datagram(fd.as_fd())
                && copy.and_then(|socket| socket.local_addr()).is_ok_and(|at| at == address)
        };
        let cookies = sockets.iter().filter_map(|fd| socket::socket_cookie(fd.as_fd()).ok());
        let cookies: Vec<u64> = cookies.collect();
        self.cookies.get(&address) == Some(&cookies) && sockets.iter().all(is_udp_there)
    }
}

/// All groups, and who reads which slot.
#[derive(Debug, Default)]
pub(crate) struct Datagrams {
    groups: BTreeMap<SocketAddr, Vec<UdpSocket>>,
    slots: BTreeMap<u32, u8>,
}

/// A group that nobody serves yet.
pub(crate) type Bound = (SocketAddr, Vec<UdpSocket>);

/// Whether an edge serves HTTP/3; older builds do not.
fn speaks(link: &Link) -> bool {
    link.has(HTTP3)
}

/// Has an edge let go of addresses, and of all connections there.
pub(crate) async fn end(link: &Link, addresses: Vec<SocketAddr>) -> Result<(), LinkError> {
    if addresses.is_empty() || !speaks(link) {
        return Ok(());
    }
    link.ask(Request::UnlistenDatagrams { addresses }, Vec::new()).await.map(drop)
}

/// Binds the addresses that are not held; the fault says who may be in the way.
pub(crate) async fn bind_missing(
    wanted: &BTreeSet<SocketAddr>,
    held: &BTreeSet<SocketAddr>,
) -> Result<Vec<Bound>, Fault> {
    if wanted.len() > MOST {
        let what = format!("HTTP/3 on {} addresses", wanted.len());
        return Err(Fault::new(Code::PortDenied, what)
            .because(format!("it can be served on {MOST} at most"))
            .next("list fewer addresses in `https` of `[listen]`, or leave out `http3`"));
    }
    let mut bound = Vec::new();
    for address in wanted.difference(held) {
        bound.push((*address, bind(*address).await?));
    }
    Ok(bound)
}

async fn bind(address: SocketAddr) -> Result<Vec<UdpSocket>, Fault> {
    let begun = Instant::now();
    let error = loop {
        match datagram::bind_group(address) {
            Ok(group) => return Ok(group),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < LETTING_GO =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => break error,
        }
    };
    let what = format!("the edge could not receive UDP on `{address}`, for HTTP/3");
    let port = address.port();
    Err(match error.kind() {
        io::ErrorKind::AddrInUse => Fault::new(Code::PortTaken, what)
            .because("another program is bound there")
            .next(format!("stop it (`ss -ulpn 'sport = :{port}'` shows it), or"))
            .next("leave out `http3` in `[listen]`"),
        _ => Fault::new(Code::PortDenied, what)
            .because(error.to_string())
            .next("leave out `http3` in `[listen]`, or choose an address of this machine"),
    })
}

impl Datagrams {
    /// No sockets yet; who has which slot is as an earlier control wrote it down.
    pub(crate) fn as_recorded(record: &DatagramRecord) -> Self {
        Self { groups: BTreeMap::new(), slots: record.slots.clone() }
    }

    /// All sockets: address, slot, descriptor.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = (SocketAddr, u8, BorrowedFd<'_>)> {
        self.groups.iter().flat_map(|(address, group)| {
            (0..).zip(group).map(|(slot, socket)| (*address, slot, socket.as_fd()))
        })
    }

    /// Where they are bound.
    pub(crate) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.groups.keys().copied().collect()
    }

    /// Takes groups that were bound.
    pub(crate) fn hold(&mut self, bound: Vec<Bound>) {
        self.groups.extend(bound);
    }

    /// Closes all but these, and says which.
    pub(crate) fn keep(&mut self, wanted: &BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
        let gone = self.groups.keys().filter(|address| !wanted.contains(address)).copied();
        let gone: Vec<SocketAddr> = gone.collect();
        self.groups.retain(|address, _| wanted.contains(address));
        gone
    }

    /// Chooses a slot for a new edge. Where the living, the oldest first, have all of them, the oldest loses its:
    /// it is returned, and must let go.
    pub(crate) fn seat(&mut self, number: u32, living: &[u32]) -> Option<u32> {
        self.slots.retain(|other, _| living.contains(other));
        let is_free = |slot: &u8| !self.slots.values().any(|taken| taken == slot);
        if let Some(slot) = (0..datagram::SLOTS).find(is_free) {
            self.slots.insert(number, slot);
            return None;
        }
        let (oldest, slot) = self.slots.pop_first()?;
        self.slots.insert(number, slot);
        Some(oldest)
    }

    /// Gives an edge the groups at these addresses. Older builds serve no HTTP/3 and get none.
    pub(crate) async fn give(
        &self,
        link: &Link,
        number: u32,
        addresses: &[SocketAddr],
    ) -> Result<(), LinkError> {
        if !speaks(link) {
            return Ok(());
        }
        let Some(slot) = self.slots.get(&number) else {
            crate::say(
                "too many edges finish: the newest one serves no HTTP/3 until the next start",
            );
            return Ok(());
        };
        for address in addresses {
            let Some(sockets) = self.groups.get(address) else { continue };
            let fds = sockets.iter().map(|one| one.try_clone().map(OwnedFd::from));
            let fds = fds.collect::<io::Result<Vec<_>>>().map_err(LinkError::Gone)?;
            let groups = vec![Group { address: *address, slots: fds.len() as u8 }];
            link.ask(Request::ListenDatagrams { groups, slot: *slot }, fds).await?;
        }
        self.steer(*slot, addresses);
        Ok(())
    }

    /// New connections are that edge's again: the one that should have followed it did not come.
    pub(crate) fn return_to(&self, number: u32) {
        let addresses: Vec<SocketAddr> = self.groups.keys().copied().collect();
        self.slots.get(&number).into_iter().for_each(|slot| self.steer(*slot, &addresses));
    }

    /// From now on new connections are that slot's.
    fn steer(&self, slot: u8, addresses: &[SocketAddr]) {
        for address in addresses {
            let group = self.groups.get(address);
            let Some(first) = group.and_then(|group| group.first()) else { continue };
            if let Err(error) = datagram::steer(first, slot) {
                crate::say(&format!("HTTP/3 at {address} may not be reached: {error}"));
            }
        }
    }

    /// What the next control must know.
    pub(crate) fn record(&self) -> DatagramRecord {
        let mut record = DatagramRecord { slots: self.slots.clone(), ..DatagramRecord::default() };
        self.groups.iter().for_each(|(address, group)| record.add(*address, group));
        record
    }

    /// Takes the sockets back that the edge of that number holds; only those that an earlier control wrote down.
    pub(crate) async fn take_back(&mut self, link: &Link, number: u32, record: &DatagramRecord) {
        if !speaks(link) {
            return;
        }
        let Ok((Reply::Datagrams { groups, slot }, fds)) =
            link.ask(Request::Datagrams, Vec::new()).await
        else {
            return;
        };
        if !groups.is_empty() {
            // Whatever was written down: this is what it reads.
            self.slots.insert(number, slot);
        }
        let mut fds = fds.into_iter();
        for group in groups {
            let sockets = fds.by_ref().take(group.slots.into()).collect();
            self.take_group(group.address, sockets, record);
        }
    }

    /// Takes the sockets of an address back, if they are the ones that the record says; where they are held already
    /// they are too many.
    pub(crate) fn take_group(
        &mut self,
        address: SocketAddr,
        sockets: Vec<OwnedFd>,
        record: &DatagramRecord,
    ) {
        if !record.has(address, &sockets) {
            crate::say(&format!(
                "UDP sockets for {address} came back that are not ours: left alone"
            ));
            return;
        }
        let sockets = sockets.into_iter().map(UdpSocket::from);
        self.groups.entry(address).or_insert_with(|| sockets.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_living_edges_never_have_one_slot() {
        let mut all = Datagrams::default();
        for number in 1..=5 {
            all.seat(number, &(1..number).collect::<Vec<_>>());
        }
        let slots: Vec<_> = all.slots.clone().into_iter().collect();
        assert_eq!(slots, [(2, 1), (3, 2), (4, 3), (5, 0)]);
        // One has ended, and leaves its place.
        assert_eq!(all.seat(6, &[2, 4, 5]), None);
        assert_eq!(all.slots.get(&6), Some(&2));
        assert_eq!(all.seat(7, &[2, 4, 5, 6]), Some(2));
        assert_eq!(all.slots.get(&7), Some(&1));
    }

    #[test]
    fn only_sockets_that_were_written_down_are_taken_back() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = socket.local_addr().unwrap();
        let there = stream.local_addr().unwrap();
        let cookie = |fd: BorrowedFd<'_>| socket::socket_cookie(fd).unwrap();
        let (own, of_tcp) = (cookie(socket.as_fd()), cookie(stream.as_fd()));
        let all = [OwnedFd::from(socket)];
        let of = |address, cookies: &[u64]| DatagramRecord {
            cookies: BTreeMap::from([(address, cookies.to_vec())]),
            ..DatagramRecord::default()
        };
        assert!(of(here, &[own]).has(here, &all));
        assert!(!of(here, &[own + 1]).has(here, &all));
        assert!(!of(here, &[own, own]).has(here, &all));
        assert!(!of(there, &[own]).has(there, &all));
        assert!(!DatagramRecord::default().has(here, &all));
        assert!(!of(there, &[of_tcp]).has(there, &[OwnedFd::from(stream)]));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let fault = bind(address).await.unwrap_err();
        assert_eq!(fault.code, Code::PortTaken);
        assert!(fault.what.contains(&address.to_string()), "{fault:?}");
    }
}
