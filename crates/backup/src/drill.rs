//! `drill`: restores a set into a scratch place and compares what came back with what was saved.
//!
//! Invariants: a drill never touches the source and never fills its disk; it passes only when nothing
//! differs; one that could not be done leaves the set unverified, with the reason.

use std::time::Instant;

use seaworthy_base::{Code, Fault, Timestamp};

use crate::engine::postgres::log;
use crate::engine::{self, Parts, Trial};
use crate::facts::TOLD;
use crate::keys;
use crate::open;
use crate::records::DrillRecord;
use crate::report::Drilled;
use crate::set::{Set, SetId};
use crate::store::{self, Store};
use crate::verify::no_such_set;
use crate::work::{Temporary, Work};

/// Drills a set, the newest unless one is named, and notes what became of it.
pub(crate) fn drill(
    work: &Work,
    given: Option<&str>,
    from: Option<&str>,
) -> Result<Drilled, Fault> {
    let job = &work.job;
    let mut records = work.records()?;
    work.tidy();
    let Chosen { set, store: name, access: mut store } =
        choose(work, from, |id| given.is_none_or(|given| given == id.as_str()))?.ok_or_else(
            || match given {
                Some(given) => no_such_set(given, &job.item.name),
                None => {
                    Fault::new(Code::NoSuchBackup, format!("`{}` has no backup yet", job.item.name))
                        .next(format!("seaworthy backup now {}", job.item.name))
                }
            },
        )?;
    let (at, begun) = (Timestamp::now(), Instant::now());
    let outcome = attempt(work, &set, store.as_mut());
    let took_ms = begun.elapsed().as_millis() as u64;
    let mut record = DrillRecord {
        at,
        set: set.id.clone(),
        store: name,
        took_ms,
        differences: Vec::new(),
        fault: None,
    };
    let mut rows = 0;
    match outcome {
        Ok((tried, trial)) => {
            record.set = tried;
            rows = trial.rows;
            record.differences = trial.differences;
            record.fault = verdict(&set, &record);
            record.differences.truncate(TOLD);
            let limit = job.item.rules.rto_ms;
            if let (None, Some(limit)) = (&record.fault, limit.filter(|limit| took_ms > *limit)) {
                work.warn(Fault::new(
                    Code::BackupOverdue,
                    format!("the restore took {took_ms} ms, {limit} ms are allowed (rto)"),
                ));
            }
        }
        Err(fault) => record.fault = Some(fault),
    }
    records.add_drill(record.clone())?;
    let differences = record.differences.clone();
    Ok(Drilled { item: job.item.name.clone(), drill: record, rows, differences })
}

fn verdict(set: &Set, record: &DrillRecord) -> Option<Fault> {
    let first = record.differences.first()?;
    let count = record.differences.len();
    let what = format!(
        "a drill of backup {} failed: {count} thing{} came back otherwise than saved",
        set.id,
        if count == 1 { "" } else { "s" }
    );
    let mut fault = Fault::new(Code::DrillFailed, what).because(first.to_string());
    fault.evidence = record.differences.iter().take(20).map(ToString::to_string).collect();
    Some(fault.next(format!("seaworthy backup now {}, then seaworthy backup drill {0}", set.item)))
}

fn attempt(work: &Work, set: &Set, store: &mut dyn Store) -> Result<(SetId, Trial), Fault> {
    if set.engine == log::ENGINE {
        return log::drill(work, store);
    }
    let scratch = work.scratch()?;
    let identities = vec![keys::drill_key(work.state())?];
    let parts = gather(work, set, store, &scratch, identities)?;
    let trial = engine::of(&work.job.item.source)?.trial(work, set, &parts)?;
    Ok((set.id.clone(), trial))
}

/// A set that was chosen, and the store that it is read from.
pub(crate) struct Chosen {
    pub set: Set,
    pub store: String,
    pub access: Box<dyn Store>,
}

/// A set that fits, the store that has it, and access to it.
type Candidate = (SetId, String, Box<dyn Store>);

/// Finds the newest set that `fits`, in the named store or in the first that has it.
pub(crate) fn choose(
    work: &Work,
    from: Option<&str>,
    fits: impl Fn(&SetId) -> bool,
) -> Result<Option<Chosen>, Fault> {
    let job = &work.job;
    let mut best: Option<Candidate> = None;
    let mut fault: Option<Fault> = None;
    let named = job.stores.iter().filter(|at| from.is_none_or(|from| from == at.name));
    for at in named {
        let found = store::connect(at, work).and_then(|mut store| Ok((store.sets()?, store)));
        match found {
            Ok((sets, store)) => {
                let newest = sets.into_iter().rfind(|id| fits(id));
                if let Some(id) = newest
                    && best.as_ref().is_none_or(|(best, ..)| *best < id)
                {
                    best = Some((id, at.name.clone(), store));
                }
            }
            Err(problem) => {
                work.warn(problem.clone());
                fault = Some(problem);
            }
        }
    }
    match (best, fault) {
        (Some((id, name, mut store)), _) => {
            let set = store::read_set(store.as_mut(), &id)?;
            Ok(Some(Chosen { set, store: name, access: store }))
        }
        (None, Some(fault)) => Err(fault),
        (None, None) => Ok(None),
    }
}

/// Brings all parts of a set (and of those that it needs) here, each proven to be what was written.
pub(crate) fn gather(
    work: &Work,
    set: &Set,
    store: &mut dyn Store,
    scratch: &Temporary,
    identities: Vec<age::x25519::Identity>,
) -> Result<Parts, Fault> {
    let mut sets = vec![set.clone()];
    for id in &set.needs {
        sets.push(store::read_set(store, id)?);
    }
    let total = sets.iter().map(Set::bytes).sum();
    work.step(format!("fetching backup {}", set.id));
    let far = set.parts.first().is_some_and(|part| store.local_file(set, &part.file).is_none());
    if far {
        work.need_space(scratch.path(), total, "the backup's files")?;
    }
    let (mut parts, mut done) = (Parts::new(identities), 0);
    for set in &sets {
        for part in &set.parts {
            let path = open::fetch(store, set, part, scratch.path(), |bytes| {
                done += bytes;
                work.moved(done, Some(total));
            })?;
            parts.add(set.id.as_str(), &part.file, path);
        }
    }
    Ok(parts)
}
