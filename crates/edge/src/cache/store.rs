//! Where answers are kept: a table of bounded size; who was not asked for longest goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderMap;

use super::rules::{Kept, Use};
use crate::route::matches;

/// What an answer is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) site: Arc<str>,
    pub(crate) secure: bool,
    pub(crate) host: Box<str>,
    /// Path and query.
    pub(crate) target: Box<str>,
}

/// Answers that differ by request headers; more are an attack on the memory.
const MAX_VARIANTS: usize = 16;
/// Answers that are not kept are asked about again after this time.
const PASS_MS: u64 = 10_000;
/// Of passes the table itself is the cost.
const PASS_SIZE: usize = 512;

#[derive(Debug, Default)]
struct Slot {
    variants: Vec<Arc<Kept>>,
    /// Until then nothing is expected here.
    pass: u64,
    /// Its place in the order of use.
    used: u64,
    size: usize,
}

#[derive(Debug)]
pub(super) struct Store {
    slots: HashMap<Key, Slot>,
    order: BTreeMap<u64, Key>,
    clock: u64,
    size: usize,
    capacity: usize,
}

impl Store {
    pub(super) fn new(capacity: usize) -> Self {
        Self { slots: HashMap::new(), order: BTreeMap::new(), clock: 0, size: 0, capacity }
    }

    pub(super) fn find(&mut self, key: &Key, headers: &HeaderMap, now: u64) -> Use {
        let Some(slot) = self.slots.get_mut(key) else { return Use::Nothing };
        let found = slot.variants.iter().rev().find(|kept| kept.fits(headers)).map(Arc::clone);
        let used = slot.used;
        match found {
            Some(kept) => {
                if used != self.clock {
                    self.clock += 1;
                    slot.used = self.clock;
                    if let Some(key) = self.order.remove(&used) {
                        self.order.insert(self.clock, key);
                    }
                }
                kept.usable(now)
            }
            None if slot.pass > now => Use::Pass,
            None => Use::Nothing,
        }
    }

    pub(super) fn put(&mut self, key: &Key, kept: Arc<Kept>) {
        let mut slot = self.take(key);
        slot.pass = 0;
        slot.variants.retain(|one| one.vary != kept.vary);
        // An answer that varies by other headers than before replaces what was known of them.
        slot.variants.retain(|one| {
            one.vary.iter().map(|(name, _)| name).eq(kept.vary.iter().map(|(name, _)| name))
        });
        if slot.variants.len() >= MAX_VARIANTS {
            slot.variants.remove(0);
        }
        slot.variants.push(kept);
        self.insert(key, slot);
    }

    pub(super) fn pass(&mut self, key: &Key, now: u64) {
        self.take(key);
        self.insert(key, Slot { pass: now + PASS_MS, ..Slot::default() });
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.take(key);
    }

    pub(super) fn purge(&mut self, site: &str, path: Option<&str>) -> usize {
        let fits = |key: &Key| {
            let bare = key.target.split('?').next().unwrap_or_default();
            *key.site == *site
                && path.is_none_or(|pattern| matches(pattern.as_bytes(), bare.as_bytes()))
        };
        let doomed: Vec<Key> = self.slots.keys().filter(|key| fits(key)).cloned().collect();
        doomed.iter().map(|key| self.take(key).variants.len()).sum()
    }

    /// Takes a slot out, or makes one.
    fn take(&mut self, key: &Key) -> Slot {
        let slot = self.slots.remove(key).unwrap_or_default();
        self.order.remove(&slot.used);
        self.size -= slot.size;
        slot
    }

    fn insert(&mut self, key: &Key, mut slot: Slot) {
        slot.size = slot.variants.iter().map(|kept| kept.size()).sum::<usize>() + PASS_SIZE;
        self.clock += 1;
        slot.used = self.clock;
        self.size += slot.size;
        self.order.insert(self.clock, key.clone());
        self.slots.insert(key.clone(), slot);
        while self.size > self.capacity {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            if let Some(slot) = self.slots.remove(&oldest) {
                self.size -= slot.size;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        assert_eq!(self.slots.len(), self.order.len());
        assert_eq!(self.slots.values().map(|slot| slot.size).sum::<usize>(), self.size);
        self.size
    }
}
