//! `now`: one backup of one item, from the source into every store.
//!
//! Dump → sealed parts in staging → published in each store → read back → recorded → old ones pruned. A store
//! that cannot be reached costs its own copy only; the next run makes up for it. Invariants: a run that
//! fails before publishing leaves nothing that looks like a backup; every copy was re-read before it is
//! called good; nothing is pruned unless this run succeeded everywhere.

use std::time::{Duration, Instant};

use seaworthy_base::{ByteSize, Code, Fault, Timestamp};

use crate::engine;
use crate::engine::postgres::log;
use crate::keys;
use crate::model::Source;
use crate::prune;
use crate::records::{Records, Run};
use crate::report::{StoreReport, Taken};
use crate::set::{Set, SetId, next_moment};
use crate::store::{self, Store};
use crate::verify;
use crate::work::Work;

/// A store by name, or why it cannot be used.
type Named = (String, Result<Box<dyn Store>, Fault>);

/// Makes a backup and notes what became of it.
pub(crate) fn take(work: &Work, reason: &str) -> Result<Taken, Fault> {
    let mut records = work.records()?;
    work.tidy();
    let mut taken = record(work, &mut records, reason)?;
    if taken.failed.is_empty() {
        match prune::apply(work, &mut records, false) {
            Ok(pruned) => {
                let gone = pruned.into_iter().filter(|(_, _, why, _)| why.is_empty());
                taken.removed = gone.map(|(store, id, ..)| (store, id)).collect();
            }
            Err(fault) => work.warn(fault),
        }
    }
    Ok(taken)
}

/// The same for one who holds the records; nothing is pruned.
pub(crate) fn record(work: &Work, records: &mut Records, reason: &str) -> Result<Taken, Fault> {
    let (at, begun) = (Timestamp::now(), Instant::now());
    let outcome = attempt(work, records, reason, at, begun);
    let (set, fault) = match &outcome {
        Ok(taken) => (Some(taken.set.id.clone()), missing_copies(taken)),
        Err(fault) => (None, Some(fault.clone())),
    };
    let took_ms = begun.elapsed().as_millis() as u64;
    records.add_run(Run { at, took_ms, reason: reason.to_owned(), set, fault })?;
    outcome
}

/// The same without a note of the run: a piece of a log is none of the backups that the clock counts.
pub(crate) fn quietly(work: &Work, records: &mut Records, reason: &str) -> Result<Taken, Fault> {
    attempt(work, records, reason, Timestamp::now(), Instant::now())
}

/// The fault of a backup that some stores do not have.
pub(crate) fn missing_copies(taken: &Taken) -> Option<Fault> {
    let first = taken.failed.first()?;
    let names: Vec<String> = taken.failed.iter().map(|one| format!("`{}`", one.store)).collect();
    let what = format!("backup {} is not in {}", taken.set.id, names.join(", "));
    let fault = Fault { what, ..first.fault.clone() }.because(first.fault.what.clone());
    let there: Vec<String> = taken.stores.iter().map(|name| format!("`{name}`")).collect();
    Some(fault.because(if there.is_empty() {
        "no store has it".to_owned()
    } else {
        format!("it is whole in {}; the next run makes up for the rest", there.join(", "))
    }))
}

fn attempt(
    work: &Work,
    records: &mut Records,
    reason: &str,
    at: Timestamp,
    begun: Instant,
) -> Result<Taken, Fault> {
    let job = &work.job;
    let drill = keys::drill_key(work.state())?;
    let recipients = keys::recipients(&job.owner, &drill)?;
    let mut stores: Vec<Named> =
        job.stores.iter().map(|at| (at.name.clone(), store::connect(at, work))).collect();
    let previous = newest(records, &mut stores, |_| true);
    let moment = next_moment(at, previous.as_ref().map(|set| set.taken));
    // A base backup follows a base backup, whatever pieces of the log lie between.
    let base = match &job.item.source {
        Source::PostgresLog { .. } => newest(records, &mut stores, log::is_base),
        _ => previous.clone(),
    };
    let base = base.filter(|set| everywhere(records, &mut stores, set));
    let staging = work.staging()?;
    let expected = previous.as_ref().map_or(0, Set::bytes);
    work.need_space(staging.path(), expected + expected / 4, "a new backup")?;
    let into = engine::Into {
        staging: staging.path(),
        recipients: &recipients,
        previous: previous.as_ref(),
        base: base.as_ref(),
    };
    let dump = engine::of(&job.item.source)?.dump(work, &into)?;
    let mut notes = dump.notes;
    // Two within one second are no matter of the clock.
    if moment.since(at) > Duration::from_secs(2) {
        notes.push(format!("the clock said {at}, which is before the backup before it: this one counts as made at {moment}"));
    }
    if !dump.tool.is_empty() && !seaworthy_sys::sandbox::is_known() {
        notes.push("its tools were not shut in: this kernel has no Landlock".to_owned());
    }
    if job.owner.is_empty() {
        notes.push("only this server can open it: there is no owner's key".to_owned());
    }
    // A run over files that did not change has no content of its own, a piece of a log any size.
    let whole =
        previous.as_ref().filter(|set| !matches!(set.engine.as_str(), "files" | log::ENGINE));
    notes.extend(strange_size(whole, dump.parts.iter().map(|part| part.plain_bytes).sum()));
    let set = Set {
        v: 1,
        seal: String::new(),
        id: SetId::new(moment, rand::random()),
        site: job.site.clone(),
        item: job.item.name.clone(),
        engine: job.item.source.engine().to_owned(),
        taken: moment,
        took_ms: begun.elapsed().as_millis() as u64,
        reason: reason.to_owned(),
        server: dump.server,
        tool: dump.tool,
        recipients: recipients.iter().map(ToString::to_string).collect(),
        parts: dump.parts,
        databases: dump.databases,
        needs: dump.needs,
        doubts: dump.doubts,
        notes,
    };
    let set = Set::read(&set.document()?)?;
    publish(work, records, set, staging.path(), &mut stores)
}

/// Publishes a set everywhere; a store that fails is reported, unless all do.
fn publish(
    work: &Work,
    records: &mut Records,
    set: Set,
    staged: &std::path::Path,
    stores: &mut [Named],
) -> Result<Taken, Fault> {
    let mut taken = Taken { set, stores: Vec::new(), failed: Vec::new(), removed: Vec::new() };
    for (at, (name, store)) in work.job.stores.iter().zip(stores.iter_mut()) {
        // A dump takes long: what was away as it began may be back.
        if store.is_err() {
            *store = store::connect(at, work);
        }
        let outcome = match store {
            Ok(store) => put(work, records, &taken.set, staged, name, store.as_mut()),
            Err(fault) => Err(fault.clone()),
        };
        match outcome {
            Ok(()) => taken.stores.push(name.clone()),
            Err(fault) => {
                // Not asked again in this run: one that does not answer takes its time for it.
                *store = Err(fault.clone());
                taken.failed.push(StoreReport { store: name.clone(), fault });
            }
        }
    }
    if taken.stores.is_empty() {
        let first = taken.failed.into_iter().next().map(|report| report.fault);
        return Err(first.unwrap_or_else(|| {
            Fault::new(Code::BackupStore, "there is no store to put a backup into")
        }));
    }
    records.keep_set(&taken.set)?;
    // Losing it costs reading everything anew.
    if let Err(error) = engine::kept::keep(work, &taken.set, staged) {
        work.warn(crate::seal::write_fault("could not keep what the next run needs", &error));
    }
    catch_up(work, records, &taken, stores);
    Ok(taken)
}

/// Publishes a set in one store and reads it back.
fn put(
    work: &Work,
    records: &mut Records,
    set: &Set,
    staged: &std::path::Path,
    name: &str,
    store: &mut dyn Store,
) -> Result<(), Fault> {
    let total = set.bytes();
    work.step(format!("storing {} in `{name}`", ByteSize(total).rounded()));
    // What cannot be removed is looked at again by the next run.
    store.tidy()?;
    let mut done = 0;
    store.publish(set, staged, &mut |bytes| {
        done += bytes;
        work.moved(done, Some(total));
    })?;
    let check = verify::read_copy(work, store, set, name)?;
    let fault = check.fault.clone();
    records.put_check(&set.id, name, check)?;
    match fault {
        None => Ok(()),
        Some(fault) => {
            store.remove(&set.id)?;
            records.forget(&set.id, name)?;
            Err(fault)
        }
    }
}

/// Brings the other stores what an earlier run could not, from the folder store.
fn catch_up(work: &Work, records: &mut Records, taken: &Taken, stores: &mut [Named]) {
    let Some((source, Ok(first))) = stores.first_mut().map(|(name, store)| (name.clone(), store))
    else {
        return;
    };
    let Ok(have) = first.sets() else { return };
    let files: Vec<(Set, std::path::PathBuf)> = have
        .iter()
        .filter(|id| **id != taken.set.id)
        .filter_map(|id| records.known_set(id))
        .filter_map(|set| {
            let file = first.local_file(&set, crate::set::DOCUMENT)?;
            let good = records.check(&set.id, &source).is_some_and(|check| check.fault.is_none());
            good.then(|| (set, file.parent().map(std::path::Path::to_path_buf).unwrap_or_default()))
        })
        .collect();
    for (name, store) in stores.iter_mut().skip(1) {
        let Ok(store) = store else { continue };
        let Ok(there) = store.sets() else { continue };
        // Older than what the store once had was pruned there; only what came after it is missing.
        let missing = files
            .iter()
            .filter(|(set, _)| !there.contains(&set.id) && records.check(&set.id, name).is_none());
        let newer: Vec<&(Set, std::path::PathBuf)> = missing
            .filter(|(set, _)| {
                there.iter().filter(|id| **id != taken.set.id).all(|id| *id < set.id)
            })
            .collect();
        for (set, staged) in newer {
            if let Err(fault) = put(work, records, set, staged, name, store.as_mut()) {
                work.warn(fault);
                break;
            }
        }
    }
}

/// The newest set that fits, of those that any store has. One that does not answer is not asked again.
fn newest(records: &Records, stores: &mut [Named], fits: impl Fn(&Set) -> bool) -> Option<Set> {
    let mut best: Option<Set> = None;
    for (_, entry) in stores.iter_mut() {
        let Ok(store) = entry else { continue };
        let ids = match store.sets() {
            Ok(ids) => ids,
            Err(fault) => {
                *entry = Err(fault);
                continue;
            }
        };
        for id in ids.into_iter().rev() {
            if best.as_ref().is_some_and(|best| best.id >= id) {
                break;
            }
            let set = records.known_set(&id).or_else(|| store::read_set(store.as_mut(), &id).ok());
            if let Some(set) = set.filter(&fits) {
                best = Some(set);
                break;
            }
        }
    }
    best
}

/// Whether every store has a good copy of a set and of all that it needs.
fn everywhere(records: &Records, stores: &mut [Named], set: &Set) -> bool {
    stores.iter_mut().all(|(name, store)| {
        let Ok(Ok(there)) = store.as_mut().map(|store| store.sets()) else { return false };
        let good = |id: &SetId| {
            let check = records.check(id, name);
            there.contains(id)
                && check.is_some_and(|check| check.fault.is_none() && check.read_at.is_some())
        };
        good(&set.id) && set.needs.iter().all(good)
    })
}

/// A backup whose size is far from the one before it is worth a look.
fn strange_size(previous: Option<&Set>, bytes: u64) -> Option<String> {
    let before = previous?.plain_bytes();
    let far = bytes < before / 2 || bytes > before.saturating_add(before / 2);
    // Small ones vary by their very schema.
    (far && before.max(bytes) > 1 << 20).then(|| {
        format!(
            "its content has {}, the one before had {}",
            ByteSize(bytes).rounded(),
            ByteSize(before).rounded()
        )
    })
}
