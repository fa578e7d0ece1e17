//! Secrets for a span of six hours each, the same for all edges that have the table: tickets are sealed with them.
//!
//! A span's secret is drawn when the span has begun, by whoever asks first, and not before: who reads this memory learns
//! nothing of what is sealed later (docs/decisions/060). Two lie here in turn, that of a span and of the one before. Each
//! has a word that says whose it is, and four that are zero until they are drawn. All steps are compare-and-swaps: what is
//! forgotten becomes zero, then the place gets its new span, then each word becomes random, once. So those who draw at
//! once end up with the same four words, and where somebody dies in between the next one goes on. Invariants: nobody
//! waits for anybody; zeros are never used; what is drawn for a span is changed by nobody as long as that span or the next
//! lasts; whatever else the words hold, the worst that follows is that tickets are not opened, and clients shake hands in
//! full. Not here: what is sealed and how ([`crate::tls`]).

use std::sync::atomic::{AtomicU64, Ordering};

use rand::TryRngCore as _;
use rand::rngs::OsRng;

use super::rows::swap;

/// How long tickets are sealed with one secret, in seconds; they are opened for a span more.
pub(crate) const SPAN: u64 = 6 * 60 * 60;
/// Words of a secret, and the secrets.
const SECRET: usize = 4;
const PLACES: usize = 2;
/// Words of all of it.
pub(super) const WORDS: usize = PLACES * (1 + SECRET);

/// One span's.
pub(crate) type Secret = [u8; SECRET * 8];

/// The secrets of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secrets<'a>(&'a [[AtomicU64; 1 + SECRET]; PLACES]);

impl<'a> Secrets<'a> {
    pub(super) fn new(words: &'a [AtomicU64]) -> Option<Self> {
        words.as_chunks::<{ 1 + SECRET }>().0.try_into().ok().map(Self)
    }

    /// Where the secret of a span lies, if it is anywhere: whose it is, and its words.
    fn place(self, span: u64) -> (&'a AtomicU64, &'a [AtomicU64; SECRET]) {
        let [even, odd] = self.0;
        let [of, words @ ..] = if span.is_multiple_of(2) { even } else { odd };
        (of, words)
    }

    /// The secret of a span, which is drawn if it is not there. Nothing if the system has no random numbers, or if a
    /// clock makes it so late for us that the place is somebody else's by now.
    pub(crate) fn draw(self, span: u64) -> Option<Secret> {
        let (of, words) = self.place(span);
        loop {
            let now = of.load(Ordering::Acquire);
            if now == span {
                break;
            }
            // A later span's as well: then a clock went back.
            if clear(of, now, words) {
                swap(of, now, span);
            }
        }
        for word in words.iter().filter(|word| word.load(Ordering::Acquire) == 0) {
            swap(word, 0, random()?);
        }
        self.read(span)
    }

    /// The secret of a span, if it was drawn and still lies here.
    pub(crate) fn read(self, span: u64) -> Option<Secret> {
        let (of, words) = self.place(span);
        let mut secret = Secret::default();
        let parts = secret.chunks_exact_mut(8).zip(words);
        let is_drawn = parts.fold(true, |is_drawn, (bytes, word)| {
            let word = word.load(Ordering::Acquire);
            bytes.copy_from_slice(&word.to_ne_bytes());
            is_drawn && word != 0
        });
        // Afterwards: what was read before the place was given away is whole.
        (is_drawn && of.load(Ordering::Acquire) == span).then_some(secret)
    }

    /// Forgets what belongs neither to a span nor to its neighbours: somebody's clock may be a little behind or ahead.
    pub(crate) fn forget(self, span: u64) {
        for place in [span, span + 1] {
            let (of, words) = self.place(place);
            let now = of.load(Ordering::Acquire);
            if now.abs_diff(span) > 1 {
                clear(of, now, words);
            }
        }
    }
}

/// Makes the words zero while the place belongs to that span; whether it did all the time.
fn clear(of: &AtomicU64, span: u64, words: &[AtomicU64]) -> bool {
    words.iter().all(|word| {
        loop {
            let seen = word.load(Ordering::Acquire);
            // What was seen before is that span's, and is never seen again: the words are random.
            if of.load(Ordering::Acquire) != span {
                return false;
            }
            if seen == 0 || swap(word, seen, 0) {
                return true;
            }
        }
    })
}

/// From the system: what a process draws itself can be told in advance by who reads its memory.
fn random() -> Option<u64> {
    loop {
        let drawn = OsRng.try_next_u64().ok()?;
        if drawn != 0 {
            return Some(drawn);
        }
    }
}

#[cfg(test)]
mod tests;
