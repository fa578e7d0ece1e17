//! The table against a simple model with several threads, with nonsense in every word, and with a death at every step.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::policy::limit::{Buckets, Rule};

thread_local! {
    /// Steps until this thread dies.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// What dies is caught by its test.
struct Died;

/// Called before each write.
pub(super) fn step() {
    LEFT.with(|left| match left.get() {
        usize::MAX => {}
        0 => {
            left.set(usize::MAX);
            std::panic::resume_unwind(Box::new(Died));
        }
        more => left.set(more - 1),
    });
}

/// Does something and dies before the write of that number. Whether it came so far.
pub(super) fn dies_before(write: usize, change: impl FnOnce()) -> bool {
    LEFT.with(|left| left.set(write));
    let died = catch_unwind(AssertUnwindSafe(change)).is_err();
    LEFT.with(|left| left.set(usize::MAX));
    died
}

fn add(rows: Rows<'_>, key: u64) {
    let more = |state: Option<u64>| Ok::<_, ()>(state.unwrap_or(0) + 1);
    rows.change(key, |state| !state, more).unwrap();
}

#[test]
fn a_key_takes_sixteen_bytes_and_the_table_is_as_long_as_it_says() {
    assert_eq!(size_of::<[AtomicU64; 2]>(), 16);
    assert_eq!(LENGTH, 4096 + 4 * (1 << 20) + (1 << 20) + 4096);
}

#[test]
fn two_edges_count_in_one_table_with_one_secret_and_nobody_else_in_it() {
    let fd = create().unwrap();
    let (old, new) = (Table::default(), Table::default());
    old.take(fd.try_clone().unwrap()).unwrap();
    add(old.limits(), 7);
    new.take(old.descriptor().unwrap().try_clone_to_owned().unwrap()).unwrap();
    add(new.limits(), 7);
    assert_eq!(old.limits().get(7), Some(2));
    assert_eq!(old.hasher().secret, new.hasher().secret);
    // Rates, failures and breakers of one key are three things.
    assert_eq!((new.failures().get(7), new.breakers().get(7)), (None, None));
    // Who counts already does not change over: half would be here and half there.
    assert!(new.take(create().unwrap()).is_err());
    let alone = Table::default();
    add(alone.limits(), 7);
    assert!(alone.take(fd).is_err() && alone.descriptor().is_none());
    assert_ne!(alone.hasher().secret, new.hasher().secret);
}

#[test]
fn a_table_that_is_laid_out_otherwise_is_not_taken() {
    let fd = create().unwrap();
    Region::shared(fd.as_fd(), LENGTH).unwrap().words()[0].store(MAGIC + 1, Ordering::Relaxed);
    assert!(Table::default().take(fd).is_err());
    let short = memory::create("short", 4096, &MAGIC.to_ne_bytes()).unwrap();
    assert!(Table::default().take(short).is_err());
}

#[test]
fn a_key_that_stands_twice_in_its_row_is_forgotten_at_once() {
    let table = Table::default();
    add(table.failures(), 5);
    let row = &table.mapped().unwrap().region.words()[HEAD + LIMITS + 5 * ROW..][..ROW];
    [0, 2].into_iter().for_each(|place| row[place].store(5, Ordering::Relaxed));
    assert!(table.failures().forget(5));
    assert_eq!(table.failures().get(5), None);
    assert!(!table.failures().forget(5));
}

#[test]
fn a_key_that_somebody_puts_in_at_the_same_time_stands_there_once() {
    let table = Table::default();
    let rows = table.failures();
    let mut met = false;
    let more = |state: Option<u64>| {
        if state.is_none() && !std::mem::replace(&mut met, true) {
            add(rows, 5);
        }
        Ok::<_, ()>(state.unwrap_or(0) + 1)
    };
    rows.change(5, |state| !state, more).unwrap();
    assert_eq!(rows.get(5), Some(2));
    assert!(rows.forget(5) && rows.get(5).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Four threads, two of each process: as long as no row is full every count is exact.
    #[test]
    fn what_several_threads_of_two_edges_add_is_the_sum(
        keys in prop::collection::vec(1u64..40, 4 * 50),
    ) {
        let fd = create().unwrap();
        let tables = [(); 2].map(|()| {
            let table = Table::default();
            table.take(fd.try_clone().unwrap()).unwrap();
            Arc::new(table)
        });
        std::thread::scope(|scope| {
            for (thread, keys) in keys.chunks(50).enumerate() {
                let table = &tables[thread % 2];
                scope.spawn(move || keys.iter().for_each(|key| add(table.failures(), *key)));
            }
        });
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        keys.iter().for_each(|key| *model.entry(*key).or_default() += 1);
        for (key, count) in model {
            prop_assert_eq!(tables[0].failures().get(key), Some(count));
        }
    }

    /// One thread against a list of the four that were changed last, for keys of one row.
    #[test]
    fn a_full_row_keeps_the_four_that_were_changed_last(turns in prop::collection::vec(0u64..7, 1..60)) {
        let table = Table::default();
        let mut model: Vec<(u64, u64)> = Vec::new();
        for (now, which) in turns.into_iter().enumerate() {
            let (now, key) = (now as u64, 5 + which * 65_536);
            let quiet = |state: u64| now - state;
            table.limits().change(key, quiet, |_| Ok::<_, ()>(now)).unwrap();
            model.retain(|(known, _)| *known != key);
            model.push((key, now));
            if model.len() > 4 {
                model.remove(0);
            }
            for (key, state) in &model {
                prop_assert_eq!(table.limits().get(*key), Some(*state));
            }
        }
    }

    /// Any word may hold anything: the rule holds after a while at the latest, and nobody waits for ever.
    #[test]
    fn nonsense_in_a_bucket_neither_opens_nor_closes_it_for_long(
        count in 1u32..50, per in 1000u64..100_000, burst in 0u32..30,
        words in prop::collection::vec(any::<u64>(), 8), now in any::<u32>(),
    ) {
        let (table, rule) = (Arc::new(Table::default()), Rule::new(count, per, Some(burst)));
        let buckets = Buckets::new(Arc::clone(&table));
        let key = 9;
        let row = table.mapped().unwrap().region.words();
        let row = &row[HEAD + 9 * ROW..][..ROW];
        row.iter().zip(&words).for_each(|(word, nonsense)| word.store(*nonsense, Ordering::Relaxed));
        row[4].store(key, Ordering::Relaxed);
        let now = u64::from(now) + (1 << 33);
        let passed = (0..1000).filter(|_| buckets.take(key, rule, now).is_ok()).count();
        prop_assert!(passed as u32 <= burst + 1, "{} at once", passed);
        // A clock may be a minute ahead; then a request a little later passes.
        let later = now + 61_000 + per;
        prop_assert!(buckets.take(key, rule, later).is_ok());
        prop_assert!((0..1000).filter(|_| buckets.take(key, rule, later).is_ok()).count() as u32 <= burst + 1);
    }
}

#[test]
fn who_dies_at_any_step_leaves_a_table_that_counts() {
    let rule = Rule::new(10, 60_000, Some(9));
    let row = |n: u64| 3 + n * 65_536;
    // A key that is there, one that is new in an empty row, one for which another must go.
    for (there, key) in [(1, row(0)), (0, row(0)), (4, row(9))] {
        let mut deaths = 0;
        for write in 0.. {
            let table: Arc<Table> = Arc::default();
            let buckets = Buckets::new(Arc::clone(&table));
            for n in 0..there {
                (0..3).for_each(|_| buckets.take(row(n), rule, n * 10).unwrap());
            }
            let died = dies_before(write, || buckets.take(key, rule, 100).unwrap());
            deaths += usize::from(died);
            // Whoever it was: ten at once, less what is known of it, and never none.
            for known in (0..there).map(row).chain([key]).collect::<BTreeSet<_>>() {
                let passed = (0..100).filter(|_| buckets.take(known, rule, 101).is_ok()).count();
                assert!((6..=10).contains(&passed), "{passed} of {known:x}, died before {write}");
            }
            if !died {
                break;
            }
        }
        assert_eq!(deaths, if there == 1 { 1 } else { 2 });
    }
}
