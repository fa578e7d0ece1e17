//! What may be said of a set, and what a tool's complaints mean: pure.
//!
//! Invariants: VERIFIED needs that the whole content was re-read within [`FRESH`] and found good, and that
//! the tools had no doubts (or a drill answered them); everything else is UNVERIFIED or DAMAGED, with the
//! reason. A clock that is behind proves nothing.

use std::time::Duration;

use seaworthy_base::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::{Check, DrillRecord};
use crate::set::Set;

/// How long a reading of the content counts.
pub(crate) const FRESH: Duration = Duration::from_secs(7 * 86_400);
/// Content is read again after this time, so that the rotation ends before the last reading is stale.
pub(crate) const REREAD: Duration = Duration::from_secs(5 * 86_400);

/// The state of one copy of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE", tag = "state", content = "why")]
pub enum State {
    /// Its content was re-read and is what was written.
    Verified,
    /// Nobody knows.
    Unverified(String),
    /// It is not what was written.
    Damaged(String),
}

/// Judges one copy.
pub(crate) fn state(
    set: &Set,
    check: Option<&Check>,
    drills: &[DrillRecord],
    now: Timestamp,
) -> State {
    let drill = drills.iter().rev().find(|drill| drill.set == set.id);
    if let Some(fault) = check.and_then(|check| check.fault.as_ref()) {
        return State::Damaged(fault.causes.first().unwrap_or(&fault.what).clone());
    }
    if let Some(drill) = drill
        && !drill.differences.is_empty()
    {
        return State::Damaged(format!(
            "a drill found: {}",
            drill.differences.first().map(ToString::to_string).unwrap_or_default()
        ));
    }
    let Some(read_at) = check.and_then(|check| check.read_at) else {
        return State::Unverified("its content was never re-read".to_owned());
    };
    if read_at > now {
        return State::Unverified("the clock is behind the time of its last check".to_owned());
    }
    if now.since(read_at) > FRESH {
        return State::Unverified(
            "its content was last re-read more than seven days ago".to_owned(),
        );
    }
    let proven = drill.is_some_and(|drill| drill.fault.is_none());
    match set.doubts.first() {
        Some(doubt) if !proven => State::Unverified(format!("a tool said: {doubt}")),
        _ => State::Verified,
    }
}

/// Whether the content of a copy is to be read again now.
pub(crate) fn must_read(check: Option<&Check>, now: Timestamp) -> bool {
    match check.and_then(|check| check.read_at) {
        Some(read_at) => read_at > now || now.since(read_at) > REREAD,
        None => true,
    }
}

/// What tools say on standard error although all is well.
const HARMLESS: [&str; 5] = [
    // pg_dump about foreign keys in a circle: it matters to data-only restores, which we never make.
    "circular foreign-key constraints",
    "pg_dump: detail:",
    "pg_dump: hint:",
    "Consider using a full dump instead",
    "You might not be able to restore the dump without using",
];

/// The lines that raise a doubt.
pub(crate) fn doubts(lines: &[String]) -> Vec<String> {
    let harmless = |line: &&String| {
        line.trim().is_empty() || HARMLESS.iter().any(|known| line.contains(known))
    };
    lines.iter().filter(|line| !harmless(line)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use seaworthy_base::{Code, Fault};

    use super::*;
    use crate::set::SetId;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn set(doubts: &[&str]) -> Set {
        let text = serde_json::json!({
            "v": 1, "seal": "", "id": SetId::new(NOW, 1), "site": "s", "item": "i", "engine": "postgres",
            "taken": NOW, "took_ms": 1, "reason": "asked", "server": "", "tool": "", "recipients": [],
            "parts": [], "databases": [], "needs": [], "doubts": doubts, "notes": [],
        });
        serde_json::from_value(text).unwrap()
    }

    fn check(days_ago: u64) -> Check {
        Check {
            read_at: Some(Timestamp(NOW.0 - days_ago * 86_400_000)),
            stamps: BTreeMap::new(),
            fault: None,
        }
    }

    fn drill(fault: Option<Fault>) -> DrillRecord {
        DrillRecord {
            at: NOW,
            set: set(&[]).id,
            store: "local".to_owned(),
            took_ms: 1,
            differences: Vec::new(),
            fault,
        }
    }

    #[test]
    fn only_what_was_read_within_seven_days_is_verified() {
        assert_eq!(state(&set(&[]), Some(&check(6)), &[], NOW), State::Verified);
        for bad in [
            Some(check(8)),
            None,
            Some(Check { read_at: None, ..check(0) }),
            Some(Check { read_at: Some(Timestamp(NOW.0 + 1)), ..check(0) }),
        ] {
            assert!(
                matches!(state(&set(&[]), bad.as_ref(), &[], NOW), State::Unverified(_)),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_doubt_is_answered_by_a_drill_that_passed_and_by_nothing_else() {
        let set = set(&["pg_dump: warning: something"]);
        assert!(matches!(state(&set, Some(&check(0)), &[], NOW), State::Unverified(_)));
        let failed = drill(Some(Fault::new(Code::BackupUnverified, "no server")));
        assert!(matches!(state(&set, Some(&check(0)), &[failed], NOW), State::Unverified(_)));
        assert_eq!(state(&set, Some(&check(0)), &[drill(None)], NOW), State::Verified);
    }

    #[test]
    fn damage_wins_over_everything() {
        let damaged = Check { fault: Some(Fault::new(Code::BackupDamaged, "x")), ..check(0) };
        assert!(matches!(state(&set(&[]), Some(&damaged), &[drill(None)], NOW), State::Damaged(_)));
    }

    #[test]
    fn an_unknown_complaint_of_a_tool_is_a_doubt() {
        let lines = [
            "pg_dump: warning: there are circular foreign-key constraints on this table:",
            "pg_dump: detail: t",
            "",
            "pg_dump: warning: could not read x",
        ];
        assert_eq!(doubts(&lines.map(str::to_owned)), ["pg_dump: warning: could not read x"]);
    }
}
