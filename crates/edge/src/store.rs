//! A Redis that edges of several servers count in, beside their own counts.
//!
//! Why beside: a store may be gone, and then each edge goes on with what it counted itself; and whom the own count refuses
//! needs no question. Invariants: one question for each request and kind, asked over a connection that all requests of a
//! thread share ([`link`]); what is decided by it is decided in one step there ([`scripts`]); while it is gone nobody waits
//! for it, and `status` says so; keys are hashes with the store's own password, so that all who may read there make the
//! same. Our own client, since there is nothing in it but three scripts, and the edge can neither resolve names nor use a
//! connection that belongs to another thread (docs/decisions/028). Not here: what is counted ([`crate::policy::stored`]).

mod link;
mod resp;
mod scripts;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use self::link::Link;
pub(crate) use self::resp::{Reply, command};
pub(crate) use self::scripts::{FAIL, LOOK, TAKE};
use crate::model::{StoreAt, StoreState};
use crate::outgoing::{ClientTls, roots_of};
use crate::policy::clock::monotonic_ms;
use crate::policy::keys::Hasher;
use crate::worker::Local;

/// Between two tries of a store that is gone.
const AGAIN_MS: u64 = 1000;

/// One store.
#[derive(Debug)]
pub(crate) struct Store {
    /// `site/redis.X`.
    label: Arc<str>,
    site: Arc<str>,
    at: StoreAt,
    tls: Option<ClientTls>,
    hasher: Hasher,
    gone: AtomicBool,
    /// Not to be tried before.
    again: AtomicU64,
    /// Questions without an answer.
    missed: AtomicU64,
    why: Mutex<String>,
}

impl Store {
    fn new(label: &str, at: &StoreAt) -> Result<Self, String> {
        let tls = at.roots_pem.as_deref().filter(|_| at.tls);
        let tls = tls.map(|pem| ClientTls::new(roots_of(pem)?, &at.host, &[])).transpose()?;
        let secret = format!("{:?} {:?} {}", at.user, at.password, at.database);
        let digest = Sha256::new().chain_update("seaworthy-store ").chain_update(secret).finalize();
        let mut key = [0; 16];
        key.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Ok(Self {
            label: label.into(),
            site: label.split('/').next().unwrap_or_default().into(),
            at: at.clone(),
            tls,
            hasher: Hasher::keyed(key),
            gone: AtomicBool::new(false),
            again: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            why: Mutex::default(),
        })
    }

    /// What keys are made with.
    pub(crate) fn hasher(&self) -> Hasher {
        self.hasher
    }

    /// The name of a key there; keys of a site lie on one node of a cluster.
    pub(crate) fn name(&self, kind: char, key: u64) -> String {
        format!("seaworthy:{{{}}}:{kind}:{key:016x}", self.site)
    }

    /// What all names of its site look like.
    pub(crate) fn pattern(&self) -> String {
        format!("seaworthy:{{{}}}:*", self.site)
    }

    /// It is gone, and not to be tried for so many milliseconds.
    fn lose(&self, why: &str, pause: u64) {
        why.clone_into(&mut self.why.lock().unwrap_or_else(PoisonError::into_inner));
        self.again.store(monotonic_ms() + pause, Ordering::Relaxed);
        self.gone.store(true, Ordering::Relaxed);
    }

    fn find(&self) {
        self.gone.store(false, Ordering::Relaxed);
    }
}

/// All of them, by label.
#[derive(Debug, Default)]
pub(crate) struct Stores(RwLock<BTreeMap<String, Arc<Store>>>);

impl Stores {
    /// Takes those that control tells of; one that did not change is the same as before.
    pub(crate) fn swap(&self, told: &BTreeMap<String, StoreAt>) -> Result<(), String> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = BTreeMap::new();
        for (label, at) in told {
            let same = all.get(label).filter(|store| store.at == *at).map(Arc::clone);
            let store = match same {
                Some(store) => store,
                None => Arc::new(Store::new(label, at)?),
            };
            new.insert(label.clone(), store);
        }
        *all = new;
        Ok(())
    }

    pub(crate) fn get(&self, label: &str) -> Option<Arc<Store>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(label).map(Arc::clone)
    }

    fn all(&self) -> Vec<Arc<Store>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    /// How they are.
    pub(crate) fn tell(&self) -> Vec<StoreState> {
        let tell = |store: &Arc<Store>| StoreState {
            label: store.label.to_string(),
            gone: store
                .gone
                .load(Ordering::Relaxed)
                .then(|| store.why.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            missed: store.missed.load(Ordering::Relaxed),
        };
        self.all().iter().map(tell).collect()
    }
}

/// One thread's connections.
#[derive(Debug, Default)]
pub(crate) struct Links(RefCell<FxHashMap<Arc<str>, Link>>);

/// Sees to it that this thread has a connection to each store, or is about to.
pub(crate) fn keep(local: &Rc<Local>) {
    let now = monotonic_ms();
    let snapshot = local.current();
    for store in local.shared.stores.all() {
        let service = snapshot.services.get(&*store.label);
        if service.is_none_or(|service| service.ready.is_empty()) {
            // The next snapshot may say where it is; then it is tried at once.
            store.lose("its name could not be resolved", 0);
            continue;
        }
        let mut links = local.links.0.borrow_mut();
        let good = links.get(&store.label).is_some_and(|link| link.is_of(&store));
        if !good && now >= store.again.load(Ordering::Relaxed) {
            links.insert(Arc::clone(&store.label), Link::open(local, &store));
        }
    }
}

/// Asks. Nothing: it is gone, and what is known here must do.
pub(crate) async fn ask(local: &Rc<Local>, store: &Arc<Store>, command: Vec<u8>) -> Option<Reply> {
    let link = local.links.0.borrow().get(&store.label).cloned();
    let link = link.filter(|link| link.is_of(store) && !store.gone.load(Ordering::Relaxed));
    let missed = || {
        store.missed.fetch_add(1, Ordering::Relaxed);
    };
    let Some(link) = link else {
        missed();
        return None;
    };
    let answer = link.ask(command).await;
    if answer.is_none() {
        missed();
        // Its answers could be taken for those of others. There may be another one already.
        let mut links = local.links.0.borrow_mut();
        if links.get(&store.label).is_some_and(|now| now.is_same(&link)) {
            links.remove(&store.label);
        }
    }
    answer
}
