//! The acceptor: one thread that waits on all listening sockets and hands connections to the workers.
//!
//! Why one thread (docs/decisions/002): each worker waiting on its own would wake all of them for each
//! connection. The connection goes to the worker with the fewest. Invariant: a listener that is taken
//! away is closed here only; what waits in it stays with who else holds it.

use std::io;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use seaworthy_sys::socket;

use crate::snapshot::Shared;
use crate::worker::{Job, Worker};

/// A listening socket.
#[derive(Debug)]
struct Listening {
    socket: TcpListener,
    address: SocketAddr,
    tls: bool,
}

/// The handle to the acceptor.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listeners: Arc<Mutex<Vec<Arc<Listening>>>>,
    wake: UnixStream,
}

impl Acceptor {
    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Listening>>)) {
        change(&mut self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        // Only a full buffer can refuse the byte, and then the thread is about to look anyway.
        (&self.wake).write_all(&[1]).ok();
    }

    /// Listens on one more socket.
    pub(crate) fn add(&self, fd: OwnedFd, address: SocketAddr, tls: bool) -> io::Result<()> {
        let socket = TcpListener::from(fd);
        socket.set_nonblocking(true)?;
        self.change(|all| {
            all.retain(|one| one.address != address);
            all.push(Arc::new(Listening { socket, address, tls }));
        });
        Ok(())
    }

    /// Stops listening on an address, or on all of them.
    pub(crate) fn remove(&self, address: Option<SocketAddr>) {
        self.change(|all| all.retain(|one| address.is_some_and(|address| one.address != address)));
    }

    /// Copies of all sockets.
    pub(crate) fn all(&self) -> io::Result<Vec<(SocketAddr, bool, OwnedFd)>> {
        let all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|one| Ok((one.address, one.tls, one.socket.try_clone()?.into()))).collect()
    }
}

/// Starts the thread.
pub(crate) fn spawn(shared: Arc<Shared>, workers: Vec<Worker>) -> io::Result<Acceptor> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let listeners: Arc<Mutex<Vec<Arc<Listening>>>> = Arc::default();
    let of_thread = Arc::clone(&listeners);
    let thread = std::thread::Builder::new().name("accept".to_owned()).stack_size(128 << 10);
    thread.spawn(move || run(&shared, &workers, &of_thread, &woken))?;
    Ok(Acceptor { listeners, wake })
}

fn run(
    shared: &Arc<Shared>,
    workers: &[Worker],
    listeners: &Mutex<Vec<Arc<Listening>>>,
    woken: &UnixStream,
) {
    loop {
        let all: Vec<Arc<Listening>> =
            listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut fds = vec![PollFd::new(woken, PollFlags::IN)];
        fds.extend(all.iter().map(|one| PollFd::new(&one.socket, PollFlags::IN)));
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut bytes = [0; 64];
        while matches!((&*woken).read(&mut bytes), Ok(n) if n > 0) {}
        for one in
            all.iter().zip(ready.iter().skip(1)).filter(|(_, ready)| **ready).map(|(one, _)| one)
        {
            accept_some(shared, workers, one);
        }
    }
}

/// Takes up to 64 connections, so that one busy socket does not starve another.
fn accept_some(shared: &Arc<Shared>, workers: &[Worker], listening: &Listening) {
    for _ in 0..64 {
        match socket::accept(&listening.socket) {
            Ok((stream, peer)) => {
                let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) else {
                    return;
                };
                worker.send(Job::Connection {
                    stream,
                    peer,
                    port: listening.address.port(),
                    tls: listening.tls,
                    open: worker.open(shared),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if matches!(error.raw_os_error(), Some(23 | 24)) => {
                // Out of descriptors: what waits stays in the socket until some are free.
                std::thread::sleep(std::time::Duration::from_millis(20));
                return;
            }
            Err(_) => {}
        }
    }
}
