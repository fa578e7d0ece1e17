//! The world as people and scripts see it: a pure rendering of what is known.

mod rollout;

use std::collections::BTreeMap;
use std::sync::Arc;

use seaworthy_api::model::{
    CallView, ControlStatus, EdgeView, EventView, InstanceView, PlatformStatus, ServiceStatus,
    SiteStatus, VERSION,
};
use seaworthy_base::{ServiceName, SiteName, Timestamp};
use seaworthy_edge::model::{EdgeStatus, EventCount};
use seaworthy_manifest::site::{Auto, Instances, ServiceKind, Tls};
use seaworthy_runtime::model::{ExitReason, ExitRecord, Phase};
use seaworthy_runtime::scale::Scale;

use crate::edge_link::build_id;
use crate::platform::Platform;
use crate::stores;
use crate::world::{Instance, SiteState, World};

pub(crate) use rollout::previews;

/// What browsers told.
fn told(edge: &EdgeStatus) -> BTreeMap<String, BTreeMap<String, EventView>> {
    let view = |(kind, one): (&String, &EventCount)| {
        let EventCount { count, valued, sum, buckets } = one.clone();
        (kind.clone(), EventView { count, valued, sum, buckets })
    };
    let sites = edge.client_events.iter();
    sites.map(|(site, types)| (site.clone(), types.iter().map(view).collect())).collect()
}

/// How the platform is now; asks the edge.
pub(crate) async fn platform_status(platform: &Arc<Platform>) -> PlatformStatus {
    let (edge_status, (pid, draining), addresses, http3, unguarded) = {
        let edge = platform.edge.lock().await;
        let status = edge.status().await.unwrap_or_default();
        let http3 = edge.datagrams().into_iter().collect();
        (status, edge.pids(), edge.addresses(), http3, edge.unguarded())
    };
    let on = |tls: bool| {
        addresses.iter().filter(|(_, is)| **is == tls).map(|(address, _)| *address).collect()
    };
    let (http, https): (Vec<_>, Vec<_>) = (on(false), on(true));
    let deployments = rollout::going_on(platform);
    let world = platform.world();
    let mut guards = platform.guards.clone();
    guards.extend(unguarded.into_iter().map(|guard| format!("edge: {guard}")));
    for guard in world
        .instances
        .values()
        .filter_map(|one| one.status.as_ref())
        .flat_map(|status| &status.guards)
    {
        if !guards.contains(guard) {
            guards.push(guard.clone());
        }
    }
    let urls = |site: &SiteState| site_urls(site, &http, &https);
    PlatformStatus {
        v: VERSION,
        control: ControlStatus {
            pid: std::process::id(),
            build: build_id(),
            uptime_ms: platform.started.elapsed().as_millis() as u64,
            state: platform.layout.state.clone(),
            keeper: std::env::var("SEAWORTHY_KEEPER").ok().and_then(|pid| pid.parse().ok()),
        },
        sites: world
            .sites
            .iter()
            .map(|(name, site)| one_site(platform, &world, name, site, urls(site), &edge_status))
            .chain(never_started(&world))
            .collect(),
        deployments,
        edge: EdgeView {
            pid,
            http,
            https,
            http3,
            connections: edge_status.connections,
            requests: edge_status.requests,
            failed: edge_status.failed,
            upgraded: edge_status.upgraded,
            told: edge_status.told,
            turned_away: edge_status.turned_away,
            misnamed: edge_status.misnamed,
            made_room: edge_status.made_room,
            flooded: edge_status.flooded,
            draining,
            client_events: told(&edge_status),
        },
        guards,
        faults: Vec::new(),
    }
}

/// Addresses of one site for people.
pub(crate) async fn urls(platform: &Arc<Platform>, name: &SiteName) -> Vec<String> {
    let addresses = platform.edge.lock().await.addresses();
    let on = |tls: bool| {
        addresses.iter().filter(|(_, is)| **is == tls).map(|(address, _)| *address).collect()
    };
    let (http, https): (Vec<_>, Vec<_>) = (on(false), on(true));
    platform.world().sites.get(name).map(|site| site_urls(site, &http, &https)).unwrap_or_default()
}

fn site_urls(
    site: &SiteState,
    http: &[std::net::SocketAddr],
    https: &[std::net::SocketAddr],
) -> Vec<String> {
    let off = site.applied.site.tls == Tls::Off;
    let (scheme, port, usual) =
        if off { ("http", http.first(), 80) } else { ("https", https.first(), 443) };
    let Some(port) = port.map(std::net::SocketAddr::port) else { return Vec::new() };
    let tail = if port == usual { String::new() } else { format!(":{port}") };
    let named = site.applied.site.domains.iter().filter(|domain| !domain.starts_with("*."));
    named.map(|domain| format!("{scheme}://{domain}{tail}")).collect()
}

fn one_site(
    platform: &Platform,
    world: &World,
    name: &SiteName,
    site: &SiteState,
    urls: Vec<String>,
    edge: &EdgeStatus,
) -> SiteStatus {
    let services = site.applied.site.services.iter().map(|(service, description)| {
        let (kind, wanted) = match &description.kind {
            ServiceKind::Process(process) => {
                let count = site.count(service, process, platform.cores);
                ("process", if site.running { count } else { 0 })
            }
            ServiceKind::Static { .. } => ("static", 0),
            ServiceKind::Upstreams(_) => ("upstreams", 0),
        };
        let instances = instances_of(world, name, service, edge);
        let ready = instances.iter().filter(|one| one.state == "ready").count() as u16;
        ServiceStatus {
            name: service.to_string(),
            kind: kind.to_owned(),
            wanted,
            ready,
            instances,
            scale: scale_of(site, service, &description.kind),
        }
    });
    let servers = world.servers.get(name).into_iter().flatten().map(|(service, server)| {
        let instances = instances_of(world, name, service, edge);
        let ready = instances.iter().filter(|one| one.state == "ready").count() as u16;
        let (name, wanted) = (service.to_string(), u16::from(server.wanted));
        ServiceStatus { name, kind: "database".to_owned(), wanted, ready, instances, scale: None }
    });
    let servers = servers.filter(|server| server.wanted > 0 || !server.instances.is_empty());
    let urls_of_previews = urls.clone();
    SiteStatus {
        name: name.to_string(),
        project: site.project.clone(),
        release: Some(site.serving().release.to_string()),
        running: site.running,
        urls: if site.running { urls } else { Vec::new() },
        services: services.chain(servers).collect(),
        faults: world.site_faults(name).into_iter().chain(stores::faults(edge, name)).collect(),
        rollout: rollout::view(platform, name, site, &urls_of_previews),
        closed: site.gate.as_ref().map(|gate| rollout::closed_word(gate).to_owned()),
        outgoing: calls(edge, name),
    }
}

/// The ways on which a site calls others.
fn calls(edge: &EdgeStatus, site: &SiteName) -> Vec<CallView> {
    let own = edge.outgoing.iter().filter(|one| one.site == site.as_str());
    own.map(|one| CallView {
        name: one.name.clone(),
        to: one.to.clone(),
        calls: one.calls,
        errors: one.errors,
        retries: one.retries,
        refused: one.refused,
        active: one.active,
        waiting: one.waiting,
        open_ms: one.open_for,
        paused_ms: one.paused_for,
        last_error: one.last_error.clone(),
    })
    .collect()
}

/// Why a program has as many instances as it has, where that is not simply the manifest's number.
fn scale_of(site: &SiteState, service: &ServiceName, kind: &ServiceKind) -> Option<String> {
    let ServiceKind::Process(process) = kind else { return None };
    if site.scale.contains_key(service) {
        return Some("by hand".to_owned());
    }
    let Instances::Auto(Auto { min, max, .. }) = process.instances else { return None };
    let why = site.auto.get(service).map_or("not measured yet", Scale::why);
    Some(format!("of {min} to {max}: {why}"))
}

/// Sites of which nothing is there but the reason.
fn never_started(world: &World) -> impl Iterator<Item = SiteStatus> {
    let unknown = world.refused.iter().filter(|(name, _)| !world.sites.contains_key(*name));
    unknown.map(|(name, refused)| SiteStatus {
        name: name.to_string(),
        project: refused.project.clone(),
        release: None,
        running: false,
        urls: Vec::new(),
        services: Vec::new(),
        faults: vec![refused.fault.clone()],
        rollout: None,
        closed: None,
        outgoing: Vec::new(),
    })
}

fn instances_of(
    world: &World,
    site: &SiteName,
    service: &ServiceName,
    edge: &EdgeStatus,
) -> Vec<InstanceView> {
    let of_service =
        world.instances.iter().filter(|(id, _)| &id.site == site && &id.service == service);
    of_service
        .map(|(id, one)| {
            let status = one.status.as_ref();
            let load = edge.instances.get(&id.to_string());
            InstanceView {
                id: id.to_string(),
                state: state_word(one).to_owned(),
                pid: status.and_then(|status| status.pid),
                shim_pid: status.map(|status| status.shim_pid),
                listening: status.map(|status| status.listening.clone()).unwrap_or_default(),
                uptime_ms: status
                    .filter(|status| status.pid.is_some())
                    .and_then(|status| status.started)
                    .map(|started| Timestamp::now().since(started).as_millis() as u64),
                restarts: status.map_or(0, |status| status.restarts),
                memory: status.and_then(|status| status.memory),
                cpu_ms: status.and_then(|status| status.cpu_ms),
                last_exit: status.and_then(|status| status.last_exit.as_ref()).map(exit_words),
                log_dropped: status.map_or(0, |status| status.log_dropped),
                in_flight: load.map_or(0, |load| load.in_flight),
                fault: status.and_then(|status| status.fault.clone()),
            }
        })
        .collect()
}

/// The one word for the state of an instance.
pub(crate) fn state_word(one: &Instance) -> &'static str {
    if !one.alive {
        return "lost";
    }
    let Some(status) = &one.status else { return "starting" };
    match status.phase {
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
        _ if one.draining.is_some() => "draining",
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Unready => "unready",
        Phase::Backoff => "backoff",
    }
}

/// How a program ended, in words.
pub(crate) fn exit_words(exit: &ExitRecord) -> String {
    match &exit.reason {
        ExitReason::Code(code) => format!("ended with code {code}"),
        ExitReason::Signal(signal) => format!("ended by {signal}"),
        ExitReason::OutOfMemory => "ended: out of memory".to_owned(),
        ExitReason::Hung => "restarted: hung".to_owned(),
        ExitReason::CouldNotExec(what) => format!("could not be executed: {what}"),
        ExitReason::Asked => "stopped as asked".to_owned(),
    }
}
