//! Answers that are kept and used again, by RFC 9111, in memory.
//!
//! What may be kept and for how long is decided by plain functions ([`rules`], [`directives`]) on heads and
//! times; this room keeps ([`store`]) and sees to it that many who ask for the same thing at once cost the
//! application one request. Invariants: the key holds site, scheme, host, path and query, and what the
//! answer varies by; nothing that is private, was asked with credentials, or sets a cookie is ever kept
//! (unless it says that it is public); the memory is bounded. Not here: asking the application
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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

pub(crate) use answer::{answer, conditions, mark};
pub(crate) use rules::{Asked, Kept, Use, asked, may_keep, refreshed};
pub(crate) use store::Key;

use self::store::Store;

/// Bytes of all answers that are kept.
const CAPACITY: usize = 64 << 20;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// All answers that are kept, and what is being fetched.
#[derive(Debug)]
pub(crate) struct Cache {
    store: Mutex<Store>,
    flights: Mutex<HashMap<Key, Arc<Notify>>>,
}

/// Whether somebody else is fetching the same already.
#[derive(Debug)]
pub(crate) enum Flight {
    /// Nobody: who holds this is the one, until it is dropped.
    Leader(Leader),
    /// Told when the other one is through.
    Follower(Pin<Box<OwnedNotified>>),
}

/// Fetches for everybody. Whoever waits is told when it is dropped, however that comes.
#[derive(Debug)]
pub(crate) struct Leader {
    cache: Arc<Cache>,
    key: Key,
}

impl Drop for Leader {
    fn drop(&mut self) {
        let flights = &self.cache.flights;
        let told = flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        if let Some(told) = told {
            told.notify_waiters();
        }
    }
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self { store: Mutex::new(Store::new(CAPACITY)), flights: Mutex::default() }
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept for a request.
    pub(crate) fn find(&self, key: &Key, headers: &HeaderMap, now: u64) -> Use {
        self.store().find(key, headers, now)
    }

    /// Keeps an answer, in the place of one for the same request.
    pub(crate) fn keep(&self, key: &Key, kept: Kept) {
        self.store().put(key, Arc::new(kept));
    }

    /// Remembers for a while that answers to this are not kept, so that nobody waits for one.
    pub(crate) fn pass(&self, key: &Key, now: u64) {
        self.store().pass(key, now);
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
    pub(crate) fn join(self: &Arc<Self>, key: &Key) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = flights.get(key) {
            // Made under the lock: from now on it cannot miss the other one's end.
            return Flight::Follower(Box::pin(Arc::clone(other).notified_owned()));
        }
        flights.insert(key.clone(), Arc::default());
        Flight::Leader(Leader { cache: Arc::clone(self), key: key.clone() })
    }
}
