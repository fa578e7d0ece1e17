//! When to start again after an end, and when to call it a crash loop: a pure decision.
//!
//! Invariants: the pause doubles with each end in a row and never passes its bound; a program that ran
//! longer than the crash-loop window starts afresh; it is restarted however often it crashes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::Restart;

/// The memory of past ends.
#[derive(Debug, Default)]
pub struct Backoff {
    in_a_row: u32,
    ends: VecDeque<Duration>,
}

impl Backoff {
    /// Notes an end at `now` (monotonic) after `ran`; returns the pause before the next start.
    pub fn ended(&mut self, rules: &Restart, now: Duration, ran: Duration) -> Duration {
        let window = Duration::from_millis(rules.within_ms);
        if ran > window {
            self.in_a_row = 0;
        }
        self.ends.push_back(now);
        self.forget(rules, now);
        let doubled = rules
            .backoff_min_ms
            .saturating_mul(1u64.checked_shl(self.in_a_row).unwrap_or(u64::MAX));
        self.in_a_row = (self.in_a_row + 1).min(62);
        Duration::from_millis(doubled.min(rules.backoff_max_ms))
    }

    /// Whether it ends again and again.
    pub fn is_loop(&self, rules: &Restart, now: Duration) -> bool {
        let window = Duration::from_millis(rules.within_ms);
        self.ends.iter().filter(|end| now.saturating_sub(**end) <= window).count()
            >= rules.crashes as usize
    }

    fn forget(&mut self, rules: &Restart, now: Duration) {
        let window = Duration::from_millis(rules.within_ms);
        while self.ends.front().is_some_and(|end| now.saturating_sub(*end) > window)
            || self.ends.len() > 1000
        {
            self.ends.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Restart =
        Restart { backoff_min_ms: 100, backoff_max_ms: 30_000, crashes: 5, within_ms: 60_000 };

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_a_long_life_resets_it() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..11)
            .map(|n| {
                backoff
                    .ended(&RULES, Duration::from_secs(n * 40), Duration::from_secs(1))
                    .as_millis() as u64
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(
            backoff.ended(&RULES, Duration::from_secs(900), Duration::from_secs(61)).as_millis(),
            100
        );
    }

    #[test]
    fn five_ends_within_a_minute_are_a_crash_loop_until_the_minute_is_over() {
        let mut backoff = Backoff::default();
        for n in 0..5 {
            assert!(!backoff.is_loop(&RULES, Duration::from_secs(n)));
            backoff.ended(&RULES, Duration::from_secs(n), Duration::ZERO);
        }
        assert!(backoff.is_loop(&RULES, Duration::from_secs(5)));
        assert!(!backoff.is_loop(&RULES, Duration::from_secs(65)));
    }

    proptest! {
        /// Against a model that remembers all ends; a clock that stands still or steps back is no panic.
        #[test]
        fn pauses_stay_in_their_bounds_and_loops_are_counted(
            ends in prop::collection::vec((0u64..200_000, 0u64..120_000), 1..80),
            min in 1u64..5000, max in 1u64..60_000, crashes in 1u32..8
        ) {
            let rules = Restart { backoff_min_ms: min, backoff_max_ms: max, crashes, within_ms: 60_000 };
            let (mut backoff, mut times, mut last) = (Backoff::default(), Vec::new(), None);
            let mut sorted: Vec<_> = ends.iter().map(|(now, _)| *now).collect();
            sorted.sort_unstable();
            for (now, (_, ran)) in sorted.into_iter().zip(&ends) {
                let now = Duration::from_millis(now);
                let pause = backoff.ended(&rules, now, Duration::from_millis(*ran)).as_millis() as u64;
                let fresh = *ran > 60_000;
                let expected = match last {
                    Some(before) if !fresh => u64::min(before * 2, max),
                    _ => min.min(max),
                };
                prop_assert_eq!(pause, expected);
                last = Some(pause);
                times.push(now);
                let recent = times.iter().filter(|at| now.saturating_sub(**at).as_millis() <= 60_000);
                prop_assert_eq!(backoff.is_loop(&rules, now), recent.count() >= crashes as usize);
            }
            backoff.ended(&rules, Duration::ZERO, Duration::ZERO);
            backoff.is_loop(&rules, Duration::ZERO);
        }
    }
}
