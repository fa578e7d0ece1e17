//! How many backups are kept.
//!
//! Here, because the manifest says it and the backups' worker does it, across a process border. Not here:
//! which ones those are, which the backup crate decides.

use serde::{Deserialize, Serialize};

/// How many backups are kept of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The newest.
    pub last: u32,
    /// The newest of each hour.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each week (Monday first).
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
    /// Of each year.
    pub yearly: u32,
}

impl Default for Keep {
    /// Two weeks by day and two months by week: long enough to notice that something went wrong.
    fn default() -> Self {
        Self { daily: 14, weekly: 8, ..Self::NONE }
    }
}

impl Keep {
    /// Nothing but the newest and the newest verified one, which always stay.
    pub const NONE: Self = Self { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
}
