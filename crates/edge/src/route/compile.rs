//! Sites and routes with everything parsed that a request would otherwise parse again.
//!
//! Invariant: what is compiled here cannot fail later; header names and values, methods, patterns and
//! networks are checked once. Rules that would change the framing of a message are refused.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::Method;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use seaworthy_base::policy::Identity;
use thiserror::Error;

use super::host;
use super::network::{Network, NetworkError};
use super::pattern::Pattern;
use crate::candidate::Candidate;
use crate::gate::Gate;
use crate::health::Aggregate;
use crate::model;
use crate::policy::{CompiledPolicy, PolicyError, Scope};
use crate::upstream::{Breaker, Breakers};

/// Why a configuration cannot be served. The whole of it is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RouteError {
    /// Not a host name, wildcard or address.
    #[error("site `{site}`: `{host}` is no host")]
    Host {
        /// The site.
        site: String,
        /// As given.
        host: String,
    },
    /// Two sites, or one site twice.
    #[error("host `{host}` belongs to `{other}` and to `{site}`")]
    HostTwice {
        /// The host.
        host: String,
        /// The later site.
        site: String,
        /// The earlier site.
        other: String,
    },
    /// A site without hosts has no canonical one.
    #[error("site `{site}` has no host")]
    NoHost {
        /// The site.
        site: String,
    },
    /// A trusted proxy, or whom a route lets in, that is no network.
    #[error("site `{site}`: a list of networks cannot be read")]
    Network {
        /// The site.
        site: String,
        /// What is wrong.
        #[source]
        source: NetworkError,
    },
    /// A way out that cannot be gone.
    #[error("site `{site}`, outgoing `{name}`: {why}")]
    Outgoing {
        /// The site.
        site: String,
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A method that is none.
    #[error("site `{site}`, route `{path}`: `{method}` is no method")]
    Method {
        /// The site.
        site: String,
        /// The route.
        path: String,
        /// As given.
        method: String,
    },
    /// A header that cannot be sent, or whose change would break the framing of messages.
    #[error("site `{site}`, route `{path}`: header `{header}` cannot be set, added or removed")]
    Header {
        /// The site.
        site: String,
        /// The route.
        path: String,
        /// The header's name.
        header: String,
    },
    /// A status that is no HTTP status.
    #[error("site `{site}`, route `{path}`: `{status}` is no status")]
    Status {
        /// The site.
        site: String,
        /// The route.
        path: String,
        /// As given.
        status: u16,
    },
}

/// Clients that were told remember it for an hour: where UDP does not get through any more they would try in
/// vain for as long.
fn alt_svc(port: u16) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("h3=\":{port}\"; ma=3600")).ok()
}

/// One site.
#[derive(Debug)]
pub struct CompiledSite {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// The host that redirects lead to.
    pub canonical: String,
    /// Plain HTTP is redirected to HTTPS on this public port.
    pub https_port: Option<u16>,
    /// How clients are told that HTTP/3 is spoken (RFC 7838 § 3), where it is.
    pub(crate) alt_svc: Option<HeaderValue>,
    /// Whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<Network>,
    /// The release that serves, as people name it; empty where nobody said.
    pub(crate) release: Arc<str>,
    /// Who gets a release that is being tried.
    pub candidate: Option<Candidate>,
    /// Answers of any of its routes are kept.
    pub(crate) keeps: bool,
    /// Closed for a while.
    pub gate: Option<Gate>,
    /// Its names, without wildcards.
    pub(crate) hosts: Vec<String>,
    /// How a request's user is known.
    pub(crate) identity: Vec<Identity>,
    /// Clients are asked for a certificate; whether they must have shown one.
    pub(crate) clients: Option<bool>,
    /// What is looked at by routes that say how it is, where it has any.
    pub(crate) health: Option<Aggregate>,
    /// No route takes `Strict-Transport-Security` away or gives it another value.
    pub(crate) always_secure: bool,
}

impl CompiledSite {
    pub(super) fn build(site: &model::Site) -> Result<Self, RouteError> {
        let name = || site.name.clone();
        let canonical = site.hosts.first().ok_or_else(|| RouteError::NoHost { site: name() })?;
        let parsed = site.trusted_proxies.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        Ok(Self {
            name: site.name.as_str().into(),
            canonical: host::name_of(site, canonical)?,
            https_port: site.https_port,
            alt_svc: site.http3_port.and_then(alt_svc),
            release: site.release.as_deref().unwrap_or_default().into(),
            candidate: site.candidate.as_ref().map(Candidate::new),
            keeps: all_routes(site).any(|route| route.settings.policy.cache.is_some()),
            gate: Gate::build(site)?,
            trusted_proxies: parsed
                .map_err(|source| RouteError::Network { site: name(), source })?,
            hosts: host::named(site, &site.hosts)?,
            identity: site.identity.clone(),
            clients: site.clients,
            health: Aggregate::build(site).map_err(|header| RouteError::Header {
                site: name(),
                path: "[health]".to_owned(),
                header,
            })?,
            always_secure: !site.routes.iter().any(changes_transport),
        })
    }

    #[cfg(test)]
    pub(crate) fn for_tests(hosts: &[&str], identity: Vec<Identity>) -> Self {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let site =
            model::Site { name: "shop".to_owned(), hosts, identity, ..model::Site::default() };
        Self::build(&site).unwrap()
    }

    /// Whether a peer's `X-Forwarded-*` are believed.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(ip))
    }
}

/// Its routes, those of a release that is being tried included.
fn all_routes(site: &model::Site) -> impl Iterator<Item = &model::Route> {
    site.routes.iter().chain(site.candidate.iter().flat_map(|candidate| &candidate.routes))
}

/// Whether a route says something of its own about `Strict-Transport-Security`.
fn changes_transport(route: &model::Route) -> bool {
    let rules = &route.settings.response_headers;
    let set = rules.set.iter().chain(&rules.add).map(|(name, _)| name);
    set.chain(&rules.remove).any(|name| name.eq_ignore_ascii_case("strict-transport-security"))
}

/// One route.
#[derive(Debug)]
pub struct CompiledRoute {
    /// The pattern as the manifest writes it.
    pub path: String,
    /// What happens.
    pub action: model::Action,
    /// Limits and switches.
    pub settings: model::Settings,
    /// `settings.request_headers`, parsed.
    pub request_rules: CompiledHeaderRules,
    /// `settings.response_headers`, parsed.
    pub response_rules: CompiledHeaderRules,
    /// `settings.cache_control`, parsed; the first pattern that fits counts.
    pub cache_control: Vec<(String, HeaderValue)>,
    /// `settings.policy`, parsed.
    pub(crate) policy: CompiledPolicy,
    /// The breaker of `settings.delivery`, once it was needed.
    breaker: OnceLock<Arc<Breaker>>,
    pub(super) hosts: Vec<String>,
    pattern: Pattern,
    methods: Vec<Method>,
}

impl CompiledRoute {
    pub(super) fn build(site: &model::Site, route: &model::Route) -> Result<Self, RouteError> {
        let (name, path) = (|| site.name.clone(), || route.path.clone());
        let method = |text: &String| {
            Method::from_bytes(text.as_bytes()).map_err(|_| RouteError::Method {
                site: name(),
                path: path(),
                method: text.clone(),
            })
        };
        let bad_header = |header: String| RouteError::Header { site: name(), path: path(), header };
        let settings = &route.settings;
        let is_health = route.action == model::Action::Health;
        let mut cache_control = Vec::new();
        // How a site is now nobody may keep, whatever it inherits.
        for (pattern, value) in settings.cache_control.iter().filter(|_| !is_health) {
            let value =
                HeaderValue::from_str(value).map_err(|_| bad_header("cache-control".to_owned()))?;
            cache_control.push((pattern.clone(), value));
        }
        match &route.action {
            model::Action::Respond { status, .. } | model::Action::Redirect { status, .. }
                if !(200..=599).contains(status) =>
            {
                return Err(RouteError::Status { site: name(), path: path(), status: *status });
            }
            _ => {}
        }
        // A block is a refusal: it is read as widely as any application might read the path.
        let pattern = if route.action == model::Action::Block {
            Pattern::wide(&route.path)
        } else {
            Pattern::new(&route.path)
        };
        let mut response_rules =
            CompiledHeaderRules::build(&settings.response_headers).map_err(bad_header)?;
        if is_health {
            response_rules.leave_alone(&CACHE_CONTROL);
        }
        let is_files = matches!(route.action, model::Action::Static { .. });
        let scope = Scope { site, rules: &response_rules, is_files };
        let policy =
            CompiledPolicy::build(&settings.policy, scope).map_err(|error| match error {
                PolicyError::Header(header) => bad_header(header),
                PolicyError::Network(source) => RouteError::Network { site: name(), source },
            })?;
        Ok(Self {
            path: path(),
            action: route.action.clone(),
            settings: settings.clone(),
            request_rules: CompiledHeaderRules::build(&settings.request_headers)
                .map_err(bad_header)?,
            response_rules,
            cache_control,
            policy,
            breaker: OnceLock::new(),
            hosts: host::named(site, &route.hosts)?,
            pattern,
            methods: route.methods.iter().map(method).collect::<Result<_, _>>()?,
        })
    }

    /// The breaker between it and its service, where it has one.
    pub(crate) fn breaker(&self, all: &Breakers, service: &str) -> Option<&Arc<Breaker>> {
        let rule = self.settings.delivery.breaker.as_ref()?;
        Some(self.breaker.get_or_init(|| all.of(service, rule)))
    }

    /// So many milliseconds its breaker lets nothing through.
    pub(crate) fn closed_for(&self, now: u64) -> Option<u64> {
        self.breaker.get()?.closed_for(now)
    }

    /// Whether the route is for this decoded path.
    pub(super) fn matches(&self, path: &str) -> bool {
        self.pattern.matches(path)
    }

    /// Whether the application behind `found` may take this path for one of this route's, which demands more.
    pub(super) fn guards(&self, found: &Self, path: &str) -> bool {
        self.is_guard() && self.action == found.action && self.pattern.fits_widely(path)
    }

    /// Whether all that `other` demands is demanded here, too.
    pub(super) fn demands_as_much_as(&self, other: &Self) -> bool {
        let (here, there) = (&self.settings.policy, &other.settings.policy);
        let body = match (self.settings.body_limit, other.settings.body_limit) {
            (Some(here), Some(there)) => here <= there,
            (_, there) => there.is_none(),
        };
        body && (there.deny_from.is_empty() || here.deny_from == there.deny_from)
            && (there.allow_from.is_empty() || here.allow_from == there.allow_from)
            && there.block_query.iter().all(|one| here.block_query.contains(one))
            && (there.maintenance.is_none() || here.maintenance == there.maintenance)
            && there.lockouts.iter().all(|one| here.lockouts.contains(one))
            && there.limits.iter().all(|one| here.limits.contains(one))
            && (there.csrf.is_none() || here.csrf == there.csrf)
            && (there.auth.is_none() || here.auth == there.auth)
    }

    /// Whether it demands something of requests that go to an application.
    pub(super) fn is_guard(&self) -> bool {
        self.policy.is_guard && matches!(self.action, model::Action::Proxy(_))
    }

    /// Whether its pattern can be read in one way only, where the path is plain.
    pub(super) fn is_plain(&self) -> bool {
        self.pattern.is_plain()
    }

    /// Whether the route is for this method; `GET` includes `HEAD`.
    pub(super) fn allows(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}

impl CompiledRoute {
    /// What `Allow` lists for it.
    pub(super) fn method_names(&self) -> impl Iterator<Item = &str> {
        let head = self.methods.contains(&Method::GET).then_some("HEAD");
        self.methods.iter().map(Method::as_str).chain(head)
    }
}

/// Headers whose change would alter where a message ends or whether the connection is kept.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Header rules, parsed: remove, then set, then add.
#[derive(Debug, Clone, Default)]
pub struct CompiledHeaderRules {
    pub(crate) remove: Vec<HeaderName>,
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
    pub(crate) add: Vec<(HeaderName, HeaderValue)>,
    pub(crate) only_missing: bool,
}

impl CompiledHeaderRules {
    /// Whether nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Changes one header no more.
    fn leave_alone(&mut self, header: &HeaderName) {
        self.remove.retain(|name| name != header);
        self.set.retain(|(name, _)| name != header);
        self.add.retain(|(name, _)| name != header);
    }

    /// Parses rules. The error is the name of the header that cannot be used.
    pub fn build(rules: &model::HeaderRules) -> Result<Self, String> {
        let name = |text: &String| {
            let parsed = HeaderName::from_bytes(text.as_bytes()).map_err(|_| text.clone())?;
            if FRAMING.contains(&parsed.as_str()) { Err(text.clone()) } else { Ok(parsed) }
        };
        let pair = |(key, value): &(String, String)| -> Result<(HeaderName, HeaderValue), String> {
            Ok((name(key)?, HeaderValue::from_str(value).map_err(|_| key.clone())?))
        };
        Ok(Self {
            remove: rules.remove.iter().map(name).collect::<Result<_, _>>()?,
            set: rules.set.iter().map(pair).collect::<Result<_, _>>()?,
            add: rules.add.iter().map(pair).collect::<Result<_, _>>()?,
            only_missing: rules.only_missing,
        })
    }
}
