//! The edge's UDP sockets: given when it knows routes and certificates, taken back when HTTP/3 is switched off.
//!
//! Invariant: an edge that dies over what it is told fails nothing, as with its listeners; the next one is told all
//! of it. Not here: which slot is whose, and how packets find it ([`crate::datagrams`]).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use seaworthy_base::Fault;

use super::{Edge, EdgeRecord, edge_fault, unless_dead};
use crate::datagrams;
use crate::edge_link::{Link, LinkError};

impl Edge {
    /// The addresses at which HTTP/3 is served.
    pub(crate) fn datagrams(&self) -> BTreeSet<SocketAddr> {
        self.datagrams.addresses()
    }

    /// Makes the addresses of HTTP/3 what is wanted, as [`Self::listen`] does those of TCP.
    pub(crate) async fn listen_datagrams(
        &mut self,
        bound: Vec<datagrams::Bound>,
        wanted: &BTreeSet<SocketAddr>,
    ) -> Result<(), Fault> {
        let added: Vec<SocketAddr> = bound.iter().map(|(address, _)| *address).collect();
        self.datagrams.hold(bound);
        let failed = |error| edge_fault("the edge did not take its UDP addresses", &error);
        if let Some(link) = self.link.clone().filter(|link| !link.is_dead()) {
            let given = self.datagrams.give(&link, self.number, &added).await;
            unless_dead(&link, given).map_err(failed)?;
        }
        let addresses = self.datagrams.keep(wanted);
        let older = self.draining.iter().map(|(_, link)| link);
        for link in self.link.iter().chain(older).filter(|link| !link.is_dead()) {
            let told = datagrams::end(link, addresses.clone()).await;
            unless_dead(link, told).map_err(failed)?;
        }
        self.settle_kept();
        Ok(())
    }

    /// Edges that finish keep the UDP sockets that they read, and an address could not be bound anew beside them. Where
    /// the other sockets of it are lost (control and the newest edge both died, and nobody kept them), they let go.
    pub(super) async fn free_what_is_lost(&self, record: &EdgeRecord) {
        let held = self.datagrams();
        let known = record.datagrams.addresses();
        let lost: Vec<SocketAddr> = known.filter(|address| !held.contains(address)).collect();
        for (number, link) in &self.draining {
            if let Err(error) = datagrams::end(link, lost.clone()).await {
                crate::say(&format!("edge {number} did not let go of UDP: {error}"));
            }
        }
    }

    /// Gives a new edge a slot of its own, and all sockets. New connections are its from then on.
    pub(super) async fn give_datagrams(&mut self, link: &Link) -> Result<(), LinkError> {
        self.draining.retain(|(_, link)| !link.has_ended());
        let mut living: Vec<u32> = self.draining.iter().map(|(number, _)| *number).collect();
        // The one before is still there when it is being replaced.
        let before = self.link.as_ref().filter(|link| !link.has_ended());
        living.extend(before.map(|_| self.number.saturating_sub(1)));
        let addresses: Vec<SocketAddr> = self.datagrams().into_iter().collect();
        if let Some(cut_off) = self.datagrams.seat(self.number, &living)
            && let Some((_, old)) = self.draining.iter().find(|(number, _)| *number == cut_off)
        {
            unless_dead(old, datagrams::end(old, addresses.clone()).await)?;
        }
        self.datagrams.give(link, self.number, &addresses).await
    }
}
