//! The worker's role: one job from standard input, events on standard output.
//!
//! It ends when its standard input ends: control went away, or somebody gave up. Tools die with it (the
//! kernel sees to that), and the next run removes what it left.

use std::io::{self, BufRead, Read};
use std::time::Duration;

use seaworthy_base::{Code, Exit, Fault, Timestamp};
use serde::Serialize;

use crate::drill;
use crate::engine::postgres::log;
use crate::judge;
use crate::model::{Action, Event, Job};
use crate::prune;
use crate::records::Records;
use crate::report::{ItemReport, SetReport, StoreReport};
use crate::restore;
use crate::set::{Set, SetId};
use crate::store;
use crate::take;
use crate::verify;
use crate::work::Work;

/// Does the job.
pub fn main() -> Exit {
    seaworthy_sys::process::lower_memory_use();
    let mut line = String::new();
    let job: Job =
        match io::stdin().lock().read_line(&mut line).map(|_| serde_json::from_str(&line)) {
            Ok(Ok(job)) => job,
            _ => return Exit::Usage,
        };
    std::thread::spawn(end_with_stdin);
    let work = Work::new(job);
    let outcome = perform(&work);
    match outcome {
        Ok(report) => work.say(&Event::Done { report }),
        Err(fault) => work.say(&Event::Failed { fault }),
    }
    Exit::Ok
}

#[expect(
    clippy::exit,
    reason = "whoever asked is gone: tools die with us, and the next run tidies up"
)]
fn end_with_stdin() {
    let mut rest = [0; 64];
    while matches!(io::stdin().lock().read(&mut rest), Ok(got) if got > 0) {}
    std::process::exit(Exit::Interrupted as i32);
}

fn perform(work: &Work) -> Result<serde_json::Value, Fault> {
    match &work.job.action {
        Action::Take { reason } => document(&take::take(work, reason)?),
        Action::List => document(&list(work)?),
        Action::Verify { full, set } => document(&verify::verify(work, *full, set.as_deref())?),
        Action::Drill { set, store } => {
            document(&drill::drill(work, set.as_deref(), store.as_deref())?)
        }
        Action::Restore { set, at, store, target, identity } => document(&restore::restore(
            work,
            &restore::Request {
                set: set.as_deref(),
                at: *at,
                store: store.as_deref(),
                target,
                identity: identity.as_deref(),
            },
        )?),
        Action::Follow { every_ms } => {
            match log::follow(work, Duration::from_millis(*every_ms))? {}
        }
        Action::Prune { plan_only } => document(&prune::prune(work, *plan_only)?),
    }
}

fn document(report: &impl Serialize) -> Result<serde_json::Value, Fault> {
    serde_json::to_value(report).map_err(|error| {
        Fault::new(Code::Internal, "could not write a report").because(error.to_string())
    })
}

/// What there is, from every store that answers.
fn list(work: &Work) -> Result<ItemReport, Fault> {
    let (job, now) = (&work.job, Timestamp::now());
    let records = Records::look(work.state(), &job.site, &job.item.name);
    let mut report = ItemReport {
        site: job.site.clone(),
        item: job.item.name.clone(),
        engine: job.item.source.engine().to_owned(),
        sets: Vec::new(),
        failed: Vec::new(),
        last_run: records.history.runs.last().cloned(),
        last_drill: records.history.drills.last().cloned(),
        at: now,
        rpo_ms: job.item.rules.rpo_ms,
        rto_ms: job.item.rules.rto_ms,
    };
    for at in &job.stores {
        let found = store::connect(at, work).and_then(|mut store| {
            store
                .sets()?
                .into_iter()
                .map(|id| Ok((known(&records, store.as_mut(), &id), id)))
                .collect::<Result<Vec<_>, Fault>>()
        });
        match found {
            Err(fault) => report.failed.push(StoreReport { store: at.name.clone(), fault }),
            Ok(sets) => {
                for (set, id) in sets {
                    match set {
                        Ok(set) => add(&mut report, &records, set, &at.name, now),
                        Err(fault) => report
                            .failed
                            .push(StoreReport { store: format!("{}/{id}", at.name), fault }),
                    }
                }
            }
        }
    }
    report.sets.sort_by(|one, other| other.set.id.cmp(&one.set.id));
    Ok(report)
}

fn known(records: &Records, store: &mut dyn store::Store, id: &SetId) -> Result<Set, Fault> {
    records.known_set(id).map_or_else(|| store::read_set(store, id), Ok)
}

fn add(report: &mut ItemReport, records: &Records, set: Set, store: &str, now: Timestamp) {
    let state = judge::state(&set, records.check(&set.id, store), &records.history.drills, now);
    let copy = (store.to_owned(), state);
    if let Some(entry) = report.sets.iter_mut().find(|entry| entry.set.id == set.id) {
        entry.copies.push(copy);
        return;
    }
    let drill = records.history.drills.iter().rev().find(|drill| drill.set == set.id).cloned();
    report.sets.push(SetReport { set, copies: vec![copy], drill });
}
