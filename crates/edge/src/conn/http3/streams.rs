//! The requests of one connection that are under way: how many, and since when none is.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::h1::IDLE_TIME;
use crate::watch::{Alarm, Watch};

/// The streams of one connection.
#[derive(Debug, Clone)]
pub(super) struct Streams(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    watch: Rc<Watch>,
    open: Cell<u32>,
    /// When the last one ended, or the connection began.
    quiet_since: Cell<Instant>,
    /// Told when one ends.
    ended: Notify,
}

impl Streams {
    pub(super) fn new(watch: &Rc<Watch>) -> Self {
        let (open, quiet_since) = (Cell::new(0), Cell::new(Instant::now()));
        Self(Rc::new(Inner { watch: Rc::clone(watch), open, quiet_since, ended: Notify::new() }))
    }

    /// Counts one until what is returned is dropped.
    pub(super) fn open(&self) -> Open {
        self.0.open.set(self.0.open.get() + 1);
        Open(Rc::clone(&self.0))
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

/// Counts a stream until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Rc<Inner>);

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
