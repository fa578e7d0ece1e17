//! Addresses of servers that somebody else runs and that a manifest names.
//!
//! Why apart: the resolver may take as long as it likes, and where endpoints are put together everybody waits.
//! Names are looked up when a site that has them is made true, and again all the time. Invariants: nothing is locked
//! while the resolver is asked; a name that cannot be found any more keeps its last address, in the next control too.
//! Not here: addresses that are written as such, and Unix sockets (`edge_config`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use seaworthy_manifest::Site;
use seaworthy_manifest::site::ServiceKind;

use crate::edge_config;
use crate::platform::Platform;
use crate::world::World;

/// How often every name is looked up again.
const AGAIN: Duration = Duration::from_secs(2);
/// A release does not wait longer than this for names that are new.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where they are kept.
const SETTING: &str = "names";

/// Addresses by `name:port`.
pub(crate) type Known = BTreeMap<String, SocketAddr>;

/// Looks all names up again and again, until control ends.
pub(crate) async fn run(platform: Arc<Platform>) {
    loop {
        tokio::time::sleep(AGAIN).await;
        let all = of_world(&platform.world());
        if !all.is_empty() {
            learn(&platform, all).await;
        }
    }
}

/// Looks up what a site names and nobody knows yet.
pub(crate) async fn meet(platform: &Arc<Platform>, site: &Site) {
    let known: BTreeSet<String> = platform.world().names.keys().cloned().collect();
    let new: BTreeSet<String> = of_site(site).filter(|name| !known.contains(name)).collect();
    if !new.is_empty() {
        // What is found later is found by the next look.
        tokio::time::timeout(PATIENCE, learn(platform, new)).await.ok();
    }
}

/// Before the edge is told for the first time: what was known before, and what is new.
pub(crate) async fn resume(platform: &Arc<Platform>) {
    let kept = platform.store().get_setting(SETTING).ok().flatten();
    let kept: Known = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let new: BTreeSet<String> = {
        let mut world = platform.world();
        let wanted = of_world(&world);
        world.names = kept.into_iter().filter(|(name, _)| wanted.contains(name)).collect();
        wanted.into_iter().filter(|name| !world.names.contains_key(name)).collect()
    };
    tokio::time::timeout(PATIENCE, learn(platform, new)).await.ok();
}

/// Asks the resolver, all names side by side, and keeps each answer as it comes.
async fn learn(platform: &Arc<Platform>, names: BTreeSet<String>) {
    let ask = |name: String| {
        let platform = Arc::clone(platform);
        tokio::task::spawn_blocking(move || {
            let found = name.to_socket_addrs().ok().and_then(|mut all| all.next());
            if let Some(address) = found {
                keep(&platform, name, address);
            }
        })
    };
    for asked in names.into_iter().map(ask).collect::<Vec<_>>() {
        // It keeps what it finds also when nobody waits any more.
        asked.await.ok();
    }
}

fn keep(platform: &Platform, name: String, address: SocketAddr) {
    let known = {
        let mut world = platform.world();
        if world.names.insert(name, address) == Some(address) {
            return;
        }
        serde_json::to_string(&world.names).unwrap_or_default()
    };
    platform.changed();
    if let Err(error) = platform.store().put_setting(SETTING, &known) {
        crate::say(&format!("could not keep the address of a name: {error}"));
    }
}

fn of_world(world: &World) -> BTreeSet<String> {
    let running = world.sites.values().filter(|site| site.running);
    running.flat_map(|site| site.sides().flat_map(|(_, one)| of_site(&one.site))).collect()
}

fn of_site(site: &Site) -> impl Iterator<Item = String> {
    let urls = site.services.values().flat_map(|service| match &service.kind {
        ServiceKind::Upstreams(urls) => urls.as_slice(),
        _ => &[],
    });
    urls.filter_map(|url| edge_config::name_of(url))
}
