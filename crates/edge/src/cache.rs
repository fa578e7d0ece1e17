//! Answers that are kept and used again, by RFC 9111, in memory.
//!
//! What may be kept and for how long is decided by plain functions ([`rules`], [`directives`]) on heads and
//! times; this room keeps ([`store`]) and sees to it that many who ask for the same thing at once cost the
//! application one request. Invariants: the key holds site, scheme, host, path and query, and what the
//! answer varies by; nothing that is private, was asked with credentials, or sets a cookie is ever kept
//! (unless it says that it is public); an answer that was asked for before its path was purged or changed
//! is not kept after it; the memory is bounded, keys and what is on its way here included. Not here: asking the application
//! ([`crate::serve`]).

mod answer;
mod directives;
#[cfg(test)]
pub(crate) mod fuzz;
mod rules;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

pub(crate) use answer::{answer, conditions, mark};
pub(crate) use rules::{Asked, Fate, Kept, Use, asked, may_keep, refreshed};
pub(crate) use store::{Key, Moment};

use self::store::Store;

/// Bytes of all answers that are kept.
const CAPACITY: usize = 64 << 20;
/// Bytes of all answers that come and are to be kept: sixteen of the usual largest ones.
const UNDER_WAY: usize = 64 << 20;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// All answers that are kept, and what is being fetched.
#[derive(Debug)]
pub(crate) struct Cache {
    store: Mutex<Store>,
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    /// Bytes of answers that are not whole yet.
    under_way: AtomicUsize,
}

/// Something that is being fetched.
#[derive(Debug, Default)]
struct Flight {
    over: Arc<Notify>,
    /// Who fetched it went away before it was known what comes.
    abandoned: AtomicBool,
}

/// Whether somebody else is fetching the same already.
#[derive(Debug)]
pub(crate) enum Part {
    /// Nobody: who holds this is the one, until it is dropped.
    Leader(Leader),
    /// Somebody is.
    Follower(Follower),
    /// Answers to this are not kept: everybody asks for themselves.
    Alone,
}

/// Waits for who fetches.
#[derive(Debug)]
pub(crate) struct Follower {
    flight: Arc<Flight>,
    over: Pin<Box<OwnedNotified>>,
}

impl Follower {
    /// Until the other one is through. Whether it went away in between, so that one of those who waited is to
    /// take its place; else what it got is kept, or each asks for itself.
    pub(crate) async fn wait(self) -> bool {
        self.over.await;
        self.flight.abandoned.load(Ordering::Acquire)
    }
}

/// Fetches for everybody. Whoever waits is told when it is dropped, however that comes.
#[derive(Debug)]
pub(crate) struct Leader {
    cache: Arc<Cache>,
    key: Key,
    is_through: bool,
}

impl Leader {
    /// It is known what comes: it was kept, or will not be.
    pub(crate) fn through(mut self) {
        self.is_through = true;
    }

    /// What comes is not kept, and the next answers to this will not be either.
    pub(crate) fn pass(self, now: u64) {
        self.cache.pass(&self.key, now);
        self.through();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let flights = &self.cache.flights;
        let flight = flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        if let Some(flight) = flight {
            flight.abandoned.store(!self.is_through, Ordering::Release);
            flight.over.notify_waiters();
        }
    }
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            store: Mutex::new(Store::new(CAPACITY)),
            flights: Mutex::default(),
            under_way: AtomicUsize::new(0),
        }
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept for a request.
    pub(crate) fn find(&self, key: &Key, headers: &HeaderMap, now: u64) -> Use {
        self.store().find(key, headers, now)
    }

    /// What has changed so far; an answer is kept only if that is still all when it has come.
    pub(crate) fn moment(&self, key: &Key) -> Moment {
        self.store().moment(key)
    }

    /// Keeps of an answer that was asked for at a moment what is for all, in the place of one for the same request.
    pub(crate) fn keep(&self, key: &Key, kept: Kept, moment: Moment) {
        let kept = Arc::new(kept.for_all());
        let mut store = self.store();
        if store.moment(key) == moment {
            store.put(key, kept);
        }
    }

    /// Remembers for a while that answers to this are not kept, so that nobody waits for one.
    fn pass(&self, key: &Key, now: u64) {
        self.store().pass(key, now);
    }

    /// Counts bytes of an answer that comes. Whether there is room for them; they are counted either way.
    pub(crate) fn hold(&self, bytes: usize) -> bool {
        self.under_way.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= UNDER_WAY
    }

    /// So many bytes that were counted are kept, or let go.
    pub(crate) fn release(&self, bytes: usize) {
        self.under_way.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What comes for a key is not kept, though it could be: whoever waits for it asks.
    pub(crate) fn give_up(&self, key: &Key, now: u64) {
        self.pass(key, now);
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key) {
            flight.over.notify_waiters();
        }
    }

    /// Forgets what is kept for a request: a newer answer came, which is not kept.
    pub(crate) fn supersede(&self, key: &Key, headers: &HeaderMap) {
        self.store().supersede(key, headers);
    }

    /// Forgets what is kept under a key.
    pub(crate) fn invalidate(&self, key: &Key) {
        self.store().remove(key);
    }

    /// Forgets a site's answers, or those whose path fits a pattern. How many there were.
    pub(crate) fn purge(&self, site: &str, path: Option<&str>) -> usize {
        self.store().purge(site, path)
    }

    /// Fetch, or wait for who does.
    pub(crate) fn join(self: &Arc<Self>, key: &Key, now: u64) -> Part {
        if self.store().passes(key, now) {
            return Part::Alone;
        }
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key) {
            // Made under the lock: from now on it cannot miss the other one's end.
            let over = Box::pin(Arc::clone(&flight.over).notified_owned());
            return Part::Follower(Follower { flight: Arc::clone(flight), over });
        }
        flights.insert(key.clone(), Arc::default());
        Part::Leader(Leader { cache: Arc::clone(self), key: key.clone(), is_through: false })
    }
}
