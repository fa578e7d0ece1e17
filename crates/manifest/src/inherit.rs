//! How routes inherit: from each wider route, key by key; the narrower word wins.
//!
//! A pure function. What is wider is said by [`width`]. Invariants: what stands on `/*` holds everywhere
//! until a narrower route says otherwise (the trap of nginx's `add_header` does not exist); a route that
//! only narrows hosts or methods keeps what it does not speak of; the order of the file does not matter.
//! `key = false` takes away what was inherited under that key and nothing else, so that under a cleared
//! `block` the service that lies beneath is served again.

pub(crate) mod width;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use self::width::{Pattern, Widths};
use crate::delivery;
use crate::policy::{self, NamedLimits};
use crate::route::{ActionKey, RawHeaders, RawRoute, Said};
use crate::site::{HeaderRules, Route, RouteAction, RouteSettings};

/// A path pattern by the position of its route, and by its own there.
pub(crate) type Place = (usize, usize);

/// Resolves all routes; one for each path pattern, the one that wins first. Patterns that serve nothing
/// (see [`unserved`]) are left out.
pub(crate) fn resolve(routes: &[RawRoute], domains: &[String], limits: &NamedLimits) -> Vec<Route> {
    let widths = Widths::new(routes, domains);
    let resolved = widths.patterns.iter().filter_map(|pattern| {
        let chain = chain(&widths, routes, pattern);
        let action = action(&chain).ok().flatten()?;
        build(routes.get(pattern.route)?, pattern.at, action, &chain, limits)
    });
    resolved.collect()
}

/// Path patterns for which neither their route nor a wider one says what to do: route and path, by
/// position. Where an action could not be read, nothing is claimed.
pub(crate) fn unserved(routes: &[RawRoute], domains: &[String]) -> Vec<Place> {
    let widths = Widths::new(routes, domains);
    let patterns = widths.patterns.iter();
    let unserved = patterns.filter(|one| action(&chain(&widths, routes, one)) == Ok(None));
    unserved.map(|pattern| (pattern.route, pattern.at)).collect()
}

/// Path patterns that are for the same requests as an earlier one: the earlier one and it, each as route
/// and path by position.
pub(crate) fn doubles(routes: &[RawRoute], domains: &[String]) -> Vec<(Place, Place)> {
    let widths = Widths::new(routes, domains);
    let mut first: BTreeMap<_, Place> = BTreeMap::new();
    let mut in_file: Vec<&Pattern> = widths.patterns.iter().collect();
    in_file.sort_by_key(|pattern| (pattern.route, pattern.at));
    let doubles = in_file.into_iter().filter_map(|pattern| {
        let place = (pattern.route, pattern.at);
        match first.entry(widths.requests(pattern)) {
            Entry::Occupied(first) => Some((*first.get(), place)),
            Entry::Vacant(free) => {
                free.insert(place);
                None
            }
        }
    });
    doubles.collect()
}

/// The routes whose words count for a pattern: the widest first, its own last.
fn chain<'a>(widths: &Widths, routes: &'a [RawRoute], pattern: &Pattern) -> Vec<&'a RawRoute> {
    let wider = widths.wider(pattern).into_iter();
    wider.chain(std::iter::once(pattern)).filter_map(|one| routes.get(one.route)).collect()
}

/// An action stands somewhere in the chain, and could not be read.
#[derive(Debug, PartialEq, Eq)]
struct Unread;

fn action<'a>(chain: &[&'a RawRoute]) -> Result<Option<&'a RouteAction>, Unread> {
    let mut said: Vec<&RouteAction> = Vec::new();
    let mut unread = false;
    for link in chain {
        said.retain(|action| !link.cleared.contains(&ActionKey::of(action)));
        if let Some(action) = &link.action {
            said.push(action);
            unread = false;
        }
        unread |= link.action_unread;
    }
    if unread { Err(Unread) } else { Ok(said.last().copied()) }
}

fn build(
    route: &RawRoute,
    at: usize,
    action: &RouteAction,
    chain: &[&RawRoute],
    limits: &NamedLimits,
) -> Option<Route> {
    let mut settings = RouteSettings::default();
    let default = settings.clone();
    let mut idle = default.idle;
    for link in chain {
        match &link.body_limit {
            Said::Nothing => {}
            Said::Cleared => settings.body_limit = None,
            Said::Is(limit) => settings.body_limit = Some(*limit),
        }
        match &link.timeout {
            Said::Nothing => {}
            Said::Cleared => {
                (settings.connect, settings.response, idle) =
                    (default.connect, default.response, default.idle);
                (settings.delivery.send, settings.delivery.total) = (None, None);
            }
            Said::Is(times) => {
                settings.connect = times.connect.unwrap_or(settings.connect);
                settings.response = times.response.unwrap_or(settings.response);
                idle = times.idle.or(idle);
                settings.delivery.send = times.send.or(settings.delivery.send);
                settings.delivery.total = times.total.or(settings.delivery.total);
            }
        }
        take(&link.stream, &mut settings.stream, false);
        take(&link.log, &mut settings.log, true);
        take_headers(&link.response_headers, &mut settings.response_headers);
        take_headers(&link.request_headers, &mut settings.request_headers);
        take(&link.cache_control, &mut settings.cache_control, Vec::new());
        policy::inherit(&link.policy, &mut settings.policy, limits);
        delivery::inherit(&link.delivery, &mut settings.delivery);
    }
    settings.idle = if settings.stream { None } else { idle };
    Some(Route {
        path: route.paths.get(at)?.clone(),
        hosts: route.hosts.clone(),
        methods: route.methods.clone(),
        action: action.clone(),
        settings,
    })
}

pub(crate) fn take<T: Clone>(said: &Said<T>, into: &mut T, cleared: T) {
    match said {
        Said::Nothing => {}
        Said::Cleared => *into = cleared,
        Said::Is(value) => into.clone_from(value),
    }
}

/// Header rules add up name by name.
fn take_headers(said: &Said<RawHeaders>, into: &mut HeaderRules) {
    match said {
        Said::Nothing => {}
        Said::Cleared => *into = HeaderRules::default(),
        Said::Is(rules) => {
            into.remove
                .retain(|name| !rules.set.contains_key(name) && !rules.add.contains_key(name));
            into.set.retain(|name, _| !rules.remove.contains(name));
            into.add
                .retain(|name, _| !rules.remove.contains(name) && !rules.set.contains_key(name));
            into.set.extend(rules.set.clone());
            into.add.extend(rules.add.clone());
            into.remove.extend(rules.remove.iter().cloned());
            into.only_missing |= rules.only_missing;
        }
    }
}
