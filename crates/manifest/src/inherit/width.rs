//! Which routes are wider than which: by the requests they are for, not by how they are written.
//!
//! A route is for a request when path, host and method all fit; a list that is absent stands for all of
//! them. One route covers another when every request of the other is one of its own. Invariants: paths,
//! hosts and methods are compared in the spelling in which the edge reads them (percent-encoding, `**`,
//! `HEAD` as part of `GET`, a wildcard for exactly one label); a route that covers another never ranks
//! before it, unless `priority` says so; the rank does not depend on the order of the file.
//! Not here: matching of requests, which the edge does.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::route::RawRoute;

/// One path pattern of one route.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// Its route, by position.
    pub(crate) route: usize,
    /// Its place among the paths of its route.
    pub(crate) at: usize,
    /// In the edge's spelling.
    path: String,
    specificity: Specificity,
    priority: i64,
}

/// Sorts the narrowest first: exact paths, the longest literal prefix, most literal characters, fewest
/// stars; then few hosts, then few methods.
type Specificity =
    (bool, Reverse<usize>, Reverse<usize>, usize, (bool, usize, usize), (bool, usize));

/// The hosts and methods of a route; none is all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Reach {
    hosts: Option<BTreeSet<String>>,
    methods: Option<BTreeSet<String>>,
}

/// All patterns of a site with their widths.
#[derive(Debug)]
pub(crate) struct Widths {
    /// In the order in which they win.
    pub(crate) patterns: Vec<Pattern>,
    reaches: Vec<Reach>,
    /// Whether the hosts and methods of one route cover those of another, by `wide * count + narrow`.
    covers: Vec<bool>,
}

impl Widths {
    /// `domains`: the hosts that a route without `hosts` is for.
    pub(crate) fn new(routes: &[RawRoute], domains: &[String]) -> Self {
        let reaches: Vec<Reach> = routes.iter().map(|route| Reach::new(route, domains)).collect();
        let covers = reaches
            .iter()
            .flat_map(|wide| reaches.iter().map(|narrow| wide.covers(narrow, domains)))
            .collect();
        let mut patterns = Vec::new();
        for (position, (route, reach)) in routes.iter().zip(&reaches).enumerate() {
            for (at, path) in route.paths.iter().enumerate() {
                let path = edge_spelling(path);
                let specificity = specificity(&path, reach);
                let priority = route.priority;
                patterns.push(Pattern { route: position, at, path, specificity, priority });
            }
        }
        let reach = |pattern: &Pattern| reaches.get(pattern.route);
        patterns.sort_by(|a, b| {
            (Reverse(a.priority), &a.specificity, &a.path)
                .cmp(&(Reverse(b.priority), &b.specificity, &b.path))
                .then_with(|| reach(a).cmp(&reach(b)))
        });
        Self { patterns, reaches, covers }
    }

    /// What a pattern is for, in the one spelling that two patterns for the same requests share.
    pub(crate) fn requests(&self, pattern: &Pattern) -> impl Ord + use<'_> {
        (pattern.path.clone(), self.reaches.get(pattern.route))
    }

    /// Whether every request of `narrow` is one of `wide`.
    pub(crate) fn covers(&self, wide: &Pattern, narrow: &Pattern) -> bool {
        self.covers.get(wide.route * self.reaches.len() + narrow.route) == Some(&true)
            && path_covers(&wide.path, &narrow.path)
    }

    /// The patterns that `narrow` inherits from, the widest first.
    pub(crate) fn wider(&self, narrow: &Pattern) -> Vec<&Pattern> {
        let mut wider: Vec<&Pattern> = self
            .patterns
            .iter()
            .filter(|wide| {
                wide.route != narrow.route
                    && self.covers(wide, narrow)
                    && !self.covers(narrow, wide)
            })
            .collect();
        // Stable: what ranks equally keeps the order in which it wins, turned around.
        wider.reverse();
        wider.sort_by_key(|one| Reverse(one.specificity));
        wider
    }
}

impl Reach {
    fn new(route: &RawRoute, domains: &[String]) -> Self {
        let given: BTreeSet<String> = route.hosts.iter().cloned().collect();
        let hosts: BTreeSet<String> =
            given.iter().filter(|host| !under_wildcard(&given, host)).cloned().collect();
        let all = hosts.is_empty() || domains.iter().all(|domain| host_in(&hosts, domain));
        let mut methods: BTreeSet<String> = route.methods.iter().cloned().collect();
        if methods.contains("GET") {
            methods.remove("HEAD");
        }
        Self { hosts: (!all).then_some(hosts), methods: (!methods.is_empty()).then_some(methods) }
    }

    fn covers(&self, narrow: &Self, domains: &[String]) -> bool {
        let hosts = match (&self.hosts, &narrow.hosts) {
            (None, _) => true,
            (Some(wide), None) => domains.iter().all(|domain| host_in(wide, domain)),
            (Some(wide), Some(narrow)) => narrow.iter().all(|host| host_in(wide, host)),
        };
        let methods = match (&self.methods, &narrow.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wide), Some(narrow)) => narrow
                .iter()
                .all(|method| wide.contains(method) || (method == "HEAD" && wide.contains("GET"))),
        };
        hosts && methods
    }
}

fn host_in(hosts: &BTreeSet<String>, host: &str) -> bool {
    hosts.contains(host) || under_wildcard(hosts, host)
}

fn under_wildcard(hosts: &BTreeSet<String>, host: &str) -> bool {
    let parent = host.split_once('.').filter(|(label, _)| *label != "*" && !label.is_empty());
    parent.is_some_and(|(_, parent)| hosts.contains(&format!("*.{parent}")))
}

fn specificity(path: &str, reach: &Reach) -> Specificity {
    let stars = path.matches('*').count();
    let prefix = path.find('*').unwrap_or(path.len());
    let hosts = reach.hosts.as_ref().map_or((true, 0, 0), |hosts| {
        let wild = hosts.iter().filter(|host| host.starts_with("*.")).count();
        (false, wild, hosts.len() - wild)
    });
    let methods = reach.methods.as_ref().map_or((true, 0), |methods| {
        // GET is two methods: HEAD is part of it.
        (false, methods.len() + usize::from(methods.contains("GET")))
    });
    (stars > 0, Reverse(prefix), Reverse(path.len() - stars), stars, hosts, methods)
}

/// A pattern as the edge reads it: percent-decoded if that gives text, and with one star for several.
pub(crate) fn edge_spelling(path: &str) -> String {
    let bytes = path.as_bytes();
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    let encoded = |at: usize| u8::try_from(digit(at + 1)? * 16 + digit(at + 2)?).ok();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let value = (*byte == b'%').then(|| encoded(at)).flatten();
        decoded.push(value.unwrap_or(*byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    let mut text = String::from_utf8(decoded).unwrap_or_else(|_| path.to_owned());
    while text.contains("**") {
        text = text.replace("**", "*");
    }
    text
}

/// Whether `wide` matches every path that `narrow` matches. A `*` of `narrow` stands for any text, so it
/// must be met by a `*` of `wide`: matching the pattern as a text does just that. Linear in both.
pub(crate) fn path_covers(wide: &str, narrow: &str) -> bool {
    let Some((first, rest)) = wide.split_once('*') else { return wide == narrow };
    let Some(mut text) = narrow.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*').filter(|piece| !piece.is_empty()) {
        match text.find(piece) {
            Some(at) => text = text.get(at + piece.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    text.ends_with(last)
}
