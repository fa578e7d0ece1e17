//! The two clocks of counting: one that never jumps, and one that survives a reboot.
//!
//! Invariant: [`monotonic_ms`] is the same for all processes of a boot, so that counts can be shared.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the machine started. The coarse clock: a millisecond more or less is no matter.
pub(crate) fn monotonic_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
