//! Waiting for something to become true, instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// Asks again and again until the condition holds; ends the test with `what` when it does not within `limit`.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    eventually_some(what, limit, || condition().then_some(()));
}

/// The same for a value: the first one that is there.
#[track_caller]
pub fn eventually_some<T>(what: &str, limit: Duration, mut find: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_true_is_waited_for() {
        let mut asked = 0;
        let found = eventually_some("the third time", Duration::from_secs(5), || {
            asked += 1;
            (asked == 3).then_some("here")
        });
        assert_eq!(found, "here");
    }

    #[test]
    #[should_panic(expected = "the moon turns green")]
    fn what_never_becomes_true_is_named() {
        eventually("the moon turns green", Duration::from_millis(5), || false);
    }
}
