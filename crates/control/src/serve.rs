//! Brings the edge to what the sites want: listeners first, then certificates, then routes.
//!
//! Invariant: everything that can fail (binding a port, making or reading a certificate) is done before
//! the first thing is changed, so that a failure changes nothing.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use seaworthy_base::{Code, Fault, Timestamp};
use seaworthy_edge::model::Certificate;
use seaworthy_manifest::site::{Site, Tls};

use crate::edge_config;
use crate::listeners::{self, Listeners, Wanted};
use crate::platform::Platform;

/// Makes the edge serve every running site.
pub(crate) async fn publish(platform: &Arc<Platform>) -> Result<(), Fault> {
    let sites: Vec<(Site, std::path::PathBuf, seaworthy_base::ReleaseId)> = {
        let world = platform.world();
        let running = world.sites.values().filter(|site| site.running);
        running
            .map(|site| (site.applied.site.clone(), site.project.clone(), site.applied.release))
            .collect()
    };
    let certificates = certificates(platform, &sites)?;
    let secrets = route_secrets(platform);
    let mut edge = platform.edge.lock().await;
    let wanted = resolve_free_ports(
        platform,
        listeners::wanted(sites.iter().map(|(site, ..)| site), platform.root),
        &edge.addresses(),
    );
    let in_the_way = listeners::in_the_way(&wanted, &edge.addresses());
    if !in_the_way.is_empty() {
        // A wildcard cannot be bound while one address of its port is: the narrow one goes first.
        let left = edge.addresses().into_iter().filter(|(held, _)| !in_the_way.contains(held));
        edge.listen(Vec::new(), &left.collect()).await?;
    }
    let (bound, addresses) = bind_missing(&wanted, &edge.addresses(), &sites)?;
    let https_port =
        addresses.iter().filter(|(_, tls)| **tls).map(|(address, _)| address.port()).next();
    let routed = sites
        .iter()
        .map(|(site, _, release)| edge_config::site(site, *release, &platform.layout, https_port))
        .collect();
    if !sites.is_empty() {
        edge.ensure().await?;
    }
    // Routes first: whoever connects to a new address finds its site.
    edge.configure(routed, certificates, secrets).await?;
    edge.listen(bound, &addresses).await?;
    remember(platform, &edge.record())
}

/// Values of the secrets that routes name, by `site/NAME`; for the edge's memory only.
fn route_secrets(platform: &Platform) -> BTreeMap<String, String> {
    let world = platform.world();
    let running = world.sites.values().filter(|site| site.running);
    let named = running.flat_map(|state| {
        let site = &state.applied.site;
        let value = |name: String| {
            let value = state.values.get(&name)?.expose().clone();
            Some((edge_config::secret_key(site.name.as_str(), &name), value))
        };
        edge_config::secret_names(site).into_iter().filter_map(value)
    });
    named.collect()
}

fn remember(platform: &Arc<Platform>, record: &crate::edge::EdgeRecord) -> Result<(), Fault> {
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
    sites: &[(Site, std::path::PathBuf, seaworthy_base::ReleaseId)],
) -> Result<(Bound, BTreeMap<SocketAddr, bool>), Fault> {
    let hint = sites.last().map_or_else(String::new, |(_, project, _)| {
        project.join("seaworthy.toml").display().to_string()
    });
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

fn certificates(
    platform: &Arc<Platform>,
    sites: &[(Site, std::path::PathBuf, seaworthy_base::ReleaseId)],
) -> Result<Vec<Certificate>, Fault> {
    let mut all = Vec::new();
    for (site, project, _) in sites {
        let hosts = edge_config::certificate_hosts(site);
        match &site.tls {
            Tls::Off => {}
            Tls::Internal => {
                let leaf = platform.authority.leaf(site.name.as_str(), &hosts, Timestamp::now());
                all.push(leaf.map_err(|error| {
                    Fault::new(
                        Code::Internal,
                        format!("could not make a certificate for site `{}`", site.name),
                    )
                    .because_of(&error)
                })?);
            }
            Tls::Files { cert, key } => {
                let read = |path: &str| {
                    std::fs::read_to_string(project.join(path)).map_err(|error| {
                        Fault::new(
                            Code::FileMissing,
                            format!("could not read `{path}`, which `[tls]` names"),
                        )
                        .because(error.to_string())
                        .next(format!("ls -l {}", project.join(path).display()))
                    })
                };
                all.push(Certificate { hosts, chain_pem: read(cert)?, key_pem: read(key)? });
            }
        }
    }
    Ok(all)
}
