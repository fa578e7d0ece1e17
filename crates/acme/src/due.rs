//! When a certificate is to be asked for, and of whom: pure decisions.
//!
//! Why two thirds: what fails then has a third of the life to be mended in. An authority that says when
//! (RFC 9773) is followed, unless what it says makes no sense. Invariants: no moment is the same for two sites (the seed spreads them); after a
//! failure the next try is never sooner than the last wait, and never sooner than the authority allows; a
//! clock that jumped back makes nobody wait for it to catch up.

use std::collections::BTreeMap;
use std::time::Duration;

use seaworthy_base::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::Window;

/// Waits after the first, second, … failure. Five tries in the first hour are as many as the strictest
/// public authority allows for names that fail to prove themselves.
const WAITS: [u64; 8] = [60, 300, 900, 1_800, 3_600, 10_800, 21_600, 43_200];
/// An authority that says "too often" and not until when is left alone for so long.
pub const LEFT_ALONE: Duration = Duration::from_secs(3_600);
/// Renewals without a window are spread over this part of a certificate's life.
const SPREAD: u64 = 30;
/// A window may not leave less than this part of a life: what fails then could not be mended any more.
const LEFT: u64 = 10;
/// An authority whose windows are always over has a certificate renewed before its time once in so long.
const HURRY_AGAIN: Duration = Duration::from_secs(86_400);
/// How often an authority that names no windows is asked whether it does by now.
pub const WINDOW_AGAIN: Duration = Duration::from_secs(6 * 3_600);

/// What is known of a certificate that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its names.
    pub hosts: Vec<String>,
    /// Good from here.
    pub not_before: Timestamp,
    /// To here.
    pub not_after: Timestamp,
}

/// What is remembered between tries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Past {
    /// Tries that failed since the last success.
    pub failures: u32,
    /// The last one.
    pub last_try: Option<Timestamp>,
    /// Directories that are not to be asked before their time.
    pub not_before: BTreeMap<String, Timestamp>,
    /// What the authority suggested.
    pub window: Option<Window>,
    /// When it is to be asked for a window again.
    pub ask_again: Option<Timestamp>,
    /// When a certificate was last renewed before its time, because of a window.
    pub hurried: Option<Timestamp>,
}

/// Why a certificate is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is none.
    Missing,
    /// Its names are not the site's any more.
    Names,
    /// It is time.
    Due,
    /// It is too late already.
    Expired,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask for a certificate.
    Obtain(Reason),
    /// Ask when to renew.
    AskWindow,
    /// Nothing before then.
    Wait(Timestamp),
}

/// The decision. `seed` differs from site to site and is the same each time.
pub fn next(
    hosts: &[String],
    held: Option<&Held>,
    directories: &[&str],
    past: &Past,
    now: Timestamp,
    seed: u64,
) -> Next {
    let wanted = match held {
        None => Some(Reason::Missing),
        Some(held) if !same_names(&held.hosts, hosts) => Some(Reason::Names),
        Some(held) if held.not_after <= now => Some(Reason::Expired),
        Some(held) if renew_at(held, past, seed) <= now => Some(Reason::Due),
        Some(_) => None,
    };
    if let Some(reason) = wanted {
        let at = may_try_at(directories, past, now);
        return if at <= now { Next::Obtain(reason) } else { Next::Wait(at) };
    }
    let again = past.ask_again.filter(|again| again.since(now) <= WINDOW_AGAIN * 28);
    match (again, held) {
        (Some(again), Some(held)) if again > now => {
            Next::Wait(again.min(renew_at(held, past, seed)))
        }
        _ => Next::AskWindow,
    }
}

/// When a certificate is renewed: at a moment of the authority's window, else after two thirds of its life. A window
/// that begins when hardly anything is left of it counts for nothing.
pub fn renew_at(held: &Held, past: &Past, seed: u64) -> Timestamp {
    let part = |span: u64| ((u128::from(span) * u128::from(seed)) >> 64) as u64;
    let life = held.not_after.0.saturating_sub(held.not_before.0);
    let usual = Timestamp(held.not_before.0 + life / 3 * 2 + part(life / SPREAD));
    let Some(window) = &past.window else { return usual };
    let (start, end) = (window.start.0, window.end.0.min(held.not_after.0 - life / LEFT));
    if start >= end {
        return usual;
    }
    let chosen = Timestamp(start + part(end - start));
    let again = past.hurried.map(|last| Timestamp(last.0 + HURRY_AGAIN.as_millis() as u64));
    // Not sooner than then, and not later than without any window.
    again.map_or(chosen, |again| chosen.max(again.min(usual)))
}

/// What is remembered of a renewal that takes place now: whether a window had it done before its time.
pub fn hurried(held: Option<&Held>, past: &Past, now: Timestamp, seed: u64) -> Option<Timestamp> {
    let is_early = held.is_some_and(|held| {
        renew_at(held, past, seed) <= now && now < renew_at(held, &Past::default(), seed)
    });
    if is_early { Some(now) } else { past.hurried }
}

/// The earliest moment of the next try: after the wait, and once some directory may be asked.
fn may_try_at(directories: &[&str], past: &Past, now: Timestamp) -> Timestamp {
    let waited = past.last_try.filter(|last| *last <= now).map_or(now, |last| {
        let wait = past.failures.checked_sub(1).map_or(0, |index| {
            WAITS.get(index as usize).copied().unwrap_or(WAITS[WAITS.len() - 1])
        });
        Timestamp(last.0 + wait * 1000)
    });
    let allowed = directories
        .iter()
        .map(|url| past.not_before.get(*url).copied().unwrap_or(now))
        .min()
        .unwrap_or(now);
    waited.max(allowed)
}

/// Those that may be asked now, in their order.
pub fn askable<'a>(directories: &[&'a str], past: &Past, now: Timestamp) -> Vec<&'a str> {
    let may = |url: &&&str| past.not_before.get(**url).is_none_or(|until| *until <= now);
    directories.iter().filter(may).copied().collect()
}

fn same_names(one: &[String], other: &[String]) -> bool {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        names
    };
    sorted(one) == sorted(other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400_000;
    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn held(from: u64, life: u64) -> Held {
        Held {
            hosts: vec!["a.example".to_owned()],
            not_before: Timestamp(from),
            not_after: Timestamp(from + life),
        }
    }

    fn ask(held: Option<&Held>, past: &Past, now: Timestamp) -> Next {
        next(&["a.example".to_owned()], held, &["one", "two"], past, now, u64::MAX / 2)
    }

    fn quiet() -> Past {
        Past { ask_again: Some(Timestamp(NOW.0 + DAY)), ..Past::default() }
    }

    #[test]
    fn what_is_missing_expired_or_for_other_names_is_asked_for_at_once() {
        assert_eq!(ask(None, &quiet(), NOW), Next::Obtain(Reason::Missing));
        assert_eq!(
            ask(Some(&held(NOW.0 - 90 * DAY, 89 * DAY)), &quiet(), NOW),
            Next::Obtain(Reason::Expired)
        );
        let other = Held { hosts: vec!["b.example".to_owned()], ..held(NOW.0, 90 * DAY) };
        assert_eq!(ask(Some(&other), &quiet(), NOW), Next::Obtain(Reason::Names));
    }

    #[test]
    fn a_certificate_of_any_life_is_renewed_soon_after_two_thirds_of_it() {
        for life in [6 * DAY, 45 * DAY, 90 * DAY] {
            let fresh = held(NOW.0, life);
            let early = Timestamp(NOW.0 + life * 66 / 100);
            let late = Timestamp(NOW.0 + life * 71 / 100);
            let past = Past { ask_again: Some(Timestamp(late.0 + 1)), ..Past::default() };
            assert!(matches!(ask(Some(&fresh), &past, early), Next::Wait(_)), "{life}");
            assert_eq!(ask(Some(&fresh), &past, late), Next::Obtain(Reason::Due), "{life}");
        }
    }

    #[test]
    fn an_authority_that_says_when_is_followed() {
        let fresh = held(NOW.0 - DAY, 90 * DAY);
        let window = Window {
            start: Timestamp(NOW.0 - 2 * DAY),
            end: Timestamp(NOW.0 - DAY),
            ask_again: NOW,
            explanation: None,
        };
        let past = Past { window: Some(window), ..quiet() };
        assert_eq!(ask(Some(&fresh), &past, NOW), Next::Obtain(Reason::Due));
    }

    #[test]
    fn a_window_that_comes_too_late_counts_for_nothing_and_one_that_ends_too_late_is_cut() {
        let fresh = held(NOW.0, 90 * DAY);
        let at = |start: u64, end: u64| {
            let window = Window {
                start: Timestamp(NOW.0 + start * DAY),
                end: Timestamp(NOW.0 + end * DAY),
                ask_again: NOW,
                explanation: None,
            };
            renew_at(&fresh, &Past { window: Some(window), ..Past::default() }, u64::MAX)
        };
        let usual = renew_at(&fresh, &Past::default(), u64::MAX);
        for (start, end) in [(81, 82), (90, 91), (3000, 4000), (20, 20), (21, 20)] {
            assert_eq!(at(start, end), usual, "{start} {end}");
        }
        assert!(at(70, 72).since(NOW) > Duration::from_secs(71 * 86_400), "as it is");
        let cut = at(70, 4000).since(NOW).as_secs_f64() / 86_400.0;
        assert!((80.9..=81.0).contains(&cut), "{cut}");
    }

    #[test]
    fn an_authority_whose_windows_are_always_over_is_followed_once_a_day() {
        let window =
            Window { start: Timestamp(1), end: Timestamp(2), ask_again: NOW, explanation: None };
        let past = Past { window: Some(window), ..quiet() };
        let old = held(NOW.0 - DAY, 90 * DAY);
        assert_eq!(ask(Some(&old), &past, NOW), Next::Obtain(Reason::Due));
        let hurried = hurried(Some(&old), &past, NOW, 7);
        assert_eq!(hurried, Some(NOW));
        let (fresh, past) = (held(NOW.0, 90 * DAY), Past { hurried, ..past });
        assert_eq!(ask(Some(&fresh), &past, NOW), Next::Wait(Timestamp(NOW.0 + DAY)));
        let tomorrow = Timestamp(NOW.0 + DAY);
        assert_eq!(ask(Some(&fresh), &past, tomorrow), Next::Obtain(Reason::Due));
        // One that lives for hours only is renewed in its own time.
        let short = held(NOW.0, DAY / 4);
        assert_eq!(renew_at(&short, &past, 7), renew_at(&short, &Past::default(), 7));
        // What was due anyway, or was asked for by hand without any window, is no hurry.
        assert_eq!(super::hurried(Some(&held(NOW.0 - 80 * DAY, 90 * DAY)), &quiet(), NOW, 7), None);
        assert_eq!(super::hurried(Some(&old), &quiet(), NOW, 7), None);
        assert_eq!(super::hurried(None, &past, NOW, 7), Some(NOW));
    }

    #[test]
    fn tries_that_fail_are_further_and_further_apart_and_five_in_the_first_hour() {
        let (mut past, mut now, mut tries) = (Past::default(), NOW, Vec::new());
        while now.since(NOW) < Duration::from_secs(100 * 3600) {
            match ask(None, &past, now) {
                Next::Obtain(_) => {
                    tries.push(now.since(NOW).as_secs());
                    past.failures += 1;
                    past.last_try = Some(now);
                }
                Next::Wait(until) => now = until,
                Next::AskWindow => panic!("there is no certificate to ask about"),
            }
        }
        assert_eq!(tries.iter().filter(|at| **at < 3600).count(), 5, "{tries:?}");
        assert!(tries.len() > 12, "it never gives up: {tries:?}");
        let waits: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(waits.is_sorted(), "{waits:?}");
    }

    #[test]
    fn a_directory_that_asks_for_patience_is_passed_over_and_waited_for_when_it_is_the_only_one() {
        let until = Timestamp(NOW.0 + DAY);
        let mut past = Past {
            not_before: [("one".to_owned(), until)].into(),
            failures: 1,
            last_try: Some(Timestamp(NOW.0 - DAY)),
            ..quiet()
        };
        assert_eq!(ask(None, &past, NOW), Next::Obtain(Reason::Missing));
        assert_eq!(askable(&["one", "two"], &past, NOW), ["two"]);
        past.not_before.insert("two".to_owned(), Timestamp(NOW.0 + 2 * DAY));
        assert_eq!(ask(None, &past, NOW), Next::Wait(until));
    }

    #[test]
    fn a_clock_that_jumped_back_makes_nobody_wait() {
        let past = Past {
            failures: 8,
            last_try: Some(Timestamp(NOW.0 + 400 * DAY)),
            ask_again: Some(Timestamp(NOW.0 + 400 * DAY)),
            ..Past::default()
        };
        assert_eq!(ask(None, &past, NOW), Next::Obtain(Reason::Missing));
        assert_eq!(ask(Some(&held(NOW.0, 90 * DAY)), &past, NOW), Next::AskWindow);
    }

    proptest! {
        #[test]
        fn renewal_lies_within_the_life_or_the_window_whatever_the_numbers(
            from in 0u64..4_000_000_000_000, life in 0u64..(400 * DAY), seed: u64,
            start in 0u64..4_000_000_000_000, length in 1u64..(30 * DAY),
            hurried in 0u64..4_000_000_000_000
        ) {
            let held = held(from, life);
            let plain = renew_at(&held, &Past::default(), seed);
            prop_assert!(plain.0 >= from && plain <= held.not_after);
            let window = Window {
                start: Timestamp(start), end: Timestamp(start + length), ask_again: Timestamp(0),
                explanation: None,
            };
            let past = Past { window: Some(window), ..Past::default() };
            let chosen = renew_at(&held, &past, seed);
            prop_assert!(chosen <= held.not_after);
            prop_assert!(chosen == plain || (chosen.0 >= start && chosen.0 < start + length));
            // Having hurried before puts nothing off beyond what would be without a window.
            let later = renew_at(&held, &Past { hurried: Some(Timestamp(hurried)), ..past }, seed);
            prop_assert!(later >= chosen && later <= chosen.max(plain));
        }

        #[test]
        fn sites_do_not_renew_in_the_same_moment(one: u64, other: u64) {
            prop_assume!(one.abs_diff(other) > u64::MAX / 1000);
            let held = held(NOW.0, 90 * DAY);
            let none = Past::default();
            prop_assert!(renew_at(&held, &none, one) != renew_at(&held, &none, other));
        }
    }
}
