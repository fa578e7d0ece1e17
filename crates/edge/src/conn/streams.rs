//! The patience that clients of HTTP/2 meet: the same as those of HTTP/1.1.
//!
//! hyper runs each stream as a future of its own; here it is wrapped in one that knows whose turn it is.
//! Invariants: a stream whose client takes nothing of what is there for [`SEND_TIME`] is reset, the others
//! of its connection go on; a connection on which nothing was asked for [`IDLE_TIME`] is over. A client
//! counts as taking something with each piece (48 KiB at most) that left whole. Not here: bodies that
//! clients send ([`crate::body`] bounds both protocols), pings, which hyper sends.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::body::Pace;
use crate::h1::{IDLE_TIME, SEND_TIME};
use crate::watch::{Alarm, Watch};

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
}

impl Streams {
    pub(super) fn new(watch: &Rc<Watch>) -> Self {
        let (open, quiet_since) = (Cell::new(0), Cell::new(Instant::now()));
        let next = RefCell::new(None);
        Self(Rc::new(Inner { watch: Rc::clone(watch), open, quiet_since, next }))
    }

    /// Called with each request, just before hyper hands its future over.
    pub(super) fn begin(&self) -> Rc<Pace> {
        let pace = Rc::default();
        self.0.next.replace(Some(Rc::clone(&pace)));
        pace
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
            std::future::poll_fn(|context| alarm.poll(context, left)).await;
        }
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        let open = Open::new(&self.0);
        let pace = self.0.next.take().unwrap_or_default();
        let alarm = Alarm::new(&self.0.watch);
        // Boxed: pinned once, and moved about before it runs.
        let stream = Stream { future: Box::pin(future), pace, seen: 0, alarm, _open: open };
        tokio::task::spawn_local(stream);
    }
}

/// Counts a stream until it is dropped.
#[derive(Debug)]
struct Open(Rc<Inner>);

impl Open {
    fn new(inner: &Rc<Inner>) -> Self {
        inner.open.set(inner.open.get() + 1);
        Self(Rc::clone(inner))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.quiet_since.set(Instant::now());
    }
}

/// One stream with its patience.
struct Stream<F> {
    future: Pin<Box<F>>,
    pace: Rc<Pace>,
    /// Pieces that had been given when the alarm was set.
    seen: u64,
    alarm: Alarm,
    _open: Open,
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.future.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let given = self.pace.given();
        if given != Some(self.seen) {
            self.alarm.clear();
        }
        // Until there is something to take it is not the client that is waited for.
        let Some(given) = given else { return Poll::Pending };
        self.seen = given;
        ready!(self.alarm.poll(context, SEND_TIME));
        // Dropped before its end: the stream is reset.
        Poll::Ready(())
    }
}
