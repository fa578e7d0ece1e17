//! Secrets for a span of six hours each, the same for all edges that have the table: tickets are sealed with them.
//!
//! Three lie here in turn: that of the span before, of this one, and of the next, which whoever is first in a span
//! makes anew in the place of the one before last; that one is gone then. So nobody reads where somebody writes, as
//! long as no process sleeps for six hours between two steps. Invariants: what an edge reads is random: a table that
//! never held any (an earlier build's, or a new one) is filled first; whatever else the words hold, the worst that
//! follows is that tickets are not opened, and clients shake hands in full. Not here: what is sealed and how
//! ([`crate::tls`]).

use std::sync::atomic::{AtomicU64, Ordering};

/// How long tickets are sealed with one secret, in seconds; they are opened for a span more.
pub(crate) const SPAN: u64 = 6 * 60 * 60;
/// Words of a secret, and the secrets.
const SECRET: usize = 4;
const PLACES: u64 = 3;
/// Words of all of it: first the last span whose successor's secret was made.
pub(super) const WORDS: usize = 1 + PLACES as usize * SECRET;

/// One span's.
pub(crate) type Secret = [u8; SECRET * 8];

/// The secrets of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secrets<'a> {
    made: &'a AtomicU64,
    places: &'a [[AtomicU64; SECRET]],
}

impl<'a> Secrets<'a> {
    pub(super) fn new(words: &'a [AtomicU64]) -> Option<Self> {
        let (made, places) = words.split_first()?;
        let places = places.as_chunks().0;
        (places.len() == PLACES as usize).then_some(Self { made, places })
    }

    fn place(&self, span: u64) -> &'a [AtomicU64; SECRET] {
        &self.places[(span % PLACES) as usize]
    }

    /// The secrets of a span and of the one before. Whoever asks first in a span has older ones forgotten. Calls of one
    /// process must not overlap; where those of two do on an empty table, one of them may be alone with its secrets.
    pub(crate) fn of(&self, span: u64) -> [Secret; 2] {
        let made = self.made.load(Ordering::Acquire);
        // A clock that went back by more than a span, or nonsense, is taken for a table without secrets.
        let last = if made > span + 1 { 0 } else { made };
        if last < span {
            for next in [span.saturating_sub(1), span, span + 1] {
                if last == 0 || next > last + 1 {
                    let fresh: [u64; SECRET] = rand::random();
                    let words = self.place(next).iter().zip(fresh);
                    words.for_each(|(word, fresh)| word.store(fresh, Ordering::Relaxed));
                }
            }
            self.made.store(span, Ordering::Release);
        }
        [span, span.saturating_sub(1)].map(|span| self.read(span))
    }

    fn read(&self, span: u64) -> Secret {
        let mut secret = Secret::default();
        for (bytes, word) in secret.chunks_exact_mut(8).zip(self.place(span)) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    /// Whether a secret lies anywhere in the table.
    fn lies(words: &[AtomicU64], secret: &Secret) -> bool {
        let all: Vec<u8> =
            words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        all.windows(secret.len()).any(|part| part == secret)
    }

    #[test]
    fn a_secret_is_one_for_all_for_two_spans_and_is_gone_afterwards() {
        let words = words();
        let (one, other) = (Secrets::new(&words).unwrap(), Secrets::new(&words).unwrap());
        let mut all: Vec<Secret> = vec![one.of(1000)[0]];
        for span in 1000..1010 {
            let [now, before] = one.of(span);
            assert_eq!(other.of(span), [now, before]);
            assert!(!all[..all.len() - 1].contains(&now) && now != [0; 32]);
            if span > 1000 {
                assert_eq!(&before, all.last().unwrap());
                all.push(now);
            }
            let gone = all.iter().rev().skip(2);
            assert!(!gone.clone().any(|secret| lies(&words, secret)), "{span}");
        }
        // Nothing asked for a long time: what is old is not kept for that.
        let before = other.of(1020)[1];
        assert!(!all.contains(&before) && !all.iter().any(|secret| lies(&words, secret)));
        // One span without anybody: the one before was made in advance, and nobody has used it.
        let late = one.of(1022);
        assert_ne!(late[0], late[1]);
        assert_eq!(other.of(1022), late);
    }

    #[test]
    fn no_clock_and_no_nonsense_makes_a_secret_that_could_be_guessed() {
        let words = words();
        let secrets = Secrets::new(&words).unwrap();
        for (made, span) in [(0, 1), (0, 5), (u64::MAX, 5), (7, 5), (5, 5), (6, 5), (1, 5), (4, 5)]
        {
            // The words as an earlier build left them, or nonsense in the first.
            let is_filled = made != 0 && made <= span + 1 && made + 1 >= span;
            if !is_filled {
                words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            }
            words[0].store(made, Ordering::Relaxed);
            let [now, before] = secrets.of(span);
            assert!(now != [0; 32] && before != [0; 32] && now != before, "{made}, {span}");
        }
        assert!(Secrets::new(&words[1..]).is_none() && Secrets::new(&[]).is_none());
    }
}
