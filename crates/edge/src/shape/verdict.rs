//! Reads the beginning of an answer for the words by which an application refuses, and counts them.
//!
//! Invariant: the attempt is settled exactly once: when enough was read, at the end, or when the client
//! went away in between.

use http::{HeaderMap, StatusCode};

use super::Onlooker;
use crate::policy::fields::MAX_BODY;
use crate::policy::lockout::Attempt;

#[derive(Debug)]
pub(super) struct Verdict {
    attempt: Option<Box<Attempt>>,
    status: StatusCode,
    headers: HeaderMap,
    seen: Vec<u8>,
}

impl Verdict {
    pub(super) fn new(attempt: Box<Attempt>, status: StatusCode, headers: HeaderMap) -> Self {
        Self { attempt: Some(attempt), status, headers, seen: Vec::new() }
    }

    fn settle(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.settle(self.status, &self.headers, &self.seen);
            self.seen = Vec::new();
        }
    }
}

impl Onlooker for Verdict {
    fn see(&mut self, data: &[u8]) {
        if self.attempt.is_some() {
            let room = MAX_BODY.saturating_sub(self.seen.len()).min(data.len());
            self.seen.extend_from_slice(&data[..room]);
            if self.seen.len() >= MAX_BODY {
                self.settle();
            }
        }
    }

    fn end(&mut self) {
        self.settle();
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        self.settle();
    }
}
