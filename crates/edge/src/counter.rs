//! A counter that threads do not fight over: each adds in a cache line of its own, who reads adds up.
//!
//! Why: two threads that count every request in one word hand its cache line to and fro, which costs more
//! than the rest of counting. Invariant: the sum is exact once the threads are quiet; what one thread added
//! another may take away.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads beyond so many share lines.
pub(crate) const LINES: usize = 8;

/// One thread's share. Two lines wide: processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// A number that many threads change and few read.
#[derive(Debug, Default)]
pub(crate) struct Counter([Line; LINES]);

/// The line of this thread.
pub(crate) fn own() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % LINES);
    }
    OWN.with(Cell::get)
}

impl Counter {
    /// One more.
    pub(crate) fn add(&self) {
        self.0[own()].0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub(crate) fn sub(&self) {
        self.0[own()].0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The sum. While threads count it may be one that never was.
    pub(crate) fn get(&self) -> u64 {
        let sum =
            self.0.iter().fold(0_u64, |sum, line| sum.wrapping_add(line.0.load(Ordering::Relaxed)));
        // Read between another thread's `add` and ours its `sub` would look like a huge number.
        if sum > u64::MAX / 2 { 0 } else { sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_thread_adds_another_may_take_away() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            (0..20).for_each(|_| drop(scope.spawn(|| (0..100).for_each(|_| counter.add()))));
        });
        assert_eq!(counter.get(), 2000);
        std::thread::scope(|scope| {
            drop(scope.spawn(|| (0..2000).for_each(|_| counter.sub())));
        });
        assert_eq!(counter.get(), 0);
        counter.sub();
        assert_eq!(counter.get(), 0);
    }
}
