//! Keys with a state each, in rows of four that fill a cache line: no lock, no list, no growth.
//!
//! A key may stand anywhere in its row; in a full row the one that was quiet for longest gives way: first its state,
//! then its key is replaced, each by one compare-and-swap, so that of two that want the place one has it and the other
//! looks again. Invariants: who dies between the two steps leaves an old key with a fresh state, which is a key that
//! is counted anew; no step waits for anybody. Two changes that meet in the same instant on a slot that is given away
//! may count one request for the wrong key, never more.

use std::sync::atomic::{AtomicU64, Ordering};

/// A key, then its state.
type Slot = [AtomicU64; 2];

/// Four keys at a time.
const SLOTS: usize = 4;

/// Rows of one kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a>(&'a [[Slot; SLOTS]]);

impl<'a> Rows<'a> {
    pub(super) fn new(words: &'a [AtomicU64]) -> Self {
        Self(words.as_chunks().0.as_chunks().0)
    }

    fn row(&self, key: u64) -> &'a [Slot] {
        // Keys are hashes: their lowest bits are as good as any. No memory: nothing is known of any key.
        let place = (key as usize).checked_rem(self.0.len());
        place.and_then(|place| self.0.get(place)).map_or(&[], |row| row)
    }

    /// The state of a key.
    pub(crate) fn get(&self, key: u64) -> Option<u64> {
        let slot = self.row(key).iter().find(|[one, _]| one.load(Ordering::Acquire) == key)?;
        Some(slot[1].load(Ordering::Acquire))
    }

    /// Changes the state of a key. `decide` makes the new one of the old, or refuses, and may be asked again when
    /// somebody was faster; `quiet` says for how long nothing happened to a state.
    pub(crate) fn change<E>(
        &self,
        key: u64,
        quiet: impl Fn(u64) -> u64,
        mut decide: impl FnMut(Option<u64>) -> Result<u64, E>,
    ) -> Result<(), E> {
        let row = self.row(key);
        loop {
            if let Some([one, state]) =
                row.iter().find(|[one, _]| one.load(Ordering::Acquire) == key)
            {
                let before = state.load(Ordering::Acquire);
                let after = decide(Some(before))?;
                // It may have been given away since.
                if one.load(Ordering::Acquire) == key && swap(state, before, after) {
                    return Ok(());
                }
                continue;
            }
            let fresh = decide(None)?;
            // The state first: as it was while the key stood there, or a swap of it fails.
            let known = row.iter().map(|slot| {
                let state = slot[1].load(Ordering::Acquire);
                (slot, slot[0].load(Ordering::Acquire), state)
            });
            // Somebody may have put it in since it was looked for: then it is the one, wherever it stands.
            let age = |one: u64, state: u64| match one {
                _ if one == key => (1, 0),
                0 => (0, u64::MAX),
                _ => (0, quiet(state)),
            };
            let chosen = known.max_by_key(|(_, one, state)| age(*one, *state));
            let Some((slot, one, state)) = chosen else { return Ok(()) };
            if one == key {
                continue;
            }
            if swap(&slot[1], state, fresh) && swap(&slot[0], one, key) {
                return Ok(());
            }
        }
    }

    /// Forgets a key, wherever it stands: two that put it into a full row at once may each have found a place.
    /// Whether it was there.
    pub(crate) fn forget(&self, key: u64) -> bool {
        self.row(key).iter().fold(false, |was_there, [one, _]| swap(one, key, 0) | was_there)
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        let keys = self.0.iter().flatten().map(|[key, _]| key);
        keys.filter(|key| key.load(Ordering::Relaxed) != 0)
            .for_each(|key| key.store(0, Ordering::Release));
    }
}

/// One step: all that is ever written goes through here.
pub(super) fn swap(word: &AtomicU64, before: u64, after: u64) -> bool {
    #[cfg(test)]
    super::tests::step();
    word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
