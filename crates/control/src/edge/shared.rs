//! What the edge is given beside routes and certificates: the table that all edges count in, the stores of several servers,
//! and the addresses where applications come in that call others.
//!
//! Invariant: as for listeners, sockets that are wanted are held here too, so that the edge's death loses no call that waits
//! in them. Not here: what ways out and stores are ([`crate::outgoing`], [`crate::stores`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use seaworthy_base::Fault;
use seaworthy_edge::model::{COUNTS, Request, StoreAt, WayOut};

use super::{Edge, edge_fault};
use crate::edge_link::{Link, LinkError};
use crate::outgoing::Sockets;

impl Edge {
    /// Where applications come in that call others.
    pub(crate) fn outlets(&self) -> Vec<SocketAddr> {
        self.outlets.keys().copied().collect()
    }

    /// Makes the addresses for calls what is wanted: `bound` are new sockets, everything not in `wanted` is closed.
    pub(crate) async fn listen_for_calls(
        &mut self,
        bound: Sockets,
        wanted: &[SocketAddr],
    ) -> Result<(), Fault> {
        let added: Vec<SocketAddr> = bound.iter().map(|(address, _)| *address).collect();
        self.outlets.extend(bound);
        let gone: Vec<SocketAddr> =
            self.outlets.keys().filter(|address| !wanted.contains(address)).copied().collect();
        let failed = |error| edge_fault("the edge did not take its addresses for calls", &error);
        self.tell_addresses(&added, &gone).await.map_err(failed)?;
        self.outlets.retain(|address, _| !gone.contains(address));
        self.settle_kept();
        Ok(())
    }

    /// Sets the ways on which applications call others, with the system's authorities where one needs them; they are sent
    /// with the next routes.
    pub(crate) fn call_by(&mut self, ways: Vec<WayOut>) {
        let roots = crate::outgoing::system_roots(&ways);
        self.ways = (ways, roots);
    }

    /// Sets where edges of several servers count together; it is sent with the next certificates.
    pub(crate) fn count_in(&mut self, stores: BTreeMap<String, StoreAt>) {
        self.keys.stores = stores;
    }

    /// Hands the table of all counts over; an edge that does not take it counts alone.
    pub(super) async fn share_counts(&mut self, link: &Link) {
        if !link.has(COUNTS) {
            return;
        }
        // One that was laid out by another version is refused: then there is a new one.
        for fresh in [false, true] {
            if fresh || self.counts.is_none() {
                self.counts = seaworthy_edge::create_counts().ok();
            }
            let Some(Ok(copy)) = self.counts.as_ref().map(OwnedFd::try_clone) else { break };
            match link.ask(Request::Counts, vec![copy]).await {
                Ok(_) => return,
                Err(LinkError::Refused(_)) if !fresh => {}
                Err(_) => break,
            }
        }
        crate::say("the new edge counts alone: rates and failed attempts begin anew in it");
    }
}
