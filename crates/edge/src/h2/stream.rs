//! Streams: their states (RFC 9113 § 5.1), their windows, and a short memory of those that are over.
//!
//! Invariants: there are at most [`STREAMS`]; an identifier is used once and they grow; what comes for a stream
//! that is over is judged by how it ended, as long as that is remembered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use http::{HeaderMap, Response};

use super::inbox::Shared;
use super::ready::{self, Ready, Set};
use super::{Code, STREAM_WINDOW, STREAMS};
use crate::body::ResponseBody;
use crate::watch::Alarm;

/// Streams that are over and remembered.
const REMEMBERED: usize = 32;
/// Places that an idle connection keeps.
const FEW: usize = 32;

/// What makes an answer.
pub(super) type Handler = Pin<Box<dyn Future<Output = Response<ResponseBody>>>>;

/// How far the answer is.
pub(super) enum Work {
    Handling(Handler),
    Sending(Sending),
    /// It was sent whole, and the client's body is not over: a moment is waited for it.
    Lingering,
}

/// An answer's body on its way.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) body: ResponseBody,
    /// What is here of it and not sent.
    pub(super) rest: Bytes,
    /// Of `rest`, what has to leave before the client counts as taking something.
    pub(super) piece: usize,
    /// Bytes to come, where that was announced.
    pub(super) left: Option<u64>,
    pub(super) trailers: Option<HeaderMap>,
    /// Nothing comes behind `rest`.
    pub(super) is_last: bool,
}

/// A stream.
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) work: Work,
    pub(super) is_head: bool,
    /// The client may send more of it.
    pub(super) remote_open: bool,
    pub(super) inbox: Option<Shared>,
    /// Of the announced length, what has to come.
    pub(super) announced: Option<u64>,
    /// What we may send; settings can make it negative (§ 6.9.2).
    pub(super) send_window: i64,
    /// What the client may send.
    pub(super) receive_window: i64,
    /// Taken, and not told to the client yet.
    pub(super) credit: u32,
    /// Received, and not given back to the connection's window.
    pub(super) held: u32,
    /// What came was no request.
    pub(super) refused: bool,
    /// With what it is reset behind its answer.
    pub(super) fault: Option<Code>,
    /// Runs while the client is waited for.
    pub(super) alarm: Option<Alarm>,
}

impl Stream {
    pub(super) fn new(id: u32, work: Work, send_window: i64) -> Self {
        Self {
            id,
            work,
            is_head: false,
            remote_open: false,
            inbox: None,
            announced: None,
            send_window,
            receive_window: STREAM_WINDOW.into(),
            credit: 0,
            held: 0,
            refused: false,
            fault: None,
            alarm: None,
        }
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Both sides sent all they had.
    Ended,
    /// The client took it back.
    TakenBack,
    /// We reset it; what was under way by then is nobody's fault.
    Reset,
}

/// What an identifier stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    At(usize),
    /// None yet.
    Fresh,
    Over(Over),
    /// One that never was, or so long ago that nobody remembers.
    Unknown,
}

/// The streams of a connection.
pub(super) struct Streams {
    all: Vec<Option<Box<Stream>>>,
    wakers: Vec<Waker>,
    ids: Vec<u32>,
    /// Which places are taken.
    used: Set,
    /// The highest identifier that was used.
    pub(super) last: u32,
    over: [(u32, Over); REMEMBERED],
    next_over: usize,
    pub(super) ready: Arc<Ready>,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            all: Vec::new(),
            wakers: Vec::new(),
            ids: Vec::new(),
            used: 0,
            last: 0,
            over: [(0, Over::Ended); REMEMBERED],
            next_over: 0,
            ready: Arc::default(),
        }
    }

    pub(super) fn are_open(&self) -> bool {
        self.used != 0
    }

    /// Which places are taken.
    pub(super) fn used(&self) -> Set {
        self.used
    }

    /// A place for a stream, if there may be one more.
    pub(super) fn place(&mut self) -> Option<usize> {
        let place = self.used.trailing_ones() as usize;
        if place >= STREAMS {
            return None;
        }
        if place >= self.wakers.len() {
            self.wakers.push(ready::waker(&self.ready, place));
            self.all.push(None);
            self.ids.push(0);
        }
        Some(place)
    }

    /// Puts a stream into a place that was free.
    pub(super) fn put(&mut self, place: usize, stream: Stream) {
        self.ids[place] = stream.id;
        self.all[place] = Some(Box::new(stream));
        self.used |= 1 << place;
    }

    pub(super) fn get(&mut self, place: usize) -> Option<(&mut Stream, &Waker)> {
        let waker = self.wakers.get(place)?;
        Some((self.all.get_mut(place)?.as_deref_mut()?, waker))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.all.iter_mut().filter_map(Option::as_deref_mut)
    }

    pub(super) fn find(&self, id: u32) -> Found {
        if id > self.last {
            return Found::Fresh;
        }
        let at = self.ids.iter().position(|one| *one == id);
        if let Some(place) = at {
            return Found::At(place);
        }
        let over = self.over.iter().find(|(one, _)| *one == id);
        over.map_or(Found::Unknown, |(_, over)| Found::Over(*over))
    }

    /// Takes a stream away.
    pub(super) fn remove(&mut self, place: usize, over: Over) -> Option<Box<Stream>> {
        let stream = self.all.get_mut(place)?.take()?;
        self.ids[place] = 0;
        self.used &= !(1 << place);
        self.remember(stream.id, over);
        Some(stream)
    }

    /// How a stream ended that may never have had a place.
    pub(super) fn remember(&mut self, id: u32, over: Over) {
        self.over[self.next_over] = (id, over);
        self.next_over = (self.next_over + 1) % REMEMBERED;
    }

    /// An idle connection holds little room.
    pub(super) fn give_back(&mut self) {
        if self.used == 0 && self.all.len() > FEW {
            self.all.truncate(FEW);
            self.ids.truncate(FEW);
            self.wakers.truncate(FEW);
            self.all.shrink_to_fit();
            self.ids.shrink_to_fit();
            self.wakers.shrink_to_fit();
        }
    }
}
