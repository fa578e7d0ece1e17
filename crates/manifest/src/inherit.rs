//! How routes inherit: from each wider route of the same hosts, key by key; the narrower word wins.
//!
//! A pure function. "Wider" is decided on the patterns: every path that the narrow one matches, the wide
//! one matches too. Invariants: what stands on `/*` holds everywhere until a narrower route says
//! otherwise (the trap of nginx's `add_header` does not exist); the order of the file does not matter
//! but between equals.

use crate::route::{RawHeaders, RawRoute, Said};
use crate::site::{HeaderRules, Route, RouteAction, RouteSettings};

/// Resolves all routes; one for each path pattern, the one that wins first.
pub fn resolve(routes: &[RawRoute]) -> Vec<Route> {
    let mut all: Vec<(Rank, Route)> = Vec::new();
    for route in routes {
        for path in &route.paths {
            let mut wider: Vec<(Rank, &RawRoute)> = routes
                .iter()
                .flat_map(|other| other.paths.iter().map(move |pattern| (other, pattern)))
                .filter(|(other, pattern)| {
                    !std::ptr::eq(*other, route)
                        && *pattern != path
                        && covers(pattern, path)
                        && hosts_cover(other, route)
                        && methods_cover(other, route)
                })
                .map(|(other, pattern)| (rank(other, pattern), other))
                .collect();
            // The widest first, so that each narrower one writes over it.
            wider.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
            let chain = wider.into_iter().map(|(_, other)| other).chain(std::iter::once(route));
            all.push((rank(route, path), build(path, route, chain)));
        }
    }
    all.sort_by_key(|a| a.0);
    all.into_iter().map(|(_, route)| route).collect()
}

/// Sorts the winner first: priority, then exact before pattern, then the longest literal prefix, then the longest pattern, then routes with hosts and methods.
type Rank = (i64, bool, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>, bool, bool);

fn rank(route: &RawRoute, path: &str) -> Rank {
    let literal = path.find('*').unwrap_or(path.len());
    (
        -route.priority,
        path.contains('*'),
        std::cmp::Reverse(literal),
        std::cmp::Reverse(path.len()),
        route.hosts.is_empty(),
        route.methods.is_empty(),
    )
}

/// Whether `wide` matches every path that `narrow` matches. `*` in `narrow` stands for any text, so it
/// must be met by a `*` of `wide`: matching the pattern as a text does just that.
pub fn covers(wide: &str, narrow: &str) -> bool {
    matches(wide.as_bytes(), narrow.as_bytes())
}

/// Matches a text against a pattern in which `*` stands for any characters.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            back = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            p += 1;
            t += 1;
        } else if let Some((star, from)) = back {
            p = star + 1;
            t = from + 1;
            back = Some((star, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

fn hosts_cover(wide: &RawRoute, narrow: &RawRoute) -> bool {
    wide.hosts.is_empty()
        || (!narrow.hosts.is_empty() && narrow.hosts.iter().all(|host| wide.hosts.contains(host)))
}

fn methods_cover(wide: &RawRoute, narrow: &RawRoute) -> bool {
    wide.methods.is_empty()
        || (!narrow.methods.is_empty()
            && narrow.methods.iter().all(|method| wide.methods.contains(method)))
}

fn build<'a>(path: &str, route: &RawRoute, chain: impl Iterator<Item = &'a RawRoute>) -> Route {
    let mut settings = RouteSettings::default();
    let default = settings.clone();
    let mut action = RouteAction::Block;
    let mut idle = default.idle;
    for link in chain {
        take(&link.action, &mut action, RouteAction::Block);
        match &link.body_limit {
            Said::Nothing => {}
            Said::Cleared => settings.body_limit = None,
            Said::Is(limit) => settings.body_limit = Some(*limit),
        }
        match &link.timeout {
            Said::Nothing => {}
            Said::Cleared => {
                (settings.connect, settings.response, idle) =
                    (default.connect, default.response, default.idle)
            }
            Said::Is(times) => {
                settings.connect = times.connect.unwrap_or(settings.connect);
                settings.response = times.response.unwrap_or(settings.response);
                idle = times.idle.or(idle);
            }
        }
        take(&link.stream, &mut settings.stream, false);
        take(&link.log, &mut settings.log, true);
        take_headers(&link.response_headers, &mut settings.response_headers);
        take_headers(&link.request_headers, &mut settings.request_headers);
        take(&link.cache_control, &mut settings.cache_control, Vec::new());
    }
    settings.idle = if settings.stream { None } else { idle };
    Route {
        path: path.to_owned(),
        hosts: route.hosts.clone(),
        methods: route.methods.clone(),
        action,
        settings,
    }
}

fn take<T: Clone>(said: &Said<T>, into: &mut T, cleared: T) {
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
            into.add.retain(|name, _| !rules.remove.contains(name));
            into.set.extend(rules.set.clone());
            into.add.extend(rules.add.clone());
            into.remove.extend(rules.remove.iter().cloned());
            into.only_missing |= rules.only_missing;
        }
    }
}
