//! When something is due: pure, on wall time, in the site's zone.
//!
//! Invariants: a time of day that daylight saving skips is due at the next minute that exists, one that it
//! repeats is due once; runs that were missed (machine off) are made up for once, not once each; a failed
//! run is tried again soon, and ever later. Not here: who runs it, and that two never overlap.

use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::{AmbiguousOffset, Disambiguation, TimeZone};
use jiff::{Timestamp as Instant, ToSpan, Zoned};
use seaworthy_base::Timestamp;
use serde::{Deserialize, Serialize};

/// A first try after a failure; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(5 * 60);
/// The longest time between tries.
const RETRY_MAX: Duration = Duration::from_secs(4 * 60 * 60);
/// How far runs at the same time of day are spread, so that not all servers ask one store at once.
const SPREAD: Duration = Duration::from_secs(5 * 60);

/// A rhythm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rhythm {
    /// Each day at this minute of the day.
    At(u16),
    /// So many milliseconds after the last.
    Every(u64),
}

/// What is known of earlier runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Past {
    /// Start of the last run, whatever became of it.
    pub last: Option<Timestamp>,
    /// Failures in a row since the last success.
    pub failures: u32,
}

/// The zone of that name; the machine's own when there is none of that name.
pub fn zone(name: Option<&str>) -> TimeZone {
    name.and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(TimeZone::system)
}

/// Whether there is a zone of that name.
pub fn is_zone(name: &str) -> bool {
    TimeZone::get(name).is_ok()
}

/// The moment from which a run is due. `since` is when the rule began to hold; `seed` spreads.
pub fn due_at(
    rhythm: &Rhythm,
    past: Past,
    since: Timestamp,
    zone: &TimeZone,
    seed: u64,
) -> Timestamp {
    let planned = match rhythm {
        Rhythm::At(minute) => {
            let (after, spread) = (past.last.unwrap_or(since), SPREAD.as_millis() as u64);
            let spread_by = seed % spread;
            let slot = next_time_of_day(*minute, Timestamp(after.0.saturating_sub(spread)), zone);
            // The last run may have been this very slot's, begun a little after its time of day.
            let slot = if slot.0 + spread_by > after.0 {
                slot
            } else {
                next_time_of_day(*minute, slot, zone)
            };
            Timestamp(slot.0 + spread_by)
        }
        Rhythm::Every(millis) => match past.last {
            Some(last) => Timestamp(last.0.saturating_add(*millis)),
            None => Timestamp(since.0 + seed % (millis / 10).max(1)),
        },
    };
    match (past.failures, past.last) {
        (0, _) | (_, None) => planned,
        (failures, Some(last)) => {
            let factor = 1u32 << failures.saturating_sub(1).min(16);
            let pause = RETRY.saturating_mul(factor).min(RETRY_MAX);
            planned.min(Timestamp(last.0 + pause.as_millis() as u64))
        }
    }
}

/// The first moment after `after` at which that minute of the day begins.
fn next_time_of_day(minute: u16, after: Timestamp, zone: &TimeZone) -> Timestamp {
    let moment = |at: &Zoned| Timestamp(at.timestamp().as_millisecond().max(0) as u64);
    let Ok(start) = Instant::from_millisecond(after.0 as i64) else { return after };
    let start = start.to_zoned(zone.clone());
    let time = Time::new((minute / 60) as i8, (minute % 60) as i8, 0, 0).unwrap_or_default();
    for days in 0..3 {
        let Ok(date) = start.date().checked_add(days.days()) else { break };
        // A time that does not exist becomes the first moment after the gap; one that exists twice, the first.
        let zoned = zone.to_ambiguous_zoned(date.to_datetime(time));
        let gap = matches!(zoned.offset(), AmbiguousOffset::Gap { .. });
        let found = zoned.disambiguate(Disambiguation::Compatible).ok();
        let found = match found {
            Some(later) if gap => gap_end(&later, zone),
            other => other,
        };
        match found {
            Some(at) if moment(&at) > after => return moment(&at),
            _ => {}
        }
    }
    Timestamp(after.0 + 86_400_000)
}

/// The moment at which the clocks went forward before `later`.
fn gap_end(later: &Zoned, zone: &TimeZone) -> Option<Zoned> {
    let transition = zone.preceding(later.timestamp() + 1.nanosecond()).next()?;
    Some(transition.timestamp().to_zoned(zone.clone()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<Instant>().unwrap().as_millisecond() as u64)
    }

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    #[test]
    fn a_skipped_time_runs_at_the_next_minute_and_a_repeated_one_once() {
        // 2026-03-29 02:30 does not exist in Berlin; 02:00 UTC+1 is 01:00Z.
        assert_eq!(
            next_time_of_day(150, at("2026-03-29T00:00:00Z"), &berlin()),
            at("2026-03-29T01:00:00Z")
        );
        // 2026-10-25 02:30 exists twice: 00:30Z and 01:30Z.
        let first = next_time_of_day(150, at("2026-10-24T23:00:00Z"), &berlin());
        assert_eq!(first, at("2026-10-25T00:30:00Z"));
        assert_eq!(next_time_of_day(150, first, &berlin()), at("2026-10-26T01:30:00Z"));
    }

    #[test]
    fn a_run_is_due_once_a_day_and_once_after_a_week_of_absence() {
        let (rhythm, since) = (Rhythm::At(120), at("2026-01-01T00:00:00Z"));
        let utc = TimeZone::UTC;
        let mut past = Past::default();
        let first = due_at(&rhythm, past, since, &utc, 60_000);
        assert_eq!(first, at("2026-01-01T02:01:00Z"));
        past.last = Some(Timestamp(first.0 + 500));
        assert_eq!(due_at(&rhythm, past, since, &utc, 60_000), at("2026-01-02T02:01:00Z"));
        // Back after a week: overdue, and when that run was made the next one is tomorrow's.
        past.last = Some(at("2026-01-09T17:00:00Z"));
        assert_eq!(due_at(&rhythm, past, since, &utc, 60_000), at("2026-01-10T02:01:00Z"));
    }

    #[test]
    fn a_failed_run_is_tried_again_soon_and_ever_later() {
        let (rhythm, since, last) =
            (Rhythm::At(120), at("2026-01-01T00:00:00Z"), at("2026-01-01T02:00:00Z"));
        let due = |failures| {
            due_at(&rhythm, Past { last: Some(last), failures }, since, &TimeZone::UTC, 0)
        };
        let minutes = |failures| (due(failures).0 - last.0) / 60_000;
        assert_eq!([minutes(1), minutes(2), minutes(3)], [5, 10, 20]);
        assert_eq!(minutes(30), 240);
    }

    proptest! {
        #[test]
        fn due_times_only_move_forward(
            minute in 0u16..1440, start in 1_600_000_000_000u64..2_000_000_000_000, seed in any::<u64>()
        ) {
            let (rhythm, since, zone) = (Rhythm::At(minute), Timestamp(start), berlin());
            let mut past = Past::default();
            for _ in 0..20 {
                let due = due_at(&rhythm, past, since, &zone, seed);
                prop_assert!(past.last.is_none_or(|last| due > last));
                prop_assert!(due.0 - past.last.unwrap_or(since).0 <= 26 * 3_600_000);
                past.last = Some(Timestamp(due.0 + 700));
            }
        }
    }
}
