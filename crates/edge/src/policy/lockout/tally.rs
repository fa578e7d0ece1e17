//! Failures that led to no lockout yet, in the table that all edges share: they survive the process too.
//!
//! A state is their number and the second of the first one. Invariant: what a rule could not have counted (somebody
//! wrote nonsense there, the clock was set back) holds for no longer than the rule's own time.

use std::sync::Arc;

use crate::table::Table;

/// Clocks of two processes, or of a second that is just over, may differ so much.
const SLACK: u64 = 5;

#[derive(Debug)]
pub(super) struct Tally(Arc<Table>);

/// Number and first second, as far as they still count.
fn read(bits: u64, within: u64, now: u64) -> Option<(u32, u64)> {
    let (count, since) = ((bits >> 32) as u32, bits & u64::from(u32::MAX));
    let fresh = since <= now + SLACK && now.saturating_sub(since) <= within;
    (fresh && count > 0).then_some((count, since))
}

impl Tally {
    pub(super) fn new(counts: Arc<Table>) -> Self {
        Self(counts)
    }

    /// How many there were within the time.
    pub(super) fn get(&self, key: u64, within: u64, now: u64) -> u32 {
        let bits = self.0.failures().get(key);
        bits.and_then(|bits| read(bits, within, now)).map_or(0, |(count, _)| count)
    }

    /// Whether there were any, ever so long ago.
    pub(super) fn knows(&self, key: u64) -> bool {
        self.0.failures().get(key).is_some()
    }

    /// So many more; how many there are then.
    pub(super) fn fail(&self, key: u64, times: u32, within: u64, now: u64) -> u32 {
        let mut count = 0;
        let after = |bits: Option<u64>| {
            let before = bits.and_then(|bits| read(bits, within, now));
            let (earlier, since) = before.unwrap_or((0, now));
            count = earlier.saturating_add(times);
            Ok::<_, std::convert::Infallible>(u64::from(count) << 32 | since)
        };
        // Who is of the future gives way first.
        let quiet = |bits: u64| now.checked_sub(bits & u64::from(u32::MAX)).unwrap_or(u64::MAX);
        let Ok(()) = self.0.failures().change(key, quiet, after);
        count
    }

    pub(super) fn forget(&self, key: u64) {
        self.0.failures().forget(key);
    }

    pub(super) fn clear(&self) {
        self.0.failures().clear();
    }
}
