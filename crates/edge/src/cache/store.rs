//! Where answers are kept: a table of bounded size; who was not asked for longest goes first.
//!
//! Invariants: everything that grows with what strangers send counts, keys and what an answer varies by
//! included; what was asked for before a purge or a change can be told from what was asked for after it.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::rules::{Kept, Use};
use crate::route::matches;

/// What an answer is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) site: Arc<str>,
    /// Whose answer it is: a release that is being tried is not known by what the other one said, nor the other way.
    pub(crate) release: Arc<str>,
    pub(crate) secure: bool,
    /// The port that the client came to, as the application is told it.
    pub(crate) port: u16,
    pub(crate) host: Box<str>,
    /// Path and query.
    pub(crate) target: Box<str>,
}

/// Answers that differ by request headers; more are an attack on the memory.
const MAX_VARIANTS: usize = 16;
/// Answers that are not kept are asked about again after this time.
const PASS_MS: u64 = 10_000;
/// What a slot costs beside its answers and its key.
const SLOT: usize = 512;
/// Changes are counted by so many groups of keys: two that share one cost an answer that is not kept, once.
const GROUPS: usize = 1 << 10;

/// How much has been purged or changed, where a key is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Key {
    #[cfg(test)]
    pub(crate) fn for_tests(target: &str) -> Self {
        let (site, release) = ("shop".into(), "r1".into());
        let (host, target) = ("a.example".into(), target.into());
        Self { site, release, secure: true, port: 443, host, target }
    }

    /// Bytes that it takes: it stands in the table and in the order of use.
    fn size(&self) -> usize {
        2 * (self.host.len() + self.target.len())
    }
}

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
    purges: u64,
    /// Changes by group of keys.
    changes: Box<[u64]>,
}

impl Store {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            slots: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
            size: 0,
            capacity,
            purges: 0,
            changes: vec![0; GROUPS].into(),
        }
    }

    fn group(&self, key: &Key) -> usize {
        self.slots.hasher().hash_one(key) as usize % GROUPS
    }

    pub(super) fn moment(&self, key: &Key) -> Moment {
        // Both only grow: their sum is the same only where both are.
        let changes = self.changes.get(self.group(key)).copied().unwrap_or_default();
        Moment(self.purges.wrapping_add(changes))
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

    /// Other answers that are kept under the key stay: one of them is not what somebody has just been told.
    pub(super) fn pass(&mut self, key: &Key, now: u64) {
        let mut slot = self.take(key);
        slot.pass = now + PASS_MS;
        self.insert(key, slot);
    }

    /// Whether answers to this are not kept at present.
    pub(super) fn passes(&self, key: &Key, now: u64) -> bool {
        self.slots.get(key).is_some_and(|slot| slot.pass > now)
    }

    pub(super) fn supersede(&mut self, key: &Key, headers: &HeaderMap) {
        if self.slots.contains_key(key) {
            let mut slot = self.take(key);
            slot.variants.retain(|kept| !kept.fits(headers));
            if slot.pass > 0 || !slot.variants.is_empty() {
                self.insert(key, slot);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.take(key);
        let group = self.group(key);
        if let Some(changes) = self.changes.get_mut(group) {
            *changes += 1;
        }
    }

    pub(super) fn purge(&mut self, site: &str, path: Option<&str>) -> usize {
        self.purges += 1;
        let fits = |key: &Key| {
            let bare = key.target.split('?').next().unwrap_or_default();
            // However it was spelt: `/%61` is `/a`.
            let decoded: Vec<u8> = percent_decode_str(bare).collect();
            *key.site == *site
                && path.is_none_or(|pattern| {
                    let pattern = pattern.as_bytes();
                    matches(pattern, bare.as_bytes()) || matches(pattern, &decoded)
                })
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
        slot.size = slot.variants.iter().map(|kept| kept.size()).sum::<usize>() + SLOT + key.size();
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
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        assert_eq!(self.slots.len(), self.order.len());
        assert_eq!(self.slots.values().map(|slot| slot.size).sum::<usize>(), self.size);
        self.size
    }
}
