//! How long an instance takes to answer, as a moving average over about ten seconds.
//!
//! Weighed by time, not by answer: one slow answer among thousands must not send everybody elsewhere.
//! Each thread has a line of its own, so that counting costs no traffic between processors; each sees
//! enough answers to judge by. An instance that nobody asks is forgotten little by little, so that a slow
//! one is tried again. Invariant: the average lies between the least and the greatest of the answers, or
//! below, never above.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::counter::{LINES, own};

/// What is this old counts e times less.
const MEMORY_MS: f32 = 10_000.0;

/// One thread's: the average in microseconds as bits of an `f32`, and the moment in milliseconds. Zero
/// while nothing was seen.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// The moving averages of one instance.
#[derive(Debug, Default)]
pub(crate) struct Latency([Line; LINES]);

fn pack(average: f32, now: u32) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(now)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

/// The part of an average that is left after a while.
fn left(since: u32, now: u32) -> f32 {
    // A clock of 32 bits goes round in seven weeks; what it says then is a moment too late.
    (-(now.wrapping_sub(since).min(1 << 30) as f32) / MEMORY_MS).exp()
}

fn next(before: Option<(f32, u32)>, micros: f32, now: u32) -> f32 {
    before.map_or(micros, |(average, since)| micros + (average - micros) * left(since, now))
}

impl Latency {
    fn line(&self) -> &AtomicU64 {
        &self.0[own()].0
    }

    /// An answer came after so many microseconds; it is so many milliseconds now.
    pub(crate) fn note(&self, micros: u64, now: u64) {
        let (line, now) = (self.line(), now as u32);
        let word = line.load(Ordering::Relaxed);
        let before = (word != 0).then(|| unpack(word));
        let average = next(before, (micros as f32).max(1.0), now);
        // Threads beyond the lines share them; what one of them loses the next answer brings.
        line.store(pack(average, now), Ordering::Relaxed);
    }

    /// What an answer would take now, in microseconds; nothing while none was seen.
    pub(crate) fn now(&self, now: u64) -> Option<f32> {
        let word = self.line().load(Ordering::Relaxed);
        let (average, since) = unpack(word);
        (word != 0).then(|| average * left(since, now as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slow_answers_count_by_how_long_they_go_on_and_are_forgotten() {
        let latency = Latency::default();
        assert_eq!(latency.now(0), None);
        latency.note(1_000, 0);
        latency.note(1_000_000, 10);
        let once = latency.now(10).unwrap();
        assert!((1_000.0..3_000.0).contains(&once), "{once}");
        (1..2_000).for_each(|nth| latency.note(1_000_000, 10 + nth * 10));
        let long = latency.now(20_000).unwrap();
        assert!((800_000.0..1_000_000.0).contains(&long), "{long}");
        let unasked = latency.now(80_000).unwrap();
        assert!(unasked < 3_000.0, "{unasked}");
    }

    proptest! {
        #[test]
        fn an_average_is_never_above_the_slowest_answer(
            answers in prop::collection::vec((1u64..10_000_000, 0u64..100_000), 1..50),
        ) {
            let (latency, mut now) = (Latency::default(), 0);
            for (micros, pause) in &answers {
                now += pause;
                latency.note(*micros, now);
            }
            let worst = answers.iter().map(|(micros, _)| *micros).max().unwrap();
            let average = latency.now(now).unwrap();
            prop_assert!(average >= 0.0 && average <= worst as f32 * 1.001, "{} {}", average, worst);
        }
    }
}
