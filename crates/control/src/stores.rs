//! The Redis servers that edges of several servers count in (`store` of limits and lockouts).
//!
//! Invariants: their URLs go into the edge's memory and nowhere else; one whose URL cannot be read when control starts holds
//! up no other site: it is gone until it can be; a store that is gone is a fault of its site, for as
//! long as it is gone. Not here: what is counted, and where names lead ([`crate::outgoing`]).

use std::collections::{BTreeMap, BTreeSet};

use seaworthy_base::outgoing::Target;
use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_edge::model::{EdgeStatus, StoreAt};
use seaworthy_manifest::Site;
use seaworthy_manifest::site::EnvValue;
use seaworthy_manifest::site::backups::Source;

use crate::outgoing;
use crate::platform::Platform;
use crate::specs::Values;

/// What a fault of theirs is about, among a site's.
const SUBJECT: &str = "stores";

/// The names of those that a site's routes count in, with their URLs.
fn used(site: &Site) -> Vec<(&str, &EnvValue)> {
    let policies = site.routes.iter().map(|route| &route.settings.policy);
    let names = policies.flat_map(|policy| {
        let limits = policy.limits.iter().filter_map(|limit| limit.store.as_deref());
        limits.chain(policy.lockouts.iter().filter_map(|lockout| lockout.store.as_deref()))
    });
    let names: BTreeSet<&str> = names.collect();
    let url = |name: &str| match &site.backups.items.get(name)?.source {
        Source::Redis { url } => Some(url),
        _ => None,
    };
    names.into_iter().filter_map(|name| Some((name, url(name)?))).collect()
}

/// The secrets that hold their URLs.
pub(crate) fn secret_names(site: &Site) -> Vec<String> {
    let secret = |(_, url): (&str, &EnvValue)| match url {
        EnvValue::Secret(name) => Some(name.clone()),
        EnvValue::Text(_) => None,
    };
    used(site).into_iter().filter_map(secret).collect()
}

/// Those of all sites that run, for the edge's memory; where they are is remembered for its endpoints.
pub(crate) fn of(platform: &Platform) -> Result<BTreeMap<String, StoreAt>, Fault> {
    let (mut all, mut unread) = (BTreeMap::new(), BTreeSet::new());
    let mut world = platform.world();
    for state in world.sites.values().filter(|site| site.running) {
        let next = state.rollout.as_ref().map(|rollout| (&rollout.next.site, &rollout.values));
        for (site, values) in next.into_iter().chain([(&state.applied.site, &state.values)]) {
            for (name, url) in used(site) {
                let label = format!("{}/{name}", site.name);
                match read(name, url, values) {
                    Ok(at) => drop(all.insert(label, at)),
                    Err(_) if world.unread_stores.contains_key(&label) => {
                        unread.insert(label);
                    }
                    Err(fault) => return Err(fault),
                }
            }
        }
    }
    let place = |at: &StoreAt| {
        let (host, port) = (at.host.clone(), at.port);
        (Target { tls: at.tls, host, port, path: String::new() }, at.socket.clone())
    };
    let before = std::mem::take(&mut world.unread_stores);
    let (left, found): (BTreeMap<_, _>, BTreeMap<_, _>) =
        before.into_iter().partition(|(label, _)| unread.contains(label));
    for site in found.into_values().filter(|site| !left.values().any(|one| one == site)) {
        world.note(&site, SUBJECT, None);
    }
    world.unread_stores = left;
    world.stores = all.iter().map(|(label, at)| (label.clone(), place(at))).collect();
    Ok(all)
}

/// Before anything is published after a start: stores whose URLs cannot be read, since their secrets are not found, fail
/// nothing. Their sites say so until they can be.
pub(crate) fn excuse(platform: &Platform) {
    let mut world = platform.world();
    let mut unread = BTreeMap::new();
    for state in world.sites.values().filter(|site| site.running) {
        let next = state.rollout.as_ref().map(|rollout| (&rollout.next.site, &rollout.values));
        for (site, values) in next.into_iter().chain([(&state.applied.site, &state.values)]) {
            for (name, url) in used(site) {
                let Err(fault) = read(name, url, values) else { continue };
                let again =
                    format!("seaworthy deploy {}   (reads it again)", state.project.display());
                let fault = fault.next(again);
                unread.insert(format!("{}/{name}", site.name), (site.name.clone(), fault));
            }
        }
    }
    for (label, (site, fault)) in unread {
        crate::say(&format!("the URL of `{label}` cannot be read: nothing is counted there"));
        let fault = fault.because(
            "each server counts for itself until it can be: nothing is known of the others",
        );
        world.note(&site, SUBJECT, Some(fault));
        world.unread_stores.insert(label, site);
    }
}

fn read(name: &str, url: &EnvValue, values: &Values) -> Result<StoreAt, Fault> {
    let text = match url {
        EnvValue::Text(text) => text,
        EnvValue::Secret(secret) => values.get(secret).map_or("", |value| value.expose().as_str()),
    };
    let mut at = StoreAt::parse(text).ok_or_else(|| {
        Fault::new(Code::SecretMissing, format!("the URL of `[{name}]` cannot be read"))
            .because("limits or lockouts count there")
            .next("it is written `redis://user:password@host:6379/0`, or `rediss://` for TLS")
    })?;
    at.roots_pem = at.tls.then(outgoing::all_roots);
    Ok(at)
}

/// What of a site's stores is gone.
pub(crate) fn faults(edge: &EdgeStatus, site: &SiteName) -> Vec<Fault> {
    let own = edge.stores.iter().filter_map(|store| {
        let name = store.label.strip_prefix(site.as_str())?.strip_prefix('/')?;
        Some((name, store.gone.as_ref()?))
    });
    own.map(|(name, why)| {
        let next = if why.contains("certificate") {
            "its authority must be one of the system's: its certificate as a .crt file into /usr/local/share/ca-certificates, then: update-ca-certificates && seaworthy restart edge".to_owned()
        } else {
            format!("see whether it runs; the URL is `url` of `[{name}]`")
        };
        Fault::new(
            Code::StoreGone,
            format!("`{name}` is gone: each server counts limits for itself"),
        )
        .because(why.clone())
        .because("what is locked out stays so; others may fail as often on each server")
        .next(next)
    })
    .collect()
}
