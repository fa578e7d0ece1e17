//! Rates and lockouts that edges of several servers count together, in a Redis ([`crate::store`]).
//!
//! What is counted here is counted first; who passes here is asked for there: one question for a request's rates, one for
//! each of its lockouts. Invariants: while the store is gone the own counts decide alone; what is locked there is locked
//! here too from the moment that it is known, so that nothing opens because the store went; an answer does not wait for
//! its failure to be counted there.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;

use super::Refused;
use super::fields::Fields;
use super::keys::{Caller, Keys};
use super::limit::Limit;
use super::lockout::{self, Counted, Lockout, Outcome};
use crate::route::{CompiledRoute, CompiledSite};
use crate::serve::Record;
use crate::store::{self, FAIL, LOOK, Store, TAKE, command};
use crate::worker::Local;

/// Whose request it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) site: &'a CompiledSite,
    pub(crate) route: &'a CompiledRoute,
    pub(crate) parts: &'a Parts,
    /// Of its body; without them what the head says is asked for.
    pub(crate) fields: Option<&'a Fields>,
}

impl Of<'_> {
    fn keys(&self, ip: IpAddr, store: &Store) -> Keys<'_> {
        let caller = Caller { fields: self.fields, ..Caller::new(ip, self.parts) };
        Keys { caller, site: self.site, hasher: store.hasher() }
    }
}

/// Asks the stores of a route whether a request may pass.
pub(crate) async fn admit(
    local: &Rc<Local>,
    record: &mut Record,
    of: Of<'_>,
) -> Result<(), Refused> {
    let policy = &of.route.policy;
    if !policy.is_stored {
        return Ok(());
    }
    let by_body = of.fields.is_some();
    for lockout in policy.lockouts.iter().filter(|lockout| lockout.needs_body() == by_body) {
        let store = lockout.store.as_ref().and_then(|label| local.shared.stores.get(label));
        if let Some(store) = store {
            look(local, record, of, lockout, store).await?;
        }
    }
    let limits = if by_body { policy.limits_by_body() } else { policy.limits_by_head() };
    let mut labels: Vec<&str> = limits.iter().filter_map(|limit| limit.store.as_deref()).collect();
    labels.sort_unstable();
    labels.dedup();
    for label in labels {
        let Some(store) = local.shared.stores.get(label) else { continue };
        let counted = limits.iter().filter(|limit| limit.store.as_deref() == Some(label));
        take(local, of.keys(record.client, &store), counted, &store).await?;
    }
    Ok(())
}

/// Counts a request against all limits of a store, if all agree.
async fn take(
    local: &Rc<Local>,
    keys: Keys<'_>,
    limits: impl Iterator<Item = &Limit>,
    store: &Arc<Store>,
) -> Result<(), Refused> {
    let (mut names, mut words, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for limit in limits {
        let of_limit = if limit.by.needs_body() {
            keys.by_body(limit.ident, &limit.by)
        } else {
            vec![keys.by_head(limit.ident, &limit.by)]
        };
        for key in of_limit {
            names.push(store.name('r', key));
            words.extend(limit.words());
            asked.push(limit);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let answer = store::ask(local, store, TAKE.run(&names, &words)).await;
    match answer.as_ref().and_then(store::Reply::numbers).as_deref() {
        Some([refused, wait]) if *refused > 0 => {
            let limit = asked.get(*refused as usize - 1);
            limit.map_or(Ok(()), |limit| Err(limit.refuse((*wait).max(0) as u64)))
        }
        _ => Ok(()),
    }
}

/// Looks whether somebody is locked out elsewhere; if not, his attempt is settled there too.
async fn look(
    local: &Rc<Local>,
    record: &mut Record,
    of: Of<'_>,
    lockout: &Arc<Lockout>,
    store: Arc<Store>,
) -> Result<(), Refused> {
    let counted = lockout.keys(&of.keys(record.client, &store));
    // The same in the same order, as they are called here.
    let hasher = local.shared.lockouts.hasher();
    let own = lockout.keys(&Keys { hasher, ..of.keys(record.client, &store) });
    let elsewhere = Elsewhere {
        lockout: Arc::clone(lockout),
        counted,
        own,
        local: Rc::clone(local),
        store: Arc::clone(&store),
    };
    let (most, ..) = lockout.words();
    let times = elsewhere.counted.iter().map(|one| u64::from(one.times));
    let words: Vec<u64> = [u64::from(most)].into_iter().chain(times).collect();
    let answer = store::ask(local, &store, LOOK.run(&elsewhere.names(), &words)).await;
    if let Some([refused, left]) = answer.as_ref().and_then(store::Reply::numbers).as_deref()
        && *refused > 0
        && let Some(one) = elsewhere.own.get(*refused as usize - 1)
    {
        if *left <= 0 {
            return Err(lockout::at_once(lockout));
        }
        let left = *left as u64;
        local.shared.lockouts.lock_as(lockout, *one, record.client, left.div_ceil(1000));
        return Err(lockout::is_locked(lockout, *one, left));
    }
    if let Some(attempt) = &mut record.attempt {
        attempt.also(elsewhere);
    }
    Ok(())
}

/// What an attempt is counted by in a store.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    pub(super) lockout: Arc<Lockout>,
    counted: Vec<Counted>,
    /// The same as it is called here.
    own: Vec<Counted>,
    local: Rc<Local>,
    store: Arc<Store>,
}

impl Elsewhere {
    /// By what it counts, as that is called here.
    pub(super) fn own(&self) -> &[Counted] {
        &self.own
    }

    /// A lock and a number of failures for each.
    fn names(&self) -> Vec<String> {
        let pair = |one: &Counted| [self.store.name('l', one.key), self.store.name('f', one.key)];
        self.counted.iter().flat_map(pair).collect()
    }

    /// Counts what came of the attempt; nobody waits for it.
    pub(super) fn settle(self, outcome: Outcome, ip: IpAddr) {
        if outcome != Outcome::Nothing {
            let local = Rc::clone(&self.local);
            tokio::task::spawn_local(async move { self.tell(&local, outcome, ip).await });
        }
    }

    async fn tell(self, local: &Rc<Local>, outcome: Outcome, ip: IpAddr) {
        let Outcome::Failure(count) = outcome else {
            // A success forgets the account's failures, not the address's.
            let accounts = self.counted.iter().filter(|one| !one.by_ip);
            let names: Vec<String> = accounts.map(|one| self.store.name('f', one.key)).collect();
            if !names.is_empty() {
                store::ask(
                    local,
                    &self.store,
                    command(["DEL".to_owned()].into_iter().chain(names)),
                )
                .await;
            }
            return;
        };
        let (most, within, locked) = self.lockout.words();
        let mut words = vec![u64::from(most), within * 1000, locked * 1000];
        let alone = self.counted.iter().filter(|one| !one.by_ip).count() == 1;
        for one in &self.counted {
            let all = if one.by_ip || alone { count } else { 1 };
            words.extend([u64::from(one.times.max(all)), u64::from(one.by_ip)]);
        }
        let answer = store::ask(local, &self.store, FAIL.run(&self.names(), &words)).await;
        let locked_now = answer.as_ref().and_then(store::Reply::numbers).unwrap_or_default();
        for one in locked_now {
            let own = usize::try_from(one - 1).ok().and_then(|at| self.own.get(at));
            if let Some(own) = own {
                local.shared.lockouts.lock_as(&self.lockout, *own, ip, locked);
            }
        }
    }
}

/// What is to be forgotten: of a site, or of all; of an address, account or value, or of all.
#[derive(Debug)]
pub(crate) struct Forgotten {
    site: Option<String>,
    what: Option<String>,
}

impl Forgotten {
    pub(crate) fn new(site: Option<&str>, what: Option<&str>) -> Self {
        Self { site: site.map(str::to_owned), what: what.map(str::to_owned) }
    }
}

/// Forgets it in the stores. One that is gone forgets by itself after a while.
pub(crate) async fn forget(local: &Rc<Local>, wanted: &Forgotten) {
    let snapshot = local.current();
    let mut names: Vec<(Arc<Store>, Vec<String>)> = Vec::new();
    for (site, route) in snapshot.table.routes() {
        if wanted.site.as_ref().is_some_and(|wanted| *wanted != *site.name) {
            continue;
        }
        let limits = route.policy.limits().iter().map(|one| (&one.store, one.ident, &['r'][..]));
        let lockouts =
            route.policy.lockouts.iter().map(|one| (&one.store, one.ident, &['l', 'f'][..]));
        for (label, ident, kinds) in limits.chain(lockouts) {
            let store = label.as_ref().and_then(|label| local.shared.stores.get(label));
            let Some(store) = store else { continue };
            let keys = wanted.what.as_ref().map(|what| store.hasher().names(ident, what));
            let keys = keys.unwrap_or_default().into_iter();
            let all = keys.flat_map(|key| kinds.iter().map(move |kind| (*kind, key)));
            let named = all.map(|(kind, key)| store.name(kind, key)).collect();
            names.push((store, named));
        }
    }
    for (store, named) in names {
        if wanted.what.is_none() {
            forget_all(local, &store).await;
        } else if !named.is_empty() {
            store::ask(local, &store, command(["DEL".to_owned()].into_iter().chain(named))).await;
        }
    }
}

/// Forgets everything of a site, some at a time.
async fn forget_all(local: &Rc<Local>, store: &Arc<Store>) {
    let mut cursor = b"0".to_vec();
    loop {
        let pattern = store.pattern();
        let words: [&[u8]; 6] = [b"SCAN", &cursor, b"MATCH", pattern.as_bytes(), b"COUNT", b"1000"];
        let Some(store::Reply::List(parts)) = store::ask(local, store, command(words)).await else {
            return;
        };
        let [store::Reply::Text(next), store::Reply::List(found)] = &parts[..] else { return };
        let found = found.iter().filter_map(|one| match one {
            store::Reply::Text(name) => Some(name.clone()),
            _ => None,
        });
        let doomed: Vec<Vec<u8>> = found.collect();
        if !doomed.is_empty() {
            let words = [b"DEL".to_vec()].into_iter().chain(doomed);
            store::ask(local, store, command(words)).await;
        }
        if next == b"0" {
            return;
        }
        next.clone_into(&mut cursor);
    }
}
