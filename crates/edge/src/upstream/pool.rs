//! Idle connections of one thread, most recently used first, and what spills over to the others.
//!
//! They are kept four seconds at most: Node closes its own after five, and a request must not meet that.
//! A thread keeps [`OWN`] to an instance; more than those any thread may take ([`Spill`]) that had none, so
//! that an instance does not hold connections that wait on the wrong thread. While every thread finds its own,
//! none changes hands, which would cost more than to keep it. Invariant: a connection to an instance that
//! takes no more requests is neither kept nor handed out.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::link::Link;
use crate::instance::{Instance, Load};
use crate::socket::Parked;

/// Kept idle at most.
pub(super) const IDLE: Duration = Duration::from_secs(4);
/// Kept by a thread for each instance, whoever else needs one.
const OWN: usize = 32;
/// Kept by a thread for each instance while nobody else needs one.
const MOST: usize = 256;
/// Kept for each instance by all threads together, besides.
const SPILLED: usize = 256;

/// What waits for a request.
#[derive(Debug)]
struct Idle<T> {
    what: Option<T>,
    until: Instant,
    load: Arc<Load>,
}

impl<T> Idle<T> {
    fn new(what: T, until: Instant, load: &Arc<Load>) -> Self {
        load.pooled.add();
        Self { what: Some(what), until, load: Arc::clone(load) }
    }

    /// Whether it is still to be used.
    fn is_good(&self, now: Instant) -> bool {
        now < self.until && !self.load.retired.load(Ordering::Relaxed)
    }
}

impl<T> Drop for Idle<T> {
    fn drop(&mut self) {
        self.load.pooled.sub();
    }
}

/// By the instance's key, which no other has while anything of it is here.
type Lists<T> = FxHashMap<usize, Vec<Idle<T>>>;

/// Drops what is not to be used any more. Whether anything is left.
fn clean<T>(lists: &mut Lists<T>, now: Instant) -> bool {
    lists.retain(|_, list| {
        list.retain(|idle| idle.is_good(now));
        !list.is_empty()
    });
    !lists.is_empty()
}

/// A socket that no thread waits for, and how long it may be idle.
type Spilled = (Parked, Duration);

/// What one thread has too many of and another may need.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    lists: Mutex<Lists<Spilled>>,
    /// So that who would find nothing takes no lock.
    count: AtomicUsize,
    /// Requests that found none, for which none was given since; [`SPILLED`] at most.
    missed: AtomicUsize,
}

impl Spill {
    fn change<R>(&self, change: impl FnOnce(&mut Lists<Spilled>) -> R) -> R {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut lists);
        self.count.store(lists.values().map(Vec::len).sum(), Ordering::Relaxed);
        result
    }

    fn miss(&self) {
        let more = |missed: usize| Some((missed + 1).min(SPILLED));
        // It never fails: there is always a next number.
        self.missed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok();
    }

    /// Whether somebody needs one, which is taken for given.
    fn is_needed(&self) -> bool {
        let less = |missed: usize| missed.checked_sub(1);
        self.missed.load(Ordering::Relaxed) > 0
            && self.missed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn put(&self, key: usize, link: Link, until: Instant, load: &Arc<Load>) {
        let patience = link.patience;
        // A socket that cannot be given away is closed.
        let Ok(stream) = link.stream.park() else { return };
        self.change(|lists| {
            let list = lists.entry(key).or_default();
            if list.len() < SPILLED {
                list.push(Idle::new((stream, patience), until, load));
            }
        });
    }

    fn take(&self, key: usize, now: Instant) -> Option<Link> {
        while self.count.load(Ordering::Relaxed) > 0 {
            let mut idle = self.change(|lists| lists.get_mut(&key)?.pop())?;
            let good = idle.is_good(now);
            let Some((stream, patience)) = idle.what.take().filter(|_| good) else { continue };
            let Ok(stream) = stream.resume() else { continue };
            let link = Link::new(stream, BytesMut::new(), patience);
            // This thread was not told what came meanwhile.
            if link.is_quiet_now() {
                return Some(link);
            }
        }
        None
    }
}

/// Idle connections of one thread.
#[derive(Debug)]
pub(crate) struct Pool {
    own: RefCell<Lists<Link>>,
    spill: Arc<Spill>,
}

impl Pool {
    pub(crate) fn new(spill: Arc<Spill>) -> Self {
        Self { own: RefCell::default(), spill }
    }

    /// The connection that was used last and still lives, for a request that began `now`.
    pub(super) fn take(&self, key: usize, now: Instant) -> Option<Link> {
        if let Some(list) = self.own.borrow_mut().get_mut(&key) {
            while let Some(mut idle) = list.pop() {
                // It may have been closed, or say something that nobody asked for.
                let link = idle.what.take().filter(|link| now < idle.until && link.is_quiet());
                if link.is_some() {
                    return link;
                }
            }
        }
        let spilled = self.spill.take(key, now);
        if spilled.is_none() {
            self.spill.miss();
        }
        spilled
    }

    /// Keeps a connection whose response was read whole.
    pub(super) fn put(&self, instance: &Instance, link: Link) {
        if instance.load.retired.load(Ordering::Relaxed) {
            return;
        }
        // Since its head, not its end: one that was read for so long is opened anew at no cost to speak of.
        let until = link.heard + link.patience;
        let mut own = self.own.borrow_mut();
        let list = own.entry(instance.key()).or_default();
        if list.len() < OWN || (list.len() < MOST && !self.spill.is_needed()) {
            list.push(Idle::new(link, until, &instance.load));
        } else {
            self.spill.put(instance.key(), link, until, &instance.load);
        }
    }

    /// Closes what has been idle too long, or leads to instances that take no more requests. Whether
    /// anything is left of this thread's.
    pub(crate) fn close_idle(&self) -> bool {
        let now = Instant::now();
        if self.spill.count.load(Ordering::Relaxed) > 0 {
            self.spill.change(|lists| clean(lists, now));
        }
        clean(&mut self.own.borrow_mut(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Address;

    fn links(count: usize, address: std::net::SocketAddr) -> Vec<Link> {
        let connect = |_| {
            let stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = Parked::Tcp(stream).resume().unwrap();
            Link::new(stream, BytesMut::new(), IDLE)
        };
        (0..count).map(connect).collect()
    }

    #[test]
    fn what_a_thread_has_too_many_of_another_takes_and_what_is_closed_nobody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let load: Arc<Load> = Arc::default();
        let instance = Instance {
            name: "web".into(),
            address: Address::Tcp(address),
            http2: false,
            proxy_header: false,
            tag: 0,
            check: None,
            load: Arc::clone(&load),
        };
        let key = instance.key();
        let spill: Arc<Spill> = Arc::default();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let first = runtime();
        let pool = Pool::new(Arc::clone(&spill));
        first.block_on(async {
            // Three requests find none. Three of five beyond its own are given away for them, no more.
            assert!((0..3).all(|_| pool.take(key, Instant::now()).is_none()));
            links(OWN + 3, address).into_iter().for_each(|link| pool.put(&instance, link));
            assert_eq!(spill.count.load(Ordering::Relaxed), 3);
            links(2, address).into_iter().for_each(|link| pool.put(&instance, link));
            assert_eq!(spill.count.load(Ordering::Relaxed), 3);
            drop(pool.take(key, Instant::now()).zip(pool.take(key, Instant::now())));
        });
        assert_eq!(load.pooled.get(), OWN as u64 + 3);
        let mut theirs: Vec<_> = listener.incoming().take(OWN + 3).map(Result::unwrap).collect();
        // The last one is closed by the instance while it waits.
        drop(theirs.pop());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let other = Pool::new(Arc::clone(&spill));
                runtime().block_on(async {
                    let now = Instant::now();
                    let taken: Vec<Link> = std::iter::from_fn(|| other.take(key, now)).collect();
                    assert_eq!(taken.len(), 2);
                });
            });
        });
        assert_eq!(load.pooled.get(), OWN as u64);
        load.retired.store(true, Ordering::Relaxed);
        assert!(!pool.close_idle());
        assert_eq!(load.pooled.get(), 0);
    }
}
