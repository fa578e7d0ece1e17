//! Instances of a service as the edge knows them: where they are, what they have to do, how they are.
//!
//! What is known of an instance lives as long as the instance, over all snapshots and threads: what is in
//! flight does not end with a change of the configuration. Invariant: who asks about an instance on the way
//! of a request reads lines of its own thread, or words that change seldom. Rooms: [`health`] (why it is
//! left out), [`latency`] (how long it takes). Not here: who is chosen ([`crate::upstream`]).

mod health;
mod latency;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(crate) use health::Health;
pub(crate) use latency::Latency;

use crate::counter::Counter;
use crate::ending::Ending;
use crate::model::{Check, InstanceLoad};
use crate::upstream::Budget;

/// Counters of times: the last one is for everything from two minutes on.
const TIMES: usize = 28;

/// Where an instance listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// One place to send requests to.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) name: Arc<str>,
    pub(crate) address: Address,
    /// It speaks HTTP/2, without TLS and from the first byte on.
    pub(crate) http2: bool,
    /// Each connection begins with a PROXY header, and carries one client's requests.
    pub(crate) proxy_header: bool,
    /// Names its place among the instances of its service: the same for the next release's in that place.
    pub(crate) tag: u64,
    /// How it is asked whether it is well, where nobody else does that.
    pub(crate) check: Option<Arc<Check>>,
    pub(crate) load: Arc<Load>,
}

impl Instance {
    /// Tells it from all others that are known, for as long as it is.
    pub(crate) fn key(&self) -> usize {
        Arc::as_ptr(&self.load).addr()
    }

    /// What redirects of its own may name; nothing has the address of none.
    pub(crate) fn public_address(&self) -> SocketAddr {
        match &self.address {
            Address::Tcp(address) => *address,
            Address::Unix(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        }
    }
}

/// What goes on with it, over all threads and snapshots.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) in_flight: Counter,
    pub(crate) pooled: Counter,
    /// WebSockets and other upgraded connections.
    pub(crate) tunnels: Counter,
    pub(crate) health: Health,
    pub(crate) latency: Latency,
    /// Draining or gone: its pooled connections are to be closed.
    pub(crate) retired: AtomicBool,
    /// Whether what lives long on it has to end.
    pub(crate) ending: Ending,
    errors: AtomicU64,
    times: [AtomicU64; TIMES],
}

impl Load {
    /// Counts an answer, or that none came; so many microseconds after the request was sent.
    pub(crate) fn count(&self, failed: bool, micros: u64) {
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(times) = self.times.get(bucket.min(TIMES - 1)) {
            times.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether nothing goes on.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0 && self.pooled.get() == 0 && self.tunnels.get() == 0
    }

    /// Adds what is known to what is told; it is `now` so many milliseconds.
    pub(crate) fn tell(&self, entry: &mut InstanceLoad, now: u64) {
        entry.in_flight += self.in_flight.get();
        entry.pooled += self.pooled.get();
        entry.tunnels += self.tunnels.get();
        entry.errors += self.errors.load(Ordering::Relaxed);
        entry.times.resize(TIMES, 0);
        let times = self.times.iter().map(|times| times.load(Ordering::Relaxed));
        entry.times.iter_mut().zip(times).for_each(|(sum, one)| *sum += one);
        entry.answered = entry.times.iter().sum();
        if let Some(why) = self.health.why_out(now) {
            entry.out = Some(why);
        }
    }
}

/// The instances of one service.
#[derive(Debug, Default)]
pub(crate) struct Service {
    pub(crate) ready: Vec<Arc<Instance>>,
    /// Others are being started: requests may wait for them.
    pub(crate) starting: bool,
    /// Those that should take requests and do not, with the reason.
    pub(crate) missing: Vec<(String, String)>,
    pub(crate) kept: Arc<Kept>,
}

/// What is kept of a service over all snapshots.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) budget: Budget,
    /// Whose turn it is.
    pub(crate) turn: AtomicUsize,
    /// Requests that wait for an instance, and their size.
    pub(crate) waiting: AtomicU32,
    pub(crate) waiting_bytes: AtomicU64,
}
