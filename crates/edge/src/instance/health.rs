//! Why an instance is left out, and since when it takes requests.
//!
//! Three reasons, each apart: it refused a connection (until it accepts one), it failed too often (for a
//! time), or a health check says so (until one passes). Invariant: the words that every request reads
//! change only when an instance goes out or comes in. Not here: that the last one is asked all the same,
//! which is for who chooses among several.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use seaworthy_base::delivery::Passive;

/// Failures that are remembered.
const MOST: usize = 1000;

/// How an instance is. Times in milliseconds since the edge began.
#[derive(Debug, Default)]
pub(crate) struct Health {
    refused: AtomicBool,
    unwell: Mutex<Option<String>>,
    is_unwell: AtomicBool,
    /// Left out until then.
    until: AtomicU64,
    /// When it began to take requests, or began again.
    since: AtomicU64,
    failures: Mutex<Vec<u64>>,
}

impl Health {
    /// Whether it is left out.
    pub(crate) fn is_out(&self, now: u64) -> bool {
        self.refused.load(Ordering::Relaxed)
            || self.is_unwell.load(Ordering::Relaxed)
            || now < self.until.load(Ordering::Relaxed)
    }

    /// Why, in words.
    pub(crate) fn why_out(&self, now: u64) -> Option<String> {
        if self.refused.load(Ordering::Relaxed) {
            return Some("it refused a connection".to_owned());
        }
        if let Some(why) = self.unwell.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Some(why);
        }
        let left = self.until.load(Ordering::Relaxed).checked_sub(now).filter(|left| *left > 0)?;
        let seconds = left.div_ceil(1000);
        Some(format!("answers did not come too often: it is left out for {seconds} s more"))
    }

    /// It refused a connection; whether that is news.
    pub(crate) fn refuse(&self) -> bool {
        !self.refused.swap(true, Ordering::Relaxed)
    }

    /// It accepts connections again.
    pub(crate) fn accept(&self, now: u64) {
        self.refused.store(false, Ordering::Relaxed);
        self.begin(now);
    }

    /// What a health check found.
    pub(crate) fn find(&self, unwell: Option<String>, now: u64) {
        let is = unwell.is_some();
        *self.unwell.lock().unwrap_or_else(PoisonError::into_inner) = unwell;
        if self.is_unwell.swap(is, Ordering::Relaxed) && !is {
            self.begin(now);
        }
    }

    /// It takes requests from now on.
    pub(crate) fn begin(&self, now: u64) {
        self.since.fetch_max(now, Ordering::Relaxed);
    }

    /// Since when it takes requests.
    pub(crate) fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed).max(self.until.load(Ordering::Relaxed))
    }

    /// An answer did not come. Whether that is too often; then [`Self::eject`] may follow.
    pub(crate) fn fail(&self, rule: &Passive, now: u64) -> bool {
        let within = rule.within.as_millis() as u64;
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|at| now.saturating_sub(*at) < within);
        if failures.len() < MOST {
            failures.push(now);
        }
        let too_often = failures.len() >= (rule.failures as usize).min(MOST);
        if too_often {
            failures.clear();
        }
        too_often
    }

    /// Leaves it out for the rule's time.
    pub(crate) fn eject(&self, rule: &Passive, now: u64) {
        self.until.fetch_max(now + rule.out.as_millis() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn so_many_failures_within_the_time_leave_it_out_for_the_time() {
        let rule =
            Passive { failures: 3, within: Duration::from_secs(10), out: Duration::from_secs(30) };
        let health = Health::default();
        assert!(![0, 5_000, 10_001].map(|at| health.fail(&rule, at)).contains(&true));
        assert!(health.fail(&rule, 11_000));
        health.eject(&rule, 11_000);
        assert!(health.is_out(11_000) && health.is_out(40_999) && !health.is_out(41_000));
        assert_eq!(health.since(), 41_000);
        assert!(health.why_out(11_500).unwrap().ends_with("for 30 s more"));
        assert_eq!(health.why_out(41_000), None);
        // It begins with a clean sheet, also where it was left out for less than the time of the failures.
        assert!(!health.fail(&rule, 12_000));
    }

    #[test]
    fn each_reason_to_leave_it_out_ends_on_its_own() {
        let health = Health::default();
        assert!(health.refuse() && !health.refuse());
        health.find(Some("GET / was answered with 500".to_owned()), 1);
        health.accept(2);
        assert!(health.is_out(2));
        assert_eq!(health.why_out(2).as_deref(), Some("GET / was answered with 500"));
        health.find(None, 3);
        assert!(!health.is_out(3));
        assert_eq!(health.since(), 3);
    }
}
