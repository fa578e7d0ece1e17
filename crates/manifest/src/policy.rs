//! Reading what a route demands and adds, and how it is inherited.
//!
//! Each key is kept apart from "not said" and "cleared", as all keys of a route are. Invariants: limits
//! and lockouts add up along the wider routes, everything else is replaced by the narrower word; what is
//! read here the edge can do. Not here: what it means for a request, which is the edge's.

mod access;
mod browser;
mod content;
mod limit;

use seaworthy_base::policy::{
    Auth, Cache, Compress, Cookies, Cors, Csrf, Lockout, Maintenance, Policy, Rewrite,
};
use toml::de::DeValue;

pub(crate) use access::read_query;
pub(crate) use content::share;
pub(crate) use limit::{LimitUse, NamedLimits, check_rate, parse_key, read_identity, read_named};

use crate::inherit::take;
use crate::read::{Found, Reader, Value};
use crate::route::{Said, said};

/// The policy keys of a route as they stand in the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawPolicy {
    pub(crate) deny_from: Said<Vec<String>>,
    pub(crate) allow_from: Said<Vec<String>>,
    /// `block = { query }`.
    pub(crate) block_query: Said<Vec<String>>,
    pub(crate) maintenance: Said<Maintenance>,
    pub(crate) lockouts: Said<Vec<Lockout>>,
    pub(crate) limits: Said<Vec<LimitUse>>,
    pub(crate) cors: Said<Cors>,
    pub(crate) csrf: Said<Csrf>,
    pub(crate) auth: Said<Auth>,
    pub(crate) cache: Said<Cache>,
    pub(crate) rewrite: Said<Rewrite>,
    pub(crate) csp: Said<String>,
    pub(crate) cookies: Said<Cookies>,
    pub(crate) compress: Said<Option<Compress>>,
    pub(crate) log_sample: Said<u16>,
}

impl RawPolicy {
    /// How many rules it adds to what narrower routes inherit.
    pub(crate) fn rules(&self) -> usize {
        fn count<T>(said: &Said<Vec<T>>) -> usize {
            if let Said::Is(list) = said { list.len() } else { 0 }
        }
        count(&self.limits) + count(&self.lockouts)
    }
}

/// Reads all policy keys but `block`. `scope` names the requests that the route is for.
pub(crate) fn read(reader: &mut Reader<'_>, found: &Found<'_>, scope: &str) -> RawPolicy {
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    RawPolicy {
        deny_from: said(get("deny_from"), |value| access::networks(reader, value)),
        allow_from: said(get("allow_from"), |value| access::networks(reader, value)),
        block_query: Said::Nothing,
        maintenance: said(get("maintenance"), |value| access::maintenance(reader, value)),
        lockouts: said(get("lockout"), |value| limit::lockouts(reader, value, scope)),
        limits: said(get("limit"), |value| limit::limits(reader, value, scope)),
        cors: said(get("cors"), |value| browser::cors(reader, value)),
        csrf: said(get("csrf"), |value| browser::csrf(reader, value)),
        auth: said(get("auth"), |value| access::auth(reader, value)),
        cache: said(get("cache"), |value| content::cache(reader, value)),
        rewrite: said(get("rewrite"), |value| access::rewrite(reader, value)),
        csp: said(get("csp"), |value| browser::csp(reader, value)),
        cookies: said(get("cookies"), |value| browser::cookies(reader, value)),
        compress: said(get("compress"), |value| content::compress(reader, value).map(Some)),
        log_sample: match get("log") {
            Some(value) if value.get_ref().as_table().is_some() => {
                said(Some(value), |value| content::log_sample(reader, value))
            }
            Some(value) if value.get_ref().as_bool() == Some(true) => Said::Is(1000),
            _ => Said::Nothing,
        },
    }
}

/// Lays the words of a narrower route over what is inherited.
pub(crate) fn inherit(said: &RawPolicy, into: &mut Policy, named: &NamedLimits) {
    take(&said.deny_from, &mut into.deny_from, Vec::new());
    take(&said.allow_from, &mut into.allow_from, Vec::new());
    take(&said.block_query, &mut into.block_query, Vec::new());
    take_some(&said.maintenance, &mut into.maintenance);
    add_up(&said.lockouts, &mut into.lockouts, |lockout| Some(lockout.clone()));
    add_up(&said.limits, &mut into.limits, |limit| limit.resolve(named));
    take_some(&said.cors, &mut into.cors);
    take_some(&said.csrf, &mut into.csrf);
    take_some(&said.auth, &mut into.auth);
    take_some(&said.cache, &mut into.cache);
    take_some(&said.rewrite, &mut into.rewrite);
    take_some(&said.csp, &mut into.csp);
    take(&said.cookies, &mut into.cookies, Cookies::default());
    take(&said.compress, &mut into.compress, None);
    take(&said.log_sample, &mut into.log_sample, 1000);
}

pub(crate) fn take_some<T: Clone>(said: &Said<T>, into: &mut Option<T>) {
    match said {
        Said::Nothing => {}
        Said::Cleared => *into = None,
        Said::Is(value) => *into = Some(value.clone()),
    }
}

fn add_up<S, T: PartialEq>(
    said: &Said<Vec<S>>,
    into: &mut Vec<T>,
    resolve: impl Fn(&S) -> Option<T>,
) {
    match said {
        Said::Nothing => {}
        Said::Cleared => into.clear(),
        Said::Is(list) => {
            for one in list.iter().filter_map(resolve) {
                if !into.contains(&one) {
                    into.push(one);
                }
            }
        }
    }
}

/// `true`, or a table; what else it is was reported.
pub(crate) fn table_or_true<T>(
    reader: &mut Reader<'_>,
    value: Value<'_>,
    default: impl FnOnce() -> T,
    read: impl FnOnce(&mut Reader<'_>, &toml::de::DeTable<'_>) -> Option<T>,
) -> Option<T> {
    match value.get_ref() {
        DeValue::Boolean(true) => Some(default()),
        DeValue::Table(table) => read(reader, table),
        _ => {
            reader.problem(value.span(), "this should be true, false or a table", None);
            None
        }
    }
}

/// A list of texts that must all fit; those that do not are reported with what they should be.
fn texts_that(
    reader: &mut Reader<'_>,
    value: Value<'_>,
    wanted: &str,
    fit: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut all = Vec::new();
    for (span, text) in reader.texts(value) {
        if let Some(text) = fit(&text) {
            all.push(text);
        } else {
            let quoted = reader.quote(&span, &text);
            reader.problem(span, format!("{quoted} is no {wanted}"), None);
        }
    }
    reader.at_most(value, &mut all, crate::limits::POLICY_LIST, "entries");
    all
}
