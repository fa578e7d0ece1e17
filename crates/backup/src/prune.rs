//! `prune`: removes what the rules no longer keep.
//!
//! Invariants: decided for each store by itself, from what is really there; nothing goes while the last run
//! failed; what is kept for another set's sake stays.

use std::time::Duration;

use seaworthy_base::{Fault, Timestamp};

use crate::engine::postgres::log;
use crate::judge;
use crate::records::Records;
use crate::report::Pruned;
use crate::retention::{Candidate, decide, decide_log};
use crate::set::{Set, SetId};
use crate::store;
use crate::work::Work;

/// Prunes, or shows what would go.
pub(crate) fn prune(work: &Work, plan_only: bool) -> Result<Pruned, Fault> {
    let mut records = work.records()?;
    let sets = apply(work, &mut records, plan_only)?;
    let bytes = sets.iter().filter(|(_, _, why, _)| why.is_empty()).map(|(.., bytes)| bytes).sum();
    let sets = sets.into_iter().map(|(store, id, why, _)| (store, id, why)).collect();
    Ok(Pruned { item: work.job.item.name.clone(), sets, plan_only, bytes })
}

/// One copy and what becomes of it: store, set, why it stays, its size.
pub(crate) type Verdict = (String, SetId, Vec<String>, u64);

/// Decides for each store, and removes unless only a plan is asked for.
pub(crate) fn apply(
    work: &Work,
    records: &mut Records,
    plan_only: bool,
) -> Result<Vec<Verdict>, Fault> {
    let (job, now) = (&work.job, Timestamp::now());
    let failing = records.history.failures() > 0;
    let mut all = Vec::new();
    for at in &job.stores {
        let mut store = store::connect(at, work)?;
        let mut sets = Vec::new();
        for id in store.sets()? {
            let known =
                records.known_set(&id).map_or_else(|| store::read_set(store.as_mut(), &id), Ok);
            match known {
                Ok(set) => sets.push(set),
                // What cannot be read cannot be judged: it stays, and verify tells of it.
                Err(_) => all.push((
                    at.name.clone(),
                    id,
                    vec!["its document cannot be read".to_owned()],
                    0,
                )),
            }
        }
        let candidates: Vec<Candidate> =
            sets.iter().map(|set| candidate(records, set, &at.name, now)).collect();
        let reasons = match job.item.rules.window_ms {
            Some(window) => {
                let bases = sets.iter().map(log::is_base);
                let with: Vec<_> = candidates.into_iter().zip(bases).collect();
                decide_log(&with, Duration::from_millis(window), failing)
            }
            None => decide(&candidates, job.item.rules.keep, failing),
        };
        for set in &sets {
            let why = reasons.get(&set.id).cloned().unwrap_or_default();
            if why.is_empty() && !plan_only {
                store.remove(&set.id)?;
                records.forget(&set.id, &at.name)?;
            }
            all.push((at.name.clone(), set.id.clone(), why, set.bytes()));
        }
    }
    if !plan_only {
        for (_, id, ..) in all.iter().filter(|(_, _, why, _)| why.is_empty()) {
            if !all.iter().any(|(_, other, why, _)| other == id && !why.is_empty()) {
                records.drop_set(id);
            }
        }
    }
    Ok(all)
}

fn candidate(records: &Records, set: &Set, store: &str, now: Timestamp) -> Candidate {
    let state = judge::state(set, records.check(&set.id, store), &records.history.drills, now);
    Candidate {
        id: set.id.clone(),
        taken: set.taken,
        asked: set.reason != "schedule",
        verified: state == judge::State::Verified,
        needs: set.needs.clone(),
    }
}
