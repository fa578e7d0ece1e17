//! Which of a service's instances gets a request. Plain decisions on what is known now.
//!
//! Invariants: an instance that is left out is chosen only when all are; one that the request met closed is
//! not chosen again; a visitor who belongs to an instance gets it as long as it is there. An instance that
//! begins is given little at first ([`SLOW_START`]): its caches are cold and its code is not compiled, and
//! who has no latency yet would look fastest.

use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustc_hash::FxHasher;
use seaworthy_base::delivery::Balance;

use crate::instance::{Instance, Service};

/// For so many milliseconds an instance grows into its share …
const SLOW_START: u64 = 10_000;
/// … from this part of it on.
const AT_FIRST: f32 = 0.1;

/// What a request brings to the choice.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) balance: &'a Balance,
    /// By what [`Balance::Hash`] chooses.
    pub(super) hash: u64,
    /// The instance that the visitor belongs to, by its tag.
    pub(super) wanted: Option<u64>,
    /// Instances that it met closed.
    pub(super) refused: &'a [usize],
    /// Milliseconds since the edge began.
    pub(super) now: u64,
}

/// The instance for a request; none where it met all of them closed. `draw` gives a number below its
/// argument.
pub(super) fn pick(
    service: &Service,
    question: &Question<'_>,
    mut draw: impl FnMut(usize) -> usize,
) -> Option<Arc<Instance>> {
    let met = |one: &Instance| question.refused.contains(&one.key());
    if let [only] = &service.ready[..] {
        return (!met(only)).then(|| Arc::clone(only));
    }
    let fits = |one: &&Arc<Instance>| !met(one) && !one.load.health.is_out(question.now);
    let usable = || service.ready.iter().filter(fits);
    let count = usable().count();
    if count == 0 {
        // All are out: one of them may be back.
        return service.ready.iter().find(|one| !met(one)).cloned();
    }
    if let Some(tag) = question.wanted
        && let Some(kept) = usable().find(|one| one.tag == tag)
    {
        return Some(Arc::clone(kept));
    }
    let chosen = match question.balance {
        Balance::P2c => {
            let first = usable().nth(draw(count))?;
            // Another one, where there is another.
            let others = usable().filter(|one| !Arc::ptr_eq(one, first));
            match others.clone().nth(if count > 1 { draw(count - 1) } else { 0 }) {
                Some(second) if is_better(second, first, question.now) => second,
                _ => first,
            }
        }
        Balance::LeastConn => {
            // Of equals not always the first.
            let ahead = draw(count);
            let mut least = usable().nth(ahead)?;
            for one in usable() {
                if burden(one, question.now) < burden(least, question.now) {
                    least = one;
                }
            }
            least
        }
        Balance::RoundRobin => {
            let turn = service.kept.turn.fetch_add(1, Ordering::Relaxed);
            usable().nth(turn % count)?
        }
        Balance::Hash(_) => usable().max_by_key(|one| weight(one.tag, question.hash))?,
    };
    Some(Arc::clone(chosen))
}

/// Rendezvous hashing: each instance has a weight for each value, and the heaviest gets it. Who leaves takes
/// nobody else's values along.
fn weight(tag: u64, hash: u64) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u64(tag);
    hasher.write_u64(hash);
    // The last step of splitmix64: Fx alone leaves the low bits alike.
    let mixed = (hasher.finish() ^ (hasher.finish() >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What it has to do, by what it can do so far.
fn burden(one: &Instance, now: u64) -> f32 {
    (one.load.in_flight.get() + 1) as f32 / grown(one.load.health.since(), now)
}

fn is_better(one: &Instance, other: &Instance, now: u64) -> bool {
    let latency = |one: &Instance| one.load.latency.now(now);
    match (latency(one), latency(other)) {
        (Some(a), Some(b)) => a * burden(one, now) < b * burden(other, now),
        _ => burden(one, now) < burden(other, now),
    }
}

/// The part of its share that an instance has grown into.
fn grown(since: u64, now: u64) -> f32 {
    let age = now.saturating_sub(since).min(SLOW_START);
    AT_FIRST + (1.0 - AT_FIRST) * age as f32 / SLOW_START as f32
}

#[cfg(test)]
mod tests;
