//! From the manifests and what runs to the edge's three inputs: pure translation.
//!
//! Invariant: what comes out depends on the sites and the instances only, so that the same state gives
//! the same snapshot after a crash of control.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_api::Layout;
use seaworthy_base::policy::{Key, Limit};
use seaworthy_base::{Rate, ReleaseId, ServiceName};
use seaworthy_edge::model::{
    Action, Check, Endpoint, EndpointState, HeaderRules, HealthKey, Route, Settings, Site,
};
use seaworthy_manifest::site::{self, Probe, RouteAction, Service, ServiceKind};
use seaworthy_runtime::model::{Phase, Status};

use crate::names::Known;
use crate::status::exit_words;

/// A site's routes for the edge.
pub(crate) fn site(
    site: &site::Site,
    release: ReleaseId,
    layout: &Layout,
    https_port: Option<u16>,
) -> Site {
    Site {
        candidate: None,
        clients: site.handshake.clients.as_ref().map(|clients| clients.require),
        gate: None,
        name: site.name.to_string(),
        hosts: hosts(site),
        redirect_hosts: site.redirect_domains.clone(),
        https_port: if site.tls == site::Tls::Off { None } else { https_port },
        http3_port: https_port.filter(|_| site.listen.http3 && site.tls != site::Tls::Off),
        trusted_proxies: site.listen.trusted_proxies.clone(),
        routes: routes(site, release, layout, |_| false),
        identity: site.identity.clone(),
        connections_per_address: site.listen.connections_per_address,
        proxy_protocol: site.listen.proxy_protocol.clone(),
        health: site.health.as_ref().map(|key| HealthKey {
            header: key.header.clone(),
            secret: secret_key(site.name.as_str(), &key.secret),
        }),
        release: Some(release.to_string()),
    }
}

/// Its routes; services that `tried` names are reached where they are tried.
pub(crate) fn routes(
    site: &site::Site,
    release: ReleaseId,
    layout: &Layout,
    tried: impl Fn(&ServiceName) -> bool,
) -> Vec<Route> {
    let each = site.routes.iter();
    each.filter_map(|route| one_route(site, route, release, layout, &tried)).collect()
}

/// The names a site answers to.
pub(crate) fn hosts(site: &site::Site) -> Vec<String> {
    site.domains.clone()
}

/// The secrets that its routes name, and the key to its health.
pub(crate) fn secret_names(site: &site::Site) -> Vec<String> {
    let named = site.routes.iter().filter_map(|route| route.settings.policy.auth.as_ref());
    let named = named.map(|auth| auth.basic.clone());
    let health = site.health.iter().map(|key| key.secret.clone());
    named.chain(health).chain(crate::stores::secret_names(site)).collect()
}

/// What the edge knows a secret by.
pub(crate) fn secret_key(site: &str, name: &str) -> String {
    format!("{site}/{name}")
}

/// The names its certificate is for.
pub(crate) fn certificate_hosts(site: &site::Site) -> Vec<String> {
    let bare = |name: &String| name.trim_start_matches('[').trim_end_matches(']').to_owned();
    site.domains.iter().chain(&site.redirect_domains).map(bare).collect()
}

fn one_route(
    site: &site::Site,
    route: &site::Route,
    release: ReleaseId,
    layout: &Layout,
    tried: &impl Fn(&ServiceName) -> bool,
) -> Option<Route> {
    let action = match &route.action {
        RouteAction::Service { service, port } => {
            let target = site.services.get(service)?;
            match &target.kind {
                ServiceKind::Static { spa, cache_control, .. } => Action::Static {
                    root: layout.public(&site.name, release).join(service.as_str()),
                    spa: *spa,
                    cache_control: cache_control.clone(),
                },
                ServiceKind::Process(_) | ServiceKind::Upstreams(_) => {
                    let key = service_key(site.name.as_str(), service.as_str(), port.as_deref());
                    Action::Proxy(if tried(service) { key + TRIED } else { key })
                }
            }
        }
        RouteAction::Block => Action::Block,
        RouteAction::Health => Action::Health,
        RouteAction::ClientEvents => Action::ClientEvents,
        RouteAction::Redirect { to, status } => {
            Action::Redirect { to: to.clone(), status: *status }
        }
        RouteAction::Respond { status, body, content_type } => Action::Respond {
            status: *status,
            body: body.clone(),
            content_type: content_type.clone(),
        },
    };
    let settings = &route.settings;
    let mut policy = settings.policy.clone();
    if action == Action::ClientEvents && policy.limits.is_empty() {
        policy.limits.push(limit_of_events());
    }
    Some(Route {
        path: route.path.clone(),
        hosts: route.hosts.clone(),
        methods: route.methods.clone(),
        action,
        settings: Settings {
            body_limit: settings.body_limit.map(|size| size.0),
            connect_ms: settings.connect.as_millis() as u64,
            response_ms: settings.response.as_millis() as u64,
            idle_ms: settings.idle.map(|idle| idle.as_millis() as u64),
            log: settings.log,
            response_headers: header_rules(&settings.response_headers),
            request_headers: header_rules(&settings.request_headers),
            cache_control: settings.cache_control.clone(),
            policy,
            delivery: settings.delivery.clone(),
        },
    })
}

/// What anybody may send without being asked who it is has a bound even where nobody thought of one: more batches than
/// a page in a browser sends.
fn limit_of_events() -> Limit {
    let rate = Rate { count: 60, per: Duration::from_secs(60) };
    Limit { name: "@client-events".to_owned(), rate, burst: None, by: Key::Ip, store: None }
}

/// The key of a service's endpoints: `site/service`, or `site/service:port` for a port that is named.
pub(crate) fn service_key(site: &str, service: &str, port: Option<&str>) -> String {
    port.map_or_else(|| format!("{site}/{service}"), |port| format!("{site}/{service}:{port}"))
}

fn header_rules(rules: &site::HeaderRules) -> HeaderRules {
    let pairs = |map: &BTreeMap<String, String>| {
        map.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    HeaderRules {
        remove: rules.remove.clone(),
        set: pairs(&rules.set),
        add: pairs(&rules.add),
        only_missing: rules.only_missing,
    }
}

/// What follows the key of a service where its new release is tried.
const TRIED: &str = "~";

/// Nobody listens there. It stands for an instance that has no address yet, so that requests wait for it; beside a
/// Unix socket it means nothing.
pub(crate) const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// What an instance is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Everybody may be sent to it.
    Serve,
    /// Only who is to try it.
    Candidate,
    /// It finishes what it has.
    Over,
    /// It finishes what it has, and what lives long on it ends within so many milliseconds.
    Ending(u64),
}

/// An instance that is sure to come: requests wait for it.
pub(crate) fn expected(site: &str, service: &str) -> Endpoint {
    let expected = Endpoint::ready(format!("{site}/{service}"), NOWHERE);
    Endpoint { state: EndpointState::Starting, ..expected }
}

/// Where a service's new release is tried and nothing of it is ready, what serves stands in.
pub(crate) fn stand_in(all: &mut BTreeMap<String, Vec<Endpoint>>, site: &str, service: &str) {
    let plain = service_key(site, service, None);
    let named = format!("{plain}:");
    let keys = all.keys().filter(|key| **key == plain || key.starts_with(&named));
    let keys: Vec<String> = keys.filter(|key| !key.ends_with(TRIED)).cloned().collect();
    for key in keys {
        let tried = format!("{key}{TRIED}");
        let ready = |one: &Endpoint| one.state == EndpointState::Ready;
        if !all.get(&tried).is_some_and(|endpoints| endpoints.iter().any(ready)) {
            let serving = all.get(&key).cloned().unwrap_or_default();
            all.insert(tried, serving);
        }
    }
}

/// Why an instance that once served, or should by now, takes no requests. Told in the same words as long as it is so.
/// `late`: it had its time to become ready.
fn missing(status: &Status, late: bool) -> Option<String> {
    let ended = || {
        let words = status.last_exit.as_ref().map(exit_words);
        words.map_or_else(|| "it ended".to_owned(), |words| format!("it {words}"))
    };
    match status.phase {
        _ if status.crash_loop => Some(ended() + ", again and again"),
        Phase::Unready => Some("its health check fails".to_owned()),
        Phase::Backoff => Some(ended()),
        Phase::Starting if status.restarts > 0 => Some(ended() + ", and is starting again"),
        Phase::Starting if late => Some("it did not become ready in its time".to_owned()),
        _ => None,
    }
}

/// Adds the endpoints of one instance, under its service's key and under each of its named ports. `late`: it had its
/// time to become ready.
pub(crate) fn add_instance(
    all: &mut BTreeMap<String, Vec<Endpoint>>,
    status: &Status,
    (ports, http2, late): (&[String], bool, bool),
    used: Use,
) {
    let state = match status.phase {
        _ if matches!(used, Use::Over | Use::Ending(_)) => EndpointState::Draining,
        Phase::Stopping | Phase::Stopped => EndpointState::Draining,
        Phase::Ready => EndpointState::Ready,
        Phase::Starting | Phase::Unready | Phase::Backoff => EndpointState::Starting,
    };
    let out =
        missing(status, late).filter(|_| state == EndpointState::Starting && used == Use::Serve);
    // A request must not wait for one that ends again and again: it is no instance until it is ready.
    let given_up = status.crash_loop && state == EndpointState::Starting;
    if given_up && out.is_none() {
        return;
    }
    let state = if given_up { EndpointState::Draining } else { state };
    let first = ports.first().map_or("http", String::as_str);
    let address_of = |port: &str| {
        let socket = status.socket.clone().map(|path| (NOWHERE, Some(path)));
        socket.or_else(|| status.listening.get(port).map(|address| (*address, None)))
    };
    let (site, service) = (status.id.site.as_str(), status.id.service.as_str());
    let ends_ms = if let Use::Ending(within) = used { Some(within) } else { None };
    let mut put = |key: String, address: Option<(SocketAddr, Option<PathBuf>)>| {
        let state = if address.is_none() && state == EndpointState::Ready {
            EndpointState::Starting
        } else {
            state
        };
        let (address, socket) = address.unwrap_or((NOWHERE, None));
        let key = if used == Use::Candidate { key + TRIED } else { key };
        all.entry(key).or_default().push(Endpoint {
            socket,
            http2,
            state,
            ends_ms,
            out: out.clone(),
            ..Endpoint::ready(status.id.to_string(), address)
        });
    };
    put(service_key(site, service, None), address_of(first).or_else(|| address_of("http")));
    for port in ports {
        put(service_key(site, service, Some(port)), address_of(port));
    }
}

/// Adds servers that somebody else runs, but for those whose names nobody knows yet.
pub(crate) fn add_upstreams(
    all: &mut BTreeMap<String, Vec<Endpoint>>,
    key: String,
    urls: &[String],
    service: &Service,
    names: &Known,
) {
    let entry = all.entry(key).or_default();
    let check = service.check.as_ref().map(check);
    for url in urls {
        let endpoint = |address: SocketAddr, socket: Option<PathBuf>| Endpoint {
            socket,
            http2: service.http2 || url.starts_with("h2c://"),
            proxy_header: service.proxy_header,
            check: check.clone(),
            ..Endpoint::ready(url.clone(), address)
        };
        if let Some(path) = url.strip_prefix("unix:") {
            entry.push(endpoint(NOWHERE, Some(path.into())));
            continue;
        }
        let authority = authority(url);
        let address = authority.parse().ok().or_else(|| first(names, &authority));
        entry.extend(address.map(|address| endpoint(address, None)));
    }
}

fn first(names: &Known, authority: &str) -> Option<SocketAddr> {
    names.get(authority)?.first().copied()
}

/// The name and port of a server that has to be looked up.
pub(crate) fn name_of(url: &str) -> Option<String> {
    let authority = authority(url);
    let is_name = !url.starts_with("unix:") && authority.parse::<SocketAddr>().is_err();
    is_name.then_some(authority)
}

/// `name:port` of a URL; 80 where it has none.
fn authority(url: &str) -> String {
    let rest = url.trim_start_matches("http://").trim_start_matches("h2c://");
    let authority = rest.split('/').next().unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { authority.to_owned() } else { format!("{authority}:80") }
}

fn check(probe: &Probe) -> Check {
    Check {
        path: probe.path.clone(),
        status: probe.status.clone(),
        json: probe.json.clone(),
        headers: probe.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        every_ms: probe.every.as_millis() as u64,
        timeout_ms: probe.timeout.as_millis() as u64,
        failures: probe.failures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seaworthy_base::Timestamp;
    use seaworthy_runtime::model::{ExitReason, ExitRecord};

    fn status(phase: Phase, restarts: u32, crash_loop: bool) -> Status {
        let ended =
            ExitRecord { at: Timestamp(0), reason: ExitReason::Code(3), ran_ms: 0, listened: true };
        Status {
            id: "shop/web/0@1".parse().unwrap(),
            phase,
            shim_pid: 1,
            pid: None,
            started: None,
            listening: BTreeMap::from([("http".to_owned(), SocketAddr::from(([127, 0, 0, 1], 9)))]),
            socket: None,
            restarts,
            crash_loop,
            last_exit: (restarts > 0).then_some(ended),
            next_start: None,
            fault: None,
            memory: None,
            cpu_ms: None,
            log_dropped: 0,
            guards: Vec::new(),
            wants_replacement: false,
            hash: String::new(),
            sequence: 0,
        }
    }

    #[test]
    fn an_instance_that_is_missed_is_told_with_the_reason_and_one_that_comes_or_goes_is_not() {
        use EndpointState::{Draining, Ready, Starting};
        let (serve, over, tried) =
            ((Use::Serve, false), (Use::Over, false), (Use::Candidate, false));
        for (status, (used, late), expected) in [
            (status(Phase::Ready, 0, false), serve, Some((Ready, None))),
            (status(Phase::Ready, 2, false), serve, Some((Ready, None))),
            (status(Phase::Starting, 0, false), serve, Some((Starting, None))),
            (
                status(Phase::Starting, 1, false),
                serve,
                Some((Starting, Some("it ended with code 3, and is starting again"))),
            ),
            (
                status(Phase::Unready, 0, false),
                serve,
                Some((Starting, Some("its health check fails"))),
            ),
            (
                status(Phase::Backoff, 1, false),
                serve,
                Some((Starting, Some("it ended with code 3"))),
            ),
            (
                status(Phase::Starting, 0, false),
                (Use::Serve, true),
                Some((Starting, Some("it did not become ready in its time"))),
            ),
            // Nobody waits for it, and it is missed all the same.
            (
                status(Phase::Backoff, 5, true),
                serve,
                Some((Draining, Some("it ended with code 3, again and again"))),
            ),
            (status(Phase::Backoff, 5, true), tried, None),
            (status(Phase::Backoff, 1, false), tried, Some((Starting, None))),
            (status(Phase::Unready, 0, false), over, Some((Draining, None))),
            (status(Phase::Stopping, 1, false), serve, Some((Draining, None))),
        ] {
            let mut all = BTreeMap::new();
            add_instance(&mut all, &status, (&[], false, late), used);
            let found = all.values().flatten().next();
            let found = found.map(|one| (one.state, one.out.as_deref()));
            assert_eq!(found, expected, "{:?} {used:?}", status.phase);
        }
    }
}
