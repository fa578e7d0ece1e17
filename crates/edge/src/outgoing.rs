//! The application's calls to others: an address on loopback, behind it a queue, a breaker, retries and TLS.
//!
//! What an application would otherwise do with libraries of its language, each a little different, and anew in each of
//! its instances: here one bound holds for all of them. Invariants: a call that waits is bounded in number and time; a
//! call is made again only where that changes nothing; who the other side is was proven before a byte is sent to it;
//! nothing of a call but its method, its host and how it went is kept or logged, since paths of such calls hold keys as
//! often as headers do; a change of the rules drops no call. Rooms: [`line`] (whose turn it is), [`ring`] (what all edges know of that), [`again`] (when a call
//! is made again), [`call`] (one call), [`tls`]. Not here: where the other side is (control resolves names, which this
//! process cannot), and listening.

mod again;
mod call;
mod line;
mod ring;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use rustc_hash::FxHashMap;
use rustls::RootCertStore;
use seaworthy_base::outgoing::Outgoing;

pub(crate) use call::call;
pub(crate) use line::Slot;
pub(crate) use tls::ClientTls;

use self::line::{Line, Pace};
use self::ring::Ring;
use self::tls::Roots;
use crate::model::{CallState, Config, Settings, WayOut};
use crate::route::RouteError;
use crate::table::Table;
use crate::upstream::{Breaker, Breakers};

/// The labels of ways out: `site/outgoing.X`.
pub(crate) fn labels(all: &Outlets) -> impl Iterator<Item = &str> {
    all.values().map(|one| &*one.label)
}

/// Ways out by where applications come in.
pub(crate) type Outlets = FxHashMap<SocketAddr, Arc<Outlet>>;

/// The authorities of a text (PEM).
pub(crate) fn roots_of(pem: &str) -> Result<Arc<RootCertStore>, String> {
    Roots::default().of(pem)
}

/// Whether an edge takes these authorities (PEM) of servers that are called, and why not.
pub fn judge_server_authorities(pem: &str) -> Result<(), String> {
    roots_of(pem).map(drop)
}

/// One way out, with everything prepared.
#[derive(Debug)]
pub(crate) struct Outlet {
    site: Arc<str>,
    /// `site/outgoing.X`.
    label: Arc<str>,
    service: String,
    rules: Outgoing,
    /// As it was told, to see whether it changed.
    told: WayOut,
    host: HeaderValue,
    settings: Settings,
    tls: Option<Arc<ClientTls>>,
    breaker: Option<Arc<Breaker>>,
    kept: Arc<Kept>,
}

/// What is known of a way out over all snapshots.
#[derive(Debug, Default)]
struct Kept {
    line: Arc<Line>,
    calls: AtomicU64,
    errors: AtomicU64,
    retries: AtomicU64,
    refused: AtomicU64,
    /// The address that answered last.
    good: AtomicUsize,
    last_error: Mutex<Option<String>>,
}

impl Kept {
    fn fail(&self, why: &str) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }
}

/// Of all ways out, by label.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    kept: Mutex<HashMap<String, Arc<Kept>>>,
    roots: Mutex<Roots>,
}

impl Calls {
    /// Prepares the ways of a configuration; `before` are those that it replaces.
    pub(crate) fn build(
        &self,
        config: &Config,
        before: &Outlets,
        (breakers, counts): (&Breakers, &Arc<Table>),
    ) -> Result<Outlets, RouteError> {
        let mut all = Outlets::default();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        for way in &config.outgoing {
            let label = format!("{}/outgoing.{}", way.site, way.rules.name);
            let refuse = |why: String| RouteError::Outgoing {
                site: way.site.clone(),
                name: way.rules.name.clone(),
                why,
            };
            let own = Arc::clone(kept.entry(label.clone()).or_default());
            let earlier = before.get(&way.listen).filter(|one| {
                let trusted = (&one.told.roots_pem, &one.told.rules.to);
                trusted == (&way.roots_pem, &way.rules.to)
            });
            let tls = match (way.rules.to.tls, earlier) {
                (false, _) => None,
                // With what was agreed on before; roots of the system change once in years.
                (true, Some(one)) => one.tls.clone(),
                (true, None) => {
                    let pem = way.roots_pem.as_ref().or(config.roots_pem.as_ref());
                    let roots = roots.of(pem.map_or("", String::as_str)).map_err(refuse)?;
                    Some(Arc::new(
                        ClientTls::new(roots, &way.rules.to.host, &["http/1.1"]).map_err(refuse)?,
                    ))
                }
            };
            let host = HeaderValue::from_str(&way.rules.to.authority());
            let host = host.map_err(|_| refuse("its host is none".to_owned()))?;
            let ring = || Ring::new(counts, &way.site, &label);
            own.line.set(Pace::new(&way.rules), Some(&ring));
            let outlet = Outlet {
                site: way.site.as_str().into(),
                label: label.as_str().into(),
                service: way.service.clone(),
                settings: settings(&way.rules),
                breaker: way.rules.breaker.as_ref().map(|rule| breakers.of(&label, rule)),
                rules: way.rules.clone(),
                told: way.clone(),
                host,
                tls,
                kept: own,
            };
            all.insert(way.listen, Arc::new(outlet));
        }
        kept.retain(|_, one| Arc::strong_count(one) > 1);
        Ok(all)
    }
}

/// The times of a call, as those of a route.
fn settings(rules: &Outgoing) -> Settings {
    let mut settings = Settings {
        connect_ms: rules.connect.as_millis() as u64,
        response_ms: rules.response.as_millis() as u64,
        idle_ms: Some(rules.idle.as_millis() as u64),
        body_limit: None,
        ..Settings::default()
    };
    settings.delivery.total = rules.total;
    settings
}

/// How they all are, `now` milliseconds after the machine started.
pub(crate) fn tell(all: &Outlets, now: u64) -> Vec<CallState> {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut told: Vec<CallState> = all
        .values()
        .map(|one| {
            let (active, waiting, paused_for) = one.kept.line.tell(now);
            CallState {
                site: one.site.to_string(),
                name: one.rules.name.clone(),
                to: one.rules.to.origin(),
                calls: count(&one.kept.calls),
                errors: count(&one.kept.errors),
                retries: count(&one.kept.retries),
                refused: count(&one.kept.refused),
                active,
                waiting,
                open_for: one.breaker.as_ref().and_then(|breaker| breaker.closed_for(now)),
                paused_for,
                last_error: one
                    .kept
                    .last_error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            }
        })
        .collect();
    told.sort_by(|a, b| (&a.site, &a.name).cmp(&(&b.site, &b.name)));
    told
}
