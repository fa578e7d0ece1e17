//! Accepting: one worker, the leader, waits on all listening sockets and deals connections out.
//!
//! Why one (docs/decisions/002): each worker waiting on its own would wake all of them for each connection;
//! a thread that does nothing else would have to be woken for each. A connection goes to the worker with
//! the fewest, the leader first among equals, which then serves it without telling anybody. Invariants: a
//! listener that is taken away is closed here only, what waits in it stays with who else holds it; a
//! thousand new connections do not keep those that are there waiting; where descriptors run short the clients
//! go that have been waited for longest, and nobody is refused for them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::sockopt;
use seaworthy_sys::socket;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::model::Listener;
use crate::worker::{self, Accepted, Job, Local, Worker};

/// Connections that are accepted before others get their turn.
const BATCH: usize = 16;
/// Clients that go when descriptors run short: those of a batch, with what each holds of an instance.
const ROOM: usize = 2 * BATCH;
/// Out of descriptors: what waits stays in the socket until some are free.
const RESPITE: Duration = Duration::from_millis(20);

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listening {
    /// Tokio's own listener cannot be waited for without accepting on its thread; its stream can.
    socket: TcpStream,
    address: SocketAddr,
    tls: bool,
    outgoing: bool,
    /// Told when it is taken away.
    ended: Notify,
}

/// The handle to what listens.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listeners: Mutex<Vec<Arc<Listening>>>,
    workers: Arc<[Worker]>,
}

impl Acceptor {
    /// Nothing listens yet. The first worker leads; there must be one.
    pub(crate) fn new(workers: &[Worker]) -> Self {
        Self { listeners: Mutex::default(), workers: workers.into() }
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Arc<Listening>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens on one more socket.
    pub(crate) fn add(&self, fd: OwnedFd, of: &Listener) -> io::Result<()> {
        let Listener { address, tls, outgoing } = *of;
        let Some(leader) = self.workers.first() else { return Ok(()) };
        // Connections have it from the socket that they were accepted on.
        sockopt::set_tcp_nodelay(&fd, true)?;
        let socket = std::net::TcpStream::from(fd);
        socket.set_nonblocking(true)?;
        let socket = {
            let _within = leader.enter();
            TcpStream::from_std(socket)?
        };
        let listening =
            Arc::new(Listening { socket, address, tls, outgoing, ended: Notify::new() });
        self.remove(Some(address));
        self.listeners().push(Arc::clone(&listening));
        leader.send(Job::Listen { listening, workers: Arc::clone(&self.workers) });
        Ok(())
    }

    /// Stops listening on an address, or on all of them.
    pub(crate) fn remove(&self, address: Option<SocketAddr>) {
        self.listeners().retain(|one| {
            let stays = address.is_some_and(|address| one.address != address);
            if !stays {
                one.ended.notify_one();
            }
            stays
        });
    }

    /// Copies of all sockets.
    pub(crate) fn all(&self) -> io::Result<Vec<(Listener, OwnedFd)>> {
        let all = self.listeners();
        all.iter()
            .map(|one| {
                let Listening { address, tls, outgoing, .. } = **one;
                let listener = Listener { address, tls, outgoing };
                Ok((listener, one.socket.as_fd().try_clone_to_owned()?))
            })
            .collect()
    }
}

/// Accepts until the socket is taken away. Runs on the leader.
pub(crate) async fn run(local: Rc<Local>, listening: Arc<Listening>, workers: Arc<[Worker]>) {
    let socket = &listening.socket;
    loop {
        tokio::select! {
            biased;
            () = listening.ended.notified() => return,
            waits = socket.readable() => if waits.is_err() { return },
        }
        let mut is_crowded = false;
        for _ in 0..BATCH {
            match socket.try_io(Interest::READABLE, || socket::accept(socket)) {
                Ok((stream, peer)) => {
                    is_crowded |= local.shared.is_scarce(stream.as_raw_fd());
                    deal(&local, &workers, &listening, stream, peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if matches!(error.raw_os_error(), Some(23 | 24)) => {
                    make_room(&workers);
                    tokio::time::sleep(RESPITE).await;
                    break;
                }
                // It went before it was accepted.
                Err(_) => {}
            }
        }
        if is_crowded {
            make_room(&workers);
        }
        tokio::task::yield_now().await;
    }
}

/// Has the worker with the most connections end some that only wait.
fn make_room(workers: &[Worker]) {
    if let Some(worker) = workers.iter().max_by_key(|worker| worker.load()) {
        worker.send(Job::MakeRoom(ROOM));
    }
}

fn deal(
    local: &Rc<Local>,
    workers: &[Worker],
    listening: &Listening,
    stream: std::net::TcpStream,
    peer: SocketAddr,
) {
    let fewest = workers.iter().enumerate().min_by_key(|(_, worker)| worker.load());
    let Some((place, worker)) = fewest else { return };
    let Listening { address: at, tls, outgoing, .. } = *listening;
    let open = worker.open(&local.shared);
    let accepted = Accepted { stream, peer, at, tls, outgoing, open };
    if place == 0 {
        worker::take(local, accepted);
    } else {
        worker.send(Job::Connection(accepted));
    }
}
