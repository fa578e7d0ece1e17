//! `restore`: brings a set back, after a fresh backup of what it would replace.
//!
//! Invariants: content is complete beside the live data before anything is swapped; what it replaced stays,
//! under another name, until somebody removes it; nothing is fed to a server before its checksum was proven.

use std::time::Instant;

use seaworthy_base::{Code, Fault, Timestamp};

use crate::drill::{Chosen, choose, gather};
use crate::engine;
use crate::engine::postgres::log;
use crate::keys;
use crate::model::RestoreTarget;
use crate::records::Records;
use crate::report::Restored;
use crate::set::SetId;
use crate::take;
use crate::verify::no_such_set;
use crate::work::Work;

/// What is asked of a restore.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub set: Option<&'a str>,
    pub at: Option<Timestamp>,
    pub store: Option<&'a str>,
    pub target: &'a RestoreTarget,
    pub identity: Option<&'a str>,
}

/// Restores.
pub(crate) fn restore(work: &Work, request: &Request<'_>) -> Result<Restored, Fault> {
    let (job, begun) = (&work.job, Instant::now());
    // Held to the end: nothing may prune what is being read.
    let mut records = work.records()?;
    work.tidy();
    if let (Some(at), Some(log)) = (request.at, &job.item.log)
        && let Some(restored) = at_moment(work, &mut records, request, log, at, begun)?
    {
        return Ok(restored);
    }
    let last = request.at.map(|at| SetId::new(at, u16::MAX));
    let fits = |id: &SetId| {
        request.set.is_none_or(|wanted| wanted == id.as_str())
            && last.as_ref().is_none_or(|last| id <= last)
    };
    let Chosen { set, store: name, access: mut store } = choose(work, request.store, fits)?
        .ok_or_else(|| match (request.set, request.at) {
            (Some(given), _) => no_such_set(given, &job.item.name),
            (None, Some(at)) => Fault::new(
                Code::NoSuchBackup,
                format!("`{}` has no backup from {at} or before", job.item.name),
            )
            .next(format!("seaworthy backup list {}", job.item.name)),
            (None, None) => {
                Fault::new(Code::NoSuchBackup, format!("`{}` has no backup", job.item.name))
            }
        })?;
    let mut all = vec![keys::drill_key(work.state())?];
    if let Some(identity) = request.identity {
        all.extend(keys::identities(identity)?);
    }
    let scratch = work.scratch()?;
    let parts = gather(work, &set, store.as_mut(), &scratch, all)?;
    for part in &set.parts {
        // A key that does not fit is found out before anything else happens.
        drop(parts.open(set.id.as_str(), &part.file)?);
    }
    let safety = match request.target {
        RestoreTarget::InPlace => safety_backup(work, &mut records)?,
        _ => None,
    };
    let placed = engine::of(&job.item.source)?.restore(work, &set, &parts, request.target)?;
    Ok(Restored {
        item: job.item.name.clone(),
        set: set.id.clone(),
        store: name,
        to: placed.to,
        before: placed.before,
        safety,
        bytes: set.plain_bytes(),
        took_ms: begun.elapsed().as_millis() as u64,
    })
}

/// To a moment between backups, by the server's log; none where that does not go back so far.
fn at_moment(
    work: &Work,
    records: &mut Records,
    request: &Request<'_>,
    log: &str,
    at: Timestamp,
    begun: Instant,
) -> Result<Option<Restored>, Fault> {
    let mut identities = vec![keys::drill_key(work.state())?];
    if let Some(identity) = request.identity {
        identities.extend(keys::identities(identity)?);
    }
    let mut safety = None;
    let wanted =
        log::Wanted { item: log, at, store: request.store, target: request.target, identities };
    let done = log::restore(work, wanted, || {
        if *request.target == RestoreTarget::InPlace {
            safety = safety_backup(work, records)?;
        }
        Ok(())
    })?;
    let Some((set, store, placed, bytes)) = done else { return Ok(None) };
    Ok(Some(Restored {
        item: work.job.item.name.clone(),
        set,
        store,
        to: placed.to,
        before: placed.before,
        safety,
        bytes,
        took_ms: begun.elapsed().as_millis() as u64,
    }))
}

/// A fresh backup of what is about to be replaced. Where there is nothing left to back up (that is why
/// somebody restores) the restore goes on, and says so.
fn safety_backup(work: &Work, records: &mut Records) -> Result<Option<SetId>, Fault> {
    work.step("backing up what is there now");
    match take::record(work, records, "before-restore") {
        Ok(taken) => Ok(Some(taken.set.id)),
        Err(fault) if fault.code == Code::BackupSource => {
            work.warn(Fault {
                what: format!("there is nothing to back up before the restore: {}", fault.what),
                ..fault
            });
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}
