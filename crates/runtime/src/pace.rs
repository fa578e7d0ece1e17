//! When the shim looks at what: a pure decision, in monotonic time.
//!
//! Three looks of different cost. A connection to the port that the program was given is cheap, so it is
//! tried often; tables of all sockets are dear, so they are read when such a try succeeds and seldom
//! otherwise (for a program that listens elsewhere); memory is sampled once a second. Invariants: a
//! program's port is noticed within a twentieth of the time it took to open it, and within a second;
//! one that never listens costs one cheap try a second.

use std::ops::Div;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Tries to connect follow each other at least this far apart …
const TRY_MIN: Duration = Duration::from_millis(50);
/// … and at most this far.
const TRY_MAX: Duration = SECOND;
/// The same for reading the tables of sockets.
const SCAN_MIN: Duration = Duration::from_millis(250);
const SCAN_MAX: Duration = Duration::from_secs(10);
/// The first sample, so that a status soon after a start has one.
const FIRST_SAMPLE: Duration = Duration::from_millis(50);

/// The times of the next looks of one run.
#[derive(Debug)]
pub(crate) struct Pace {
    /// From when the time that it takes is counted: the start, or the newest `bind`.
    since: Duration,
    next_try: Duration,
    next_scan: Duration,
    next_sample: Duration,
}

/// What is still looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// Not all of its ports listen.
    Ports,
    /// All listen; it is not ready.
    Readiness,
    /// Nothing.
    Over,
}

impl Pace {
    /// For a program that starts now.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            since: now,
            next_try: now + TRY_MIN.div(5),
            next_scan: now + SCAN_MIN,
            next_sample: now + FIRST_SAMPLE,
        }
    }

    /// Something happened after which it may listen any moment.
    pub(crate) fn hurry(&mut self, now: Duration) {
        self.since = now;
        self.next_try = now;
    }

    /// Whether to try a connection now; counts as done.
    pub(crate) fn try_now(&mut self, now: Duration, search: Search) -> bool {
        if search != Search::Ports || now < self.next_try {
            return false;
        }
        self.next_try = now + now.saturating_sub(self.since).div(20).clamp(TRY_MIN, TRY_MAX);
        true
    }

    /// Whether to read the tables of sockets now; counts as done. `found`: a connection succeeded.
    pub(crate) fn scan_now(&mut self, now: Duration, search: Search, found: bool) -> bool {
        if !found && now < self.next_scan {
            return false;
        }
        let pause = match search {
            Search::Over => SCAN_MAX,
            _ => now.saturating_sub(self.since).div(4).clamp(SCAN_MIN, SCAN_MAX),
        };
        self.next_scan = now + pause;
        true
    }

    /// Whether to sample memory now; counts as done.
    pub(crate) fn sample_now(&mut self, now: Duration) -> bool {
        let due = now >= self.next_sample;
        if due {
            self.next_sample = now + SECOND;
        }
        due
    }

    /// When the next of them is due.
    pub(crate) fn next(&self, search: Search) -> Duration {
        let others = self.next_scan.min(self.next_sample);
        if search == Search::Ports { others.min(self.next_try) } else { others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lives through `length` with a program that opens its port at `opens`; counts tries, scans, samples.
    fn live(length: Duration, opens: Option<Duration>) -> (u32, u32, u32, Option<Duration>) {
        let (mut tries, mut scans, mut samples, mut seen) = (0, 0, 0, None);
        let mut pace = Pace::new(Duration::ZERO);
        let mut now = Duration::ZERO;
        while now < length {
            let search = if seen.is_some() { Search::Over } else { Search::Ports };
            let open = opens.is_some_and(|at| now >= at);
            let mut found = false;
            if pace.try_now(now, search) {
                tries += 1;
                found = open;
            }
            if pace.scan_now(now, search, found) {
                scans += 1;
                if open && seen.is_none() {
                    seen = Some(now);
                }
            }
            samples += u32::from(pace.sample_now(now));
            let search = if seen.is_some() { Search::Over } else { Search::Ports };
            now = now.max(pace.next(search));
        }
        (tries, scans, samples, seen)
    }

    #[test]
    fn one_that_never_listens_costs_little() {
        let (tries, scans, samples, _) = live(Duration::from_secs(600), None);
        assert!(tries < 720, "{tries} tries");
        assert!(scans < 90, "{scans} scans");
        assert!((600..=602).contains(&samples), "{samples} samples");
    }

    #[test]
    fn a_ready_one_is_scanned_every_ten_seconds() {
        let (tries, scans, ..) = live(Duration::from_secs(600), Some(Duration::from_millis(200)));
        assert!(tries < 6 && scans < 65, "{tries} tries, {scans} scans");
    }

    proptest! {
        #[test]
        fn a_port_is_noticed_within_a_twentieth_of_its_time_and_within_a_second(opens in 0u64..300_000) {
            let opens = Duration::from_millis(opens);
            let (.., seen) = live(Duration::from_secs(400), Some(opens));
            let late = seen.unwrap().saturating_sub(opens);
            prop_assert!(late <= (opens / 20).clamp(TRY_MIN, TRY_MAX) + TRY_MIN, "{:?} late", late);
        }

        #[test]
        fn time_that_stands_still_asks_for_nothing_twice(at in 0u64..1_000_000) {
            let now = Duration::from_millis(at);
            let mut pace = Pace::new(now);
            let later = now + SECOND;
            prop_assert!(pace.try_now(later, Search::Ports) && !pace.try_now(later, Search::Ports));
            prop_assert!(pace.scan_now(later, Search::Ports, false));
            prop_assert!(!pace.scan_now(later, Search::Ports, false));
            prop_assert!(pace.sample_now(later) && !pace.sample_now(later));
            prop_assert!(pace.next(Search::Ports) > later);
        }
    }
}
