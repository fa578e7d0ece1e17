//! What is cheap for a client and dear for a server, counted.
//!
//! Too much of it soon, without anything that it is good for, is an attack; over hours a little is much. Invariant: no
//! count falls by what a client can do for nothing. What is counted know those who speak a protocol.

use std::time::Duration;

use tokio::time::Instant;

/// So many requests more may be taken back than were answered: a browser that leaves a page takes all back that
/// are under way.
pub(crate) const TAKEN_BACK: u32 = 200;
/// Within this time.
pub(crate) const WITHIN: Duration = Duration::from_secs(10);

/// How much of one kind there was.
#[derive(Debug)]
pub(crate) struct Count {
    number: u32,
    since: Instant,
}

impl Count {
    pub(crate) fn new() -> Self {
        Self { number: 0, since: Instant::now() }
    }

    /// One more; whether that is an attack.
    pub(crate) fn is_too_much(&mut self, most: u32) -> bool {
        self.number += 1;
        if self.number <= most {
            return false;
        }
        let soon = self.since.elapsed() < WITHIN;
        if !soon {
            (self.number, self.since) = (0, Instant::now());
        }
        soon
    }

    /// So much was made good.
    pub(crate) fn less(&mut self, by: u32) {
        self.number = self.number.saturating_sub(by);
    }
}
