//! What an earlier control left: edges that run, and the sockets that others come in by.
//!
//! Invariants: a socket is taken back only where the record names it (its cookie), whoever gives it back: an edge, or
//! systemd where control and edge are both gone; what nobody wants any more is closed with the next publication, and
//! nothing of it stays with systemd. An edge that was started and not written down, because control died in between,
//! finishes: nobody knows what it was told. One that finishes is not taken for one that serves, also where it is the last that
//! was written down. Not here: what is wanted (`serve`).

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use seaworthy_edge::model::{COUNTS, Reply, Request};
use seaworthy_sys::fdpass::MAX_FDS;

use super::{ENDING, Edge, EdgeRecord, Held};
use crate::datagrams::Datagrams;
use crate::edge_link::Link;
use crate::manager::Kind;

/// So many edges control may have started, one after another, before it wrote that down: one that died at once is replaced
/// within the same publication.
const UNWRITTEN: u32 = 3;

impl Edge {
    /// Finds the edge that an earlier control left, and takes the sockets back: from it, or from systemd where that is
    /// gone too.
    pub(crate) async fn adopt(&mut self, record: &EdgeRecord) {
        self.number = record.number;
        self.datagrams = Datagrams::as_recorded(&record.datagrams);
        for number in &record.draining {
            // What they still have with instances must be known before one is stopped.
            let link = self.find(*number).await;
            self.draining.extend(link.map(|link| (*number, link)));
        }
        self.adopt_newest(record).await;
        self.take_back_kept(record);
        self.free_what_is_lost(record).await;
        self.settle_kept();
    }

    async fn adopt_newest(&mut self, record: &EdgeRecord) {
        // An earlier control may have told it to finish, and died before another one served.
        let finishes = record.draining.contains(&record.number);
        let newest = if finishes { None } else { self.find(record.number).await };
        if let Some(link) = &newest {
            self.take_back_from(link, record.number, record).await;
        }
        let mut unwritten = Vec::new();
        for number in (1..=UNWRITTEN).map(|more| record.number + more) {
            let Some(link) = self.find(number).await else { continue };
            // What it was told, and whether the one before was told to finish, nobody knows: both do, and the next one
            // is told everything. Until then their sockets are held here.
            crate::say(&format!("edge {number} was started when control died: it finishes"));
            self.take_back_from(&link, number, record).await;
            self.number = number;
            unwritten.push((number, link));
        }
        if unwritten.is_empty() {
            self.link = newest;
            return;
        }
        if !finishes {
            // Also if it lives and was too slow to greet.
            self.part_from(record.number, newest, ENDING).await;
        }
        for (number, link) in unwritten {
            self.part_from(number, Some(link), ENDING).await;
        }
    }

    /// Takes everything back that an edge holds for us.
    async fn take_back_from(&mut self, link: &Link, number: u32, record: &EdgeRecord) {
        self.take_back_listeners(link, record).await;
        if self.counts.is_none()
            && link.has(COUNTS)
            && let Ok((_, fds)) = link.ask(Request::GiveCounts, Vec::new()).await
        {
            self.counts = fds.into_iter().next();
        }
        self.datagrams.take_back(link, number, &record.datagrams).await;
        if let Ok((Reply::Status(status), _)) = link.ask(Request::Status, Vec::new()).await {
            let known = status.config.max(status.endpoints).max(status.keys) + 1;
            self.version = self.version.max(known);
        }
    }

    /// Takes the listening sockets back, as many at a time as one message carries.
    async fn take_back_listeners(&mut self, link: &Link, record: &EdgeRecord) {
        let mut from = 0;
        loop {
            let before = self.listeners.len() + self.outlets.len();
            let asked = link.ask(Request::Listeners { from }, Vec::new()).await;
            let Ok((Reply::Listeners { listeners }, fds)) = asked else { return };
            let count = fds.len();
            for (listener, fd) in listeners.into_iter().zip(fds) {
                let kind = match (listener.outgoing, listener.tls) {
                    (true, _) => Kind::Outgoing,
                    (false, true) => Kind::Https,
                    (false, false) => Kind::Http,
                };
                self.take_back(fd, kind, record);
            }
            from += count;
            // An edge of the version before says the same again.
            if count < MAX_FDS || self.listeners.len() + self.outlets.len() == before {
                return;
            }
        }
    }

    /// Takes back what systemd kept.
    fn take_back_kept(&mut self, record: &EdgeRecord) {
        let mut groups = BTreeMap::<SocketAddr, BTreeMap<u8, OwnedFd>>::new();
        for ((kind, address), fd) in self.kept.take_back() {
            match kind {
                Kind::Http3(slot) => drop(groups.entry(address).or_default().insert(slot, fd)),
                kind => self.take_back(fd, kind, record),
            }
        }
        for (address, slots) in groups {
            let sockets = slots.into_values().collect();
            self.datagrams.take_group(address, sockets, &record.datagrams);
        }
    }

    /// Holds a listening socket that came back, if it is the one that the record says; one that is held already is
    /// one too many.
    pub(super) fn take_back(&mut self, fd: OwnedFd, kind: Kind, record: &EdgeRecord) {
        let socket = TcpListener::from(fd);
        let cookie = seaworthy_sys::socket::socket_cookie(socket.as_fd()).ok();
        let listening = seaworthy_sys::socket::is_listening(socket.as_fd());
        let Ok(address) = socket.local_addr() else { return };
        if !(listening && cookie.is_some() && record.cookies.get(&address).copied() == cookie) {
            crate::say(&format!("a socket for {address} came back that is not ours: left alone"));
        } else if kind == Kind::Outgoing {
            self.outlets.entry(address).or_insert(socket);
        } else {
            let tls = kind == Kind::Https;
            self.listeners.entry(address).or_insert(Held { socket, tls });
        }
    }
}
