//! Ways on which applications call others, as far as they are control's: an address on loopback for each, what the
//! application is told of it, and which name the other side has (where that is: `names`).
//!
//! Why here: the edge, which makes the calls, can neither listen by itself nor ask a name server nor read the system's
//! certificates. Invariants: an address that an application was told stays the same for as long as its site has a way of
//! that name, over restarts and reboots; addresses of the other side that were found once stay until others are found,
//! so that a name server that is gone stops no call; nothing here waits for a name server while a lock is held.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng as _;
use seaworthy_base::outgoing::Target;
use seaworthy_base::{Code, Fault};
use seaworthy_edge::model::{self, Endpoint};
use seaworthy_manifest::Site;
use seaworthy_manifest::site::{EnvValue, ServiceKind};

use crate::authorities::{self, Of};
use crate::commands;
use crate::edge_config::NOWHERE;
use crate::instances::store_fault;
use crate::names::Known;
use crate::platform::Platform;

/// Above where instances listen, below where the kernel takes ports for connections from.
const PORTS: std::ops::Range<u16> = 30_000..32_000;
/// Redis servers by label, each by its address or by its Unix socket.
pub(crate) type Stores = BTreeMap<String, (Target, Option<PathBuf>)>;

/// The key of the other side's addresses, and the way's name to people.
pub(crate) fn label(site: &str, name: &str) -> String {
    format!("{site}/outgoing.{name}")
}

fn key(target: &Target) -> String {
    format!("{}:{}", target.host, target.port)
}

/// Where an application comes in. Chosen once and remembered.
fn address(platform: &Platform, site: &str, name: &str) -> Result<SocketAddr, Fault> {
    let setting = format!("port:{}", label(site, name));
    let on = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let store = platform.store();
    let known = store.get_setting(&setting).map_err(|error| store_fault(&error))?;
    if let Some(port) = known.and_then(|text| text.parse().ok()) {
        return Ok(on(port));
    }
    // Those that were given out and are not bound yet, or not now, are others' all the same.
    let given = store.settings_under("port:").map_err(|error| store_fault(&error))?;
    let mut random = rand::rng();
    let free =
        |port: &u16| !given.contains(&port.to_string()) && TcpListener::bind(on(*port)).is_ok();
    let port = (0..500).map(|_| random.random_range(PORTS)).find(free).ok_or_else(|| {
        let range = format!("{} to {}", PORTS.start, PORTS.end - 1);
        Fault::new(Code::PortTaken, format!("there is no free port for `[outgoing.{name}]`"))
            .because(format!("those from {range} on loopback are taken"))
            .next("ss -ltnp")
    })?;
    store.put_setting(&setting, &port.to_string()).map_err(|error| store_fault(&error))?;
    Ok(on(port))
}

/// Tells each program of a site its ways out: `$OUTGOING_X`, also within the values of `env`.
pub(crate) fn tell_programs(platform: &Platform, site: &mut Site) -> Result<(), Fault> {
    let mut told: Vec<(String, String)> = Vec::new();
    for way in &site.outgoing {
        let address = address(platform, site.name.as_str(), &way.rules.name)?;
        told.push((way.variable(), format!("http://{address}{}", way.rules.to.path)));
    }
    let names: Vec<(&str, &str)> =
        told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let programs = site.services.values_mut();
    for service in programs.filter(|service| matches!(service.kind, ServiceKind::Process(_))) {
        for value in service.env.values_mut() {
            if let EnvValue::Text(text) = value {
                *text = commands::replace(text, &names);
            }
        }
        service
            .env
            .extend(told.iter().map(|(name, to)| (name.clone(), EnvValue::Text(to.clone()))));
    }
    Ok(())
}

/// New sockets, with their addresses.
pub(crate) type Sockets = Vec<(SocketAddr, TcpListener)>;

/// The ways of all sites for the edge, and the sockets of those that are not `held` yet.
pub(crate) fn ways<'a>(
    platform: &Platform,
    sites: impl Iterator<Item = (Vec<&'a Site>, &'a Path)>,
    held: &[SocketAddr],
) -> Result<(Vec<model::WayOut>, Sockets), Fault> {
    let (mut ways, mut bound) = (Vec::new(), Vec::new());
    for (sides, project) in sites {
        let mut seen = BTreeSet::new();
        for (site, way) in
            sides.iter().flat_map(|site| site.outgoing.iter().map(move |way| (site, way)))
        {
            let name = &way.rules.name;
            // In a rollout both releases have it; what serves decides.
            if !seen.insert(name) {
                continue;
            }
            let listen = address(platform, site.name.as_str(), name)?;
            if !held.contains(&listen) {
                bound.push((listen, listen_on(listen, name)?));
            }
            let roots_pem = way.ca.as_ref().map(|file| {
                let named = (site.name.clone(), Of::Servers, file.clone());
                authorities::read(platform, project, &named)
            });
            ways.push(model::WayOut {
                site: site.name.to_string(),
                listen,
                service: label(site.name.as_str(), name),
                rules: way.rules.clone(),
                roots_pem: roots_pem.transpose()?,
            });
        }
    }
    Ok((ways, bound))
}

fn listen_on(address: SocketAddr, name: &str) -> Result<TcpListener, Fault> {
    seaworthy_sys::socket::listen_tcp(address).map_err(|error| {
        let what = format!("the edge could not listen on `{address}` for `[outgoing.{name}]`");
        let fault = Fault::new(Code::PortTaken, what).because(error.to_string());
        match seaworthy_sys::socket::port_holder(address) {
            Some(holder) => fault
                .because(format!("`{}` (pid {}) listens there", holder.program, holder.pid))
                .next(format!("stop it (`ps -fp {}` shows what it is), then repeat", holder.pid)),
            None => fault.next("seaworthy status"),
        }
    })
}

/// The system's authorities as PEM, where a way needs them.
pub(crate) fn system_roots(ways: &[model::WayOut]) -> Option<String> {
    if !ways.iter().any(|way| way.rules.to.tls && way.roots_pem.is_none()) {
        return None;
    }
    Some(all_roots())
}

/// All of the system's authorities as PEM.
pub(crate) fn all_roots() -> String {
    let mut text = String::new();
    for root in rustls_native_certs::load_native_certs().certs {
        let body = STANDARD.encode(&root);
        text.push_str(&format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"));
    }
    text
}

/// The addresses of the other sides of a site's ways, as far as they are known.
pub(crate) fn add_endpoints(all: &mut BTreeMap<String, Vec<Endpoint>>, site: &Site, names: &Known) {
    for way in &site.outgoing {
        let label = label(site.name.as_str(), &way.rules.name);
        let known = literal(&way.rules.to).map(|address| vec![address]);
        let known = known.or_else(|| names.get(&key(&way.rules.to)).cloned()).unwrap_or_default();
        // Connections of one way are no other's, whose authorities may differ.
        let endpoint = |address| Endpoint::ready(label.clone(), address);
        all.entry(label.clone()).or_insert_with(|| known.into_iter().map(endpoint).collect());
    }
}

/// The addresses of the Redis servers that a site's edges count in, as far as they are known.
pub(crate) fn add_stores(
    all: &mut BTreeMap<String, Vec<Endpoint>>,
    stores: &Stores,
    names: &Known,
) {
    for (label, (target, socket)) in stores {
        let known = literal(target).or(socket.as_ref().map(|_| NOWHERE)).map(|one| vec![one]);
        let known = known.or_else(|| names.get(&key(target)).cloned()).unwrap_or_default();
        let endpoint = |address| Endpoint {
            socket: socket.clone(),
            ..Endpoint::ready(label.clone(), address)
        };
        all.insert(label.clone(), known.into_iter().map(endpoint).collect());
    }
}

fn literal(target: &Target) -> Option<SocketAddr> {
    let ip: IpAddr = target.host.trim_matches(['[', ']']).parse().ok()?;
    Some(SocketAddr::new(ip, target.port))
}

/// The names of the other sides of a site's ways.
pub(crate) fn names_of(site: &Site) -> impl Iterator<Item = String> {
    site.outgoing.iter().map(|way| &way.rules.to).filter(|to| literal(to).is_none()).map(key)
}

/// The names of stores.
pub(crate) fn names_of_stores(stores: &Stores) -> impl Iterator<Item = String> {
    let remote = stores.values().filter(|(_, socket)| socket.is_none());
    remote.map(|(target, _)| target).filter(|target| literal(target).is_none()).map(key)
}
