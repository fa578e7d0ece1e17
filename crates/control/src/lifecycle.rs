//! Down, restart, and coming back after a crash or a reboot.
//!
//! Invariant: after `down` nothing of a site is left running; after a start of control everything that
//! was wanted is adopted or brought back, and a site that cannot be brought back is named and holds up
//! no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seaworthy_base::{Code, Fault, InstanceId, SiteName};
use seaworthy_runtime::scale::Scale;
use seaworthy_state::Desired;

use crate::certificates;
use crate::databases;
use crate::edge::EdgeRecord;
use crate::instances;
use crate::names;
use crate::platform::Platform;
use crate::release;
use crate::serve;
use crate::stores;
use crate::users;
use crate::world::{Applied, More, Rollout, SiteState};

/// A `down` waits this long for programs to end; their own grace is shorter unless the manifest says otherwise.
const DOWN_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The same when the machine goes down: less than systemd gives the unit.
const REST_LIMIT: Duration = Duration::from_secs(4 * 60);
/// What the edge still has gets this long once nothing is served.
const EDGE_PATIENCE: Duration = Duration::from_millis(500);

/// Stops one site, or all and control itself. Returns the names of what was stopped.
pub(crate) async fn down(
    platform: &Arc<Platform>,
    site: Option<&str>,
) -> Result<Vec<String>, Fault> {
    if platform.world().closing {
        return Err(ending());
    }
    let names = chosen(platform, site)?;
    let mut turns = Vec::new();
    for name in &names {
        turns.push(take_from(platform, name).await?);
        release::keep_refused(platform, name, None);
        if let Some(state) = platform.world().sites.get_mut(name) {
            state.running = false;
            state.rollout = None;
        }
        release::record(platform, name)?;
        databases::settle(platform, name);
        platform.audit("control", "down", name.as_str(), "");
    }
    serve::publish(platform).await?;
    platform.changed();
    let begun = Instant::now();
    let mut changes = platform.changes.subscribe();
    while platform.world().instances.keys().any(|id| names.contains(&id.site))
        && begun.elapsed() < DOWN_LIMIT
    {
        tokio::time::timeout(Duration::from_millis(100), changes.changed()).await.ok();
    }
    let idle = || !platform.world().sites.values().any(|site| site.running);
    if under_systemd() {
        // It would start us again at once; an `up` meanwhile would start another control beside it. Under the edge's
        // lock, since a site that comes meanwhile publishes under it.
        let mut edge = platform.edge.lock().await;
        if idle() {
            edge.stop(EDGE_PATIENCE).await;
        }
    } else if idle() {
        platform.world().closing = true;
        platform.edge.lock().await.stop(EDGE_PATIENCE).await;
        // The answer goes out first: the main task ends a moment later.
        platform.ending.notify_one();
    }
    Ok(names.iter().map(ToString::to_string).collect())
}

/// Before the machine goes down: every application is asked to stop and gets its time, as in `down`; but what is wanted
/// stays wanted, and the next boot brings it back.
pub(crate) async fn rest(platform: &Arc<Platform>) {
    crate::say("the machine goes down: everything stops until it is up again");
    platform.world().closing = true;
    platform.changed();
    let (begun, mut changes) = (Instant::now(), platform.changes.subscribe());
    while !platform.world().instances.is_empty() && begun.elapsed() < REST_LIMIT {
        tokio::time::timeout(Duration::from_millis(100), changes.changed()).await.ok();
    }
    platform.edge.lock().await.stop(EDGE_PATIENCE).await;
}

/// The turn of a site; a deployment that goes on is stopped first.
async fn take_from(platform: &Arc<Platform>, name: &SiteName) -> Result<release::Turn, Fault> {
    platform.turns.say(name, release::Word::Abort("`seaworthy down`".to_owned()));
    let (sender, _) = tokio::sync::mpsc::unbounded_channel();
    let (patience, report) = (release::Patience::Endless, release::Reporter(sender));
    release::take_turn(platform, name, "`seaworthy down`", patience, &report).await
}

/// The answer of a control that ends.
pub(crate) fn ending() -> Fault {
    Fault::new(Code::ControlEnding, "the control process is about to end")
        .because("`seaworthy down` was asked of it")
        .next("try again")
}

/// Whether a service manager starts us again at once: every service of systemd's has that variable, and so has
/// whatever it starts, a keeper of ours included.
fn under_systemd() -> bool {
    std::env::var_os("INVOCATION_ID").is_some() && std::env::var_os("SEAWORTHY_KEEPER").is_none()
}

fn chosen(platform: &Arc<Platform>, site: Option<&str>) -> Result<Vec<SiteName>, Fault> {
    let world = platform.world();
    let mut known = world.sites.keys().chain(world.refused.keys());
    let Some(wanted) = site else { return Ok(world.sites.keys().cloned().collect()) };
    let found = known.find(|name| name.as_str() == wanted);
    found.map(|name| vec![name.clone()]).ok_or_else(|| no_such_site(wanted, world.sites.keys()))
}

fn no_such_site<'a>(wanted: &str, known: impl Iterator<Item = &'a SiteName>) -> Fault {
    let names: Vec<&str> = known.map(SiteName::as_str).collect();
    let fault = Fault::new(Code::NoSuchSite, format!("there is no site `{wanted}`"));
    let fault = if names.is_empty() {
        fault
    } else {
        fault.because(format!("there are: {}", names.join(", ")))
    };
    fault.next("seaworthy status")
}

/// Restarts a site, a service, an instance (`site[/service[/slot]]`) or the edge.
pub(crate) async fn restart(platform: &Arc<Platform>, target: &str) -> Result<Vec<String>, Fault> {
    if target == "edge" {
        let mut edge = platform.edge.lock().await;
        serve::catch_up(platform, &mut edge).await?;
        edge.replace(Duration::from_secs(60 * 60)).await?;
        serve::remember(platform, &edge.record())?;
        return Ok(vec!["edge".to_owned()]);
    }
    let mut parts = target.split('/');
    let (site, service, slot) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    chosen(platform, Some(site))?;
    let fits = |id: &InstanceId| {
        id.site.as_str() == site
            && service.is_none_or(|service| id.service.as_str() == service)
            && slot.is_none_or(|slot| {
                id.slot.to_string() == slot.split('@').next().unwrap_or_default()
            })
    };
    let found: Vec<InstanceId> = {
        let world = platform.world();
        world
            .instances
            .iter()
            // A database is restarted when somebody says so, not with its site.
            .filter(|(id, one)| {
                fits(id) && one.draining.is_none() && (service.is_some() || !world.is_server(id))
            })
            .map(|(id, _)| id.clone())
            .collect()
    };
    if found.is_empty() {
        return Err(Fault::new(
            Code::NoSuchInstance,
            format!("nothing that runs is called `{target}`"),
        )
        .next("seaworthy status"));
    }
    for id in &found {
        replace_one(platform, id).await;
    }
    Ok(found.iter().map(ToString::to_string).collect())
}

/// A new generation beside the old one, then the old one drains: a restart drops nothing. An instance
/// that is not serving anyway is restarted in place.
async fn replace_one(platform: &Arc<Platform>, id: &InstanceId) {
    let serving = platform.world().instances.get(id).is_some_and(super::world::Instance::is_ready);
    // Two servers cannot have the same data.
    if !serving || platform.world().is_server(id) {
        instances::restart(platform, id);
        return;
    }
    let asked = {
        let mut world = platform.world();
        let status = world.instances.get_mut(id).and_then(|one| one.status.as_mut());
        status.map(|status| status.wants_replacement = true).is_some()
    };
    platform.changed();
    let (begun, mut changes) = (Instant::now(), platform.changes.subscribe());
    while asked && begun.elapsed() < Duration::from_secs(120) {
        let still = platform.world().instances.get(id).is_some_and(|one| one.draining.is_none());
        if !still {
            return;
        }
        tokio::time::timeout(Duration::from_millis(100), changes.changed()).await.ok();
        // An event of the old instance would wipe the mark before the reconciler saw it.
        if let Some(status) =
            platform.world().instances.get_mut(id).and_then(|one| one.status.as_mut())
        {
            status.wants_replacement = true;
        }
    }
}

/// Brings back what was: sites from the store, the edge and the instances by adoption.
pub(crate) async fn resume(platform: &Arc<Platform>) -> Result<(), Fault> {
    let records = platform.store().sites().map_err(|error| instances::store_fault(&error))?;
    let mut any = false;
    for record in records {
        let Ok(applied) = serde_json::from_str::<Applied>(&record.site_json) else {
            crate::say(&format!(
                "the state of site `{}` cannot be read by this build: it is left as it is",
                record.name
            ));
            continue;
        };
        let running = record.desired == Desired::Running;
        any |= running;
        let (values, faults) =
            match release::resolve_secrets(platform, &record.project, &applied.site) {
                Ok(resolved) => (resolved.values, Vec::new()),
                Err(fault) => (specs_values(), vec![fault]),
            };
        let user = platform
            .root
            .then(|| users::existing(&users::site_user_name(&record.name)).ok())
            .flatten();
        let more: More = serde_json::from_str(&record.more).unwrap_or_default();
        let rollout = more.rollout.map(|rollout| {
            let found = release::resolve_secrets(platform, &record.project, &rollout.next.site);
            Rollout { values: found.map(|resolved| resolved.values).unwrap_or_default(), ..rollout }
        });
        let state = SiteState {
            rollout,
            gate: more.gate,
            scale: more.scale,
            auto: more.auto.into_iter().map(|(name, count)| (name, Scale::new(count))).collect(),
            coming: false,
            id: record.id,
            project: record.project,
            applied,
            running,
            rejected: BTreeMap::new(),
            faults,
            values,
            user,
        };
        platform.world().sites.insert(record.name, state);
    }
    databases::resume(platform);
    let refused = platform.store().get_setting("refused").ok().flatten();
    platform.world().refused =
        refused.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let holds = adopt_edge(platform).await;
    let adopted = instances::adopt(platform)?;
    if adopted > 0 {
        crate::say(&format!("adopted {adopted} instances"));
        wait_for_statuses(platform).await;
    }
    if any {
        names::resume(platform).await;
    }
    certificates::excuse_broken(platform);
    stores::excuse(platform);
    if (any || holds)
        && let Err(fault) = serve::publish(platform).await
    {
        crate::say(&fault.to_string());
        platform.event(None, None, "resume-failed", &fault.what, Some(&fault));
        platform.world().unpublished = Some(fault);
    }
    Ok(())
}

/// Takes back what an earlier control left of edges; whether there are sockets, which perhaps nobody wants any more.
async fn adopt_edge(platform: &Arc<Platform>) -> bool {
    let found = platform.store().get_setting("edge").ok().flatten();
    let edge: EdgeRecord =
        found.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let mut adopting = platform.edge.lock().await;
    adopting.adopt(&edge).await;
    // The next control, should this one die, looks for edges beyond those that this one found, and for all sockets.
    let EdgeRecord { number, draining, .. } = adopting.record();
    if let Err(fault) = serve::remember(platform, &EdgeRecord { number, draining, ..edge }) {
        crate::say(&fault.to_string());
    }
    !adopting.is_bare()
}

fn specs_values() -> crate::specs::Values {
    BTreeMap::new()
}

/// Adopted instances must have spoken before the edge is told anything: an empty list would take them out.
async fn wait_for_statuses(platform: &Arc<Platform>) {
    let (begun, mut changes) = (Instant::now(), platform.changes.subscribe());
    while platform.world().instances.values().any(|one| one.alive && one.status.is_none())
        && begun.elapsed() < Duration::from_secs(5)
    {
        tokio::time::timeout(Duration::from_millis(50), changes.changed()).await.ok();
    }
}
