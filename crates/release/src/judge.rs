//! Is the new release worse than the old one? A pure function of what was counted.
//!
//! **Errors and latency** are shares of requests, judged by Wald's sequential test of "no worse than the
//! old one" against "worse by [`Rules::errors`]" (ten points unless told otherwise; for latency: twenty
//! points more requests that take at least twice the old release's 95th percentile, and 33 ms). The old share is
//! taken at the upper end of its 99.8 % interval, and the test stops at a likelihood ratio of 250, so by
//! Ville's inequality a release that is no worse is condemned with a chance of at most 0.4 % however often
//! it is looked at, plus 0.2 % for the interval. That counts each request for itself; a machine that stops for a moment
//! makes all that are under way slow at once, so latency has to be condemned twice, by requests that the first time did
//! not know ([`Latency`]). **Restarts and error log lines** are compared as rates,
//! by the exact test of two Poisson counts at 1 in 10,000.
//!
//! What it costs to find ten points more errors is counted by the simulations in the tests: after a
//! thousand requests of an old release that never failed, 99 of 100 are found within 200 requests; where it
//! failed one in a hundred, within 400; one in twenty, within 1,500. Not here: how it is counted, and what is done about it.

/// Requests by the time of their answer: bucket `i` holds those below 2^i microseconds.
pub const BUCKETS: usize = 28;

/// Likelihood ratio at which a release is condemned.
const CONDEMNED: f64 = 250.0;
/// Quantile of the normal distribution for a one-sided 99.8 % bound.
const BOUND: f64 = 2.878;
/// A release that never failed may still fail this much: one in two hundred.
const FLOOR: f64 = 0.005;
/// What a release without a predecessor may fail.
const FIRST: f64 = 0.01;
/// More slow requests that count as a breach.
const SLOWER: f64 = 0.20;
/// The bucket from which on a request may count as slow, 33 ms: below it nobody notices, and a fresh process
/// on a busy machine is easily twice as slow in a few milliseconds.
const NOTICED: usize = 16;
/// Requests of the old release below which its latency says nothing.
const ENOUGH: u64 = 100;
/// Requests of the old release at the same time from which on they excuse the new one.
const BESIDE: u64 = 30;
/// Chance at which rates are said to differ.
const RARE: f64 = 1e-4;

/// What was counted of a release.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    /// Requests answered.
    pub requests: u64,
    /// Of these, answered with 5xx or not at all.
    pub errors: u64,
    /// Requests by time.
    pub times: [u64; BUCKETS],
    /// Starts after the first, over all instances.
    pub restarts: u64,
    /// Whether an instance ends again and again.
    pub crash_loop: bool,
    /// Lines in the logs that tell of an error.
    pub log_errors: u64,
    /// Over how long it was counted.
    pub seconds: f64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            requests: 0,
            errors: 0,
            times: [0; BUCKETS],
            restarts: 0,
            crash_loop: false,
            log_errors: 0,
            seconds: 0.0,
        }
    }
}

impl Counts {
    /// What was added since an earlier count.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut times = self.times;
        for (now, before) in times.iter_mut().zip(earlier.times) {
            *now = now.saturating_sub(before);
        }
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            errors: self.errors.saturating_sub(earlier.errors),
            times,
            restarts: self.restarts.saturating_sub(earlier.restarts),
            crash_loop: self.crash_loop,
            log_errors: self.log_errors.saturating_sub(earlier.log_errors),
            seconds: self.seconds - earlier.seconds,
        }
    }

    /// The bucket that holds the 95th percentile.
    fn p95_bucket(&self) -> Option<usize> {
        let all: u64 = self.times.iter().sum();
        let mut below = 0;
        self.times.iter().position(|count| {
            below += count;
            below * 100 >= all * 95 && all > 0
        })
    }

    fn at_least(&self, bucket: usize) -> u64 {
        self.times.iter().skip(bucket).sum()
    }
}

/// What counts as worse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// More errors, as a share: 0.1 is ten points.
    pub errors: f64,
    /// A 95th percentile above this many microseconds is a breach whatever the old one had.
    pub p95_micros: Option<u64>,
    /// Whether error lines in the logs count.
    pub logs: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { errors: 0.10, p95_micros: None, logs: true }
    }
}

/// Why the new release is worse; empty when nothing says so. Meant to be asked again and again with all
/// that was counted since the switch.
pub fn judge(old: &Counts, new: &Counts, rules: &Rules) -> Vec<String> {
    [judge_beside(old, None, new, rules), too_late(old, None, new, rules)].concat()
}

/// The same but for latency, while both serve. `beside` is what the old one does at the same time: errors and slowness that it
/// shows too are none of the new one's doing, but a machine's that is busy or a database's that is down.
pub fn judge_beside(
    old: &Counts,
    beside: Option<&Counts>,
    new: &Counts,
    rules: &Rules,
) -> Vec<String> {
    let beside = beside.filter(|beside| beside.requests >= BESIDE);
    let mut reasons = Vec::new();
    let both = |worse: &dyn Fn(&Counts) -> Option<String>| {
        worse(old).filter(|_| beside.is_none_or(|beside| worse(beside).is_some()))
    };
    reasons.extend(both(&|old| more_errors(old, new, rules.errors)));
    if new.crash_loop {
        reasons.push("an instance of it ends again and again".to_owned());
    } else if higher_rate((new.restarts, new.seconds), (old.restarts, old.seconds)) {
        reasons.push(format!(
            "it was restarted {} times in {:.0} s (before: {} times in {:.0} s)",
            new.restarts, new.seconds, old.restarts, old.seconds
        ));
    }
    let per_request = |counts: &Counts| (counts.log_errors, (counts.requests + 1) as f64);
    if rules.logs && higher_rate(per_request(new), per_request(old)) {
        reasons.push(format!(
            "{} error lines in its logs over {} requests (before: {} over {})",
            new.log_errors, new.requests, old.log_errors, old.requests
        ));
    }
    reasons
}

/// Latency, as far as it was condemned already.
#[derive(Debug, Clone, Default)]
pub struct Latency {
    /// What had been counted of the new one, and of the old one beside it, when it was condemned for the first time.
    first: Option<(Counts, Counts)>,
}

impl Latency {
    /// Why the new release is too slow: said once requests from after the first time say so too. Meant to be asked
    /// again and again with all that was counted since the switch.
    pub fn judge(
        &mut self,
        old: &Counts,
        beside: &Counts,
        new: &Counts,
        rules: &Rules,
    ) -> Vec<String> {
        let reasons = too_late(old, Some(beside), new, rules);
        if reasons.is_empty() {
            self.first = None;
            return reasons;
        }
        let (new_then, beside_then) =
            self.first.get_or_insert_with(|| (new.clone(), beside.clone()));
        let (new, beside) = (new.since(new_then), beside.since(beside_then));
        let again = !too_late(old, Some(&beside), &new, rules).is_empty();
        if again { reasons } else { Vec::new() }
    }
}

/// Slower than the old one, and than a limit, by what is counted.
fn too_late(old: &Counts, beside: Option<&Counts>, new: &Counts, rules: &Rules) -> Vec<String> {
    let beside = beside.filter(|beside| beside.requests >= BESIDE);
    let slow_beside = beside.is_none_or(|beside| slower(beside, new).is_some());
    let slower = slower(old, new).filter(|_| slow_beside);
    let limit = rules.p95_micros.and_then(|limit| too_slow(new, limit));
    slower.into_iter().chain(limit).collect()
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn more_errors(old: &Counts, new: &Counts, delta: f64) -> Option<String> {
    let tolerated = if old.requests == 0 { FIRST } else { upper_bound(old.errors, old.requests) };
    condemned(new.errors, new.requests, tolerated, delta).then(|| {
        format!(
            "{:.1} % of its {} requests failed (before: {:.1} % of {})",
            percent(new.errors, new.requests),
            new.requests,
            percent(old.errors, old.requests),
            old.requests
        )
    })
}

fn slower(old: &Counts, new: &Counts) -> Option<String> {
    let before = old.p95_bucket().filter(|_| old.requests >= ENOUGH)?;
    // Two buckets above is at least twice as slow, whatever the place within the bucket.
    let slow = (before + 2).max(NOTICED);
    let tolerated = upper_bound(old.at_least(slow), old.requests);
    let count = new.at_least(slow);
    condemned(count, new.requests, tolerated, SLOWER).then(|| {
        format!(
            "{:.1} % of its {} requests took longer than {:.1} ms (before: {:.1} %)",
            percent(count, new.requests),
            new.requests,
            2f64.powi(slow as i32 - 1) / 1000.0,
            percent(old.at_least(slow), old.requests)
        )
    })
}

fn too_slow(new: &Counts, limit: u64) -> Option<String> {
    // The first bucket all of which is above the limit.
    let bucket = 64 - (limit.max(1) - 1).leading_zeros() as usize + 1;
    let count = new.at_least(bucket.min(BUCKETS - 1));
    condemned(count, new.requests, 0.05, 0.10).then(|| {
        format!(
            "{:.1} % of its {} requests took longer than the {:.0} ms that `watch.p95` allows for one in twenty",
            percent(count, new.requests),
            new.requests,
            limit as f64 / 1000.0
        )
    })
}

/// The upper end of a share's interval (Wilson), never below [`FLOOR`].
fn upper_bound(count: u64, of: u64) -> f64 {
    let (n, z) = (of as f64, BOUND);
    let p = count as f64 / n;
    let centre = p + z * z / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre + spread) / (1.0 + z * z / n)).max(FLOOR)
}

/// Wald's test: is "`tolerated` plus `delta`" more likely than "`tolerated`" by [`CONDEMNED`]?
fn condemned(count: u64, of: u64, tolerated: f64, delta: f64) -> bool {
    let worse = (tolerated + delta).min(0.999);
    if worse <= tolerated {
        return false;
    }
    let (bad, good) = (count as f64, of.saturating_sub(count) as f64);
    let ratio = bad * (worse / tolerated).ln() + good * ((1.0 - worse) / (1.0 - tolerated)).ln();
    ratio >= CONDEMNED.ln()
}

/// Whether a count is higher than its exposure explains, given another: the exact conditional test.
fn higher_rate((new, new_exposure): (u64, f64), (old, old_exposure): (u64, f64)) -> bool {
    if new < 3 || new_exposure <= 0.0 {
        return false;
    }
    let share = new_exposure / (new_exposure + old_exposure.max(0.0));
    tail(new, new + old, share.min(1.0 - 1e-9)) < RARE
}

/// The chance of at least `least` out of `all` at this share.
fn tail(least: u64, all: u64, share: f64) -> f64 {
    // From the largest term down; counts of a watch are small, and beyond this many terms nothing is left.
    let mut term = all as f64 * share.ln();
    let mut sum = term.exp();
    for k in (least..all).rev().take(100_000) {
        // P(k) from P(k + 1).
        term += ((k + 1) as f64 / (all - k) as f64).ln() + ((1.0 - share) / share).ln();
        sum += term.exp();
    }
    sum
}

#[cfg(test)]
mod tests;
