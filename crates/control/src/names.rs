//! Addresses behind the names that manifests give: servers that somebody else runs, whom applications call, where
//! several servers count together.
//!
//! Why apart: the resolver may take as long as it likes, and where endpoints are put together everybody waits.
//! Names are looked up when a release comes that has new ones, and again all the time: often where requests of visitors
//! go, since such servers move, seldom where applications call the world. Invariants: nothing is locked while the
//! resolver is asked, and no name waits for another that it is silent about (but for a bound on how many are asked at
//! once, which leaves threads for others); a name that cannot be found any more keeps its last addresses, in the next
//! control too; an address stays in its place for as long as the name has it, so that a resolver that shuffles its answers
//! moves nothing. Not here: addresses that are written as such, and Unix sockets (`edge_config`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seaworthy_manifest::Site;
use seaworthy_manifest::site::ServiceKind;

use crate::edge_config;
use crate::outgoing;
use crate::platform::Platform;
use crate::world::World;

/// How often the names of upstreams are looked up again, and any that nobody knows yet.
const OFTEN: Duration = Duration::from_secs(2);
/// How often those are that applications call, and stores.
const SELDOM: Duration = Duration::from_secs(30);
/// A release does not wait longer than this for names that are new.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of a name so many addresses are used.
const MOST: usize = 8;
/// So many are asked for at once, of the sixteen threads that wait for something.
pub(crate) const AT_ONCE: usize = 8;

/// Where they are kept.
const SETTING: &str = "addresses";
/// Where the version before kept one of each.
const BEFORE: &str = "names";

/// Addresses by `name:port`.
pub(crate) type Known = BTreeMap<String, Vec<SocketAddr>>;

/// What is known, and when it was asked for last.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The addresses.
    pub known: Known,
    asked: BTreeMap<String, Asked>,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    /// The resolver has not answered yet.
    Now,
    At(Instant),
}

impl Names {
    /// Which of these, each with how often, are to be asked for now; they count as being asked for.
    fn due(&mut self, wanted: BTreeMap<String, Duration>, now: Instant) -> Vec<String> {
        self.asked.retain(|name, asked| matches!(asked, Asked::Now) || wanted.contains_key(name));
        let mut due = Vec::new();
        for (name, period) in wanted {
            let period = if self.known.contains_key(&name) { period } else { OFTEN };
            let is_due = match self.asked.get(&name) {
                None => true,
                Some(Asked::Now) => false,
                Some(Asked::At(at)) => now.saturating_duration_since(*at) >= period,
            };
            if is_due {
                self.asked.insert(name.clone(), Asked::Now);
                due.push(name);
            }
        }
        due
    }

    /// Takes an answer; whether it says anything new.
    fn take(&mut self, name: &str, found: Vec<SocketAddr>, now: Instant) -> bool {
        self.asked.insert(name.to_owned(), Asked::At(now));
        let known = self.known.get(name).map_or(&[][..], Vec::as_slice);
        let mut merged: Vec<_> = known.iter().copied().filter(|one| found.contains(one)).collect();
        merged.extend(found.into_iter().filter(|one| !known.contains(one)));
        merged.truncate(MOST);
        if merged.is_empty() || merged == known {
            return false;
        }
        self.known.insert(name.to_owned(), merged);
        true
    }
}

/// Looks all names up again and again, until control ends.
pub(crate) async fn run(platform: Arc<Platform>) {
    let mut changes = platform.changes.subscribe();
    loop {
        let due = {
            let mut world = platform.world();
            let wanted = of_world(&world);
            world.names.due(wanted, Instant::now())
        };
        for name in due {
            tokio::spawn(learn(Arc::clone(&platform), name));
        }
        // A manifest may name somebody new: that is asked for at once.
        tokio::time::timeout(OFTEN, changes.changed()).await.ok();
    }
}

/// Looks up the upstreams that a site names and nobody knows yet.
pub(crate) async fn meet(platform: &Arc<Platform>, site: &Site) {
    wait_for(platform, upstreams(site).collect()).await;
}

/// Before the edge is told for the first time: what was known before, and what is new.
pub(crate) async fn resume(platform: &Arc<Platform>) {
    let known = kept(platform);
    let new = {
        let mut world = platform.world();
        world.names.known = known;
        world.running_sites().flat_map(upstreams).collect()
    };
    wait_for(platform, new).await;
}

/// Asks for those that are not known; what is found after our patience is kept all the same.
async fn wait_for(platform: &Arc<Platform>, names: BTreeSet<String>) {
    let new: Vec<String> = {
        let world = platform.world();
        names.into_iter().filter(|name| !world.names.known.contains_key(name)).collect()
    };
    let asked: Vec<_> =
        new.into_iter().map(|name| tokio::spawn(learn(Arc::clone(platform), name))).collect();
    let all = async {
        for one in asked {
            one.await.ok();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.ok();
}

/// Asks the resolver for a name, and keeps what it says.
async fn learn(platform: Arc<Platform>, name: String) {
    let Ok(_turn) = platform.lookups.acquire().await else { return };
    let asked = name.clone();
    let answer = tokio::task::spawn_blocking(move || {
        asked.to_socket_addrs().map(|all| all.take(MOST).collect::<Vec<_>>())
    });
    let found = answer.await.ok().and_then(Result::ok).unwrap_or_default();
    let known = {
        let mut world = platform.world();
        if !world.names.take(&name, found, Instant::now()) {
            return;
        }
        // Names that nobody has any more are forgotten by the next control.
        let wanted = of_world(&world);
        let mut known = world.names.known.clone();
        known.retain(|one, _| *one == name || wanted.contains_key(one));
        serde_json::to_string(&known).unwrap_or_default()
    };
    platform.changed();
    if let Err(error) = platform.store().put_setting(SETTING, &known) {
        crate::say(&format!("could not keep the addresses of a name: {error}"));
    }
}

/// What an earlier control knew.
fn kept(platform: &Platform) -> Known {
    let get = |setting| platform.store().get_setting(setting).ok().flatten();
    let read = |text: String| serde_json::from_str(&text).ok();
    get(SETTING).and_then(read).unwrap_or_else(|| {
        let one_each: BTreeMap<String, SocketAddr> =
            get(BEFORE).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        one_each.into_iter().map(|(name, address)| (name, vec![address])).collect()
    })
}

/// All names, and how often each is looked up.
fn of_world(world: &World) -> BTreeMap<String, Duration> {
    let called = world.running_sites().flat_map(outgoing::names_of);
    let stores = outgoing::names_of_stores(&world.stores);
    let mut all: BTreeMap<String, Duration> =
        called.chain(stores).map(|name| (name, SELDOM)).collect();
    all.extend(world.running_sites().flat_map(upstreams).map(|name| (name, OFTEN)));
    all
}

/// The names of servers that somebody else runs.
fn upstreams(site: &Site) -> impl Iterator<Item = String> {
    let urls = site.services.values().flat_map(|service| match &service.kind {
        ServiceKind::Upstreams(urls) => urls.as_slice(),
        _ => &[],
    });
    urls.filter_map(|url| edge_config::name_of(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    #[test]
    fn an_address_keeps_its_place_while_the_name_has_it_and_the_last_stay_while_nobody_answers() {
        let (mut names, now) = (Names::default(), Instant::now());
        assert!(names.take("a:80", vec![at(1), at(2)], now));
        assert!(!names.take("a:80", vec![at(2), at(1)], now), "shuffled is not new");
        assert!(names.take("a:80", vec![at(3), at(2)], now));
        assert_eq!(names.known["a:80"], [at(2), at(3)]);
        assert!(!names.take("a:80", Vec::new(), now));
        assert_eq!(names.known["a:80"], [at(2), at(3)]);
        assert!(names.take("b:80", (0..20).map(at).collect(), now));
        assert_eq!(names.known["b:80"].len(), MOST);
    }

    #[test]
    fn each_is_asked_for_as_often_as_it_should_be_and_never_twice_at_once() {
        let (mut names, begun) = (Names::default(), Instant::now());
        let wanted =
            || BTreeMap::from([("often:1".to_owned(), OFTEN), ("seldom:1".to_owned(), SELDOM)]);
        let due =
            |names: &mut Names, seconds| names.due(wanted(), begun + Duration::from_secs(seconds));
        assert_eq!(due(&mut names, 0), ["often:1", "seldom:1"]);
        assert!(due(&mut names, 60).is_empty(), "the resolver is silent");
        for name in ["often:1", "seldom:1"] {
            names.take(name, vec![at(1)], begun + Duration::from_secs(60));
        }
        assert!(due(&mut names, 61).is_empty());
        assert_eq!(due(&mut names, 62), ["often:1"]);
        assert_eq!(due(&mut names, 90), ["seldom:1"]);
        // What was not found is asked for soon again, and what nobody wants is forgotten.
        names.take("seldom:1", Vec::new(), begun + Duration::from_secs(90));
        names.known.remove("seldom:1");
        assert_eq!(due(&mut names, 92), ["seldom:1"]);
        names.take("seldom:1", vec![at(1)], begun + Duration::from_secs(92));
        names.take("often:1", vec![at(1)], begun + Duration::from_secs(92));
        assert!(names.due(BTreeMap::new(), begun).is_empty() && names.asked.is_empty());
    }
}
