//! How many requests of a service may be sent again: a fifth of those that were answered.
//!
//! A token bucket: each answer adds a fifth of a token, each retry takes one. Invariant: in the long run
//! the instances get at most 1.2 × the requests that clients sent.

use std::sync::atomic::{AtomicU32, Ordering};

/// An answer adds one part, a retry takes so many.
const PARTS: u32 = 5;
/// What is there at first, and kept at most: as many retries in a row.
const MOST: u32 = 100 * PARTS;

/// The tokens of one service.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(MOST))
    }
}

impl Budget {
    /// A request was answered.
    pub(crate) fn credit(&self) {
        let tokens = self.0.load(Ordering::Relaxed);
        if tokens < MOST {
            // Threads may overwrite each other's part; it is a bound, not an account.
            self.0.store(tokens + 1, Ordering::Relaxed);
        }
    }

    /// Whether a request may be sent again; takes the token.
    pub(crate) fn debit(&self) -> bool {
        let take = |tokens: u32| tokens.checked_sub(PARTS);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_answers_may_be_asked_for_again() {
        let budget = Budget::default();
        let burst = (0..1000).filter(|_| budget.debit()).count();
        assert_eq!(burst, 100);
        (0..50).for_each(|_| budget.credit());
        assert_eq!((0..1000).filter(|_| budget.debit()).count(), 10);
    }
}
