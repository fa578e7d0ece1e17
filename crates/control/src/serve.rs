//! Brings the edge to what the sites want: listeners first, then certificates, then routes.
//!
//! Invariant: everything that can fail (binding a port, making or reading a certificate) is done before
//! the first thing is changed, so that a failure changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seaworthy_api::Layout;
use seaworthy_base::{Fault, ReleaseId, ServiceName};
use seaworthy_edge::model::{self, Certificate, Gate};
use seaworthy_manifest::site::{Site, Tls};
use seaworthy_release::Phase;

use crate::certificates;
use crate::datagrams;
use crate::edge::Edge;
use crate::edge_config;
use crate::listeners::{self, Listeners, Wanted};
use crate::outgoing;
use crate::platform::Platform;
use crate::stores;
use crate::world::{Rollout, SiteState, World};

/// A running site, as the edge is to see it.
struct Served {
    /// The release that serves, and in a rollout the other one.
    sides: Vec<(Site, ReleaseId)>,
    project: PathBuf,
    /// Who gets the other one.
    candidate: Option<(String, String, u16)>,
    /// What of it differs from the one that serves.
    tried: BTreeSet<ServiceName>,
    gate: Option<Gate>,
    /// Whether the one that serves is the one that the rollout brought.
    switched: bool,
}

impl Served {
    fn of(state: &SiteState) -> Self {
        let serving = state.serving();
        let mut sides = vec![(serving.site.clone(), serving.release)];
        let other = state.sides().map(|(_, side)| side).find(|side| *side != serving);
        sides.extend(other.map(|other| (other.site.clone(), other.release)));
        let candidate = state.rollout.as_ref().and_then(|rollout| match rollout.phase {
            Phase::Start { .. } | Phase::Rolling => {
                Some((rollout.id.clone(), rollout.key.clone(), 0))
            }
            Phase::Canary { share } => Some((rollout.id.clone(), rollout.key.clone(), share)),
            Phase::Stop | Phase::Switched | Phase::Back => None,
        });
        let programs = state.programs().into_iter();
        Self {
            sides,
            project: state.project.clone(),
            candidate,
            tried: programs.filter(|name| state.changes(name)).cloned().collect(),
            gate: state.gate.clone(),
            switched: state.rollout.as_ref().is_some_and(Rollout::switched),
        }
    }

    /// Its manifests, that of the rollout last: a name that both have shows what was seen to work with the new one, before
    /// the switch and after it.
    fn by_age(&self) -> impl Iterator<Item = &Site> {
        let (sides, last) = (self.sides.iter(), self.sides.len().saturating_sub(1));
        let nth = move |at: usize| if self.switched { last - at } else { at };
        (0..sides.len()).filter_map(move |at| self.sides.get(nth(at))).map(|(site, _)| site)
    }

    /// The manifests of all its releases, the one that serves first, and the project's folder.
    fn manifests(&self) -> (Vec<&Site>, &Path) {
        (self.sides.iter().map(|(site, _)| site).collect(), &self.project)
    }

    fn wants_http3(&self) -> bool {
        self.sides.iter().any(|(site, _)| site.listen.http3 && site.tls != Tls::Off)
    }

    /// The release that serves, and the project's folder.
    fn first(&self) -> Option<(&Site, &Path)> {
        self.sides.first().map(|(site, _)| (site, self.project.as_path()))
    }

    fn to_edge(&self, layout: &Layout, https_port: Option<u16>) -> Option<model::Site> {
        let (site, release) = self.sides.first()?;
        let candidate = self.candidate.as_ref().zip(self.sides.get(1));
        let candidate = candidate.map(|((id, key, share), (next, release))| model::Candidate {
            id: id.clone(),
            key: key.clone(),
            share: *share,
            release: Some(release.to_string()),
            routes: edge_config::routes(next, *release, layout, |name| self.tried.contains(name)),
        });
        let plain = edge_config::site(site, *release, layout, https_port);
        Some(model::Site { candidate, gate: self.gate.clone(), ..plain })
    }
}

/// Makes the edge serve every running site. In a rollout the addresses and certificates of both releases
/// are there, so that the switch cannot fail for want of one.
pub(crate) async fn publish(platform: &Arc<Platform>) -> Result<(), Fault> {
    let mut edge = platform.edge.lock().await;
    bring(platform, &mut edge).await
}

/// Changes what is wanted and publishes it, and nobody tells the edge anything in between: a route that goes
/// away has its instances as long as it is there. What cannot be published is undone with what `apply` gave.
pub(crate) async fn change<T: Send>(
    platform: &Arc<Platform>,
    apply: impl FnOnce(&mut World) -> T + Send,
    undo: impl FnOnce(&mut World, T) + Send,
) -> Result<T, Fault> {
    let mut edge = platform.edge.lock().await;
    let before = apply(&mut platform.world());
    match bring(platform, &mut edge).await {
        Ok(()) => Ok(before),
        Err(fault) => {
            undo(&mut platform.world(), before);
            Err(fault)
        }
    }
}

/// Another release serves: routes and instances change at once, and nothing else does. What it takes is from the
/// moment that the edge is told to the moment that every thread of it begins with the new release.
pub(crate) async fn switch(
    platform: &Arc<Platform>,
    apply: impl FnOnce(&mut World) + Send,
) -> Result<Duration, Fault> {
    let mut edge = platform.edge.lock().await;
    ensure(platform, &mut edge).await?;
    let https_port = https_port(&edge.addresses());
    apply(&mut platform.world());
    let routed = routed(platform, &served(platform), https_port);
    let services = platform.world().endpoints(platform.cores).services;
    let begun = Instant::now();
    edge.route(routed, services).await?;
    // Should it have died over it.
    edge.ensure().await?;
    Ok(begun.elapsed())
}

/// Before an edge is started or replaced: where nothing could be published yet that comes first, since a new edge would
/// serve nobody.
pub(crate) async fn catch_up(platform: &Arc<Platform>, edge: &mut Edge) -> Result<(), Fault> {
    if platform.world().unpublished.is_some() { bring(platform, edge).await } else { Ok(()) }
}

/// Sees to it that an edge runs and knows everything. Returns whether a new one was started.
pub(crate) async fn ensure(platform: &Arc<Platform>, edge: &mut Edge) -> Result<bool, Fault> {
    let before = edge.record().number;
    catch_up(platform, edge).await?;
    edge.ensure().await?;
    Ok(edge.record().number != before)
}

async fn bring(platform: &Arc<Platform>, edge: &mut Edge) -> Result<(), Fault> {
    let sites = served(platform);
    let certificates = certificates(platform, &sites)?;
    let (secrets, stores) = (route_secrets(platform), stores::of(platform)?);
    let handshakes = certificates::handshakes(platform, sites.iter().filter_map(Served::first))?;
    let manifests = sites.iter().flat_map(|site| site.sides.iter().map(|(site, _)| site));
    let wanted = resolve_free_ports(
        platform,
        listeners::wanted(manifests, platform.root),
        &edge.addresses(),
    );
    let in_the_way = listeners::in_the_way(&wanted, &edge.addresses());
    if !in_the_way.is_empty() {
        // A wildcard cannot be bound while one address of its port is: the narrow one goes first.
        let left = edge.addresses().into_iter().filter(|(held, _)| !in_the_way.contains(held));
        edge.listen(Vec::new(), &left.collect()).await?;
        let in_the_way = in_the_way.into_iter().collect();
        let left = edge.datagrams().difference(&in_the_way).copied().collect();
        edge.listen_datagrams(Vec::new(), &left).await?;
    }
    let (bound, addresses) = bind_missing(&wanted, &edge.addresses(), &sites)?;
    let secure = addresses.iter().filter(|(_, tls)| **tls).map(|(address, _)| *address);
    let datagrams: BTreeSet<SocketAddr> =
        if sites.iter().any(Served::wants_http3) { secure.collect() } else { BTreeSet::new() };
    let bound_datagrams = datagrams::bind_missing(&datagrams, &edge.datagrams()).await?;
    let routed = routed(platform, &sites, https_port(&addresses));
    let (ways, sockets) =
        outgoing::ways(platform, sites.iter().map(Served::manifests), &edge.outlets())?;
    let calls: Vec<SocketAddr> = ways.iter().map(|way| way.listen).collect();
    if !(bound.is_empty() && sockets.is_empty() && bound_datagrams.is_empty()) {
        // Before anybody else holds them: whoever comes after us knows them for ours, whenever we die.
        remember(platform, &edge.record_with(&bound, &sockets, &bound_datagrams))?;
    }
    let before = edge.told();
    // Routes first: whoever connects to a new address finds its site.
    let told = async {
        edge.demand(handshakes);
        edge.count_in(stores);
        edge.configure(certificates, secrets).await?;
        let services = platform.world().endpoints(platform.cores).services;
        edge.call_by(ways);
        edge.route(routed, services).await?;
        // Should it take a new edge, that one knows everything before it takes the first connection.
        if sites.is_empty() { Ok(false) } else { edge.ensure().await }
    };
    if let Err(fault) = told.await {
        edge.take_back_to(before);
        return Err(fault);
    }
    certificates::are_given(platform, edge.certificates());
    platform.world().unpublished = None;
    crate::crash::wait("edge-ensured").await;
    edge.listen_for_calls(sockets, &calls).await?;
    edge.listen(bound, &addresses).await?;
    edge.listen_datagrams(bound_datagrams, &datagrams).await?;
    crate::crash::point("listened");
    remember(platform, &edge.record())
}

fn https_port(addresses: &BTreeMap<SocketAddr, bool>) -> Option<u16> {
    addresses.iter().find(|(_, tls)| **tls).map(|(address, _)| address.port())
}

fn routed(platform: &Platform, sites: &[Served], https_port: Option<u16>) -> Vec<model::Site> {
    sites.iter().filter_map(|site| site.to_edge(&platform.layout, https_port)).collect()
}

/// Values of the secrets that routes of either release name, by `site/NAME`; for the edge's memory only.
fn route_secrets(platform: &Platform) -> BTreeMap<String, String> {
    let world = platform.world();
    let running = world.sites.values().filter(|site| site.running);
    let sides = running.flat_map(|state| {
        let next = state.rollout.as_ref().map(|rollout| (&rollout.next.site, &rollout.values));
        std::iter::once((&state.applied.site, &state.values)).chain(next)
    });
    let named = sides.flat_map(|(site, values)| {
        let value = |name: String| {
            let value = values.get(&name)?.expose().clone();
            Some((edge_config::secret_key(site.name.as_str(), &name), value))
        };
        edge_config::secret_names(site).into_iter().filter_map(value)
    });
    named.collect()
}

/// Keeps what the next control must know of the edge.
pub(crate) fn remember(
    platform: &Arc<Platform>,
    record: &crate::edge::EdgeRecord,
) -> Result<(), Fault> {
    let record = serde_json::to_string(record).unwrap_or_default();
    platform
        .store()
        .put_setting("edge", &record)
        .map_err(|error| crate::instances::store_fault(&error))
}

/// A port 0 stands for the port that is already held, or was held before a cold start; a new one otherwise.
fn resolve_free_ports(platform: &Arc<Platform>, wanted: Wanted, held: &Listeners) -> Listeners {
    let mut resolved = Listeners::new();
    for (address, tls) in wanted {
        if address.port() != 0 {
            resolved.insert(address, tls);
            continue;
        }
        let key = free_port_key(&address, tls);
        let chosen: Option<u16> =
            platform.store().get_setting(&key).ok().flatten().and_then(|text| text.parse().ok());
        let again = chosen
            .map(|port| SocketAddr::new(address.ip(), port))
            .filter(|again| held.contains_key(again) || free(again));
        let fresh = || {
            listeners::bind(address, "the manifest")
                .ok()
                .and_then(|socket| socket.local_addr().ok())
        };
        let Some(found) = again.or_else(fresh) else { continue };
        if let Err(error) = platform.store().put_setting(&key, &found.port().to_string()) {
            crate::say(&format!("could not remember a port: {error}"));
        }
        resolved.insert(found, tls);
    }
    resolved
}

fn free(address: &SocketAddr) -> bool {
    seaworthy_sys::socket::listen_tcp(*address).is_ok()
}

fn free_port_key(address: &SocketAddr, tls: bool) -> String {
    format!("port:{}:{}", if tls { "https" } else { "http" }, address.ip())
}

type Bound = Vec<(SocketAddr, TcpListener, bool)>;

fn bind_missing(
    wanted: &Listeners,
    held: &Listeners,
    sites: &[Served],
) -> Result<(Bound, BTreeMap<SocketAddr, bool>), Fault> {
    let hint = sites
        .last()
        .map_or_else(String::new, |site| site.project.join("seaworthy.toml").display().to_string());
    let ipv6 = listeners::has_ipv6();
    let (mut bound, mut addresses) = (Vec::new(), BTreeMap::new());
    for (address, tls) in wanted {
        if address.is_ipv6() && !ipv6 {
            continue;
        }
        if held.get(address) != Some(tls) {
            bound.push((*address, listeners::bind(*address, &hint)?, *tls));
        }
        addresses.insert(*address, *tls);
    }
    Ok((bound, addresses))
}

/// All that are shown. The first is for who names no server: it is the one of what serves, also where the other release
/// of its site is the older one.
fn certificates(platform: &Arc<Platform>, sites: &[Served]) -> Result<Vec<Certificate>, Fault> {
    let mut all: Vec<Certificate> = Vec::new();
    for served in sites {
        let mut before: Option<(&Tls, Vec<String>)> = None;
        for site in served.by_age() {
            let hosts = edge_config::certificate_hosts(site);
            if before.as_ref() != Some(&(&site.tls, hosts.clone())) {
                all.extend(certificates::of_site(platform, site, &served.project)?);
            }
            before.get_or_insert((&site.tls, hosts));
        }
    }
    let secure = |(site, _): &(&Site, &Path)| site.tls != Tls::Off;
    if let Some((site, project)) = sites.iter().filter_map(Served::first).find(secure) {
        let serving = certificates::of_site(platform, site, project)?.into_iter().next();
        let other =
            |one: &Certificate| all.first().is_none_or(|first| first.chain_pem != one.chain_pem);
        // Which names it is for stands where it is said once more.
        let unnamed = serving.filter(other).map(|one| Certificate { hosts: Vec::new(), ..one });
        all.splice(0..0, unnamed);
    }
    Ok(all)
}

/// Gives the edge the certificates and challenges as they are now; everything else stays as it is.
pub(crate) async fn rekey(platform: &Arc<Platform>) -> Result<(), Fault> {
    let mut edge = platform.edge.lock().await;
    // What goes along with them is not known here before.
    catch_up(platform, &mut edge).await?;
    let sites = served(platform);
    let certificates = certificates(platform, &sites)?;
    edge.rekey(certificates, platform.certificates.shown()).await?;
    certificates::are_given(platform, edge.certificates());
    Ok(())
}

/// Every site that runs. Read under the edge's lock: what is sent last is what is true last.
fn served(platform: &Platform) -> Vec<Served> {
    let world = platform.world();
    world.sites.values().filter(|site| site.running).map(Served::of).collect()
}

/// Where a visitor of a site would come in who asks for that host: the listener's address, and the chain (PEM) that the
/// edge shows there; none of it for plain HTTP.
pub(crate) async fn way_in(
    platform: &Platform,
    site: &Site,
    host: &str,
) -> Option<(SocketAddr, Option<String>)> {
    let tls = site.tls != Tls::Off;
    let edge = platform.edge.lock().await;
    let (mut address, _) = edge.addresses().into_iter().find(|(_, is_tls)| *is_tls == tls)?;
    if address.ip().is_unspecified() {
        let local: IpAddr =
            if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(local);
    }
    Some((address, edge.shown_to(host).filter(|_| tls).map(str::to_owned)))
}
