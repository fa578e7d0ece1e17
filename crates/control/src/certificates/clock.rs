//! What of the certificates is due, and having it done.
//!
//! The decision is `seaworthy_acme::due`, pure; here are the facts it needs. Invariants: at most
//! [`SIDE_BY_SIDE`] workers of the clock at a time; a certificate that has expired, or nearly has, is a fault in
//! `status` whatever the reason.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_acme::due::{self, Next};
use seaworthy_acme::x509;
use seaworthy_base::{Code, Fault, SiteName, Timestamp, format_duration};
use seaworthy_manifest::site::{Site, Tls};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{conduct, own};
use crate::authorities;
use crate::platform::Platform;
use crate::serve;
use crate::world::SiteState;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(2);
/// Workers at a time: a hundred sites that came at once are no reason for a hundred processes.
const SIDE_BY_SIDE: usize = 4;
/// A certificate that nobody renewed is said to be old when less than a tenth of its life is left.
const OLD: u64 = 10;

/// Runs until control ends.
pub(crate) async fn run(platform: Arc<Platform>) {
    let (done, mut ended) = mpsc::unbounded_channel::<SiteName>();
    let mut under_way: BTreeSet<SiteName> = BTreeSet::new();
    let mut changes = platform.changes.subscribe();
    let mut mended = false;
    loop {
        while let Ok(name) = ended.try_recv() {
            under_way.remove(&name);
        }
        // Tried again until an edge has them.
        let found = look(&platform, &mut under_way, &done);
        mended |= matches!(found, Found::Authorities);
        let told = if mended {
            serve::publish(&platform).await.map(|()| mended = false)
        } else if matches!(found, Found::Certificates) {
            serve::rekey(&platform).await
        } else {
            Ok(())
        };
        if let Err(fault) = told {
            crate::say(&fault.to_string());
        }
        changes.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            name = ended.recv() => drop(name.map(|name| under_way.remove(&name))),
            // A site came or went.
            _ = changes.changed() => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// What is there that no edge has.
enum Found {
    Nothing,
    Certificates,
    /// Those of sites for which others stood in; perhaps certificates too.
    Authorities,
}

/// Has done what is due; says what was found that is not served yet.
fn look(
    platform: &Arc<Platform>,
    under_way: &mut BTreeSet<SiteName>,
    done: &mpsc::UnboundedSender<SiteName>,
) -> Found {
    let (mut fresh, mut mended) = (false, false);
    let (mut named, mut trusted) = (BTreeSet::new(), BTreeSet::new());
    for (sides, project) in sites(platform) {
        named.extend(sides.iter().filter_map(own::files));
        trusted.extend(sides.iter().flat_map(authorities::files));
        for (nth, site) in sides.iter().enumerate() {
            let (changed, fault) = own::changed(platform, site, &project);
            let (good, untrusted) = authorities::look(platform, site, &project);
            fresh |= changed;
            mended |= good;
            // What is wrong is said of the release that serves.
            if nth > 0 {
                continue;
            }
            platform.world().note(&site.name, "authorities", untrusted);
            match &site.tls {
                Tls::Acme(_) => public(platform, site, under_way, done),
                _ => platform.world().note(&site.name, "certificate", fault),
            }
        }
    }
    own::keep(platform, &named);
    authorities::keep(platform, &trusted);
    match (mended, fresh) {
        (true, _) => Found::Authorities,
        (false, true) => Found::Certificates,
        (false, false) => Found::Nothing,
    }
}

/// The sites that run: the release that serves, and in a rollout the other one.
pub(super) fn sites(platform: &Platform) -> Vec<(Vec<Site>, PathBuf)> {
    let world = platform.world();
    let running = world.sites.values().filter(|state| state.running && !world.closing);
    let sides = |state: &SiteState| {
        let serving = state.serving();
        let other = state.sides().map(|(_, side)| side).find(|side| *side != serving);
        std::iter::once(serving).chain(other).map(|side| side.site.clone()).collect()
    };
    running.map(|state| (sides(state), state.project.clone())).collect()
}

fn public(
    platform: &Arc<Platform>,
    site: &Site,
    under_way: &mut BTreeSet<SiteName>,
    done: &mpsc::UnboundedSender<SiteName>,
) {
    let now = Timestamp::now();
    let kept = platform.certificates.get(&site.name);
    let old = kept.certificate.as_ref();
    let fault = old.and_then(|issued| life_fault(&site.name, &issued.chain_pem));
    let fault = match (fault, &kept.fault) {
        (Some(fault), Some(why)) => Some(fault.because(why.what.clone())),
        (None, Some(why)) if old.is_none() => Some(why.clone()),
        (fault, _) => fault,
    };
    platform.world().note(&site.name, "certificate", fault);
    if under_way.contains(&site.name) || under_way.len() >= SIDE_BY_SIDE {
        return;
    }
    let task = match next(platform, site, now) {
        Next::Wait(_) => return,
        task => task,
    };
    under_way.insert(site.name.clone());
    let (platform, name, done) = (Arc::clone(platform), site.name.clone(), done.clone());
    tokio::spawn(async move {
        // Nobody follows: what matters is in events and in `status`.
        let (to, mut from) = mpsc::unbounded_channel();
        tokio::spawn(async move { while from.recv().await.is_some() {} });
        let outcome = match task {
            Next::AskWindow => conduct::ask_window(&platform, &name).await,
            _ => conduct::obtain(&platform, &name, &to).await,
        };
        if let Err(fault) = outcome {
            crate::say(&format!("certificate of {name}: {fault}"));
        }
        done.send(name).ok();
    });
}

/// The decision for a site.
pub(super) fn next(platform: &Platform, site: &Site, now: Timestamp) -> Next {
    let Tls::Acme(acme) = &site.tls else { return Next::Wait(Timestamp(u64::MAX)) };
    let kept = platform.certificates.get(&site.name);
    let held = kept.certificate.as_ref().and_then(|issued| x509::read(&issued.chain_pem).ok());
    let directories: Vec<&str> = acme.directories.iter().map(String::as_str).collect();
    let hosts = site.public_names();
    let held = held.as_ref().map(|facts| &facts.held);
    due::next(&hosts, held, &directories, &kept.past, now, seed(&site.name))
}

/// Differs from site to site and is the same each time.
pub(super) fn seed(site: &SiteName) -> u64 {
    let digest = Sha256::digest(site.as_str().as_bytes());
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// What is wrong with the life that a certificate has left.
pub(super) fn life_fault(site: &SiteName, chain_pem: &str) -> Option<Fault> {
    let held = x509::read(chain_pem).ok()?.held;
    let now = Timestamp::now();
    let next = format!("seaworthy cert renew --site {site} --dry-run");
    let host = held.hosts.first().cloned().unwrap_or_default();
    let shown = |span: Duration| format_duration(Duration::from_secs(span.as_secs() / 60 * 60));
    if held.not_after <= now {
        let what = format!("the certificate of `{host}` has expired");
        let since = format!("{} ago; browsers refuse it", shown(now.since(held.not_after)));
        return Some(Fault::new(Code::CertificateExpired, what).because(since).next(next));
    }
    let left = held.not_after.since(now);
    if left < held.not_after.since(held.not_before) / OLD as u32 {
        let what = format!("the certificate of `{host}` expires in {}", shown(left));
        return Some(Fault::new(Code::CertificateExpired, what).next(next));
    }
    None
}
