//! The judge, simulated: how often it is wrong, and how long it takes to be right.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Draws `requests` with that share of errors.
fn counts(random: &mut StdRng, requests: u64, share: f64) -> Counts {
    let errors = (0..requests).filter(|_| random.random_bool(share)).count() as u64;
    Counts { requests, errors, ..Counts::default() }
}

/// How many requests it took to condemn, looking after every fifth of up to `most`.
fn condemned_after(random: &mut StdRng, old: &Counts, share: f64, most: u64) -> Option<u64> {
    let mut new = Counts::default();
    (1..=most).find(|number| {
        new.requests += 1;
        new.errors += u64::from(random.random_bool(share));
        number % 5 == 0 && more_errors(old, &new, Rules::default().errors).is_some()
    })
}

#[test]
fn of_releases_that_are_no_worse_at_most_one_in_a_hundred_is_condemned() {
    let mut random = StdRng::seed_from_u64(1);
    for share in [0.0, 0.01, 0.05, 0.2] {
        for before in [100, 1000, 10_000] {
            let wrong = (0..300)
                .filter(|_| {
                    let old = counts(&mut random, before, share);
                    condemned_after(&mut random, &old, share, 2000).is_some()
                })
                .count();
            assert!(wrong <= 3, "{wrong} of 300 at {share} after {before} requests");
        }
    }
}

#[test]
fn ten_points_more_errors_are_found_within_the_stated_number_of_requests() {
    let mut random = StdRng::seed_from_u64(2);
    for (share, within) in [(0.0, 200), (0.01, 400), (0.05, 1500)] {
        let found = (0..500)
            .filter(|_| {
                let old = counts(&mut random, 1000, share);
                condemned_after(&mut random, &old, share + 0.10, within).is_some()
            })
            .count();
        assert!(found >= 495, "{found} of 500 at {share}");
    }
}

#[test]
fn a_release_that_fails_always_is_condemned_after_a_handful_of_requests() {
    let mut random = StdRng::seed_from_u64(3);
    let old = counts(&mut random, 1000, 0.0);
    assert!(condemned_after(&mut random, &old, 1.0, 5).is_some());
    assert!(
        condemned_after(&mut random, &Counts::default(), 1.0, 5).is_some(),
        "the first release"
    );
}

fn timed(bucket: usize, requests: u64) -> Counts {
    let mut counts = Counts { requests, ..Counts::default() };
    counts.times[bucket] = requests;
    counts
}

#[test]
fn twice_as_slow_is_found_and_a_little_slower_is_not() {
    assert_eq!(judge(&timed(10, 1000), &timed(11, 5000), &Rules::default()), [""; 0]);
    let slow = judge(&timed(16, 1000), &timed(19, 50), &Rules::default());
    assert!(slow[0].contains("took longer than 131.1 ms"), "{slow:?}");
    // What nobody notices is not worse, however many times as long it takes.
    assert_eq!(judge(&timed(8, 1000), &timed(15, 5000), &Rules::default()), [""; 0]);
    let slow = judge(&timed(8, 1000), &timed(18, 50), &Rules::default());
    assert!(slow[0].contains("took longer than 32.8 ms"), "{slow:?}");
}

#[test]
fn a_limit_on_the_95th_percentile_holds_without_an_old_release() {
    let rules = Rules { p95_micros: Some(10_000), ..Rules::default() };
    assert_eq!(judge(&Counts::default(), &timed(12, 5000), &rules), [""; 0]);
    assert_eq!(judge(&Counts::default(), &timed(16, 50), &rules).len(), 1);
}

#[test]
fn restarts_and_error_lines_are_compared_as_rates() {
    let old = Counts { seconds: 3600.0, requests: 10_000, log_errors: 5, ..Counts::default() };
    let new = Counts { seconds: 30.0, restarts: 3, requests: 300, ..Counts::default() };
    assert!(judge(&old, &new, &Rules::default())[0].contains("restarted 3 times"));
    let noisy = Counts { restarts: 0, log_errors: 40, ..new.clone() };
    assert!(judge(&old, &noisy, &Rules::default())[0].contains("40 error lines"));
    let quiet = Counts { restarts: 2, log_errors: 2, ..new };
    assert_eq!(judge(&old, &quiet, &Rules::default()), [""; 0]);
    let same = Counts { restarts: 50, ..old.clone() };
    assert_eq!(
        judge(&same, &Counts { seconds: 60.0, restarts: 2, ..same.clone() }, &Rules::default()),
        [""; 0]
    );
}

#[test]
fn a_crash_loop_is_a_breach_at_once() {
    let new = Counts { crash_loop: true, ..Counts::default() };
    assert_eq!(judge(&Counts::default(), &new, &Rules::default()).len(), 1);
}

#[test]
fn what_the_old_release_suffers_at_the_same_time_is_none_of_the_new_ones_doing() {
    let failing = |errors: u64, requests: u64| Counts { requests, errors, ..Counts::default() };
    let (old, rules) = (failing(0, 1000), Rules::default());
    let worse = |beside: &Counts, new: &Counts| judge_beside(&old, Some(beside), new, &rules).len();
    assert_eq!(worse(&failing(20, 60), &failing(20, 60)), 0, "the database is down");
    assert_eq!(worse(&failing(0, 60), &failing(20, 60)), 1);
    assert_eq!(worse(&failing(2, 3), &failing(20, 60)), 1, "too few to excuse anything");
    let slow = too_late(&timed(8, 1000), Some(&timed(18, 200)), &timed(18, 50), &rules);
    assert_eq!(slow, [""; 0]);
}

/// So many requests at once, all of them in a bucket.
fn and(counts: &Counts, bucket: usize, requests: u64) -> Counts {
    let mut sum = counts.clone();
    sum.requests += requests;
    sum.times[bucket] += requests;
    sum
}

#[test]
fn a_moment_in_which_the_machine_stood_still_condemns_nobody_and_a_slow_release_is_found_again() {
    let (old, none, rules) = (timed(8, 1000), Counts::default(), Rules::default());
    let mut latency = Latency::default();
    // All that were under way were late, and were answered together.
    let mut seen = and(&timed(8, 18), 18, 4);
    assert_eq!(judge(&old, &seen, &rules).len(), 1, "each for itself they would do");
    assert_eq!(latency.judge(&old, &none, &seen, &rules), [""; 0]);
    for _ in 0..100 {
        seen = and(&seen, 8, 5);
        assert_eq!(latency.judge(&old, &none, &seen, &rules), [""; 0]);
    }
    // One that is slow is so the next time as well.
    let (mut latency, first) = (Latency::default(), timed(18, 5));
    assert_eq!(latency.judge(&old, &none, &first, &rules), [""; 0]);
    let said = latency.judge(&old, &none, &and(&first, 18, 5), &rules);
    assert!(said[0].contains("100.0 % of its 10 requests took longer"), "{said:?}");
}
