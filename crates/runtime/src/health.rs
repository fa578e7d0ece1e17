//! What checks mean: failures in a row become "not ready" or "hung". Pure: results and ages in, verdicts out.
//!
//! Invariants: one success clears the count; a program that was never ready (or live) is slow and not
//! broken until its time to start is over; a verdict is given once and not at each further failure.

use std::time::Duration;

use crate::model::Probe;

/// The memory of one run's checks.
#[derive(Debug, Default)]
pub(crate) struct Health {
    ready: Count,
    live: Count,
    was_ready: bool,
    was_live: bool,
    hung: bool,
    error: Option<String>,
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Count {
    failures: u32,
    good: bool,
}

/// What a readiness check changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    Unready,
}

impl Health {
    /// Counts a readiness check of a program of this age; `Some` when it says something about the phase.
    pub(crate) fn ready(
        &mut self,
        rule: &Probe,
        age: Duration,
        result: Result<(), String>,
    ) -> Option<Readiness> {
        let Err(error) = result else {
            self.ready = Count { failures: 0, good: true };
            self.was_ready = true;
            self.error = None;
            return Some(Readiness::Ready);
        };
        self.error = Some(error);
        self.ready.failures = self.ready.failures.saturating_add(1);
        let counts = self.ready.good || age > Duration::from_millis(rule.start_ms);
        (counts && self.ready.failures >= rule.failures).then(|| {
            self.ready.good = false;
            Readiness::Unready
        })
    }

    /// Counts a liveness check; `Some` with the last error when it is hung.
    pub(crate) fn live(
        &mut self,
        rule: &Probe,
        age: Duration,
        result: Result<(), String>,
    ) -> Option<String> {
        let Err(error) = result else {
            self.live.failures = 0;
            self.was_live = true;
            return None;
        };
        self.live.failures = self.live.failures.saturating_add(1);
        let counts = self.was_live || age > Duration::from_millis(rule.start_ms);
        let hung = counts && self.live.failures >= rule.failures && !self.hung;
        self.hung |= hung;
        hung.then_some(error)
    }

    /// Whether it was ready at least once.
    pub(crate) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// What came instead at the newest readiness check; nothing after a good one.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(40);

    fn rule(failures: u32) -> Probe {
        Probe {
            path: None,
            say: None,
            status: vec![],
            json: [].into(),
            headers: [].into(),
            every_ms: 10_000,
            timeout_ms: 1000,
            failures,
            start_ms: START.as_millis() as u64,
        }
    }

    fn failed() -> Result<(), String> {
        Err("no".to_owned())
    }

    #[test]
    fn a_slow_start_is_no_failure_and_a_fast_one_counts_at_once() {
        let (mut health, rule) = (Health::default(), rule(3));
        for second in 0..40 {
            assert_eq!(health.ready(&rule, Duration::from_secs(second), failed()), None);
            assert_eq!(health.live(&rule, Duration::from_secs(second), failed()), None);
        }
        assert_eq!(
            health.ready(&rule, START + Duration::from_secs(1), failed()),
            Some(Readiness::Unready)
        );
        let mut health = Health::default();
        assert_eq!(health.ready(&rule, Duration::ZERO, Ok(())), Some(Readiness::Ready));
        assert_eq!(health.ready(&rule, Duration::from_secs(1), failed()), None);
        assert_eq!(health.ready(&rule, Duration::from_secs(2), failed()), None);
        assert_eq!(health.ready(&rule, Duration::from_secs(3), failed()), Some(Readiness::Unready));
    }

    proptest! {
        /// Against a model that looks back over all results instead of counting.
        #[test]
        fn verdicts_follow_the_last_results(
            results in prop::collection::vec(any::<bool>(), 1..60), limit in 1u32..5, step in 1u64..4
        ) {
            let (mut health, rule) = (Health::default(), rule(limit));
            let mut hung_before = false;
            for (index, good) in results.iter().enumerate() {
                let age = Duration::from_secs(index as u64 * step);
                let outcome = if *good { Ok(()) } else { failed() };
                let past = &results[..=index];
                let in_a_row = past.iter().rev().take_while(|good| !**good).count() as u32;
                let ever = past.iter().any(|good| *good);
                let was_good = past.iter().rposition(|good| *good).is_some()
                    && in_a_row.saturating_sub(1) < limit;
                let readiness = health.ready(&rule, age, outcome.clone());
                let expected = if *good {
                    Some(Readiness::Ready)
                } else if in_a_row >= limit && (was_good || age > START) {
                    Some(Readiness::Unready)
                } else {
                    None
                };
                prop_assert_eq!(readiness, expected);
                let hung = health.live(&rule, age, outcome).is_some();
                let expected = in_a_row >= limit && (ever || age > START) && !hung_before;
                prop_assert_eq!(hung, expected);
                hung_before |= hung;
                prop_assert_eq!(health.was_ready(), ever);
            }
        }
    }
}
