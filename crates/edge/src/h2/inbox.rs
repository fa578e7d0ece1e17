//! A request's body between the connection, which fills it, and the handler, which takes it.
//!
//! Invariants: no more lies here than the stream's window, since a window is given back only as its bytes are
//! taken; whoever drops the body takes nothing more, and the connection knows; a body that was cut off
//! ends with an error, never as if it were whole.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};

use super::ready::Ready;
use crate::body::Polled;

/// Whether more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Cut,
}

/// What came and was not taken.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
    state: State,
    reader: Option<Waker>,
    /// Bytes that were taken since the connection asked.
    taken: u32,
    /// Nobody takes any more.
    abandoned: bool,
    /// Of the announced length, as far as it was not taken.
    left: Option<u64>,
    ready: Arc<Ready>,
    place: usize,
}

/// The connection's end.
pub(super) type Shared = Rc<RefCell<Inbox>>;

impl Inbox {
    /// For the stream at that place, with the length that was announced.
    pub(super) fn new(ready: &Arc<Ready>, place: usize, length: Option<u64>) -> Shared {
        Rc::new(RefCell::new(Self {
            bytes: BytesMut::new(),
            trailers: None,
            state: State::Open,
            reader: None,
            taken: 0,
            abandoned: false,
            left: length,
            ready: Arc::clone(ready),
            place,
        }))
    }

    /// Adds a piece; false if nobody will take it.
    pub(super) fn push(&mut self, data: &[u8]) -> bool {
        if self.abandoned {
            return false;
        }
        self.bytes.extend_from_slice(data);
        self.wake();
        true
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) {
        self.trailers = trailers;
        self.state = State::Ended;
        self.wake();
    }

    /// Nothing more comes, and it was not all.
    pub(super) fn cut(&mut self) {
        if self.state == State::Open {
            self.state = State::Cut;
            self.bytes = BytesMut::new();
            self.wake();
        }
    }

    /// Bytes that were taken, once.
    pub(super) fn taken(&mut self) -> u32 {
        std::mem::take(&mut self.taken)
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn poll(&mut self, context: &Context<'_>) -> Polled {
        if self.state == State::Cut {
            return Poll::Ready(Some(Err("the body was cut off".into())));
        }
        if !self.bytes.is_empty() {
            let piece = self.bytes.split().freeze();
            self.taken += piece.len() as u32;
            self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
            self.ready.mark(self.place);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if self.state == State::Ended {
            return Poll::Ready(None);
        }
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(context.waker())) {
            self.reader = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// The handler's end.
#[derive(Debug)]
pub(crate) struct Body(Shared);

impl Body {
    pub(super) fn new(inbox: &Shared) -> Self {
        Self(Rc::clone(inbox))
    }

    /// The next piece, or the trailers; nothing at the end.
    pub(crate) fn poll_frame(&mut self, context: &Context<'_>) -> Polled {
        self.0.borrow_mut().poll(context)
    }

    /// Whether nothing is to come, trailers included.
    pub(crate) fn is_end_stream(&self) -> bool {
        let inbox = self.0.borrow();
        inbox.state == State::Ended && inbox.bytes.is_empty() && inbox.trailers.is_none()
    }

    /// What is still to come, where that was announced.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let inbox = self.0.borrow();
        match (inbox.left, inbox.state) {
            (Some(left), _) => SizeHint::with_exact(left),
            (None, State::Ended) => SizeHint::with_exact(inbox.bytes.len() as u64),
            (None, _) => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let mut inbox = self.0.borrow_mut();
        inbox.abandoned = true;
        inbox.taken += std::mem::take(&mut inbox.bytes).len() as u32;
        inbox.ready.mark(inbox.place);
    }
}
