//! The databases' state before a migration: the seam between releases and backups.
//!
//! A release asks for a restore point right before its first migration, and notes in its journal what came
//! of it. Invariant: what was not made is said in so many words; a release never claims a safety that is
//! not there.

use seaworthy_base::{Fault, SiteName};

use crate::platform::Platform;

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RestorePoint {
    /// None was made; in words, why.
    None(&'static str),
}

impl RestorePoint {
    /// For people and the journal.
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::None(why) => why,
        }
    }
}

/// Said openly, in the plan and while it happens.
const NOT_BUILT: &str =
    "no restore point is made: this version cannot back databases up, only the code can go back";

/// What will come of it, for the plan.
pub(crate) fn expected() -> RestorePoint {
    RestorePoint::None(NOT_BUILT)
}

/// Makes one of every database of the site.
#[expect(clippy::unused_async, reason = "a dump takes its time; who calls is prepared for it")]
pub(crate) async fn make(_platform: &Platform, _site: &SiteName) -> Result<RestorePoint, Fault> {
    Ok(expected())
}
