//! The control link: what control says, in force for every thread before it is acknowledged.
//!
//! Blocking, on the main thread, one connection at a time for each thread of it: a new control must not
//! wait for a dead one's connection to be noticed. Invariants: a snapshot that cannot be compiled changes
//! nothing; only root and the user that started the edge are listened to; the end of a connection
//! changes nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use seaworthy_sys::socket::peer;
use seaworthy_sys::{fdpass, process};

use crate::accept::Acceptor;
use crate::model::{Config, Endpoints, Group, Keys, MAX_MESSAGE, PROTOCOL, Reply, Request};
use crate::policy::stored::Forgotten;
use crate::quic::{Quic, Sockets};
use crate::snapshot::Shared;
use crate::tls::KeyError;
use crate::worker::{Job, Worker};

/// How long all threads may take to know of a swap.
const SWAP: Duration = Duration::from_secs(10);

/// Everything that the link acts on.
struct Link {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    unguarded: Vec<String>,
    features: Vec<String>,
    /// One change at a time, whoever asks.
    changing: Mutex<()>,
}

/// What listens, for clients.
pub(crate) struct Listeners {
    pub(crate) tcp: Acceptor,
    pub(crate) quic: Quic,
}

/// Where control is heard.
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    /// The user that started the edge.
    pub(crate) starter: u32,
    /// What of the sandbox this kernel does not give.
    pub(crate) unguarded: Vec<String>,
    /// What it can do beyond the protocol's number.
    pub(crate) features: Vec<String>,
}

/// Serves until the edge was drained.
pub(crate) fn serve(
    socket: &Socket,
    shared: &Arc<Shared>,
    workers: &[Worker],
    listeners: &Listeners,
) -> io::Result<()> {
    let link = Link {
        shared: Arc::clone(shared),
        workers: workers.to_vec(),
        unguarded: socket.unguarded.clone(),
        features: socket.features.clone(),
        changing: Mutex::new(()),
    };
    let drained = Mutex::new(None::<Instant>);
    std::thread::scope(|scope| {
        loop {
            let (stream, _) = socket.listener.accept()?;
            let own = [0, socket.starter, process::current_uid()];
            let allowed = peer(&stream).is_ok_and(|(uid, _)| own.contains(&uid));
            if !allowed {
                continue;
            }
            let (link, drained) = (&link, &drained);
            std::thread::Builder::new()
                .name("link".to_owned())
                .stack_size(512 << 10)
                .spawn_scoped(scope, move || {
                    // How a connection ends is control's business.
                    converse(link, &stream, listeners, drained).ok();
                })?;
        }
    })
}

fn converse(
    link: &Link,
    stream: &UnixStream,
    listeners: &Listeners,
    drained: &Mutex<Option<Instant>>,
) -> io::Result<()> {
    while let Some((payload, fds)) = fdpass::receive_message(stream, MAX_MESSAGE)? {
        let (reply, back) = match serde_json::from_slice::<Request>(&payload) {
            Ok(request) => link.act(request, fds, listeners, drained),
            Err(error) => (failed(format!("not understood: {error}")), Vec::new()),
        };
        let borrowed: Vec<_> = back.iter().map(AsFd::as_fd).collect();
        fdpass::send_message(stream, &serde_json::to_vec(&reply)?, &borrowed)?;
    }
    Ok(())
}

fn failed(message: String) -> Reply {
    Reply::Failed { message }
}

impl Link {
    fn act(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
        listeners: &Listeners,
        drained: &Mutex<Option<Instant>>,
    ) -> (Reply, Vec<OwnedFd>) {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = match request {
            Request::Hello { .. } => Reply::Hello {
                proto: PROTOCOL,
                build: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                boot_id: process::boot_id(),
                features: self.features.clone(),
                unguarded: self.unguarded.clone(),
            },
            Request::Config(config) => match self.shared.with_config(&config) {
                Ok(()) => self.all_know(|versions| versions.0 = config.version),
                Err(error) => failed(error.to_string()),
            },
            Request::Endpoints(endpoints) => {
                self.shared.with_endpoints(&endpoints);
                self.all_know(|versions| versions.1 = endpoints.version)
            }
            Request::Whole { config, endpoints } => self.whole(&config, &endpoints),
            Request::Keys(keys) => match self.take_keys(&keys) {
                Ok(()) => {
                    self.shared.challenges.swap(&keys);
                    self.shared.passwords.swap(keys.secrets.iter());
                    keys.signing.into_iter().for_each(|key| self.shared.sign_with(key));
                    self.shared.versions.lock().unwrap_or_else(PoisonError::into_inner).2 =
                        keys.version;
                    Reply::Done
                }
                Err(why) => failed(why),
            },
            Request::Listen { listeners: new } if new.len() == fds.len() => {
                let added =
                    new.iter().zip(fds).try_for_each(|(one, fd)| listeners.tcp.add(fd, one));
                added.map_or_else(|error| failed(error.to_string()), |()| Reply::Done)
            }
            Request::Listen { .. } => {
                failed("as many descriptors as listeners are needed".to_owned())
            }
            Request::Unlisten { addresses } => {
                addresses.into_iter().for_each(|address| listeners.tcp.remove(Some(address)));
                Reply::Done
            }
            Request::Listeners { from } => match listeners.tcp.all() {
                Ok(all) => {
                    let some = all.into_iter().skip(from).take(fdpass::MAX_FDS);
                    let (listeners, fds) = some.unzip();
                    return (Reply::Listeners { listeners }, fds);
                }
                Err(error) => failed(error.to_string()),
            },
            Request::Counts => self.take_counts(fds),
            Request::GiveCounts => return self.give_counts(),
            Request::ListenDatagrams { groups, slot } => {
                listen_datagrams(&groups, fds, slot, &listeners.quic)
            }
            Request::UnlistenDatagrams { addresses } => {
                addresses.into_iter().for_each(|address| listeners.quic.remove(address));
                Reply::Done
            }
            Request::Datagrams => match listeners.quic.all() {
                Ok((all, slot)) => {
                    let group = |(address, sockets): &Sockets| Group {
                        address: *address,
                        slots: sockets.len() as u8,
                    };
                    let groups = all.iter().map(group).collect();
                    let fds = all.into_iter().flat_map(|(_, sockets)| sockets).collect();
                    return (Reply::Datagrams { groups, slot }, fds);
                }
                Err(error) => failed(error.to_string()),
            },
            Request::Lockouts => Reply::Lockouts { held: self.shared.lockouts.list() },
            Request::ClearLockouts { site, what } => {
                self.forget_counts(site.as_deref(), what.as_deref())
            }
            Request::Purge { site, path } => {
                Reply::Cleared { count: self.shared.cache.purge(&site, path.as_deref()) as u64 }
            }
            Request::Status => Reply::Status(Box::new(self.shared.status())),
            Request::Drain { deadline_ms } => {
                self.drain(Duration::from_millis(deadline_ms), listeners, drained);
                Reply::Done
            }
        };
        (reply, Vec::new())
    }

    fn take_counts(&self, fds: Vec<OwnedFd>) -> Reply {
        match fds.into_iter().next().map(|fd| self.shared.counts.take(fd)) {
            Some(Ok(())) => Reply::Done,
            Some(Err(error)) => failed(error.to_string()),
            None => failed("the table's descriptor is missing".to_owned()),
        }
    }

    fn give_counts(&self) -> (Reply, Vec<OwnedFd>) {
        let given = self.shared.counts.descriptor().map(|fd| fd.try_clone_to_owned());
        match given.transpose() {
            Ok(fd) => (Reply::Done, fd.into_iter().collect()),
            Err(error) => (failed(error.to_string()), Vec::new()),
        }
    }

    /// Opens again, and forgets what was counted, here and in stores.
    fn forget_counts(&self, site: Option<&str>, what: Option<&str>) -> Reply {
        let count = self.shared.lockouts.clear(site, what) as u64;
        self.shared.forget_counts(site, what);
        if let Some(worker) = self.workers.first() {
            worker.send(Job::Forget(Forgotten::new(site, what)));
        }
        Reply::Cleared { count }
    }

    fn take_keys(&self, keys: &Keys) -> Result<(), String> {
        let wrong = |error: KeyError| error.to_string();
        self.shared.tls.swap(&self.shared.resolver, keys).map_err(wrong)?;
        self.shared.stores.swap(&keys.stores)
    }

    /// Routes and instances at the same moment, for all threads.
    fn whole(&self, config: &Config, endpoints: &Endpoints) -> Reply {
        if let Err(error) = self.shared.with_both(config, endpoints) {
            return failed(error.to_string());
        }
        // Who asks whether an instance is idle sends `Endpoints` before that.
        self.tell_workers();
        self.note(|versions| (versions.0, versions.1) = (config.version, endpoints.version));
        Reply::Done
    }

    /// Waits until every thread has been told of a swap: what none of them had begun to send before it is sent
    /// by what holds now, and what they had begun is counted.
    fn all_know(&self, note: impl FnOnce(&mut (u64, u64, u64))) -> Reply {
        let done = self.tell_workers();
        for _ in &self.workers {
            if done.recv_timeout(SWAP).is_err() {
                return failed("a thread did not take the change within 10 s".to_owned());
            }
        }
        self.note(note);
        Reply::Done
    }

    /// Tells every thread of a swap; each says when it knows.
    fn tell_workers(&self) -> mpsc::Receiver<()> {
        let (sender, done) = mpsc::channel();
        self.workers.iter().for_each(|worker| worker.send(Job::Swapped(sender.clone())));
        done
    }

    fn note(&self, note: impl FnOnce(&mut (u64, u64, u64))) {
        note(&mut self.shared.versions.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Stops accepting; ends the process when nothing is left or at the deadline.
    fn drain(&self, deadline: Duration, listeners: &Listeners, drained: &Mutex<Option<Instant>>) {
        listeners.tcp.remove(None);
        listeners.quic.drain();
        self.shared.draining.store(true, Ordering::Relaxed);
        self.workers.iter().for_each(|worker| worker.send(Job::Drain));
        self.shared.ending.set(deadline);
        let until = Instant::now() + deadline;
        let first = drained.lock().unwrap_or_else(PoisonError::into_inner).replace(until).is_none();
        if !first {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let waiter = std::thread::Builder::new().name("drain".to_owned()).stack_size(64 << 10);
        let started = waiter.spawn(move || {
            // The answer to who asked goes out first.
            std::thread::sleep(Duration::from_millis(100));
            let left = || {
                shared.connections.load(Ordering::Relaxed) + shared.upgraded.load(Ordering::Relaxed)
            };
            while left() > 0 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            end(&shared);
        });
        if started.is_err() {
            end(&self.shared);
        }
    }
}

/// Speaks HTTP/3 on groups of UDP sockets, which lie one behind the other.
fn listen_datagrams(groups: &[Group], fds: Vec<OwnedFd>, slot: u8, quic: &Quic) -> Reply {
    if groups.iter().map(|group| usize::from(group.slots)).sum::<usize>() != fds.len() {
        return failed("as many descriptors as slots are needed".to_owned());
    }
    let mut fds = fds.into_iter();
    let added = groups.iter().try_for_each(|group| {
        let sockets = fds.by_ref().take(group.slots.into()).collect();
        quic.add(group.address, sockets, slot)
    });
    added.map_or_else(|error| failed(error.to_string()), |()| Reply::Done)
}

/// Nothing is left to serve: the process ends, threads and all.
#[expect(
    clippy::exit,
    reason = "the other threads serve nobody any more, and none of them holds what must be finished"
)]
fn end(shared: &Shared) -> ! {
    shared.log.flush();
    std::process::exit(0)
}
