//! Whose turn it is to call: so many at once, so many in a stretch of time, nobody while the other side asked for peace.
//!
//! [`Queue`] decides, on a clock that it is told; [`Line`] is one that the calls of all threads stand in. Invariants:
//! first come, first served; no stretch of the rate's time sees more calls begin than the rate counts, wherever it
//! begins; who goes away makes room; a place is given back however its call ends. New rules hold for who waits already.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seaworthy_base::outgoing::{Outgoing, Wait};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ring::Ring;

/// How many calls, how fast.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pace {
    most: Option<u32>,
    /// So many in so many milliseconds.
    rate: Option<(u32, u64)>,
}

impl Pace {
    pub(super) fn new(rules: &Outgoing) -> Self {
        let rate = rules.rate.map(|rate| (rate.count, rate.per.as_millis() as u64));
        Self { most: rules.concurrency, rate }
    }
}

/// Why a call is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// So many wait already.
    Full,
    /// It waited as long as it may, or would have to: so many milliseconds more.
    TooLong(u64),
}

/// When the first in line may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Now,
    At(u64),
    /// When another call has ended.
    Later,
}

/// Times in milliseconds.
#[derive(Debug, Default)]
struct Queue {
    pace: Pace,
    active: u32,
    waiting: VecDeque<(u64, Arc<Notify>)>,
    next: u64,
    /// When the last calls began, as many as the rate counts.
    begun: VecDeque<u64>,
    /// The same for all edges.
    ring: Option<Ring>,
    paused: u64,
}

impl Queue {
    fn turn(&self, now: u64) -> Turn {
        if self.pace.most.is_some_and(|most| self.active >= most) {
            return Turn::Later;
        }
        let by_rate = self.pace.rate.and_then(|(count, per)| {
            let first = self.begun.len().checked_sub(count as usize)?;
            self.begun.get(first).map(|begun| begun + per)
        });
        match by_rate.unwrap_or(0).max(self.paused) {
            at if at > now => Turn::At(at),
            _ => Turn::Now,
        }
    }

    /// Begins a call if it is time, for all edges.
    fn go(&mut self, now: u64) -> Turn {
        let turn = self.turn(now);
        if turn != Turn::Now {
            return turn;
        }
        let taken = match (&mut self.ring, self.pace.rate) {
            (Some(ring), Some(rate)) => ring.take(rate, now),
            _ => Ok(()),
        };
        if let Err(at) = taken {
            return Turn::At(at);
        }
        self.begin(now);
        Turn::Now
    }

    fn begin(&mut self, now: u64) {
        self.active += 1;
        let Some((count, _)) = self.pace.rate else { return self.begun.clear() };
        self.begun.push_back(now);
        while self.begun.len() > count as usize {
            self.begun.pop_front();
        }
    }

    fn wake_first(&self) {
        if let Some((_, first)) = self.waiting.front() {
            first.notify_one();
        }
    }
}

/// One that all threads share.
#[derive(Debug, Default)]
pub(super) struct Line(Mutex<Queue>);

/// A place in line, until it is left.
struct Place<'a> {
    line: &'a Line,
    ticket: u64,
    told: Arc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = self.line.queue();
        queue.waiting.retain(|(ticket, _)| *ticket != self.ticket);
        queue.wake_first();
    }
}

/// A call's place among those that are made, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Line>);

impl Drop for Slot {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.active = queue.active.saturating_sub(1);
        queue.wake_first();
    }
}

impl Line {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rules from now on; `ring` makes what is counted in with other edges.
    pub(super) fn set(&self, pace: Pace, ring: Option<&dyn Fn() -> Ring>) {
        let mut queue = self.queue();
        queue.pace = pace;
        if queue.ring.is_none() {
            queue.ring = ring.map(|make| make());
        }
        queue.wake_first();
    }

    /// Nobody calls before then.
    pub(super) fn pause(&self, until: u64) {
        let mut queue = self.queue();
        queue.paused = queue.paused.max(until);
    }

    /// Calls under way, calls that wait, and milliseconds of a pause that are left.
    pub(super) fn tell(&self, now: u64) -> (u64, u64, Option<u64>) {
        let queue = self.queue();
        let paused = queue.paused.checked_sub(now).filter(|left| *left > 0);
        (queue.active.into(), queue.waiting.len() as u64, paused)
    }

    /// Waits for its turn, until `end` at most. `millis` tells the time of the line.
    pub(super) async fn enter(
        self: &Arc<Self>,
        wait: &Wait,
        end: Instant,
        millis: impl Fn(Instant) -> u64,
    ) -> Result<Slot, NoTurn> {
        let now = || millis(Instant::now());
        let Some(place) = self.stand(wait.calls, now())? else {
            return Ok(Slot(Arc::clone(self)));
        };
        loop {
            let told = place.told.notified();
            let wake = match self.first_goes(&place, now()) {
                Some(Turn::Now) => return Ok(Slot(Arc::clone(self))),
                Some(Turn::At(at)) if at >= millis(end) => {
                    return Err(NoTurn::TooLong(at.saturating_sub(now())));
                }
                Some(Turn::At(at)) => {
                    Instant::now() + Duration::from_millis(at.saturating_sub(now()).max(1))
                }
                Some(Turn::Later) | None => end,
            };
            // Whichever is first; what has changed is looked up.
            tokio::time::timeout_at(wake.min(end), told).await.ok();
            if Instant::now() >= end {
                return Err(NoTurn::TooLong(1000));
            }
        }
    }

    /// A place in line; none where it goes at once.
    fn stand(&self, most: u32, now: u64) -> Result<Option<Place<'_>>, NoTurn> {
        let mut queue = self.queue();
        if queue.waiting.is_empty() && queue.go(now) == Turn::Now {
            return Ok(None);
        }
        if queue.waiting.len() >= most as usize {
            return Err(NoTurn::Full);
        }
        let (ticket, told) = (queue.next, Arc::new(Notify::new()));
        queue.next += 1;
        queue.waiting.push_back((ticket, Arc::clone(&told)));
        drop(queue);
        Ok(Some(Place { line: self, ticket, told }))
    }

    /// When a place's turn is; nobody knows while others stand before it. One whose turn it is goes.
    fn first_goes(&self, place: &Place<'_>, now: u64) -> Option<Turn> {
        let mut queue = self.queue();
        if queue.waiting.front().is_none_or(|(ticket, _)| *ticket != place.ticket) {
            return None;
        }
        let turn = queue.go(now);
        if turn == Turn::Now {
            queue.waiting.pop_front();
            queue.wake_first();
        }
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(most: Option<u32>, rate: Option<(u32, u64)>) -> Arc<Line> {
        let line = Arc::new(Line::default());
        line.set(Pace { most, rate }, None);
        line
    }

    fn simulate<T>(test: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    /// A clock that begins at 0.
    fn clock() -> impl Fn(Instant) -> u64 + Clone {
        let begun = Instant::now();
        move |at: Instant| at.saturating_duration_since(begun).as_millis() as u64
    }

    const WAIT: Wait = Wait { calls: 1000, age: Duration::from_secs(30) };

    fn end(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[test]
    fn as_many_go_at_once_as_may_and_the_next_when_one_has_ended_in_the_order_they_came() {
        simulate(async {
            let (line, millis) = (line(Some(2), None), clock());
            let first = line.enter(&WAIT, end(30), &millis).await.unwrap();
            let second = line.enter(&WAIT, end(30), &millis).await.unwrap();
            let order = Arc::new(Mutex::new(Vec::new()));
            let later: Vec<_> = (0..3)
                .map(|number| {
                    let (line, order, millis) =
                        (Arc::clone(&line), Arc::clone(&order), millis.clone());
                    tokio::task::spawn_local(async move {
                        let slot = line.enter(&WAIT, end(30), &millis).await.unwrap();
                        order.lock().unwrap().push(number);
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        drop(slot);
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!((line.tell(0).0, line.tell(0).1), (2, 3));
            // One that goes away makes no hole.
            later[1].abort();
            drop(first);
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(second);
            assert_eq!(*order.lock().unwrap(), [0, 2]);
            assert_eq!(line.tell(0), (0, 0, None));
        });
    }

    #[test]
    fn who_waits_too_long_or_comes_too_late_is_told_so() {
        simulate(async {
            let (line, millis) = (line(Some(1), None), clock());
            let held = line.enter(&WAIT, end(30), &millis).await.unwrap();
            let few = Wait { calls: 0, ..WAIT };
            assert_eq!(line.enter(&few, end(30), &millis).await.unwrap_err(), NoTurn::Full);
            let late = line.enter(&WAIT, end(2), &millis).await.unwrap_err();
            assert!(matches!(late, NoTurn::TooLong(_)));
            assert_eq!(line.tell(0).1, 0);
            drop(held);
            // A pause that is longer than anybody waits is said at once.
            line.pause(100_000);
            let begun = Instant::now();
            let paused = line.enter(&WAIT, end(30), &millis).await.unwrap_err();
            assert!(matches!(paused, NoTurn::TooLong(90_000..)), "{paused:?}");
            assert_eq!(begun.elapsed(), Duration::ZERO);
            drop(line.enter(&WAIT, end(200), &millis).await.unwrap());
            assert!(begun.elapsed() >= Duration::from_secs(97));
        });
    }

    #[test]
    fn new_rules_hold_for_who_waits() {
        simulate(async {
            let (line, millis) = (line(Some(1), None), clock());
            let _held = line.enter(&WAIT, end(30), &millis).await.unwrap();
            let waits = line.enter(&WAIT, end(30), &millis);
            let widen = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                line.set(Pace { most: Some(2), rate: None }, None);
            };
            let (slot, ()) = tokio::join!(waits, widen);
            assert!(slot.is_ok());
        });
    }

    proptest! {
        /// Wherever a stretch of the rate's time begins, no more calls begin in it than the rate counts; and the line
        /// does not stand still.
        #[test]
        fn no_stretch_of_time_sees_more_than_the_rate(count in 1u32..6, per in 1u64..5_000, calls in 1usize..40, pauses in prop::collection::vec(0u64..3_000, 40)) {
            simulate(async {
                let (line, millis) = (line(None, Some((count, per))), clock());
                let begun = Arc::new(Mutex::new(Vec::new()));
                let mut all = Vec::new();
                for pause in pauses.into_iter().take(calls) {
                    let (line, begun, millis) = (Arc::clone(&line), Arc::clone(&begun), millis.clone());
                    all.push(tokio::task::spawn_local(async move {
                        drop(line.enter(&WAIT, end(3600), &millis).await.unwrap());
                        begun.lock().unwrap().push(millis(Instant::now()));
                    }));
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                for one in all {
                    one.await.unwrap();
                }
                let begun = begun.lock().unwrap();
                assert_eq!(begun.len(), calls);
                for window in begun.windows(count as usize + 1) {
                    assert!(window.last().unwrap() - window[0] >= per, "{window:?}");
                }
            });
        }
    }
}
