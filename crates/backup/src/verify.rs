//! `verify`: re-reads what is stored.
//!
//! An unchanged set is cheap: its parts' stamps are compared, and content is read only when the last reading
//! is older than the rotation. Invariants: a copy whose stamp changed is read at once; what was read and
//! does not fit its checksum is damaged until it is read again and does.

use std::collections::BTreeMap;
use std::time::Instant;

use seaworthy_base::{Code, Fault, Timestamp};

use crate::judge;
use crate::model::StoreAt;
use crate::records::{Check, Records};
use crate::report::Verified;
use crate::seal::digest;
use crate::set::{Set, SetId};
use crate::store::{self, Store};
use crate::work::Work;

/// Verifies the copies of an item in all stores.
pub(crate) fn verify(work: &Work, full: bool, only: Option<&str>) -> Result<Verified, Fault> {
    let (job, begun) = (&work.job, Instant::now());
    let mut records = work.records()?;
    let mut report =
        Verified { item: job.item.name.clone(), copies: Vec::new(), read_bytes: 0, took_ms: 0 };
    let mut unreachable = None;
    for at in &job.stores {
        // One that does not answer says nothing of the others.
        if let Err(fault) = of_store(work, &mut records, at, full, only, &mut report) {
            unreachable = unreachable.or(Some(fault));
        }
    }
    if let Some(fault) = unreachable {
        return Err(fault);
    }
    if let (Some(only), true) = (only, report.copies.is_empty()) {
        return Err(no_such_set(only, &job.item.name));
    }
    report.took_ms = begun.elapsed().as_millis() as u64;
    Ok(report)
}

/// Verifies the copies in one store.
fn of_store(
    work: &Work,
    records: &mut Records,
    at: &StoreAt,
    full: bool,
    only: Option<&str>,
    report: &mut Verified,
) -> Result<(), Fault> {
    let mut store = store::connect(at, work)?;
    let there = store.sets()?;
    for id in there.iter().filter(|id| only.is_none_or(|only| only == id.as_str())) {
        one(work, records, store.as_mut(), &at.name, id, full, report)?;
    }
    lost(records, &there, &at.name, only, report)
}

/// The fault of an id that no store has.
pub(crate) fn no_such_set(given: &str, item: &str) -> Fault {
    Fault::new(Code::NoSuchBackup, format!("`{item}` has no backup `{given}`"))
        .next(format!("seaworthy backup list {item}"))
}

#[expect(clippy::too_many_arguments, reason = "each of them changes with every copy")]
fn one(
    work: &Work,
    records: &mut Records,
    store: &mut dyn Store,
    name: &str,
    id: &SetId,
    full: bool,
    report: &mut Verified,
) -> Result<(), Fault> {
    let now = Timestamp::now();
    let set = match document(records, store, id, full) {
        Ok(set) => set,
        Err(fault) => {
            let why = fault.causes.first().unwrap_or(&fault.what).clone();
            records.put_check(
                id,
                name,
                Check { read_at: None, stamps: BTreeMap::default(), fault: Some(fault) },
            )?;
            report.copies.push((id.clone(), name.to_owned(), true, judge::State::Damaged(why)));
            return Ok(());
        }
    };
    let stamps = store.stamps(&set)?;
    let check = records.check(id, name).cloned();
    let same = check.as_ref().is_some_and(|check| {
        stamps.len() == set.parts.len()
            && stamps.iter().all(|(file, stamp)| check.stamps.get(file) == Some(stamp))
    });
    let known_bad = check.as_ref().is_some_and(|check| check.fault.is_some());
    let read = full || !same || known_bad || judge::must_read(check.as_ref(), now);
    let check = if read {
        let fresh = read_copy(work, store, &set, name)?;
        report.read_bytes += set.bytes();
        records.put_check(id, name, fresh.clone())?;
        Some(fresh)
    } else {
        check
    };
    let state = judge::state(&set, check.as_ref(), &records.history.drills, Timestamp::now());
    report.copies.push((id.clone(), name.to_owned(), read, state));
    Ok(())
}

/// Copies that were there and are gone without us.
fn lost(
    records: &mut Records,
    there: &[SetId],
    name: &str,
    only: Option<&str>,
    report: &mut Verified,
) -> Result<(), Fault> {
    let ids: Vec<SetId> = records
        .checks
        .keys()
        .filter_map(|key| key.split_once('@'))
        .filter(|(id, store)| *store == name && only.is_none_or(|only| only == *id))
        .filter_map(|(id, _)| id.parse().ok())
        .filter(|id| !there.contains(id))
        .collect();
    for id in ids {
        let fault = Fault::new(Code::BackupDamaged, format!("backup {id} is gone from `{name}`"))
            .because("it was there, and no rule of retention removed it");
        report.copies.push((
            id.clone(),
            name.to_owned(),
            false,
            judge::State::Damaged("it is gone".to_owned()),
        ));
        let check = Check { read_at: None, stamps: BTreeMap::default(), fault: Some(fault) };
        records.put_check(&id, name, check)?;
    }
    Ok(())
}

/// The set's document: read anew for a full check, and compared with the one that is known.
fn document(
    records: &Records,
    store: &mut dyn Store,
    id: &SetId,
    full: bool,
) -> Result<Set, Fault> {
    let known = records.known_set(id);
    if let (Some(known), false) = (&known, full) {
        return Ok(known.clone());
    }
    let set = store::read_set(store, id)?;
    match known {
        Some(known) if known != set => Err(Fault::new(
            Code::BackupDamaged,
            format!("the document of backup {id} was replaced"),
        )
        .because("it is not the one that was written")),
        Some(_) => Ok(set),
        None => {
            records.keep_set(&set)?;
            Ok(set)
        }
    }
}

/// Reads all content of one copy and compares it with its checksums. A store that cannot be read is an
/// error; content that does not fit is a finding.
pub(crate) fn read_copy(
    work: &Work,
    store: &mut dyn Store,
    set: &Set,
    name: &str,
) -> Result<Check, Fault> {
    work.step(format!("reading {} back from `{name}`", set.id));
    let stamps = store.stamps(set)?;
    let mut check = Check { read_at: None, stamps: stamps.into_iter().collect(), fault: None };
    let (total, mut done) = (set.bytes(), 0);
    let written = store.document(&set.id)?;
    if Set::read(&written).ok().as_ref() != Some(set) {
        check.fault = Some(
            Fault::new(
                Code::BackupDamaged,
                format!("the document of backup {} in `{name}` is damaged", set.id),
            )
            .because("it is not the one that was written"),
        );
        return Ok(check);
    }
    for part in &set.parts {
        let damaged = |why: String| {
            Some(
                Fault::new(
                    Code::BackupDamaged,
                    format!("`{}` of backup {} in `{name}` is damaged", part.file, set.id),
                )
                .because(why),
            )
        };
        let Some(stamp) = check.stamps.get(&part.file) else {
            check.fault = damaged("it is missing".to_owned());
            return Ok(check);
        };
        if stamp.bytes != part.bytes {
            check.fault =
                damaged(format!("it has {} bytes instead of {}", stamp.bytes, part.bytes));
            return Ok(check);
        }
        let mut from = store.open(set, &part.file)?;
        let found = digest(&mut from, |bytes| {
            done += bytes.len() as u64;
            work.moved(done, Some(total));
        });
        let found = found.map_err(|error| {
            Fault::new(
                Code::BackupStore,
                format!("`{}` of backup {} could not be read from `{name}`", part.file, set.id),
            )
            .because(error.to_string())
        })?;
        if found != (part.sha256.clone(), part.bytes) {
            check.fault = damaged("its content does not fit its checksum".to_owned());
            return Ok(check);
        }
    }
    check.read_at = Some(Timestamp::now());
    Ok(check)
}
