//! An instance's response as it comes.
//!
//! Invariants: between two pieces no more than the route's idle time goes by, and all of it ends in time; the connection
//! goes back to the pool only when the response was read whole. Not here: how a response is framed.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Frame;
use tokio::time::Instant;

use super::Polled;
use crate::events::EventStream;
use crate::instance::Instance;
use crate::outgoing::Slot;
use crate::upstream::{Flow, InFlight};
use crate::watch::Alarm;
use crate::worker::Local;

/// What is kept until an instance's response was read whole.
#[derive(Debug)]
struct Rest {
    flow: Flow,
    instance: Arc<Instance>,
    local: Rc<Local>,
    _guard: InFlight,
    /// A call's place among those that are made at once.
    slot: Option<Slot>,
}

/// An instance's response; at its end the connection goes back into the pool.
#[derive(Debug)]
pub(crate) struct FromInstance {
    /// None once it ended.
    rest: Option<Rest>,
    times: Times,
    alarm: Option<Alarm>,
    total: Option<Alarm>,
    events: Option<Box<EventStream>>,
}

/// How long a response may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Between two pieces.
    pub(crate) idle: Option<Duration>,
    /// By when it must have ended.
    pub(crate) end: Option<Instant>,
}

const TOO_LONG: &str = "the answer took longer than the route's total time";

impl FromInstance {
    pub(crate) fn new(
        flow: Flow,
        instance: Arc<Instance>,
        local: Rc<Local>,
        guard: InFlight,
        times: Times,
    ) -> Self {
        let total = times.end.map(|_| Alarm::new(&local.watch));
        let rest = Rest { flow, instance, local, _guard: guard, slot: None };
        Self { rest: Some(rest), times, alarm: None, total, events: None }
    }

    /// With the place that a call gives back at its end.
    pub(crate) fn holding(mut self, slot: Slot) -> Self {
        if let Some(rest) = &mut self.rest {
            rest.slot = Some(slot);
        }
        self
    }

    /// It is a stream of events, to be ended when its instance goes. One that says how long it is ends by itself.
    pub(crate) fn take_events(&mut self, events: EventStream) {
        if self.left().is_none() {
            self.events = Some(Box::new(events));
        }
    }

    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Polled {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        if let (Some(alarm), Some(end)) = (&mut self.total, self.times.end)
            && alarm.poll(context, end.saturating_duration_since(Instant::now())).is_ready()
        {
            self.rest = None;
            return Poll::Ready(Some(Err(TOO_LONG.into())));
        }
        match rest.flow.poll_frame(context) {
            Poll::Ready(Some(piece)) => {
                self.alarm = None;
                if let (Some(events), Ok(piece)) = (&mut self.events, &piece)
                    && let Some(data) = piece.data_ref()
                {
                    events.see(data);
                }
                Poll::Ready(Some(piece))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if let Some(Poll::Ready(last)) =
                    self.events.as_mut().map(|events| events.poll_last(context))
                {
                    self.finish();
                    return Poll::Ready(Some(Ok(Frame::data(last))));
                }
                let Some(idle) = self.times.idle else { return Poll::Pending };
                let alarm = self.alarm.get_or_insert_with(|| Alarm::new(&rest.local.watch));
                ready!(alarm.poll(context, idle));
                Poll::Ready(Some(Err("the instance sent nothing for the route's idle time".into())))
            }
        }
    }

    pub(super) fn left(&self) -> Option<u64> {
        self.rest.as_ref().map_or(Some(0), |rest| rest.flow.left())
    }

    pub(super) fn is_over(&self) -> bool {
        self.rest.as_ref().is_none_or(|rest| rest.flow.is_over())
    }

    fn finish(&mut self) {
        self.alarm = None;
        if let Some(rest) = self.rest.take() {
            rest.flow.finish(&rest.local, &rest.instance);
        }
    }
}

impl Drop for FromInstance {
    fn drop(&mut self) {
        // Whether it was read whole or not; no further frame is asked for when all that was promised is sent.
        self.finish();
    }
}
