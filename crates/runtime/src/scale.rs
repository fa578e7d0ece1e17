//! How many instances a service should have: a pure decision over what was measured.
//!
//! Each target is a mean per instance (cores, bytes, requests a second); the wish is the smallest number at
//! which every mean would be met. Up at once, since somebody waits; down only to what was never exceeded for
//! [`CALM`], since a lull is no trend. Invariants (played through in the tests): within the bounds, always;
//! within a tenth of a target nothing changes; after a change nothing is decided until the new instances had
//! [`SETTLE`] to take their share; what was not measured changes nothing.

use std::collections::VecDeque;
use std::time::Duration;

use seaworthy_base::Timestamp;

/// Before fewer are wanted, so long more were never needed.
pub const CALM: Duration = Duration::from_secs(300);
/// After a change, what is measured tells of the number before.
pub const SETTLE: Duration = Duration::from_secs(15);
/// So near to a target nothing is done.
const NEAR: f64 = 0.1;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// Never fewer.
    pub min: u16,
    /// Never more.
    pub max: u16,
    /// Cores that an instance may use in the mean.
    pub cpu: Option<f64>,
    /// Bytes that an instance may use in the mean.
    pub memory: Option<u64>,
    /// Requests a second for an instance in the mean.
    pub rps: Option<f64>,
}

/// What was measured, summed over the instances.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Instances that were measured.
    pub instances: u16,
    /// Cores used.
    pub cpu: f64,
    /// Bytes used.
    pub memory: u64,
    /// Requests a second.
    pub rps: f64,
}

/// A service that scales by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    count: u16,
    why: String,
    changed: Option<Timestamp>,
    /// What was wished when, as far back as it matters.
    wishes: VecDeque<(Timestamp, u16)>,
}

impl Scale {
    /// Begins with so many.
    pub fn new(count: u16) -> Self {
        Self { count, why: "not measured yet".to_owned(), changed: None, wishes: VecDeque::new() }
    }

    /// How many there should be.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Why, for people.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Looks at what was measured; says whether the number changed.
    pub fn look(&mut self, now: Timestamp, measured: Option<Measured>, targets: &Targets) -> bool {
        let before = self.count;
        let bounded = before.clamp(targets.min, targets.max);
        if bounded != before {
            self.become_(now, bounded, format!("from {} to {}", targets.min, targets.max));
            return true;
        }
        let Some(measured) = measured.filter(|one| one.instances > 0) else { return false };
        if self.changed.is_some_and(|at| now.since(at) < SETTLE) || measured.instances != before {
            return false;
        }
        let (wish, why) = wish(&measured, targets);
        let wish = wish.clamp(targets.min, targets.max);
        self.wishes.push_back((now, wish));
        while self.wishes.front().is_some_and(|(at, _)| now.since(*at) > CALM) {
            self.wishes.pop_front();
        }
        if wish > before {
            self.become_(now, wish, why);
        } else if wish < before && self.was_calm(now) {
            let most = self.wishes.iter().map(|(_, wish)| *wish).max().unwrap_or(wish);
            if most < before {
                self.become_(now, most, format!("{why} for {} s", CALM.as_secs()));
            }
        } else {
            self.why = why;
        }
        self.count != before
    }

    /// Whether what is remembered reaches back far enough to say that fewer suffice.
    fn was_calm(&self, now: Timestamp) -> bool {
        let nearly = CALM.mul_f64(0.9);
        self.wishes.front().is_some_and(|(at, _)| now.since(*at) >= nearly)
            && self.changed.is_none_or(|at| now.since(at) >= CALM)
    }

    fn become_(&mut self, now: Timestamp, count: u16, why: String) {
        self.count = count;
        self.why = why;
        self.changed = Some(now);
        self.wishes.clear();
    }
}

/// How many instances what was measured is right for, and what of it decides.
fn wish(measured: &Measured, targets: &Targets) -> (u16, String) {
    let n = f64::from(measured.instances);
    let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
    let all = [
        targets.cpu.map(|target| {
            let mean = measured.cpu / n;
            (
                mean,
                target,
                format!("cpu {:.0} % of a core, {:.0} % wanted", mean * 100.0, target * 100.0),
            )
        }),
        targets.memory.map(|target| {
            let (mean, target) = (measured.memory as f64 / n, target as f64);
            let why = format!("memory {:.0}M, {:.0}M wanted", mebibytes(mean), mebibytes(target));
            (mean, target, why)
        }),
        targets.rps.map(|target| {
            let mean = measured.rps / n;
            (mean, target, format!("{mean:.0} requests a second each, {target:.0} wanted"))
        }),
    ];
    let wishes = all.into_iter().flatten().map(|(mean, target, why)| {
        let ratio = mean / target;
        let near = (ratio - 1.0).abs() <= NEAR;
        // The smallest number at which the mean is not above its target.
        let count = if near { n } else { (n * ratio).ceil().max(1.0) };
        (count.min(f64::from(u16::MAX)) as u16, why)
    });
    wishes.max_by_key(|(count, _)| *count).unwrap_or((measured.instances, String::new()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, proptest};

    use super::*;

    fn targets() -> Targets {
        Targets { min: 2, max: 8, cpu: Some(0.5), memory: None, rps: Some(100.0) }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + seconds * 1000)
    }

    fn busy(instances: u16, cpu: f64, rps: f64) -> Option<Measured> {
        Some(Measured { instances, cpu, memory: 0, rps })
    }

    #[test]
    fn the_target_that_is_missed_most_decides_and_says_so() {
        let mut scale = Scale::new(2);
        assert!(scale.look(at(0), busy(2, 0.2, 500.0), &targets()));
        assert_eq!(scale.count(), 5);
        assert_eq!(scale.why(), "250 requests a second each, 100 wanted");
        let mut scale = Scale::new(2);
        scale.look(at(0), busy(2, 1.5, 10.0), &targets());
        assert_eq!((scale.count(), scale.why()), (3, "cpu 75 % of a core, 50 % wanted"));
    }

    #[test]
    fn near_the_target_or_right_after_a_change_nothing_happens() {
        let mut scale = Scale::new(4);
        assert!(!scale.look(at(0), busy(4, 2.15, 0.0), &targets()));
        assert!(scale.look(at(1), busy(4, 3.0, 0.0), &targets()));
        assert!(!scale.look(at(2), busy(6, 6.0, 0.0), &targets()), "they have just begun");
        assert!(!scale.look(at(60), busy(5, 5.0, 0.0), &targets()), "one of them is not there yet");
        assert!(scale.look(at(61), busy(6, 6.0, 0.0), &targets()));
        assert_eq!(scale.count(), 8);
    }

    #[test]
    fn fewer_are_wanted_only_after_five_calm_minutes_and_only_as_few_as_sufficed_all_the_time() {
        let mut scale = Scale::new(6);
        for second in (0..270).step_by(5) {
            let rps = if second == 200 { 390.0 } else { 90.0 };
            assert!(!scale.look(at(second), busy(6, 0.1, rps), &targets()), "{second}");
        }
        assert!(scale.look(at(270), busy(6, 0.1, 90.0), &targets()));
        assert_eq!(scale.count(), 4, "the peak would have needed four");
        for second in (275..570).step_by(5) {
            assert!(!scale.look(at(second), busy(4, 0.1, 90.0), &targets()), "{second}");
        }
        assert!(scale.look(at(575), busy(4, 0.1, 90.0), &targets()));
        assert_eq!(scale.count(), 2);
    }

    #[test]
    fn other_bounds_count_at_once() {
        let mut scale = Scale::new(1);
        assert!(scale.look(at(0), None, &targets()));
        assert_eq!((scale.count(), scale.why()), (2, "from 2 to 8"));
    }

    proptest! {
        /// Whatever is measured: within the bounds, and never two changes within the time to settle.
        #[test]
        fn it_stays_within_its_bounds_and_does_not_flap(
            load in prop::collection::vec((any::<u16>(), 0_u16..3), 1..400),
        ) {
            let (mut scale, targets, mut last) = (Scale::new(2), targets(), None);
            for (look, (load, missing)) in load.into_iter().enumerate() {
                let now = at(look as u64 * 5);
                let instances = scale.count().saturating_sub(missing);
                let changed =
                    scale.look(now, busy(instances, 0.0, f64::from(load)), &targets);
                prop_assert!((targets.min..=targets.max).contains(&scale.count()));
                if changed {
                    prop_assert!(last.is_none_or(|last| now.since(last) >= SETTLE));
                    last = Some(now);
                }
            }
        }
    }
}
