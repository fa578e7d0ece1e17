//! Floods: what costs a server more than it costs a client.
//!
//! Each kind of frame is cheap and allowed; too many of them soon, without anything that they are good for, are
//! an attack. Two counts say which: streams that ended before their answer, by the client (rapid reset,
//! CVE-2023-44487) or because the client made us (MadeYouReset, CVE-2025-8671), less those that were answered;
//! and frames that carry nothing (PING, SETTINGS, PRIORITY, empty DATA, WINDOW_UPDATE, unknown ones), less
//! what was carried. Invariant: no count falls by what a client can do for nothing. Bounds of heads are
//! `receive`'s.

use super::Code;
use super::frame::Fault;
use crate::floods::{Count, TAKEN_BACK};

/// So many frames without use.
const IDLE_FRAMES: u32 = 1_000;
/// What a frame is worth that carried something.
const WORTH: u32 = 4;
/// A piece of a body that is shorter is worth nothing, unless there was no more of it.
const SHORT: usize = 256;

const BACK: Fault = Fault::Connection(Code::Calm, "requests are taken back faster than answered");
const IDLE: Fault = Fault::Connection(Code::Calm, "frames come that carry nothing");

/// What one connection did.
#[derive(Debug)]
pub(super) struct Guard {
    taken_back: Count,
    idle: Count,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self { taken_back: Count::new(), idle: Count::new() }
    }

    /// A stream ended before its answer, for the client's sake or by its fault.
    pub(super) fn taken_back(&mut self) -> Result<(), Fault> {
        if self.taken_back.is_too_much(TAKEN_BACK) { Err(BACK) } else { Ok(()) }
    }

    /// A request was answered whole.
    pub(super) fn answered(&mut self) {
        self.taken_back.less(1);
        self.idle.less(WORTH);
    }

    /// A frame came that carries nothing.
    pub(super) fn idle(&mut self) -> Result<(), Fault> {
        if self.idle.is_too_much(IDLE_FRAMES) { Err(IDLE) } else { Ok(()) }
    }

    /// So many bytes of a body were sent; `cut`: the client's window allowed no more.
    pub(super) fn sent(&mut self, bytes: usize, cut: bool) {
        if !cut || bytes >= SHORT {
            self.idle.less(WORTH);
        }
    }

    /// So many bytes of a body came.
    pub(super) fn received(&mut self, bytes: usize) -> Result<(), Fault> {
        if bytes >= SHORT {
            self.idle.less(WORTH);
        }
        if bytes == 0 { self.idle() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floods::WITHIN;

    #[tokio::test(start_paused = true)]
    async fn answers_and_time_make_room_for_requests_that_are_taken_back() {
        let mut guard = Guard::new();
        for _ in 0..10 * TAKEN_BACK {
            guard.taken_back().unwrap();
            guard.answered();
        }
        (0..TAKEN_BACK).for_each(|_| guard.taken_back().unwrap());
        tokio::time::advance(WITHIN).await;
        (0..=TAKEN_BACK).for_each(|_| guard.taken_back().unwrap());
        assert_eq!(guard.taken_back(), Err(BACK));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_carry_nothing_are_an_attack_only_when_many_come_soon() {
        let mut guard = Guard::new();
        for _ in 0..3 {
            (0..IDLE_FRAMES).for_each(|_| guard.idle().unwrap());
            tokio::time::advance(WITHIN).await;
        }
        guard.idle().unwrap();
        for _ in 0..10 * IDLE_FRAMES {
            guard.idle().unwrap();
            guard.sent(1, false);
        }
        // A window of a byte at a time buys nothing, neither do bytes one by one.
        let mut flood = (0..3 * IDLE_FRAMES).map(|_| {
            guard.sent(1, true);
            guard.received(1).unwrap();
            guard.idle()
        });
        assert!(flood.any(|one| one == Err(IDLE)));
    }
}
