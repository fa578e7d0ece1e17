//! When a job is due: pure, on wall time, in the server's zone.
//!
//! Invariants: a minute that daylight saving skips is due at the first moment that exists, one that it repeats
//! is due once; runs that were missed while nothing was there to run them are made up for once, not once
//! each; a clock that jumps back makes nothing run twice.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp as Instant, ToSpan};
use seaworthy_base::Timestamp;
use seaworthy_manifest::site::When;

/// How far ahead is looked: the rarest expression, a 29 February on one weekday, comes within 40 years.
const DAYS: i32 = 366 * 41;

/// The first moment after `after` at which a job is to run; `after` is its last start, or when it was
/// first known.
pub(super) fn next(when: &When, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    match when {
        When::Every(period) => Some(Timestamp(after.0.saturating_add(period.as_millis() as u64))),
        When::At(minute) => next_on(after, zone, |_| Some(vec![*minute])),
        When::Cron(cron) => next_on(after, zone, |date| {
            let weekday = date.weekday().to_sunday_zero_offset() as u8;
            let fits = cron.matches_day(date.month() as u8, date.day() as u8, weekday);
            fits.then(|| cron.minutes_of_day().collect())
        }),
    }
}

/// Walks from day to day; `minutes` says at which minutes of a day it runs, if it does.
fn next_on(
    after: Timestamp,
    zone: &TimeZone,
    minutes: impl Fn(Date) -> Option<Vec<u16>>,
) -> Option<Timestamp> {
    let start = Instant::from_millisecond(after.0 as i64).ok()?.to_zoned(zone.clone());
    (0..DAYS).find_map(|days| {
        let date = start.date().checked_add(days.days()).ok()?;
        minutes(date)?.into_iter().find_map(|minute| {
            let time = Time::new((minute / 60) as i8, (minute % 60) as i8, 0, 0).ok()?;
            // Of a repeated time the first one; a skipped one moves to behind the gap.
            let at = zone.to_ambiguous_zoned(date.to_datetime(time)).compatible().ok()?;
            let at = Timestamp(at.timestamp().as_millisecond().max(0) as u64);
            (at > after).then_some(at)
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};
    use seaworthy_manifest::cron::Cron;

    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(text: &str) -> Timestamp {
        let instant: Instant = text.parse().unwrap();
        Timestamp(instant.as_millisecond() as u64)
    }

    fn cron(text: &str) -> When {
        When::Cron(Cron::parse(text).unwrap())
    }

    fn following(when: &When, after: &str) -> String {
        next(when, at(after), &berlin()).unwrap().to_string()
    }

    #[test]
    fn times_of_day_and_expressions_are_of_the_zone() {
        assert_eq!(following(&When::At(240), "2026-01-10T02:59:00Z"), "2026-01-10T03:00:00.000Z");
        assert_eq!(following(&When::At(240), "2026-01-10T03:00:00Z"), "2026-01-11T03:00:00.000Z");
        assert_eq!(
            following(&cron("*/5 * * * *"), "2026-07-01T10:03:10Z"),
            "2026-07-01T10:05:00.000Z"
        );
        assert_eq!(
            following(&cron("0 12 29 2 *"), "2026-01-01T00:00:00Z"),
            "2028-02-29T11:00:00.000Z"
        );
        assert_eq!(
            following(&cron("30 8 * * mon"), "2026-11-21T08:00:00Z"),
            "2026-11-23T07:30:00.000Z"
        );
    }

    #[test]
    fn a_skipped_time_runs_behind_the_gap_and_a_repeated_one_once() {
        let half_past_two = When::At(150);
        assert_eq!(following(&half_past_two, "2026-03-28T12:00:00Z"), "2026-03-29T01:30:00.000Z");
        let first = next(&half_past_two, at("2026-10-24T12:00:00Z"), &berlin()).unwrap();
        assert_eq!(first.to_string(), "2026-10-25T00:30:00.000Z");
        assert_eq!(
            next(&half_past_two, first, &berlin()).unwrap().to_string(),
            "2026-10-26T01:30:00.000Z"
        );
    }

    proptest! {
        #[test]
        fn the_next_time_is_always_later_and_the_one_after_it_later_still(after in 0u64..4_000_000_000_000, step in 1u16..60) {
            let when = cron(&format!("*/{step} * * * *"));
            let first = next(&when, Timestamp(after), &berlin()).unwrap();
            let second = next(&when, first, &berlin()).unwrap();
            prop_assert!(first.0 > after && second > first);
        }
    }
}
