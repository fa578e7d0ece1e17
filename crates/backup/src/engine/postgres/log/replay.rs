//! A scratch server at a moment of the past, and what follows from it: a drill, or a restore.
//!
//! A base backup is unpacked, the log that was stored (and what this machine received and did not store yet) is
//! played up to the moment. For a restore the wanted database is then dumped from that server and goes the way of
//! any other. Invariant: where the log does not reach the moment that is a fault, not a smaller restore.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault, Timestamp};

use super::super::Postgres;
use super::super::connect::Connection;
use super::super::server::{Recovery, Scratch, program};
use super::super::survey;
use super::{BASE, FIRST, LAST, SEGMENT_SIZE, UNTIL, WAL, fact, follow, is_base, segment};
use crate::drill::gather;
use crate::engine::{Dump, Engine, Into, Parts, Placed, Trial};
use crate::keys;
use crate::model::{RestoreTarget, Source};
use crate::seal::{pump, write_fault};
use crate::set::{Set, SetId};
use crate::shut_in::ShutIn;
use crate::store::{self, Store};
use crate::tool::Tool;
use crate::work::{Temporary, Work};

/// A base backup, those that it adds to, and the pieces of the log after it.
struct Chain {
    base: Set,
    /// The oldest first, and that is a whole one.
    before: Vec<Set>,
    pieces: Vec<Set>,
}

impl Chain {
    /// The newest base backup that was complete by then, with what follows.
    fn find(store: &mut dyn Store, at: Option<Timestamp>) -> Result<Option<Self>, Fault> {
        let ids = store.sets()?;
        let mut pieces = Vec::new();
        for id in ids.iter().rev() {
            let set = store::read_set(store, id)?;
            if !is_base(&set) {
                pieces.push(set);
                continue;
            }
            let complete = Timestamp(set.taken.0 + set.took_ms);
            if at.is_none_or(|at| complete <= at) {
                pieces.reverse();
                let before = set.needs.iter().map(|id| store::read_set(store, id));
                let before = before.collect::<Result<_, Fault>>()?;
                return Ok(Some(Self { base: set, before, pieces }));
            }
        }
        Ok(None)
    }

    fn size(&self) -> u64 {
        fact(&self.base, SEGMENT_SIZE).and_then(|text| text.parse().ok()).unwrap_or(16 << 20)
    }

    /// Up to when the stored log reaches.
    fn until(&self) -> Option<Timestamp> {
        let until = |set: &Set| fact(set, UNTIL)?.parse().ok().map(Timestamp);
        self.pieces.iter().filter_map(until).max()
    }

    /// As one set that needs the others: what is fetched together.
    fn whole(&self) -> Set {
        let pieces = self.pieces.iter().map(|set| set.id.clone());
        Set { needs: self.base.needs.iter().cloned().chain(pieces).collect(), ..self.base.clone() }
    }
}

/// Restores the newest base and plays all of its log: everything in it must be readable.
pub(crate) fn drill(work: &Work, store: &mut dyn Store) -> Result<(SetId, Trial), Fault> {
    let chain = Chain::find(store, None)?.ok_or_else(|| {
        Fault::new(Code::NoSuchBackup, format!("`{}` has no base backup", work.job.item.name))
            .next(format!("seaworthy backup now {}", work.job.item.name))
    })?;
    let scratch = work.scratch()?;
    let keys = vec![keys::drill_key(work.state())?];
    let parts = gather(work, &chain.whole(), store, &scratch, keys)?;
    let server = recovered(work, &chain, &parts, None)?;
    let mut trial = Trial::default();
    let names = "SELECT to_json(datname) FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname";
    for name in server.tools().session("template1")?.texts(names)? {
        work.step(format!("reading all of {name}"));
        let mut session = server.tools().session(&name)?;
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let mut found = survey::facts(&mut session, &name)?;
        survey::count(&mut session, &mut found, &BTreeMap::new())?;
        trial.rows += found.rows.values().sum::<u64>();
    }
    Ok((chain.base.id, trial))
}

/// The base backup, its store, where the content went, and its size in bytes.
type Restored = (SetId, String, Placed, u64);

/// What a restore to a moment needs besides its job.
pub(crate) struct Wanted<'a> {
    pub item: &'a str,
    pub at: Timestamp,
    pub store: Option<&'a str>,
    pub target: &'a RestoreTarget,
    pub identities: Vec<age::x25519::Identity>,
}

/// Restores a database as it was at a moment; none when there is no base backup from before it.
/// `safety` is called when everything is at hand and before anything live is touched.
pub(crate) fn restore(
    work: &Work,
    wanted: Wanted<'_>,
    safety: impl FnOnce() -> Result<(), Fault>,
) -> Result<Option<Restored>, Fault> {
    let Source::Postgres { url, databases } = &work.job.item.source else { return Ok(None) };
    let mut job = work.job.clone();
    wanted.item.clone_into(&mut job.item.name);
    job.item.source = Source::PostgresLog { url: url.clone() };
    let log = Work::new(job);
    // Held: nothing may prune or ship what is being read.
    let _records = log.records()?;
    let named = log.job.stores.iter().filter(|at| wanted.store.is_none_or(|name| name == at.name));
    let mut found = None;
    for at in named {
        let mut store = store::connect(at, &log)?;
        if let Some(chain) = Chain::find(store.as_mut(), Some(wanted.at))? {
            found = Some((at.name.clone(), store, chain));
            break;
        }
    }
    let Some((name, mut store, chain)) = found else { return Ok(None) };
    let brought = follow::bring(&log, &Connection::new(url)?).map_err(|fault| {
        let what = format!("the log is taken as it was stored: {}", fault.what);
        work.warn(Fault { what, ..fault });
    });
    let scratch = log.scratch()?;
    let parts = gather(&log, &chain.whole(), store.as_mut(), &scratch, wanted.identities)?;
    let server = recovered(&log, &chain, &parts, Some((wanted.at, brought.ok())))?;
    drop(parts);
    let source = Postgres {
        connection: server.connection(&Connection::new(url)?.database()),
        databases: databases.clone(),
    };
    let staging = work.staging()?;
    let drill_key = keys::drill_key(work.state())?;
    let recipients = [drill_key.to_public()];
    let into =
        Into { staging: staging.path(), recipients: &recipients, previous: None, base: None };
    let dump = source.dump(work, &into)?;
    drop(server);
    let (set, parts) = as_set(&chain.base, &log.job.item.name, dump, staging.path(), drill_key);
    safety()?;
    let live = Postgres::new(url, databases.as_deref())?;
    let placed = live.restore(work, &set, &parts, wanted.target)?;
    Ok(Some((chain.base.id, name, placed, set.plain_bytes())))
}

/// What was dumped from the scratch server, as a set that was never stored.
fn as_set(
    base: &Set,
    item: &str,
    dump: Dump,
    staging: &Path,
    key: age::x25519::Identity,
) -> (Set, Parts) {
    let mut parts = Parts::new(vec![key]);
    for part in &dump.parts {
        parts.add(base.id.as_str(), &part.file, staging.join(&part.file));
    }
    let set = Set {
        item: item.to_owned(),
        engine: "postgres".to_owned(),
        parts: dump.parts,
        databases: dump.databases,
        needs: Vec::new(),
        ..base.clone()
    };
    (set, parts)
}

/// A scratch server at the end of the log, or at a moment, with up to when the log was brought for it.
fn recovered(
    work: &Work,
    chain: &Chain,
    parts: &Parts,
    moment: Option<(Timestamp, Option<Timestamp>)>,
) -> Result<Scratch, Fault> {
    let at = moment.map(|(at, _)| at);
    let dir = work.scratch()?;
    let copies: u64 = chain.before.iter().chain([&chain.base]).map(Set::plain_bytes).sum();
    let bytes = copies * 2 + chain.pieces.iter().map(Set::plain_bytes).sum::<u64>();
    work.need_space(dir.path(), bytes, "the server at that moment")?;
    work.step("unpacking the base backup");
    unpack(work, chain, parts, &dir)?;
    work.step("bringing the log");
    let log = bring_log(work, chain, parts, &dir)?;
    let here = follow::last_arrival(&follow::folder(&work.job, &work.job.item.name));
    let until =
        [chain.until(), here, moment.and_then(|(_, brought)| brought)].into_iter().max().flatten();
    let covered = until.is_some_and(|until| at.is_some_and(|at| until >= at));
    let covered = reaches_base(chain, &log)? && covered;
    work.step(match at {
        Some(at) => format!("playing the log up to {at}"),
        None => "playing the log to its end".to_owned(),
    });
    let target =
        at.map(|at| format!("{} UTC", at.to_string().trim_end_matches('Z').replace('T', " ")));
    let recovery = Recovery { log: dir.path().join("wal"), target };
    match Scratch::recover(work, &chain.base, dir, &recovery) {
        // Nothing was committed after that moment: the end of the log is the state at it.
        Err(failed) if covered && ended_early(&failed.0) => {
            let (_, dir) = *failed;
            let to_the_end = Recovery { target: None, ..recovery };
            Scratch::recover(work, &chain.base, dir, &to_the_end).map_err(|failed| failed.0)
        }
        Err(failed) if ended_early(&failed.0) => {
            let (fault, _) = *failed;
            let until = until.map_or_else(|| "the base backup".to_owned(), |at| at.to_string());
            Err(Fault {
                what: "the stored log does not reach that moment".to_owned(),
                causes: vec![format!("it reaches to {until}")],
                code: Code::NoSuchBackup,
                ..fault
            })
        }
        other => other.map_err(|failed| failed.0),
    }
}

/// Makes the data folder: a whole copy, with all that changed since put on top of it.
fn unpack(work: &Work, chain: &Chain, parts: &Parts, dir: &Temporary) -> Result<(), Fault> {
    let data = dir.path().join("data");
    own(&data, work)?;
    if chain.before.is_empty() {
        return unpack_one(work, &chain.base, parts, &data);
    }
    let combine = program("pg_combinebackup", &chain.base)?;
    let mut folders = Vec::new();
    for set in chain.before.iter().chain([&chain.base]) {
        let folder = dir.path().join(set.id.as_str());
        own(&folder, work)?;
        unpack_one(work, set, parts, &folder)?;
        folders.push(folder);
    }
    let words = folders.iter().map(|folder| folder.display().to_string());
    Tool::new(combine.display().to_string(), dir.path(), work.job.run_as.as_ref())
        .shut_in(ShutIn::within(&[dir.path()]))
        .args(["--no-sync".to_owned(), format!("--output={}", data.display())])
        .args(words)
        .output(Code::RestoreFailed)?;
    for folder in folders {
        std::fs::remove_dir_all(&folder)
            .map_err(|error| write_fault("could not remove a copy of the server", &error))?;
    }
    Ok(())
}

fn unpack_one(work: &Work, set: &Set, parts: &Parts, folder: &Path) -> Result<(), Fault> {
    let base = set.parts.iter().find(|part| part.file == BASE).ok_or_else(|| {
        Fault::new(Code::BackupDamaged, format!("backup {} has no base backup", set.id))
    })?;
    let tar = Tool::new("tar", folder, work.job.run_as.as_ref());
    let tar = tar.shut_in(ShutIn::within(&[folder])).args(["-x", "-f", "-"]);
    parts.feed(work, set, base, &tar)
}

fn ended_early(fault: &Fault) -> bool {
    fault.evidence.iter().any(|line| line.contains("before configured recovery target was reached"))
}

fn own(path: &Path, work: &Work) -> Result<(), Fault> {
    let made = seaworthy_sys::files::create_private_dir(path, 0o700).and_then(|()| {
        match &work.job.run_as {
            Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        }
    });
    made.map_err(|error| write_fault(format!("could not make `{}`", path.display()), &error))
}

/// Puts all files of the log into one folder: those that were stored, and those that this machine still has.
fn bring_log(
    work: &Work,
    chain: &Chain,
    parts: &Parts,
    dir: &Temporary,
) -> Result<BTreeSet<u64>, Fault> {
    let folder = dir.path().join("wal");
    own(&folder, work)?;
    let failed = |error: std::io::Error| write_fault("could not bring the log", &error);
    let given = |path: &PathBuf| match &work.job.run_as {
        Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    };
    let size = chain.size();
    let mut have = BTreeSet::new();
    for set in &chain.pieces {
        for part in
            set.parts.iter().filter(|part| part.format == WAL && segment::is_whole(&part.holds))
        {
            let path = folder.join(&part.holds);
            let mut file = std::fs::File::create(&path).map_err(failed)?;
            pump(&mut parts.open(set.id.as_str(), &part.file)?, &mut file, |_| {})
                .map_err(failed)?;
            given(&path).map_err(failed)?;
            have.insert(part.holds.clone());
        }
    }
    let local = follow::folder(&work.job, &work.job.item.name);
    for entry in std::fs::read_dir(&local).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = name.strip_suffix(".partial").unwrap_or(&name).to_owned();
        if segment::is_whole(&name) && !have.contains(&name) {
            let path = folder.join(&name);
            std::fs::copy(entry.path(), &path).map_err(failed)?;
            given(&path).map_err(failed)?;
            have.insert(name);
        }
    }
    Ok(have.iter().filter_map(|name| segment::number(name, size)).collect())
}

/// Without the log that was written while the base was copied it is of no use. Whether there is no gap after it.
fn reaches_base(chain: &Chain, have: &BTreeSet<u64>) -> Result<bool, Fault> {
    let number =
        |name: &str| fact(&chain.base, name).and_then(|text| segment::number(text, chain.size()));
    let (Some(first), Some(last)) = (number(FIRST), number(LAST)) else { return Ok(false) };
    match segment::reaches(first, have) {
        Some(reached) if reached >= last => Ok(have.range(reached + 1..).next().is_none()),
        _ => Err(gap(chain, "what was written while the base backup was made is missing")),
    }
}

fn gap(chain: &Chain, why: &str) -> Fault {
    Fault::new(
        Code::BackupDamaged,
        format!("the log after base backup {} has a gap", chain.base.id),
    )
    .because(why)
    .next(format!("seaworthy backup now {}   makes a new base backup", chain.base.item))
}
