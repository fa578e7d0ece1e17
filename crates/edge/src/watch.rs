//! Deadlines, coarsely: one tick for all of a thread's instead of a timer for each.
//!
//! Why: almost every deadline is set and cleared again without being met, several for each request;
//! here that costs a slot in a list. Invariants: an alarm that is due wakes its task within [`TICK`]; an
//! alarm that was dropped or cleared wakes nobody; while no alarm is set nothing ticks. Where room runs short
//! ([`Watch::hurry`]) patience with clients ends early, with the one first that has been waited for longest. Not
//! here: what happens when time is up.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How late an alarm may be.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// The alarms of one thread.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    slots: RefCell<Slots>,
    /// Told when the first alarm is set.
    begun: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<u32>,
    /// Whether [`Watch::run`] goes on without being told.
    ticking: bool,
}

#[derive(Debug)]
enum Slot {
    Free,
    Set(Instant, Waker, Option<Since>),
    Due,
}

/// Since when a client has had the floor.
type Since = Instant;

impl Watch {
    fn slots(&self) -> RefMut<'_, Slots> {
        self.slots.borrow_mut()
    }

    /// Wakes what is due, for ever. One task of the thread runs it.
    pub(crate) async fn run(&self) {
        loop {
            let begun = self.begun.notified();
            if !self.slots().ticking {
                begun.await;
            }
            tokio::time::sleep(TICK).await;
            let now = Instant::now();
            let due = self.slots().due(now);
            due.into_iter().for_each(Waker::wake);
        }
    }

    /// Ends the patience with so many clients at once; how many there were.
    pub(crate) fn hurry(&self, count: usize) -> usize {
        let hurried = self.slots().longest(count);
        let found = hurried.len();
        hurried.into_iter().for_each(Waker::wake);
        found
    }

    fn set(&self, slot: Slot) -> u32 {
        let mut slots = self.slots();
        let place = if let Some(place) = slots.free.pop() {
            slots.all[place as usize] = slot;
            place
        } else {
            slots.all.push(slot);
            (slots.all.len() - 1) as u32
        };
        if !std::mem::replace(&mut slots.ticking, true) {
            self.begun.notify_one();
        }
        place
    }
}

impl Slots {
    fn due(&mut self, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut waiting = false;
        for slot in &mut self.all {
            match slot {
                Slot::Set(deadline, ..) if *deadline <= now => {
                    if let Slot::Set(_, waker, _) = std::mem::replace(slot, Slot::Due) {
                        wakers.push(waker);
                    }
                }
                Slot::Set(..) => waiting = true,
                Slot::Free | Slot::Due => {}
            }
        }
        self.ticking = waiting;
        if self.free.len() == self.all.len() && self.all.len() > 1024 {
            // A crowd has gone: its room goes too.
            (self.all, self.free) = (Vec::new(), Vec::new());
        }
        wakers
    }

    /// Those of the clients that have been waited for longest are due now.
    fn longest(&mut self, count: usize) -> Vec<Waker> {
        let waits = |slot: &Slot| if let Slot::Set(_, _, since) = slot { *since } else { None };
        let slots = self.all.iter().enumerate();
        let mut all: Vec<(Since, usize)> =
            slots.filter_map(|(place, slot)| Some((waits(slot)?, place))).collect();
        if all.len() > count && count > 0 {
            all.select_nth_unstable(count - 1);
        }
        let chosen = all.iter().take(count);
        let due = chosen.filter_map(|(_, place)| {
            match std::mem::replace(self.all.get_mut(*place)?, Slot::Due) {
                Slot::Set(_, waker, _) => Some(waker),
                Slot::Free | Slot::Due => None,
            }
        });
        due.collect()
    }
}

/// One deadline.
#[derive(Debug)]
pub(crate) struct Alarm {
    watch: Rc<Watch>,
    place: Option<u32>,
    is_of_client: bool,
}

impl Alarm {
    /// Not set yet.
    pub(crate) fn new(watch: &Rc<Watch>) -> Self {
        Self { watch: Rc::clone(watch), place: None, is_of_client: false }
    }

    /// Not set yet; it runs while a client is waited for, and its connection is one that may have to go.
    pub(crate) fn of_client(watch: &Rc<Watch>) -> Self {
        Self { watch: Rc::clone(watch), place: None, is_of_client: true }
    }

    /// Ready when time is up. The first poll after [`Self::new`] or [`Self::clear`] fixes the deadline.
    pub(crate) fn poll(&mut self, context: &Context<'_>, time: Duration) -> Poll<()> {
        let Some(place) = self.place else {
            // A deadline that no clock reaches is none.
            let now = Instant::now();
            if let Some(deadline) = now.checked_add(time) {
                let since = self.is_of_client.then_some(now);
                self.place =
                    Some(self.watch.set(Slot::Set(deadline, context.waker().clone(), since)));
            }
            return Poll::Pending;
        };
        let mut slots = self.watch.slots();
        match &mut slots.all[place as usize] {
            Slot::Set(_, waker, _) => {
                let other = (!waker.will_wake(context.waker()))
                    .then(|| std::mem::replace(waker, context.waker().clone()));
                drop(slots);
                drop(other);
                Poll::Pending
            }
            Slot::Due | Slot::Free => Poll::Ready(()),
        }
    }

    /// Forgets the deadline.
    pub(crate) fn clear(&mut self) {
        if let Some(place) = self.place.take() {
            let mut slots = self.watch.slots();
            let before = std::mem::replace(&mut slots.all[place as usize], Slot::Free);
            slots.free.push(place);
            // A waker may be the last that holds something, which may hold alarms of its own.
            drop(slots);
            drop(before);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Runs a future to its end, or to the end of its time.
pub(crate) fn within<T>(
    watch: &Rc<Watch>,
    time: Duration,
    future: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> {
    until(Alarm::new(watch), time, future)
}

/// The same where it is a client that is waited for.
pub(crate) fn within_patience<T>(
    watch: &Rc<Watch>,
    time: Duration,
    future: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> {
    until(Alarm::of_client(watch), time, future)
}

async fn until<T>(mut alarm: Alarm, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => alarm.poll(context, time).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    #[test]
    fn what_takes_too_long_is_ended_and_what_does_not_is_left_alone() {
        quiet(async {
            let watch = Rc::new(Watch::default());
            let of_task = Rc::clone(&watch);
            tokio::task::spawn_local(async move { of_task.run().await });
            let never = std::future::pending::<()>();
            assert_eq!(within(&watch, Duration::from_millis(1), never).await, None);
            let soon = tokio::time::sleep(Duration::from_millis(1));
            assert_eq!(within(&watch, Duration::from_secs(600), soon).await, Some(()));
            // It starts to tick again after it had nothing to do.
            let never = std::future::pending::<()>();
            assert_eq!(within(&watch, Duration::from_millis(1), never).await, None);
        });
    }

    #[test]
    fn a_slot_is_used_again_and_a_cleared_alarm_begins_anew() {
        let watch = Rc::new(Watch::default());
        let context = Context::from_waker(Waker::noop());
        let mut alarm = Alarm::new(&watch);
        let hour = Duration::from_secs(3600);
        for _ in 0..10 {
            assert!(alarm.poll(&context, hour).is_pending());
            let now = Instant::now() + hour * 2;
            assert_eq!(watch.slots().due(now).len(), 1);
            assert!(alarm.poll(&context, hour).is_ready());
            alarm.clear();
        }
        drop(alarm);
        let slots = watch.slots();
        assert_eq!((slots.all.len(), slots.free.len()), (1, 1));
    }

    #[test]
    fn who_is_waited_for_longest_goes_first_and_only_clients_go() {
        quiet(async {
            let watch = Rc::new(Watch::default());
            let context = Context::from_waker(Waker::noop());
            let hour = Duration::from_secs(3600);
            let mut ours = Alarm::new(&watch);
            assert!(ours.poll(&context, hour).is_pending());
            let mut clients: Vec<Alarm> = (0..4).map(|_| Alarm::of_client(&watch)).collect();
            for nth in [2, 0, 3, 1] {
                assert!(clients[nth].poll(&context, hour).is_pending());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(watch.hurry(2), 2);
            let gone: Vec<bool> =
                clients.iter_mut().map(|one| one.poll(&context, hour).is_ready()).collect();
            assert_eq!(gone, [true, false, true, false]);
            assert_eq!((watch.hurry(0), watch.hurry(100), watch.hurry(100)), (0, 2, 0));
            assert!(ours.poll(&context, hour).is_pending());
        });
    }
}
