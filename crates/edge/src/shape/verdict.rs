//! Reads an answer for the words by which an application refuses, and counts them.
//!
//! Invariants: the attempt is settled exactly once: at the end, or when the client went away in between, which is no way to
//! be let in without a count; an answer that its instance cut off says nothing.

use http::{HeaderMap, StatusCode};

use super::Onlooker;
use crate::policy::lockout::{Attempt, Texts};

#[derive(Debug)]
pub(super) struct Verdict {
    attempt: Option<Box<Attempt>>,
    status: StatusCode,
    headers: HeaderMap,
    texts: Texts,
}

impl Verdict {
    pub(super) fn new(attempt: Box<Attempt>, status: StatusCode, headers: HeaderMap) -> Self {
        let texts = attempt.texts(status);
        Self { attempt: Some(attempt), status, headers, texts }
    }

    fn settle(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.settle(self.status, &self.headers, &self.texts);
        }
    }
}

impl Onlooker for Verdict {
    fn see(&mut self, data: &[u8]) {
        self.texts.see(data);
    }

    fn end(&mut self) {
        self.texts.end();
        self.settle();
    }

    fn cut(&mut self) {
        // Dropped, it counts for nothing.
        self.attempt = None;
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        self.settle();
    }
}
