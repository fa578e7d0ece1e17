//! Keeps out who fails too often: an address, and an account, each on its own.
//!
//! An attempt is taken into account before it is passed on (else a hundred at once over HTTP/2 would all
//! be guesses for free) and settled by the answer: a refusal counts, a success forgets the account's
//! failures (not the address's: an attacker has an account too), a 5xx is nobody's fault. Invariants: a success
//! is one only for the account that alone was named, and only where it failed before (the same method and
//! path): an attacker who logs in himself, or asks for a page, with the other's name beside, forgets nothing; the
//! failure that locks an address no longer counts for the account, so that one address alone cannot lock
//! somebody out; lockouts survive the process ([`journal`]), failures that led to none yet too ([`tally`]); no name of
//! an account is kept, only its keyed hash. What is under way counts for one process only. Not here:
//! what a failure is ([`rule`]), which fields and addresses are counted ([`super::keys`]).

mod journal;
mod rule;
mod tally;
mod texts;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, StatusCode};

use self::journal::{Journal, Line};
use self::rule::Names;
pub(super) use self::rule::{Counted, at_once, is_locked};
pub(crate) use self::rule::{Lockout, Outcome};
use self::tally::Tally;
pub(crate) use self::texts::Texts;
use super::Refused;
use super::clock::unix_seconds;
use super::keys::{Hasher, Keys, network};
use super::stored::Elsewhere;
use crate::model::LockedOut;
use crate::table::Table;

/// What is known of a key, in few bytes: an attacker makes as many as there may be.
#[derive(Debug, Default)]
struct Entry {
    /// Of the last failure: when, in seconds since 1970, and at what.
    since: u32,
    place: u32,
    in_flight: u32,
    /// 0: not locked.
    until: u64,
    of: Arc<Names>,
    what: Box<str>,
}

/// In the place of a place: failures of several are counted.
const SEVERAL: u32 = u32::MAX;
/// More keys than this are an attack: the oldest that is not locked gives way.
const MAX_ENTRIES: usize = 50_000;

/// All lockouts of all sites.
#[derive(Debug)]
pub(crate) struct Lockouts {
    inner: Mutex<Inner>,
    hasher: Hasher,
}

#[derive(Debug)]
struct Inner {
    entries: HashMap<u64, Entry>,
    tally: Tally,
    journal: Journal,
}

/// One request that is under way; released when it is dropped.
#[derive(Debug)]
pub(crate) struct Attempt {
    all: Arc<Lockouts>,
    /// What was reserved, by lockout.
    reserved: Vec<(Arc<Lockout>, Vec<Counted>)>,
    /// What counts with other servers too.
    elsewhere: Vec<Elsewhere>,
    of: Origin,
}

/// Where an attempt came from, and what it was made at.
#[derive(Debug, Clone, Copy)]
struct Origin {
    ip: IpAddr,
    place: u32,
}

/// The lockouts that count by the head alone; of the others the address is looked at already.
pub(super) fn begin_by_head(
    all: &Arc<Lockouts>,
    lockouts: &[Arc<Lockout>],
    keys: &Keys<'_>,
) -> Result<Option<Box<Attempt>>, Refused> {
    if lockouts.is_empty() {
        return Ok(None);
    }
    let now = unix_seconds();
    for lockout in lockouts.iter().filter(|lockout| lockout.needs_body()) {
        for counted in lockout.keys(keys) {
            all.lock().look(lockout, counted, now)?;
        }
    }
    begin(all, lockouts.iter().filter(|lockout| !lockout.needs_body()), keys, now)
}

/// The lockouts that count by a field of the body, which was read.
pub(crate) fn begin_by_body(
    all: &Arc<Lockouts>,
    lockouts: &[Arc<Lockout>],
    keys: &Keys<'_>,
) -> Result<Option<Box<Attempt>>, Refused> {
    begin(all, lockouts.iter().filter(|lockout| lockout.needs_body()), keys, unix_seconds())
}

fn begin<'a>(
    all: &Arc<Lockouts>,
    lockouts: impl Iterator<Item = &'a Arc<Lockout>>,
    keys: &Keys<'_>,
    now: u64,
) -> Result<Option<Box<Attempt>>, Refused> {
    let mut attempt = Attempt {
        all: Arc::clone(all),
        reserved: Vec::new(),
        elsewhere: Vec::new(),
        of: Origin { ip: keys.caller.ip, place: keys.caller.place as u32 },
    };
    for lockout in lockouts {
        let counted = lockout.keys(keys);
        all.reserve(lockout, &counted, now)?;
        attempt.reserved.push((Arc::clone(lockout), counted));
    }
    Ok((!attempt.reserved.is_empty()).then(|| Box::new(attempt)))
}

impl Attempt {
    /// Whether the answer's body decides.
    pub(crate) fn reads_answer(&self, status: StatusCode) -> bool {
        self.reserved.iter().any(|(lockout, _)| lockout.reads_answer(status))
    }

    /// What is to be looked for in its answer.
    pub(crate) fn texts(&self, status: StatusCode) -> Texts {
        Texts::of(self.reserved.iter().flat_map(|(lockout, _)| lockout.texts(status)))
    }

    /// Counts what came of it.
    pub(crate) fn settle(mut self, status: StatusCode, headers: &HeaderMap, texts: &Texts) {
        let now = unix_seconds();
        for elsewhere in std::mem::take(&mut self.elsewhere) {
            let mut outcome = elsewhere.lockout.outcome(status, headers, texts);
            if outcome == Outcome::Success && !self.all.failed_here(elsewhere.own(), self.of.place)
            {
                outcome = Outcome::Nothing;
            }
            elsewhere.settle(outcome, self.of.ip);
        }
        for (lockout, counted) in std::mem::take(&mut self.reserved) {
            let outcome = lockout.outcome(status, headers, texts);
            self.all.settle(&lockout, &counted, outcome, self.of, now);
        }
    }

    /// Takes over what another one has reserved.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.reserved.append(&mut other.reserved);
        self.elsewhere.append(&mut other.elsewhere);
    }

    /// Settles it elsewhere, too.
    pub(super) fn also(&mut self, elsewhere: Elsewhere) {
        self.elsewhere.push(elsewhere);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = unix_seconds();
        for (lockout, counted) in &self.reserved {
            self.all.settle(lockout, counted, Outcome::Nothing, self.of, now);
        }
    }
}

impl Lockouts {
    /// With the lockouts that hold from before; a journal that cannot be used is done without.
    pub(crate) fn open(dir: &Path, counts: Arc<Table>) -> Self {
        let (journal, secret) = Journal::open(&dir.join("lockouts"));
        let inner = Inner { entries: HashMap::new(), tally: Tally::new(counts), journal };
        Self { inner: Mutex::new(inner), hasher: Hasher { secret } }
    }

    pub(crate) fn hasher(&self) -> Hasher {
        self.hasher
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.catch_up();
        inner
    }

    /// All keys of a lockout, or none.
    fn reserve(&self, lockout: &Lockout, counted: &[Counted], now: u64) -> Result<(), Refused> {
        let mut inner = self.lock();
        for one in counted {
            inner.look(lockout, *one, now)?;
        }
        for one in counted {
            inner.entry(lockout, one.key, now).in_flight += one.times;
        }
        Ok(())
    }

    fn settle(
        &self,
        lockout: &Lockout,
        counted: &[Counted],
        outcome: Outcome,
        of: Origin,
        now: u64,
    ) {
        let mut inner = self.lock();
        let mut address_is_locked = false;
        let alone = is_alone(counted);
        for one in counted {
            let entry = inner.entry(lockout, one.key, now);
            entry.in_flight = entry.in_flight.saturating_sub(one.times);
            match outcome {
                Outcome::Failure(_) if !one.by_ip && address_is_locked => {}
                Outcome::Failure(count) => {
                    let all = if one.by_ip || alone { count } else { 1 };
                    let times = one.times.max(all);
                    let failures = inner.tally.fail(one.key, times, lockout.within, now);
                    let entry = inner.entry(lockout, one.key, now);
                    let is_same = failures <= times || entry.place == of.place;
                    entry.place = if is_same { of.place } else { SEVERAL };
                    entry.since = now as u32;
                    if failures >= lockout.failures {
                        address_is_locked |= one.by_ip;
                        inner.lock_out(lockout, *one, of.ip, now);
                    }
                }
                Outcome::Success if !one.by_ip && alone && entry.place == of.place => {
                    inner.tally.forget(one.key);
                }
                Outcome::Success | Outcome::Nothing => {}
            }
            inner.forget_if_idle(one.key, now);
        }
    }

    /// Whether one account alone was named, which failed at this place before.
    fn failed_here(&self, counted: &[Counted], place: u32) -> bool {
        let inner = self.lock();
        let mut accounts = counted.iter().filter(|one| !one.by_ip);
        is_alone(counted)
            && accounts.all(|one| inner.entries.get(&one.key).is_some_and(|one| one.place == place))
    }

    /// What holds now.
    pub(crate) fn list(&self) -> Vec<LockedOut> {
        let now = unix_seconds();
        let inner = self.lock();
        let held =
            inner.entries.values().filter(|entry| entry.until > now).map(|entry| LockedOut {
                site: entry.of.site.to_string(),
                rule: entry.of.lockout.to_string(),
                what: entry.what.to_string(),
                left: entry.until - now,
            });
        let mut all: Vec<LockedOut> = held.collect();
        all.sort_by(|a, b| (&a.site, &a.what).cmp(&(&b.site, &b.what)));
        all
    }

    /// Opens again: everything, or what belongs to an address or account. How many there were.
    pub(crate) fn clear(&self, site: Option<&str>, what: Option<&str>) -> usize {
        let now = unix_seconds();
        let mut inner = self.lock();
        let fits = |key: u64, entry: &Entry| {
            site.is_none_or(|site| *entry.of.site == *site)
                && what.is_none_or(|what| {
                    *entry.what == *what || self.hasher.names(entry.of.ident, what).contains(&key)
                })
        };
        let doomed: Vec<u64> = inner
            .entries
            .iter()
            .filter(|(key, entry)| fits(**key, entry))
            .map(|(key, _)| *key)
            .collect();
        let mut cleared = 0;
        for key in doomed {
            let Some(entry) = inner.entries.get_mut(&key) else { continue };
            cleared += usize::from(entry.until > now);
            entry.until = 0;
            inner.tally.forget(key);
            inner.journal.write(&Line { key, until: 0, ..Line::default() });
            inner.forget_if_idle(key, now);
        }
        cleared
    }

    /// Locks what is locked elsewhere, for so many seconds: it stays so when elsewhere is gone.
    pub(super) fn lock_as(&self, lockout: &Lockout, one: Counted, ip: IpAddr, seconds: u64) {
        let now = unix_seconds();
        let mut inner = self.lock();
        if inner.entry(lockout, one.key, now).until < now + seconds {
            inner.lock_until(lockout, one, ip, now + seconds);
        }
    }

    /// Forgets the failures of an address or account by a rule, whichever process counted them.
    pub(crate) fn forget(&self, lockout: &Lockout, what: &str) {
        let inner = self.lock();
        let keys = self.hasher.names(lockout.ident, what);
        keys.into_iter().for_each(|key| inner.tally.forget(key));
    }

    /// Forgets all failures.
    pub(crate) fn forget_all(&self) {
        self.lock().tally.clear();
    }
}

impl Inner {
    /// Takes in what another process, or this one before its restart, has locked.
    fn catch_up(&mut self) {
        for line in self.journal.read() {
            let entry = self.entries.entry(line.key).or_default();
            let (site, lockout) = (line.site.into(), line.lockout.into());
            entry.of = Arc::new(Names { site, lockout, ident: line.ident });
            (entry.until, entry.what) = (line.until, line.what.into());
        }
    }

    fn entry(&mut self, lockout: &Lockout, key: u64, now: u64) -> &mut Entry {
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        self.entries
            .entry(key)
            .or_insert_with(|| Entry { of: Arc::clone(&lockout.names), ..Entry::default() })
    }

    /// Refuses what is locked, and what would be if everything under way failed.
    fn look(&self, lockout: &Lockout, one: Counted, now: u64) -> Result<(), Refused> {
        let entry = self.entries.get(&one.key);
        if let Some(entry) = entry
            && entry.until > now
        {
            return Err(is_locked(lockout, one, (entry.until - now) * 1000));
        }
        let in_flight = entry.map_or(0, |entry| entry.in_flight);
        let failures = self.tally.get(one.key, lockout.within, now);
        if failures.saturating_add(in_flight + one.times) > lockout.failures {
            return Err(at_once(lockout));
        }
        Ok(())
    }

    fn lock_out(&mut self, lockout: &Lockout, one: Counted, ip: IpAddr, now: u64) {
        self.lock_until(lockout, one, ip, now + lockout.locked);
    }

    fn lock_until(&mut self, lockout: &Lockout, one: Counted, ip: IpAddr, until: u64) {
        let Some(entry) = self.entries.get_mut(&one.key) else { return };
        entry.until = until;
        self.tally.forget(one.key);
        let what = if one.by_ip { shown(ip) } else { format!("account {:016x}", one.key) };
        entry.what = what.clone().into();
        self.journal.write(&Line {
            key: one.key,
            until: entry.until,
            ident: lockout.ident,
            site: lockout.names.site.to_string(),
            lockout: lockout.names.lockout.to_string(),
            what,
        });
    }

    fn forget_if_idle(&mut self, key: u64, now: u64) {
        let idle = |entry: &Entry| entry.in_flight == 0 && entry.until <= now;
        if self.entries.get(&key).is_some_and(idle) && !self.tally.knows(key) {
            self.entries.remove(&key);
        }
    }

    fn make_room(&mut self, now: u64) {
        self.entries.retain(|_, entry| {
            entry.in_flight > 0 || entry.until > now || now.saturating_sub(entry.since.into()) < 60
        });
        if self.entries.len() >= MAX_ENTRIES {
            let oldest = self.entries.iter().filter(|(_, entry)| entry.in_flight == 0);
            let oldest = oldest.min_by_key(|(_, entry)| entry.until.max(entry.since.into()));
            if let Some(key) = oldest.map(|(key, _)| *key) {
                self.entries.remove(&key);
            }
        }
    }
}

/// Whether a request names one account and no other.
fn is_alone(counted: &[Counted]) -> bool {
    counted.iter().filter(|one| !one.by_ip).count() == 1
}

/// An address as it is counted.
fn shown(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        ip @ IpAddr::V6(_) => format!("{}/64", Ipv6Addr::from(network(ip))),
    }
}

#[cfg(test)]
mod tests;
