//! Idle connections of one thread, most recently used first.
//!
//! They are kept four seconds at most: Node closes its own after five, and a request must not meet that.
//! Invariant: a connection to an instance that takes no more requests is neither kept nor handed out.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::link::Link;
use rustc_hash::FxHashMap;

use crate::snapshot::{Instance, Load};

/// Kept idle at most.
pub(super) const IDLE: Duration = Duration::from_secs(4);
/// Kept for each instance and thread.
const MOST_IDLE: usize = 256;

#[derive(Debug)]
struct Idle {
    link: Option<Link>,
    until: Instant,
    load: Arc<Load>,
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.load.pooled.sub();
    }
}

/// Idle connections of one thread, by the instance's address.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<FxHashMap<SocketAddr, Vec<Idle>>>,
}

impl Pool {
    /// The connection that was used last and still lives, for a request that began `now`.
    pub(super) fn take(&self, address: SocketAddr, now: Instant) -> Option<Link> {
        let mut all = self.idle.borrow_mut();
        let list = all.get_mut(&address)?;
        while let Some(mut idle) = list.pop() {
            // It may have been closed, or say something that nobody asked for.
            let link = idle.link.take().filter(|link| now < idle.until && link.is_quiet());
            if link.is_some() {
                return link;
            }
        }
        None
    }

    /// Keeps a connection whose response was read whole.
    pub(super) fn put(&self, instance: &Instance, link: Link) {
        if instance.load.retired.load(Ordering::Relaxed) {
            return;
        }
        let mut all = self.idle.borrow_mut();
        let list = all.entry(instance.address).or_default();
        if list.len() < MOST_IDLE {
            instance.load.pooled.add();
            let until = Instant::now() + link.patience;
            list.push(Idle { link: Some(link), until, load: Arc::clone(&instance.load) });
        }
    }

    /// Closes what has been idle too long. Whether anything is left.
    pub(crate) fn close_idle(&self) -> bool {
        let now = Instant::now();
        self.keep(|idle| now < idle.until)
    }

    /// Closes connections to instances that take no more requests.
    pub(crate) fn close_retired(&self) {
        self.keep(|idle| !idle.load.retired.load(Ordering::Relaxed));
    }

    fn keep(&self, good: impl Fn(&Idle) -> bool) -> bool {
        let mut all = self.idle.borrow_mut();
        all.retain(|_, list| {
            list.retain(&good);
            !list.is_empty()
        });
        !all.is_empty()
    }
}
