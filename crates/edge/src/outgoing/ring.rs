//! When the last calls of a way began, where all edges see it: as many places as its rate counts.
//!
//! A place is free when its call lies the rate's time back; whoever begins a call writes the moment there, in one step.
//! So no stretch of that time sees more calls begin than the rate counts, however many edges there are. Each goes round
//! the places in order, and where another one was meanwhile, to the oldest. Invariants: a place is written by one
//! compare-and-swap; a moment that has not come yet (nonsense, or a clock a little ahead) keeps nobody for longer than the
//! rate's time. Places stand among the rates of clients ([`crate::table`]), where somebody who asks from very many
//! addresses may push them out: then each edge still has what it counted itself ([`super::line`]).

use std::sync::Arc;

use crate::policy::keys::{CALL, ident};
use crate::table::Table;

/// Another edge's clock may be ahead by so many milliseconds.
const AHEAD: u64 = 100;
/// So often another place is tried when others take them at the same time.
const TRIES: usize = 8;

/// The places of one way.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    counts: Arc<Table>,
    ident: u64,
    next: u32,
}

impl Ring {
    pub(super) fn new(counts: &Arc<Table>, site: &str, label: &str) -> Self {
        Self { counts: Arc::clone(counts), ident: ident(site, label), next: 0 }
    }

    fn key(&self, index: u32) -> u64 {
        self.counts.hasher().hash(self.ident, CALL, &index.to_le_bytes())
    }

    /// When the call of a place began, where there was one.
    fn begun(&self, index: u32, now: u64) -> Option<u64> {
        self.counts.limits().get(self.key(index)).filter(|at| *at <= now + AHEAD)
    }

    /// Begins a call; or says when the first may begin. `rate`: so many in so many milliseconds. Whom only calls of its
    /// own edge hold back does not ask here, so the oldest place is looked for where there is another edge, or was one.
    pub(super) fn take(&mut self, (count, per): (u32, u64), now: u64) -> Result<(), u64> {
        let count = count.max(1);
        let mut index = self.next % count;
        for _ in 0..TRIES {
            if self.write(index, per, now).is_ok() {
                self.next = (index + 1) % count;
                return Ok(());
            }
            let begun = |one: &u32| self.begun(*one, now);
            index = (0..count).min_by_key(begun).unwrap_or_default();
            if let Some(free) = begun(&index).map(|at| at.saturating_add(per))
                && free > now
            {
                self.next = index;
                return Err(free);
            }
        }
        Err(now + 1)
    }

    fn write(&self, index: u32, per: u64, now: u64) -> Result<(), u64> {
        // As other rates in this table have it.
        let quiet = |state: u64| u64::from((now as u32).wrapping_sub(state as u32));
        let after = |before: Option<u64>| match before.filter(|at| *at <= now + AHEAD) {
            Some(at) if at.saturating_add(per) > now => Err(at.saturating_add(per)),
            _ => Ok(now),
        };
        self.counts.limits().change(self.key(index), quiet, after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rings of several edges that count in one table.
    fn rings(count: usize) -> Vec<Ring> {
        let fd = crate::table::create().unwrap();
        let ring = |_| {
            let table = Table::default();
            table.take(fd.try_clone().unwrap()).unwrap();
            Ring::new(&Arc::new(table), "shop", "shop/outgoing.x")
        };
        (0..count).map(ring).collect()
    }

    proptest! {
        /// Whoever of several edges makes a call: it begins exactly when as many calls ago as the rate counts lie its time
        /// back, and who is refused is told a moment at which it may.
        #[test]
        fn several_edges_keep_one_rate(count in 1u32..8, per in 1u64..2_000, calls in prop::collection::vec((0usize..3, 0u64..600), 1..120)) {
            let (mut edges, mut now) = (rings(3), 1_000_000);
            let mut begun: Vec<u64> = Vec::new();
            for (edge, pause) in calls {
                now += pause;
                let before = begun.len().checked_sub(count as usize).and_then(|at| begun.get(at));
                let free = before.map_or(0, |at| at + per);
                match edges[edge].take((count, per), now) {
                    Ok(()) => {
                        prop_assert!(free <= now, "{free} is after {now}: {begun:?}");
                        begun.push(now);
                    }
                    Err(at) => {
                        prop_assert!(free > now, "refused at {now}, free from {free}: {begun:?}");
                        prop_assert_eq!(at, free);
                    }
                }
            }
        }

        #[test]
        fn nonsense_in_a_place_keeps_nobody_for_longer_than_the_rates_time(word in any::<u64>(), per in 1u64..5_000) {
            let mut ring = rings(1).remove(0);
            let now = 1_000_000;
            ring.counts.limits().change(ring.key(0), |_| 0, |_| Ok::<_, ()>(word)).unwrap();
            let wait = ring.take((1, per), now).err().map_or(0, |at| at - now);
            prop_assert!(wait <= per + AHEAD, "{wait}");
        }
    }

    #[test]
    fn another_rule_goes_on_with_what_is_known() {
        let mut ring = rings(1).remove(0);
        for _ in 0..10 {
            ring.take((10, 60_000), 5).unwrap();
        }
        assert_eq!(ring.take((3, 60_000), 6), Err(60_005));
        assert_eq!(ring.take((12, 60_000), 7), Ok(()));
    }
}
