//! Which sets stay: pure.
//!
//! Counted in periods that have a backup, not in age: when dumps stop, nothing goes. Invariants: the newest
//! set and the newest verified one always stay; while the last run failed everything stays; a set that a
//! kept one needs stays. Periods are those of UTC.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use seaworthy_base::{Keep, Timestamp};

use crate::set::SetId;

/// What is known of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Which.
    pub id: SetId,
    /// When it was taken.
    pub taken: Timestamp,
    /// Somebody asked for it, or a restore or migration came after it.
    pub asked: bool,
    /// Its content was re-read and found good.
    pub verified: bool,
    /// Sets that it cannot be restored without.
    pub needs: Vec<SetId>,
}

/// What was asked for stays for so long, counted from the newest set.
const ASKED: Duration = Duration::from_secs(7 * 86_400);

/// Why a set stays; one without reasons goes.
pub(crate) type Reasons = BTreeMap<SetId, Vec<String>>;

/// Numbers the period that a moment is in.
type Period = fn(Timestamp) -> i64;

/// Decides. `failing`: the last run did not succeed.
pub(crate) fn decide(sets: &[Candidate], keep: Keep, failing: bool) -> Reasons {
    let mut newest_first: Vec<&Candidate> = sets.iter().collect();
    newest_first.sort_by(|one, other| other.id.cmp(&one.id));
    let mut reasons: Reasons = sets.iter().map(|set| (set.id.clone(), Vec::new())).collect();
    let mut add = |id: &SetId, why: String| {
        if let Some(all) = reasons.get_mut(id) {
            all.push(why);
        }
    };
    if let Some(newest) = newest_first.first() {
        add(&newest.id, "newest".to_owned());
        for set in
            newest_first.iter().filter(|set| set.asked && newest.taken.since(set.taken) < ASKED)
        {
            add(&set.id, "asked for, a week".to_owned());
        }
    }
    if let Some(good) = newest_first.iter().find(|set| set.verified) {
        add(&good.id, "newest verified".to_owned());
    }
    let rules: [(&str, u32, Period); 6] = [
        ("last", keep.last, |at| at.0 as i64),
        ("hourly", keep.hourly, |at| (at.0 / 3_600_000) as i64),
        ("daily", keep.daily, |at| (at.0 / 86_400_000) as i64),
        // 1970-01-01 was a Thursday: three days later a week begins.
        ("weekly", keep.weekly, |at| ((at.0 / 86_400_000) as i64 + 3).div_euclid(7)),
        ("monthly", keep.monthly, |at| at.civil().0 * 12 + i64::from(at.civil().1)),
        ("yearly", keep.yearly, |at| at.civil().0),
    ];
    for (name, count, period) in rules {
        let mut seen = BTreeSet::new();
        for set in &newest_first {
            let new =
                seen.insert(if name == "last" { seen.len() as i64 } else { period(set.taken) });
            if seen.len() > count as usize {
                break;
            }
            if new {
                add(&set.id, format!("{name} {}", seen.len()));
            }
        }
    }
    if failing {
        newest_first
            .iter()
            .for_each(|set| add(&set.id, "the last run failed: nothing goes".to_owned()));
    }
    keep_needed(&newest_first, &mut reasons);
    reasons
}

/// Decides for a server's log: the pieces after a base backup are nothing without it. What stays is everything
/// from the newest base on that is older than the window, and from the newest verified base in any case.
pub(crate) fn decide_log(sets: &[(Candidate, bool)], window: Duration, failing: bool) -> Reasons {
    let newest = sets.iter().map(|(set, _)| set.taken).max().unwrap_or(Timestamp(0));
    let bases = || sets.iter().filter(|(_, base)| *base).map(|(set, _)| set);
    let newest_of = |fits: &dyn Fn(&Candidate) -> bool| {
        bases().filter(|set| fits(set)).map(|set| &set.id).max()
    };
    let reaches = newest_of(&|set| newest.since(set.taken) >= window);
    let verified = newest_of(&|set| set.verified);
    let word = |set: &Candidate| {
        if failing {
            Some("the last run failed: nothing goes")
        } else if reaches.is_none_or(|first| set.id >= *first) {
            Some("any moment of its window needs it")
        } else if verified.is_none_or(|first| set.id >= *first) {
            Some("newest verified, or after it")
        } else {
            None
        }
    };
    let mut reasons: Reasons = sets
        .iter()
        .map(|(set, _)| (set.id.clone(), word(set).map(str::to_owned).into_iter().collect()))
        .collect();
    // A base backup of what changed is nothing without those before it.
    keep_needed(&sets.iter().map(|(set, _)| set).collect::<Vec<_>>(), &mut reasons);
    reasons
}

/// What a kept set needs is kept, and what that needs.
fn keep_needed(sets: &[&Candidate], reasons: &mut Reasons) {
    let mut open: Vec<&SetId> = sets
        .iter()
        .map(|set| &set.id)
        .filter(|id| reasons.get(*id).is_some_and(|all| !all.is_empty()))
        .collect();
    while let Some(id) = open.pop() {
        let Some(set) = sets.iter().find(|set| &set.id == id) else { continue };
        for needed in &set.needs {
            if let Some(all) = reasons.get_mut(needed) {
                if all.is_empty() {
                    open.push(needed);
                }
                let why = format!("needed by {id}");
                if !all.contains(&why) {
                    all.push(why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400_000;

    fn set(at: u64, verified: bool) -> Candidate {
        let taken = Timestamp(1_800_000_000_000 + at);
        Candidate { id: SetId::new(taken, 0), taken, asked: false, verified, needs: Vec::new() }
    }

    fn kept(reasons: &Reasons) -> usize {
        reasons.values().filter(|why| !why.is_empty()).count()
    }

    #[test]
    fn a_year_of_daily_backups_becomes_what_the_rules_say() {
        let sets: Vec<_> = (0..365).map(|day| set(day * DAY, true)).collect();
        let keep = Keep { last: 0, hourly: 0, daily: 7, weekly: 4, monthly: 12, yearly: 0 };
        let reasons = decide(&sets, keep, false);
        let count = kept(&reasons);
        assert!((7..=7 + 4 + 12).contains(&count), "{count}");
        for newest in sets.iter().rev().take(7) {
            assert!(!reasons[&newest.id].is_empty());
        }
    }

    #[test]
    fn when_dumps_stop_nothing_goes_however_old_it_gets() {
        let sets: Vec<_> = (0..5).map(|day| set(day * DAY, true)).collect();
        let keep = Keep { last: 0, hourly: 0, daily: 7, weekly: 0, monthly: 0, yearly: 0 };
        assert_eq!(kept(&decide(&sets, keep, false)), 5);
        assert_eq!(kept(&decide(&sets, Keep { daily: 1, ..keep }, true)), 5);
    }

    #[test]
    fn what_a_kept_set_needs_is_kept() {
        let mut sets: Vec<_> = (0..4).map(|day| set(day * DAY, true)).collect();
        sets[3].needs = vec![sets[1].id.clone()];
        sets[1].needs = vec![sets[0].id.clone()];
        let keep = Keep { last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
        let reasons = decide(&sets, keep, false);
        assert_eq!(kept(&reasons), 3);
        assert!(reasons[&sets[2].id].is_empty());
    }

    #[test]
    fn what_was_asked_for_stays_a_week() {
        let mut sets: Vec<_> = (0..10).map(|day| set(day * DAY, true)).collect();
        sets.iter_mut().for_each(|set| set.asked = true);
        let keep = Keep { last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
        assert_eq!(kept(&decide(&sets, keep, false)), 7);
    }

    #[test]
    fn of_a_log_everything_stays_that_a_moment_of_its_window_needs() {
        // A base each fourth day, a piece each day.
        let sets: Vec<_> = (0..20).map(|day| (set(day * DAY, true), day % 4 == 0)).collect();
        let left = |sets: &[(Candidate, bool)], days: u64, failing| {
            let reasons = decide_log(sets, Duration::from_secs(days * 86_400), failing);
            sets.iter().position(|(set, _)| !reasons[&set.id].is_empty()).unwrap()
        };
        assert_eq!(left(&sets, 5, false), 12, "14 days are reached from the base of day 12");
        assert_eq!(left(&sets, 400, false), 0);
        assert_eq!(left(&sets, 5, true), 0);
        // One that holds only what changed since another is nothing without it.
        let mut adding = sets.clone();
        adding[12].0.needs = vec![adding[4].0.id.clone()];
        let reasons = decide_log(&adding, Duration::from_secs(5 * 86_400), false);
        let stays: Vec<_> = (0..13).filter(|at| !reasons[&adding[*at].0.id].is_empty()).collect();
        assert_eq!(stays, [4, 12]);
        let doubted: Vec<_> = sets
            .into_iter()
            .map(|(set, base)| {
                (Candidate { verified: set.taken.0 < 1_800_000_000_000 + 9 * DAY, ..set }, base)
            })
            .collect();
        assert_eq!(left(&doubted, 5, false), 8, "the newest verified base is older");
    }

    proptest! {
        #[test]
        fn the_newest_verified_set_is_never_removed(
            ages in prop::collection::btree_set(0u64..4000 * DAY / 1000, 1..60),
            good in prop::collection::vec(any::<bool>(), 60),
            counts in prop::array::uniform6(0u32..5),
        ) {
            let sets: Vec<_> =
                ages.iter().zip(&good).map(|(at, good)| set(at * 1000, *good)).collect();
            let [last, hourly, daily, weekly, monthly, yearly] = counts;
            let reasons = decide(&sets, Keep { last, hourly, daily, weekly, monthly, yearly }, false);
            let newest_good = sets.iter().filter(|set| set.verified).max_by(|a, b| a.id.cmp(&b.id));
            if let Some(set) = newest_good {
                prop_assert!(!reasons[&set.id].is_empty());
            }
            prop_assert!(kept(&reasons) <= 2 + counts.iter().sum::<u32>() as usize);
            prop_assert!(kept(&reasons) >= (last as usize).min(sets.len()));
        }
    }
}
