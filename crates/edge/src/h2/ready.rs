//! Which streams of a connection have to be run, told by whoever wakes them.
//!
//! One task runs all streams of a connection; each has a waker of its own, which sets a bit here. Invariant: a
//! bit that is set is seen: by the task if it runs just now, or else the task is woken for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// A set of streams, by their places.
pub(super) type Set = u128;

/// Marks of one connection.
#[derive(Debug, Default)]
pub(super) struct Ready {
    bits: [AtomicU64; 2],
    /// The task runs: it looks at the bits before it rests.
    running: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Ready {
    /// A stream has to be run.
    pub(super) fn mark(&self, place: usize) {
        let bit = 1_u64 << (place % 64);
        let before = self.bits[place / 64 % 2].fetch_or(bit, Ordering::SeqCst);
        if before & bit == 0 && !self.running.load(Ordering::SeqCst) {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// The task begins to run.
    pub(super) fn begin(&self, waker: &Waker) {
        self.running.store(true, Ordering::SeqCst);
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    /// The task is about to rest; false if something is marked.
    pub(super) fn rest(&self) -> bool {
        self.running.store(false, Ordering::SeqCst);
        self.bits.iter().all(|bits| bits.load(Ordering::SeqCst) == 0)
    }

    /// What is marked, once.
    pub(super) fn take(&self) -> Set {
        let [low, high] = self.bits.each_ref().map(|bits| {
            if bits.load(Ordering::Relaxed) == 0 { 0 } else { bits.swap(0, Ordering::SeqCst) }
        });
        (Set::from(high) << 64) | Set::from(low)
    }
}

/// Wakes one stream.
#[derive(Debug)]
struct Place {
    ready: Arc<Ready>,
    place: usize,
}

impl Wake for Place {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.mark(self.place);
    }
}

/// A waker for a place.
pub(super) fn waker(ready: &Arc<Ready>, place: usize) -> Waker {
    Waker::from(Arc::new(Place { ready: Arc::clone(ready), place }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_task_is_woken_once_and_not_while_it_runs() {
        let (ready, count) = (Arc::new(Ready::default()), Arc::new(Count::default()));
        let task = Waker::from(Arc::clone(&count));
        let woken = || count.0.load(Ordering::Relaxed);
        ready.begin(&task);
        let (low, high) = (waker(&ready, 3), waker(&ready, 127));
        low.wake_by_ref();
        assert_eq!((woken(), ready.take(), ready.rest()), (0, 1 << 3, true));
        high.wake_by_ref();
        high.wake_by_ref();
        low.wake();
        // Two places, so twice.
        assert_eq!(woken(), 2);
        ready.begin(&task);
        assert_eq!(ready.take(), (1 << 127) | (1 << 3));
        high.wake();
        assert!(!ready.rest());
    }
}
