//! One connection to one edge process: requests go in, replies come back, in order.
//!
//! A thread of its own, because descriptors travel with blocking calls. Invariants: a reply belongs to
//! the request before it; when the connection or the edge ends, every waiting request fails and the
//! owner is woken; a connection that is over says nothing of the process, which may only have been slow
//! and serves on. Not here: what is sent and when.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use seaworthy_edge::model::{MAX_MESSAGE, PROTOCOL, Reply, Request};
use seaworthy_sys::fdpass;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

/// Why the edge did not do what was asked.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// It is gone, or never was there.
    #[error("the edge process does not answer")]
    Gone(#[source] io::Error),
    /// It refused.
    #[error("the edge refused: {0}")]
    Refused(String),
}

/// A reply with the descriptors that came along.
type Answer = Result<(Reply, Vec<OwnedFd>), LinkError>;
type Question = (Request, Vec<OwnedFd>, oneshot::Sender<Answer>);

/// A handle to the thread that speaks with one edge.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    questions: mpsc::Sender<Question>,
    /// Nothing can be asked any more.
    dead: Arc<AtomicBool>,
    /// The process is over.
    ended: Arc<AtomicBool>,
    /// The edge's process.
    pub pid: u32,
    /// Guards that it does not have.
    pub unguarded: Vec<String>,
    /// What it can do beyond the protocol's number.
    features: Vec<String>,
}

impl Link {
    /// Connects and greets. Blocking; gives up after `patience`.
    pub(crate) fn connect(
        socket: &Path,
        patience: Duration,
        ended: Arc<Notify>,
    ) -> Result<Self, LinkError> {
        let stream = UnixStream::connect(socket).map_err(LinkError::Gone)?;
        stream.set_read_timeout(Some(patience)).map_err(LinkError::Gone)?;
        let hello = Request::Hello { proto: PROTOCOL, build: build_id() };
        let (pid, unguarded, features) = match exchange(&stream, &hello, &[])? {
            (Reply::Hello { pid, unguarded, features, .. }, _) => (pid, unguarded, features),
            (Reply::Failed { message }, _) => return Err(LinkError::Refused(message)),
            _ => return Err(LinkError::Refused("it greeted with something else".to_owned())),
        };
        let (dead, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        watch_process(pid, [&dead, &over], &ended);
        let (questions, receiver) = mpsc::channel::<Question>();
        let flag = Arc::clone(&dead);
        let thread = std::thread::Builder::new().name("edge-link".to_owned()).stack_size(256 << 10);
        let spawned = thread.spawn(move || {
            for (request, fds, answer) in receiver {
                let result = exchange(&stream, &request, &fds);
                let broken = matches!(result, Err(LinkError::Gone(_)));
                // Who learns of it asks next whether it is dead.
                flag.fetch_or(broken, Ordering::SeqCst);
                // Who asked may have given up; that changes nothing here.
                answer.send(result).ok();
                if broken {
                    ended.notify_one();
                    return;
                }
            }
        });
        spawned.map_err(LinkError::Gone)?;
        Ok(Self { questions, dead, ended: over, pid, unguarded, features })
    }

    /// Asks, and waits for the reply.
    pub(crate) async fn ask(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), LinkError> {
        let gone = || LinkError::Gone(io::ErrorKind::BrokenPipe.into());
        let (sender, receiver) = oneshot::channel();
        self.questions.send((request, fds, sender)).map_err(|_| gone())?;
        match receiver.await {
            Ok(Ok((Reply::Failed { message }, _))) => Err(LinkError::Refused(message)),
            Ok(answer) => answer,
            Err(_) => Err(gone()),
        }
    }

    /// Whether it can do what goes by that name.
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|one| one == feature)
    }

    /// Whether nothing can be asked any more: the edge ended, or did not answer in time.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Whether the edge's process is over.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Ends the edge's process at once.
    pub(crate) fn end(&self) {
        if !self.has_ended() {
            crate::processes::kill(self.pid);
        }
    }
}

/// The build that greets: the version of this program.
pub fn build_id() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

fn exchange(stream: &UnixStream, request: &Request, fds: &[OwnedFd]) -> Answer {
    let payload =
        serde_json::to_vec(request).map_err(|error| LinkError::Refused(error.to_string()))?;
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    fdpass::send_message(stream, &payload, &borrowed).map_err(LinkError::Gone)?;
    let received = fdpass::receive_message(stream, MAX_MESSAGE).map_err(LinkError::Gone)?;
    let (payload, fds) =
        received.ok_or_else(|| LinkError::Gone(io::ErrorKind::UnexpectedEof.into()))?;
    let reply = serde_json::from_slice(&payload)
        .map_err(|error| LinkError::Gone(io::Error::other(error)))?;
    Ok((reply, fds))
}

/// Waits for the end of the process in a thread: the socket alone would tell only at the next request.
fn watch_process(pid: u32, flags: [&Arc<AtomicBool>; 2], ended: &Arc<Notify>) {
    let (flags, ended) = (flags.map(Arc::clone), Arc::clone(ended));
    let thread = std::thread::Builder::new().name("edge-watch".to_owned()).stack_size(64 << 10);
    let spawned = thread.spawn(move || {
        crate::processes::wait_for_end(pid);
        flags.iter().for_each(|flag| flag.store(true, Ordering::SeqCst));
        ended.notify_one();
    });
    if let Err(error) = spawned {
        crate::say(&format!("could not watch the edge process {pid}: {error}"));
    }
}
