//! `@health`: how a site is, to everybody in one word, to who has its key in full.
//!
//! Invariants: no instance is asked for it, and nothing is waited for, so that it says what is known also while nothing
//! else answers; a wrong key, none and one key too many get the same bytes; nobody may keep the answer. Not here: what the
//! facts come to ([`crate::health`]), and what a route demands before it answers.

use std::collections::BTreeMap;

use http::header::{ACCEPT, CACHE_CONTROL, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use seaworthy_base::Timestamp;
use tokio::time::Instant;

use super::Record;
use crate::body::ResponseBody;
use crate::gate::Shut;
use crate::health::{self, Aggregate, Fact, Status, Told};
use crate::instance::Service;
use crate::outgoing;
use crate::policy::auth::Passwords;
use crate::respond;
use crate::route::CompiledSite;
use crate::worker::Local;

/// Answers for a site.
pub(super) fn answer(
    local: &Local,
    parts: &Parts,
    record: &mut Record,
    (site, aggregate): (&CompiledSite, &Aggregate),
) -> Response<ResponseBody> {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        record.cause = Some("health is asked for with GET or HEAD".to_owned());
        return respond::not_allowed("GET, HEAD", record.id, parts.headers.get(ACCEPT));
    }
    let shut = site.gate.as_ref().and_then(|gate| gate.shut(record.client));
    let report = health::judge(facts(local, site, aggregate, shut));
    let shown = shown(aggregate, &parts.headers, &local.shared.passwords);
    let body = if shown == Shown::Right {
        report.details(Told {
            now: Timestamp::now(),
            uptime: local.shared.uptime().as_secs(),
            release: aggregate.release.as_deref(),
        })
    } else {
        report.word()
    };
    let wrong = (shown == Shown::Wrong).then(|| "the health key is wrong".to_owned());
    let causes: Vec<String> = report.why().into_iter().chain(wrong).collect();
    record.cause = (!causes.is_empty()).then(|| causes.join("; "));
    let status = if report.status == Status::Unhealthy {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let mut response = respond::fixed(status.as_u16(), &body, "application/json");
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(Shut::Maintenance { retry_after }) = shut {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
    }
    response
}

/// What a request brings of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    Wrong,
    Right,
}

fn shown(aggregate: &Aggregate, headers: &HeaderMap, passwords: &Passwords) -> Shown {
    let Some((header, secret)) = &aggregate.key else { return Shown::Nothing };
    let mut given = headers.get_all(header).iter();
    match (given.next(), given.next()) {
        (None, _) => Shown::Nothing,
        (Some(value), None) if passwords.is_value(secret, value.as_bytes()) => Shown::Right,
        _ => Shown::Wrong,
    }
}

/// All that this edge knows of a site.
fn facts(
    local: &Local,
    site: &CompiledSite,
    aggregate: &Aggregate,
    shut: Option<Shut>,
) -> Vec<Fact> {
    let snapshot = local.current();
    let now = local.shared.millis(Instant::now());
    let own = |label: &str| -> Option<String> {
        label.strip_prefix(&*site.name)?.strip_prefix('/').map(str::to_owned)
    };
    let mut breakers: BTreeMap<String, u64> = BTreeMap::new();
    for state in local.shared.breakers.tell_of(|service| own(service).is_some(), now) {
        if let Some(left) = state.opens_in {
            let longest = breakers.entry(state.service).or_default();
            *longest = left.max(*longest);
        }
    }
    let services = aggregate.services.iter().map(|(name, key)| {
        let service = snapshot.services.get(key);
        let (ready, out) = service.map_or_else(Default::default, |one| rotation(one, now, own));
        Fact::Service {
            name: name.clone(),
            ready,
            starting: service.is_some_and(|one| one.starting),
            out,
            breaker: breakers.get(key).copied(),
        }
    });
    let stores = local
        .shared
        .stores
        .tell()
        .into_iter()
        .filter_map(|store| Some(Fact::Store { name: own(&store.label)?, gone: store.gone }));
    let ways: BTreeMap<String, Option<u64>> = outgoing::labels(&snapshot.outlets)
        .filter_map(|label| Some((own(label)?, breakers.get(label).copied())))
        .collect();
    let ways = ways.into_iter().map(|(name, breaker)| Fact::Outgoing { name, breaker });
    let gate = shut.map(|shut| match shut {
        Shut::Held => Fact::Held,
        Shut::Maintenance { .. } => Fact::Maintenance,
    });
    services.chain(stores).chain(ways).chain(gate).collect()
}

/// How many instances take requests, and which should and do not.
fn rotation(
    service: &Service,
    now: u64,
    own: impl Fn(&str) -> Option<String>,
) -> (usize, Vec<String>) {
    let word =
        |name: &str, why: &str| format!("{}: {why}", own(name).unwrap_or_else(|| name.to_owned()));
    let left_out = service.ready.iter().filter_map(|instance| {
        let why = instance.load.health.why_out(now)?;
        Some(word(&instance.name, &why))
    });
    let mut out: Vec<String> = left_out.collect();
    let ready = service.ready.len() - out.len();
    out.extend(service.missing.iter().map(|(name, why)| word(name, why)));
    (ready, out)
}
