//! The patience that clients of HTTP/2 meet: the same as those of HTTP/1.1. Of HTTP/3 streams are counted here.
//!
//! hyper runs each stream as a future of its own; here it is wrapped in one that knows whose turn it is.
//! Invariants: a stream whose client takes nothing of what is there for [`SEND_TIME`] is reset, the others
//! of its connection go on; a connection on which nothing was asked for [`IDLE_TIME`] is over. A client
//! counts as taking something with each piece ([`PIECE`] at most) that left whole. Not here: bodies that
//! clients send ([`crate::body`] bounds both protocols), pings, which hyper sends.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::body::{BodyError, Polled, ResponseBody};
use crate::h1::{IDLE_TIME, SEND_TIME};
use crate::watch::{Alarm, Watch};

/// Given to hyper at once: as much as a frame holds (RFC 9113 § 4.2).
pub(super) const PIECE: usize = 16 << 10;

/// Whose turn it is with a response: who reads it may be slow, or who makes it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pieces: Cell<u64>,
    waits_for_client: Cell<bool>,
}

impl Pace {
    /// How many pieces were given, while the client is to take the last one.
    fn given(&self) -> Option<u64> {
        self.waits_for_client.get().then(|| self.pieces.get())
    }

    fn note(&self, given: bool) {
        self.waits_for_client.set(given);
        self.pieces.set(self.pieces.get() + u64::from(given));
    }
}

/// A response whose pace is told.
#[derive(Debug)]
pub(super) struct Paced {
    body: ResponseBody,
    /// What is left of a piece that was larger.
    rest: Bytes,
    pace: Rc<Pace>,
}

impl Paced {
    pub(super) fn new(body: ResponseBody, pace: Rc<Pace>) -> Self {
        Self { body, rest: Bytes::new(), pace }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Polled {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
        let piece = self.rest.split_to(PIECE.min(self.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let polled = self.poll_piece(context);
        self.pace.note(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let exact = self.body.size_hint().exact();
        exact.map_or_else(SizeHint::default, |left| {
            SizeHint::with_exact(left + self.rest.len() as u64)
        })
    }
}

/// The streams of one connection; runs them on its thread.
#[derive(Debug, Clone)]
pub(super) struct Streams(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    watch: Rc<Watch>,
    open: Cell<u32>,
    /// When the last one ended, or the connection began.
    quiet_since: Cell<Instant>,
    /// Of the request that hyper is about to run.
    next: RefCell<Option<Rc<Pace>>>,
    /// Told when one ends.
    ended: Notify,
}

impl Streams {
    pub(super) fn new(watch: &Rc<Watch>) -> Self {
        let (open, quiet_since) = (Cell::new(0), Cell::new(Instant::now()));
        let next = RefCell::new(None);
        let ended = Notify::new();
        Self(Rc::new(Inner { watch: Rc::clone(watch), open, quiet_since, next, ended }))
    }

    /// Called with each request, just before hyper hands its future over.
    pub(super) fn begin(&self) -> Rc<Pace> {
        let pace = Rc::default();
        self.0.next.replace(Some(Rc::clone(&pace)));
        pace
    }

    /// Counts one until what is returned is dropped.
    pub(super) fn open(&self) -> Open {
        Open::new(&self.0)
    }

    /// Ends when one ends.
    pub(super) async fn ended(&self) {
        self.0.ended.notified().await;
    }

    /// Whether any is under way.
    pub(super) fn are_open(&self) -> bool {
        self.0.open.get() > 0
    }

    /// Ends when nothing was asked for a while.
    pub(super) async fn idle(&self) {
        loop {
            let quiet =
                if self.are_open() { Duration::ZERO } else { self.0.quiet_since.get().elapsed() };
            let left = IDLE_TIME.saturating_sub(quiet);
            if left.is_zero() {
                return;
            }
            let mut alarm = Alarm::new(&self.0.watch);
            poll_fn(|context| alarm.poll(context, left)).await;
        }
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        let open = Open::new(&self.0);
        let pace = self.0.next.take().unwrap_or_default();
        tokio::task::spawn_local(run(future, pace, open));
    }
}

/// Runs one stream to its end, or to the end of its patience: dropped before its end it is reset.
async fn run(future: impl Future<Output = ()>, pace: Rc<Pace>, open: Open) {
    let mut future = pin!(future);
    let mut alarm = Alarm::new(&open.0.watch);
    // Pieces that had been given when the alarm was set.
    let mut seen = None;
    poll_fn(|context| {
        if future.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let given = pace.given();
        if given != seen {
            alarm.clear();
            seen = given;
        }
        // Until there is something to take it is not the client that is waited for.
        if given.is_none() { Poll::Pending } else { alarm.poll(context, SEND_TIME) }
    })
    .await;
}

/// Counts a stream until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Rc<Inner>);

impl Open {
    fn new(inner: &Rc<Inner>) -> Self {
        inner.open.set(inner.open.get() + 1);
        Self(Rc::clone(inner))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let left = self.0.open.get() - 1;
        self.0.open.set(left);
        self.0.ended.notify_waiters();
        if left == 0 {
            self.0.quiet_since.set(Instant::now());
        }
    }
}
