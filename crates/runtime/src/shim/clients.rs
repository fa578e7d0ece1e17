//! Those who ask: control, seldom more than one connection of it.
//!
//! Non-blocking with small buffers; a client that sends nonsense or does not read is dropped. Invariant:
//! peers are root or ourselves.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use seaworthy_sys::{process, socket};

use crate::model::{Event, PROTOCOL, Reply, Request};
use crate::shim::life::Life;
use crate::wire;

/// More connections than this are refused: control has one, a person with a tool another.
const MOST: usize = 16;

/// One connection.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    incoming: Vec<u8>,
    /// Waits for an event after this sequence, until then.
    waiting: Option<(u64, Instant)>,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Clients {
    all: Vec<Client>,
}

impl Clients {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().map(|client| client.stream.as_fd())
    }

    pub(super) fn next_moment(&self) -> Option<Instant> {
        self.all.iter().filter_map(|client| client.waiting.map(|(_, until)| until)).min()
    }

    /// Accepts, reads, answers.
    pub(super) fn serve(&mut self, listener: &UnixListener, life: &mut Life) {
        while let Ok((stream, _)) = listener.accept() {
            let ours = socket::peer(&stream)
                .is_ok_and(|(uid, _)| uid == 0 || uid == process::current_uid());
            let ready = stream
                .set_nonblocking(true)
                .and_then(|()| stream.set_write_timeout(Some(Duration::from_secs(1))))
                .is_ok();
            if ours && ready && self.all.len() < MOST {
                self.all.push(Client { stream, incoming: Vec::new(), waiting: None });
            }
        }
        self.all.retain_mut(|client| client.serve(life));
    }

    /// The last news before the end.
    pub(super) fn farewell(&mut self, life: &Life) {
        for client in &mut self.all {
            if client.waiting.is_some() {
                client.answer(&Reply::Events { events: vec![news(life)] });
            }
        }
    }
}

fn news(life: &Life) -> Event {
    let status = life.status();
    Event { sequence: status.sequence, at: seaworthy_base::Timestamp::now(), status }
}

impl Client {
    /// Returns whether to keep it.
    fn serve(&mut self, life: &mut Life) -> bool {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return false,
                Ok(n) => self.incoming.extend_from_slice(piece.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        while let Some(frame) = wire::take(&mut self.incoming) {
            let Ok(frame) = frame else { return false };
            let reply = match serde_json::from_slice(&frame) {
                Ok(request) => self.handle(&request, life),
                Err(_) => Some(Reply::Failed { message: "unknown verb".to_owned() }),
            };
            if let Some(reply) = reply
                && !self.answer(&reply)
            {
                return false;
            }
        }
        if let Some((sequence, until)) = self.waiting {
            let newer = life.sequence() > sequence;
            if newer || Instant::now() >= until {
                self.waiting = None;
                return self.answer(&Reply::Events {
                    events: if newer { vec![news(life)] } else { Vec::new() },
                });
            }
        }
        true
    }

    fn handle(&mut self, request: &Request, life: &mut Life) -> Option<Reply> {
        match request {
            Request::Hello { .. } => {
                return Some(Reply::Hello {
                    proto: PROTOCOL,
                    build: env!("CARGO_PKG_VERSION").to_owned(),
                    boot_id: process::boot_id(),
                    features: Vec::new(),
                    id: life.id().clone(),
                });
            }
            Request::Status => {}
            Request::Start => life.start_again(),
            Request::Stop { end } => life.stop(*end),
            Request::Restart => life.restart(),
            Request::Signal { name } => {
                if !life.signal(name) {
                    return Some(Reply::Failed {
                        message: format!("no such signal, or nothing runs: `{name}`"),
                    });
                }
            }
            Request::EventsSince { sequence, wait_ms } => {
                self.waiting = Some((
                    *sequence,
                    Instant::now() + Duration::from_millis((*wait_ms).min(600_000)),
                ));
                return None;
            }
        }
        Some(Reply::Status(Box::new(life.status())))
    }

    fn answer(&mut self, reply: &Reply) -> bool {
        // Replies are small; the socket's buffer takes them unless nobody reads.
        self.stream.set_nonblocking(false).ok();
        let written = wire::write(&mut self.stream, reply).is_ok();
        self.stream.set_nonblocking(true).ok();
        written
    }
}
