//! A thread that serves: its own runtime, its own pool of upstream connections, its own snapshot.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustc_hash::FxHashSet;
use seaworthy_base::RequestId;
use tokio::runtime::{EnterGuard, Handle, LocalOptions};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::accept::{self, Listening};
use crate::ahead::Purse;
use crate::conn;
use crate::date::Date;
use crate::policy::stored::{self, Forgotten};
use crate::quic::{self, Greeted};
use crate::rooms::Rooms;
use crate::snapshot::{Counted, Shared, Snapshot};
use crate::store;
use crate::upstream::{Http2Links, Pool, check};
use crate::watch::Watch;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Job {
    Connection(Accepted),
    /// Accept from this socket, for all workers.
    Listen {
        listening: Arc<Listening>,
        workers: Arc<[Worker]>,
    },
    /// A connection of QUIC's that nobody serves yet.
    Quic(Box<Greeted>, Open),
    /// Take those of this endpoint, for all workers.
    ListenQuic {
        listening: Arc<quic::Listening>,
        workers: Arc<[Worker]>,
    },
    /// The snapshot was swapped: say when nothing that began before goes on without having waited.
    Swapped(std::sync::mpsc::Sender<()>),
    Drain,
    /// Forget what was counted in stores.
    Forget(Forgotten),
    /// Descriptors run short: end the patience with so many clients.
    MakeRoom(usize),
}

/// A connection that nobody serves yet.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    /// Where it came in.
    pub(crate) at: SocketAddr,
    pub(crate) tls: bool,
    /// From an application that calls others.
    pub(crate) outgoing: bool,
    pub(crate) open: Open,
}

/// Counts an accepted connection, in the process and with its worker, until it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    of_worker: Arc<AtomicU64>,
    _of_process: Counted,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.of_worker.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The handle to a worker.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    connections: Arc<AtomicU64>,
    runtime: Handle,
}

impl Worker {
    /// What is registered while this is held wakes the worker.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Hands a job over. A worker ends only with the process.
    pub(crate) fn send(&self, job: Job) {
        self.jobs.send(job).ok();
    }

    /// Open connections.
    pub(crate) fn load(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection that is about to be handed over.
    pub(crate) fn open(&self, shared: &Arc<Shared>) -> Open {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Open { of_worker: Arc::clone(&self.connections), _of_process: shared.open_connection() }
    }
}

/// Where a thread's request ids come from.
#[derive(Debug)]
pub(crate) struct Ids {
    edge: u8,
    thread: u8,
    sequence: Cell<u32>,
    salt: u32,
    /// When the thread last looked at the wall clock, and its microseconds since 1970: one clock is read for each request.
    looked: Cell<(Instant, u64)>,
}

/// Time that is passed since the wall clock was looked at, until it is looked at again: it may have been set.
const LOOK: Duration = Duration::from_secs(1);

/// The wall clock in microseconds since 1970.
fn wall() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as u64
}

impl Ids {
    pub(crate) fn new(edge: u8, thread: u8) -> Self {
        let looked = Cell::new((Instant::now(), wall()));
        Self { edge, thread, sequence: Cell::new(0), salt: rand::random(), looked }
    }

    /// A fresh id for a request that began `now`.
    pub(crate) fn next(&self, now: Instant) -> RequestId {
        if now.saturating_duration_since(self.looked.get().0) >= LOOK {
            self.looked.set((now, wall()));
        }
        let (looked, wall) = self.looked.get();
        let millis = (wall + now.saturating_duration_since(looked).as_micros() as u64) / 1000;
        let sequence = self.sequence.get();
        self.sequence.set(sequence.wrapping_add(1));
        RequestId::new(millis, self.edge, self.thread, sequence, self.salt)
    }
}

/// What belongs to one thread.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    /// Behind a counter of the thread's own too: that of all threads is dear to change.
    #[expect(clippy::redundant_allocation, reason = "it saves traffic between processors")]
    snapshot: RefCell<Rc<Arc<Snapshot>>>,
    /// The swap that it is of.
    swaps: Cell<u64>,
    /// Notified when the snapshot was swapped.
    pub(crate) swapped: Notify,
    pub(crate) drain: Notify,
    pub(crate) draining: Cell<bool>,
    pub(crate) pool: Pool,
    pub(crate) http2: Http2Links,
    /// To stores.
    pub(crate) links: store::Links,
    /// Instances that are being checked, by key.
    pub(crate) checked: RefCell<FxHashSet<usize>>,
    pub(crate) rooms: Rc<Rooms>,
    /// For bodies that are read before they are sent.
    pub(crate) purse: Rc<Purse>,
    pub(crate) date: Date,
    ids: Ids,
    pub(crate) watch: Rc<Watch>,
    pub(crate) thread: u16,
}

impl Local {
    pub(crate) fn new(shared: Arc<Shared>, thread: u16) -> Self {
        Self {
            swaps: Cell::new(shared.swaps()),
            snapshot: RefCell::new(Rc::new(shared.current())),
            swapped: Notify::new(),
            drain: Notify::new(),
            draining: Cell::new(false),
            pool: Pool::new(Arc::clone(&shared.spill)),
            http2: Http2Links::default(),
            links: store::Links::default(),
            checked: RefCell::default(),
            ids: Ids::new(shared.number as u8, thread as u8),
            shared,
            rooms: Rc::default(),
            purse: Rc::default(),
            date: Date::default(),
            watch: Rc::default(),
            thread,
        }
    }

    /// A fresh id for a request that began `now`.
    pub(crate) fn next_id(&self, now: Instant) -> RequestId {
        self.ids.next(now)
    }

    /// What is served now.
    #[expect(clippy::redundant_allocation, reason = "it saves traffic between processors")]
    pub(crate) fn current(&self) -> Rc<Arc<Snapshot>> {
        let swaps = self.shared.swaps();
        if swaps != self.swaps.replace(swaps) {
            *self.snapshot.borrow_mut() = Rc::new(self.shared.current());
        }
        Rc::clone(&self.snapshot.borrow())
    }
}

/// Starts a worker; an error where its runtime or its thread cannot be had.
pub(crate) fn spawn(thread: u16, shared: Arc<Shared>) -> io::Result<Worker> {
    let (jobs, receiver) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicU64::new(0));
    let (said, heard) = std::sync::mpsc::channel();
    let builder = std::thread::Builder::new().name(format!("edge-{thread}")).stack_size(1 << 20);
    builder.spawn(move || {
        // It belongs to the thread that it is made on: its tasks go from the socket that woke them to where they run.
        let mut builder = tokio::runtime::Builder::new_current_thread();
        match builder.enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                said.send(Ok(runtime.handle().clone())).ok();
                runtime.block_on(run(Rc::new(Local::new(shared, thread)), receiver));
            }
            Err(error) => drop(said.send(Err(error))),
        }
    })?;
    let runtime = heard.recv().map_err(io::Error::other)??;
    Ok(Worker { jobs, connections, runtime })
}

async fn run(local: Rc<Local>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    tokio::task::spawn_local(sweep(Rc::clone(&local)));
    let watch = Rc::clone(&local.watch);
    tokio::task::spawn_local(async move { watch.run().await });
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Connection(accepted) => take(&local, accepted),
            Job::Listen { listening, workers } => {
                tokio::task::spawn_local(accept::run(Rc::clone(&local), listening, workers));
            }
            Job::Quic(greeted, open) => greet(&local, *greeted, open),
            Job::ListenQuic { listening, workers } => {
                tokio::task::spawn_local(quic::run(Rc::clone(&local), listening, workers));
            }
            Job::Swapped(done) => {
                local.pool.close_idle();
                local.http2.clean();
                store::keep(&local);
                if local.thread == 0 {
                    check::start(&local);
                }
                local.swapped.notify_waiters();
                // Nobody waits where it need not be known.
                done.send(()).ok();
            }
            Job::Forget(what) => {
                let local = Rc::clone(&local);
                tokio::task::spawn_local(async move { stored::forget(&local, &what).await });
            }
            Job::Drain => {
                local.draining.set(true);
                local.drain.notify_waiters();
            }
            Job::MakeRoom(count) => {
                let found = local.watch.hurry(count) as u64;
                local.shared.made_room.fetch_add(found, Ordering::Relaxed);
            }
        }
    }
}

/// Begins to serve a connection on this thread.
pub(crate) fn take(local: &Rc<Local>, accepted: Accepted) {
    let Accepted { stream, peer, at, tls, outgoing, open } = accepted;
    let local = Rc::clone(local);
    tokio::task::spawn_local(async move {
        conn::serve(&local, stream, peer, (at, tls, outgoing)).await;
        drop(open);
    });
}

/// Begins to serve a connection of QUIC's on this thread.
pub(crate) fn greet(local: &Rc<Local>, greeted: Greeted, open: Open) {
    let local = Rc::clone(local);
    tokio::task::spawn_local(async move {
        conn::http3::serve(&local, greeted).await;
        drop(open);
    });
}

/// Closes upstream connections that have been idle too long, writes what is gathered for the log, and forgets what is too
/// old to be kept.
async fn sweep(local: Rc<Local>) {
    // What was served when the code of starts and changes was last given back.
    let mut settled: Option<Rc<Arc<Snapshot>>> = None;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if local.thread == 0 {
            local.shared.tls.forget();
        }
        local.http2.clean();
        store::keep(&local);
        local.rooms.trim();
        let idle = !local.pool.close_idle() && !local.shared.log.flush_thread(local.thread);
        if idle {
            local.rooms.clear();
            let now = local.current();
            let is_settled = settled.as_ref().is_some_and(|settled| Arc::ptr_eq(settled, &now));
            if local.thread == 0 && !is_settled {
                seaworthy_sys::process::forget_code();
                settled = Some(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EdgeOptions;

    #[test]
    fn an_id_tells_when_its_request_began_and_follows_a_clock_that_was_set() {
        let ids = Ids::new(1, 2);
        let (begun, told) = ids.looked.get();
        let at = |now: Instant| ids.next(now).millis();
        assert_eq!(at(begun + Duration::from_millis(700)), (told + 700_000) / 1000);
        // As if it had been set back to 1970 since.
        ids.looked.set((begun, 0));
        assert_eq!(at(begun + LOOK - Duration::from_millis(1)), 999);
        assert!(at(begun + LOOK) >= told / 1000);
    }

    #[test]
    fn what_sealed_tickets_long_ago_is_forgotten_though_nobody_comes() {
        let dir = tempfile::tempdir().unwrap();
        let options = EdgeOptions { log_dir: dir.path().to_owned(), ..EdgeOptions::default() };
        let shared = Arc::new(Shared::new(&options));
        let counts = Arc::clone(&shared.counts);
        let long_ago = || counts.secrets().unwrap().read(5);
        counts.secrets().unwrap().draw(5).unwrap();
        assert!(long_ago().is_some());
        let _worker = spawn(0, shared).unwrap();
        let begun = std::time::Instant::now();
        while long_ago().is_some() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it is still there");
            std::thread::yield_now();
        }
    }
}
