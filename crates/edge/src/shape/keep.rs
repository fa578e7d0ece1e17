//! Copies a body that passes by, to be kept when it is whole.
//!
//! Invariant: only what came to its proper end is kept, and nothing larger than it may be.

use std::sync::Arc;

use super::Onlooker;
use crate::cache::{Cache, Kept, Key, Moment};

/// What is needed to keep an answer.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(crate) cache: Arc<Cache>,
    pub(crate) key: Key,
    /// Without its body; none when it grew too large.
    pub(crate) kept: Option<Kept>,
    pub(crate) body: Vec<u8>,
    pub(crate) max: usize,
    /// What the answer said of its length: nobody asks for more than that.
    pub(crate) length: Option<usize>,
    /// When it was asked for.
    pub(crate) moment: Moment,
}

impl Onlooker for Keeping {
    fn see(&mut self, data: &[u8]) {
        if self.kept.is_some() {
            if self.body.len() + data.len() > self.max {
                self.kept = None;
                self.body = Vec::new();
            } else {
                self.body.extend_from_slice(data);
            }
        }
    }

    fn end(&mut self) {
        if self.length.is_none_or(|length| length == self.body.len()) {
            self.finish();
        }
    }
}

impl Keeping {
    fn finish(&mut self) {
        if let Some(kept) = self.kept.take() {
            let body = std::mem::take(&mut self.body).into();
            self.cache.keep(&self.key, kept.with_body(body), self.moment);
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if self.length == Some(self.body.len()) {
            self.finish();
        }
    }
}
