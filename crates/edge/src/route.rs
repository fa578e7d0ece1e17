//! Which site and route a request belongs to, decided on one canonical host and one canonical path.
//!
//! Why canonical: every proxy CVE about "the router saw another path than the application" comes from
//! two readings of the same bytes. Here the host and the path are read once ([`canonical_host`],
//! [`CanonicalPath`]); a path with a second reading is refused there.
//! Invariants: a table is built whole or not at all; where an application could read a path in a second
//! way (`;x` parameters, doubled slashes), a request is served only if both readings lead to the same
//! route; where it could take one path for another (letters in either case, a slash at the end), what guards
//! the other guards it, too (docs/decisions/062); a path that was not read so cannot be asked for.
//! Not here: the order of routes, which the manifest settles (the first match wins).

mod compile;
mod host;
mod network;
mod path;
mod pattern;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

pub(crate) use compile::CompiledHeaderRules as Rules;
pub use compile::{CompiledHeaderRules, CompiledRoute, CompiledSite, RouteError};
pub use host::canonical_host;
pub use network::{Network, NetworkError};
pub use path::{BadRequest, CanonicalPath};
pub(crate) use pattern::matches;

use crate::candidate::Candidate;
use crate::model;

/// Every site's hosts and routes, compiled for lookups. Immutable: a change builds a new one.
#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<Box<str>, Host>,
    /// By what follows the `*.`: a wildcard stands for exactly one label, as in certificates.
    wildcard: HashMap<Box<str>, Host>,
    /// Whether any site has a gate.
    pub(crate) gated: bool,
    /// Who begins connections with a PROXY header.
    proxies: Vec<Network>,
    /// Proxies of any site that are believed: their connections are not one client's.
    trusted: Vec<Network>,
    /// How many connections an address may hold, where a site says so.
    pub(crate) per_address: Option<u32>,
}

/// What answers to one host name.
#[derive(Debug)]
struct Host {
    site: Arc<CompiledSite>,
    redirects: bool,
    routes: Vec<Arc<CompiledRoute>>,
    /// Those of a release that is being tried.
    candidate: Vec<Arc<CompiledRoute>>,
    guarded: Guarded,
}

/// For which paths it is asked whether another route guards them: each look costs time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guarded {
    /// No route demands anything.
    Never,
    /// What the routes name is plain: for paths that are not.
    Odd,
    Always,
}

impl Guarded {
    fn of<'a>(routes: impl Iterator<Item = &'a Arc<CompiledRoute>>) -> Self {
        let each = routes.filter(|route| route.is_guard()).map(|route| route.is_plain());
        each.fold(Self::Never, |found, is_plain| match (found, is_plain) {
            (Self::Always, _) | (_, false) => Self::Always,
            (_, true) => Self::Odd,
        })
    }

    fn looks_at(self, path: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Odd => !pattern::is_plain(path),
            Self::Always => true,
        }
    }
}

/// The result of [`Table::find`].
#[derive(Debug)]
pub enum Found {
    /// This route of this site.
    Route(Arc<CompiledSite>, Arc<CompiledRoute>),
    /// A host that only leads to the site's canonical one: 308, same path and query.
    RedirectHost(Arc<CompiledSite>),
    /// No site has this host: 421.
    NoSite,
    /// The site has no route for this path and method, or the path can be read in two ways that lead to
    /// different routes, neither of which demands all that the other does: 404.
    NoRoute(Arc<CompiledSite>),
    /// Routes fit the path, but none of them the method: 405 with these in `Allow`.
    NoMethod(Arc<CompiledSite>, String),
}

impl Table {
    /// Compiles a configuration. Fails as a whole, naming site and route; the caller keeps the old table.
    pub fn build(config: &model::Config) -> Result<Self, RouteError> {
        let mut table = Self::default();
        for site in &config.sites {
            table.add(site)?;
        }
        Ok(table)
    }

    fn add(&mut self, site: &model::Site) -> Result<(), RouteError> {
        let compiled = Arc::new(CompiledSite::build(site)?);
        self.trusted.extend(compiled.trusted_proxies.iter().copied());
        self.per_address = self.per_address.into_iter().chain(site.connections_per_address).min();
        for text in &site.proxy_protocol {
            let network = text.parse();
            let failed = |source| RouteError::Network { site: site.name.clone(), source };
            self.proxies.push(network.map_err(failed)?);
        }
        self.gated |= compiled.gate.is_some();
        let build = |routes: &[model::Route]| {
            let each = routes.iter().map(|route| CompiledRoute::build(site, route).map(Arc::new));
            each.collect::<Result<Vec<_>, _>>()
        };
        let routes = build(&site.routes)?;
        let candidate = site.candidate.as_ref().map(|one| build(&one.routes)).transpose()?;
        let candidate = candidate.unwrap_or_default();
        let served = host::named(site, &site.hosts)?;
        let redirected = host::named(site, &site.redirect_hosts)?;
        // A route may single out one host below a wildcard of the site.
        let singled_out = routes.iter().flat_map(|route| &route.hosts);
        let singled_out = singled_out.filter(|name| {
            served.iter().any(|host| host::covers(host, name)) && !served.contains(name)
        });
        let mut every: Vec<String> = singled_out.cloned().collect();
        every.sort();
        every.dedup();
        every.extend(served);
        for name in every {
            let for_host = |route: &&Arc<CompiledRoute>| {
                route.hosts.is_empty()
                    || route.hosts.iter().any(|host| *host == name || host::covers(host, &name))
            };
            let of_host = |routes: &[Arc<CompiledRoute>]| -> Vec<Arc<CompiledRoute>> {
                routes.iter().filter(for_host).map(Arc::clone).collect()
            };
            let (routes, candidate) = (of_host(&routes), of_host(&candidate));
            let host = Host {
                site: Arc::clone(&compiled),
                redirects: false,
                guarded: Guarded::of(routes.iter().chain(&candidate)),
                routes,
                candidate,
            };
            self.put(name, host)?;
        }
        for name in redirected {
            let host = Host {
                site: Arc::clone(&compiled),
                redirects: true,
                routes: Vec::new(),
                candidate: Vec::new(),
                guarded: Guarded::Never,
            };
            self.put(name, host)?;
        }
        Ok(())
    }

    /// All routes, each as often as it has hosts.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (&CompiledSite, &CompiledRoute)> {
        let hosts = self.exact.values().chain(self.wildcard.values());
        hosts.flat_map(|host| {
            let routes = host.routes.iter().chain(&host.candidate);
            routes.map(|route| (&*host.site, &**route))
        })
    }

    fn put(&mut self, name: String, host: Host) -> Result<(), RouteError> {
        let site = host.site.name.to_string();
        let before = match name.strip_prefix("*.") {
            Some(suffix) => self.wildcard.insert(suffix.into(), host),
            None => self.exact.insert(name.as_str().into(), host),
        };
        match before {
            Some(other) => {
                Err(RouteError::HostTwice { host: name, site, other: other.site.name.to_string() })
            }
            None => Ok(()),
        }
    }

    /// What a request with this canonical host is for.
    pub fn find(&self, host: &str, method: &Method, path: &CanonicalPath<'_>) -> Found {
        self.find_with(host, (method, None), path, |_| false)
    }

    /// The same, with the routes of a release that is being tried for those whom `pick` sends there. `announced`: the
    /// method of a request that a browser wants to make if it may; where that one's route has `cors`, it is the one
    /// that says so, whatever methods it is for.
    pub(crate) fn find_with(
        &self,
        host: &str,
        (method, announced): (&Method, Option<&Method>),
        path: &CanonicalPath<'_>,
        pick: impl FnOnce(&Candidate) -> bool,
    ) -> Found {
        let Some(host) = self.host(host) else { return Found::NoSite };
        if host.redirects {
            return Found::RedirectHost(Arc::clone(&host.site));
        }
        let next = host.site.candidate.as_ref().is_some_and(pick);
        let routes = if next { &host.candidate } else { &host.routes };
        let site = Arc::clone(&host.site);
        let announced = announced
            .and_then(|method| Some((route_of_every_reading(routes, method, path)?, method)))
            .filter(|(route, _)| route.policy.cors.is_some());
        let usual = || Some((route_of_every_reading(routes, method, path)?, method));
        match announced.or_else(usual) {
            Some((route, method)) => match guard(host.guarded, routes, (route, method), path) {
                None => Found::Route(site, Arc::clone(route)),
                Some(guard) if guard.demands_as_much_as(route) => {
                    Found::Route(site, Arc::clone(guard))
                }
                // Each demands what the other does not: whichever answered, something could be walked around.
                Some(_) => Found::NoRoute(site),
            },
            None => match methods(routes, path) {
                Some(methods) => Found::NoMethod(site, methods),
                None => Found::NoRoute(site),
            },
        }
    }

    /// Whether a request is for [`model::Action::Health`], whichever release it is given.
    pub(crate) fn is_health(&self, host: &str, method: &Method, path: &CanonicalPath<'_>) -> bool {
        let Some(host) = self.host(host) else { return false };
        let leads = |routes| {
            let found = route_of_every_reading(routes, method, path);
            found.is_some_and(|route| route.action == model::Action::Health)
        };
        leads(&host.routes) && (host.site.candidate.is_none() || leads(&host.candidate))
    }

    /// The site that serves a canonical host.
    pub(crate) fn site(&self, host: &str) -> Option<&Arc<CompiledSite>> {
        self.host(host).map(|host| &host.site)
    }

    /// Whether connections of this peer begin with a PROXY header.
    pub(crate) fn is_announced(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(peer))
    }

    /// Whether a peer speaks for others.
    pub(crate) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(peer))
    }

    /// Whether two canonical hosts belong to one site; an unknown first one does not count.
    pub fn same_site(&self, known: &str, host: &str) -> bool {
        match (self.host(known), self.host(host)) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a.site, &b.site),
            (None, _) => true,
            (_, None) => false,
        }
    }

    fn host(&self, name: &str) -> Option<&Host> {
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }
}

type Routes = [Arc<CompiledRoute>];

fn route_of<'a>(routes: &'a Routes, method: &Method, path: &str) -> Option<&'a Arc<CompiledRoute>> {
    routes.iter().find(|route| route.allows(method) && route.matches(path))
}

fn route_of_every_reading<'a>(
    routes: &'a Routes,
    method: &Method,
    path: &CanonicalPath<'_>,
) -> Option<&'a Arc<CompiledRoute>> {
    let route = route_of(routes, method, path.decoded())?;
    let agrees = |other: String| {
        route_of(routes, method, &other).is_some_and(|second| Arc::ptr_eq(route, second))
    };
    path.other_reading().is_none_or(agrees).then_some(route)
}

/// The route before `found` whose demands the path must meet, since the application may take it for one of that
/// route's: most routers take `/Login` and `/login/` for `/login`.
fn guard<'a>(
    guarded: Guarded,
    routes: &'a Routes,
    (found, method): (&Arc<CompiledRoute>, &Method),
    path: &CanonicalPath<'_>,
) -> Option<&'a Arc<CompiledRoute>> {
    if guarded == Guarded::Never {
        return None;
    }
    let other = path.other_reading();
    let readings = [Some(path.decoded()), other.as_deref()];
    let mut readings = readings.into_iter().flatten().filter(|path| guarded.looks_at(path));
    readings.find_map(|path| {
        let narrower = routes.iter().take_while(|route| !Arc::ptr_eq(route, found));
        narrower.into_iter().find(|route| route.allows(method) && route.guards(found, path))
    })
}

/// The methods that the path is served for, as `Allow` lists them; none where it is not served.
fn methods(routes: &Routes, path: &CanonicalPath<'_>) -> Option<String> {
    if path.other_reading().is_some() {
        return None;
    }
    let fitting = routes.iter().filter(|route| {
        route.matches(path.decoded()) && !matches!(route.action, model::Action::Block)
    });
    let mut methods: Vec<&str> = Vec::new();
    for route in fitting {
        for method in route.method_names() {
            let known = methods.contains(&method);
            methods.extend((!known).then_some(method));
        }
    }
    (!methods.is_empty()).then(|| methods.join(", "))
}
