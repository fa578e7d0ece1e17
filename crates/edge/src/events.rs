//! Server-sent events on an instance that goes: the stream ends between two events, with a line that says
//! when to come again.
//!
//! Why: a stream that is cut looks like an error to its reader, and all readers come back at once. Invariant:
//! nothing is put into the middle of an event. Not here: when (`ending`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::ending;
use crate::instance::Instance;
use crate::snapshot::Shared;

/// Readers are asked to wait so long, in milliseconds, each another time.
const RETRY: std::ops::Range<u32> = 500..3000;

/// A stream of events on its way.
pub(crate) struct EventStream {
    over: Pin<Box<dyn Future<Output = ()>>>,
    is_over: bool,
    shared: Arc<Shared>,
    /// The last bytes that went by.
    tail: [u8; 4],
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl EventStream {
    pub(crate) fn new(instance: &Instance, shared: &Arc<Shared>) -> Self {
        let over = ending::over(Arc::clone(&instance.load), Arc::clone(shared));
        // At its beginning a stream is between two events.
        Self {
            over: Box::pin(over),
            is_over: false,
            shared: Arc::clone(shared),
            tail: *b"\n\n\n\n",
        }
    }

    /// Takes note of what goes by.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().skip(bytes.len().saturating_sub(self.tail.len())) {
            self.tail.rotate_left(1);
            self.tail[3] = *byte;
        }
    }

    /// An empty line went by, and nothing since.
    fn between(&self) -> bool {
        self.tail.ends_with(b"\n\n") || self.tail.ends_with(b"\r\r") || self.tail == *b"\r\n\r\n"
    }

    /// Its last line, when it is time and no event is under way.
    pub(crate) fn poll_last(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        self.is_over = self.is_over || self.over.as_mut().poll(context).is_ready();
        if !self.is_over || !self.between() {
            return Poll::Pending;
        }
        self.shared.told.fetch_add(1, Ordering::Relaxed);
        let wait = rand::random_range(RETRY);
        Poll::Ready(Bytes::from(format!("retry: {wait}\n\n")))
    }
}
