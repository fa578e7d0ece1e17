//! Changes of what a site is to be, in the world, in the edge and on the disk.
//!
//! Where the edge could refuse, it is asked first: what cannot be published is not recorded. Where it cannot, the
//! disk is first. Invariant: a rollout that is recorded has its phase, so that the next control goes on from there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString};
use seaworthy_base::{Fault, SiteName, Timestamp};
use seaworthy_release::Phase;
use seaworthy_state::{Desired, SiteRecord};

use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::Reporter;
use crate::release::gate::{self, Waiting};
use crate::release::prepare::Prepared;
use crate::release::run::until_written;
use crate::serve;
use crate::specs::Values;
use crate::world::{Applied, Rollout, SiteState, World};

/// A key that nobody guesses.
pub(super) fn key() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 32)
}

/// Makes a site that did not run the wanted one.
pub(super) async fn install(
    platform: &Arc<Platform>,
    prepared: &Prepared,
    next: &Applied,
) -> Result<(), Fault> {
    let name = &prepared.site.name;
    let apply = |world: &mut World| {
        let state = fresh(prepared, next, world.sites.get(name));
        world.sites.insert(name.clone(), state)
    };
    let undo = |world: &mut World, previous: Option<SiteState>| {
        // Nothing has changed yet but what we remember.
        match previous {
            Some(previous) => drop(world.sites.insert(name.clone(), previous)),
            None => drop(world.sites.remove(name)),
        }
    };
    let previous = serve::change(platform, apply, undo).await?;
    if let Err(fault) = record(platform, name) {
        serve::change(platform, |world| undo(world, previous), |_, ()| ()).await?;
        return Err(fault);
    }
    platform.changed();
    Ok(())
}

/// A site that begins to run; what was set by hand stays.
fn fresh(prepared: &Prepared, next: &Applied, previous: Option<&SiteState>) -> SiteState {
    SiteState {
        id: previous.map_or(0, |site| site.id),
        project: prepared.project.clone(),
        applied: next.clone(),
        running: true,
        rejected: BTreeMap::new(),
        faults: Vec::new(),
        values: prepared.values.clone(),
        user: prepared.user.clone(),
        rollout: None,
        gate: previous.and_then(|site| site.gate.clone()),
        scale: previous.map(|site| site.scale.clone()).unwrap_or_default(),
        auto: previous.map(|site| site.auto.clone()).unwrap_or_default(),
        coming: false,
    }
}

/// What a running site was before [`replace`].
pub(super) type Before = (Applied, Values);

/// Makes another manifest true of a running site, no program of which differs.
pub(super) async fn replace(
    platform: &Arc<Platform>,
    prepared: &Prepared,
    next: &Applied,
) -> Result<Before, Fault> {
    let name = &prepared.site.name;
    let new = (next.clone(), prepared.values.clone());
    let undo = |world: &mut World, before| drop(exchange(world, name, before));
    let before = serve::change(platform, |world| exchange(world, name, new), undo).await?;
    if let Err(fault) = record(platform, name) {
        serve::change(platform, |world| undo(world, before), |_, ()| ()).await?;
        return Err(fault);
    }
    platform.changed();
    Ok(before)
}

/// Takes back what [`replace`] did.
pub(super) async fn put_back(
    platform: &Arc<Platform>,
    name: &SiteName,
    before: Before,
) -> Result<(), Fault> {
    serve::change(platform, |world| exchange(world, name, before), |_, _| ()).await?;
    record(platform, name)?;
    platform.changed();
    Ok(())
}

fn exchange(world: &mut World, name: &SiteName, new: Before) -> Before {
    let Some(site) = world.sites.get_mut(name) else { return new };
    site.rejected.clear();
    let values = std::mem::replace(&mut site.values, new.1);
    (std::mem::replace(&mut site.applied, new.0), values)
}

/// Before something ends for something else to start: a disk that fills in between must not keep that from starting.
pub(super) fn set_room_aside(platform: &Platform) -> Result<(), Fault> {
    platform.store().set_room_aside().map_err(|error| {
        store_fault(&error).because("what is written between two releases needs room set aside")
    })
}

/// Begins a rollout. What the edge refuses of it is refused here, before anything is started.
pub(super) async fn begin(
    platform: &Arc<Platform>,
    prepared: &Prepared,
    rollout: Rollout,
) -> Result<(), Fault> {
    let name = &prepared.site.name;
    let apply = |world: &mut World| set_rollout(world, name, Some(rollout));
    let published = serve::change(platform, apply, |world, ()| set_rollout(world, name, None));
    let written = match published.await {
        Ok(()) => record(platform, name),
        Err(fault) => Err(fault),
    };
    if let Err(fault) = written {
        set_rollout(&mut platform.world(), name, None);
        serve::publish(platform).await?;
        return Err(fault);
    }
    platform.changed();
    Ok(())
}

fn set_rollout(world: &mut World, name: &SiteName, rollout: Option<Rollout>) {
    if let Some(site) = world.sites.get_mut(name) {
        site.rollout = rollout;
        site.rejected.clear();
    }
}

/// Where a site's rollout is.
pub(super) fn phase(platform: &Arc<Platform>, name: &SiteName) -> Option<Phase> {
    let world = platform.world();
    world.sites.get(name)?.rollout.as_ref().map(|rollout| rollout.phase)
}

/// The key of a site's rollout.
pub(super) fn key_of(platform: &Arc<Platform>, name: &SiteName) -> Option<String> {
    let world = platform.world();
    world.sites.get(name)?.rollout.as_ref().map(|rollout| rollout.key.clone())
}

/// Whether a site's rollout ends everything before it starts anything.
pub(super) fn is_whole(platform: &Arc<Platform>, name: &SiteName) -> bool {
    let world = platform.world();
    let rollout = world.sites.get(name).and_then(|site| site.rollout.as_ref());
    rollout.is_some_and(|rollout| rollout.everything)
}

/// Moves a rollout on: in the world and on the disk. The edge is told by who asked for it.
pub(super) fn set_phase(
    platform: &Arc<Platform>,
    name: &SiteName,
    phase: Phase,
) -> Result<(), Fault> {
    put_phase(&mut platform.world(), name, phase);
    record(platform, name)?;
    platform.changed();
    Ok(())
}

fn put_phase(world: &mut World, name: &SiteName, phase: Phase) {
    if let Some(site) = world.sites.get_mut(name)
        && let Some(rollout) = &mut site.rollout
    {
        rollout.phase = phase;
    }
}

/// Writes where a rollout is about to be. Until it is there nobody is served by it, and nobody waits for the disk
/// while the edge changes over.
pub(super) fn intend(platform: &Arc<Platform>, name: &SiteName, phase: Phase) -> Result<(), Fault> {
    write(platform, name, Some(phase))
}

/// Moves a rollout on where [`intend`] said that it would, for everybody at the same moment. Says how long the edge
/// took.
pub(super) async fn switch(
    platform: &Arc<Platform>,
    name: &SiteName,
    phase: Phase,
) -> Result<Duration, Fault> {
    let took = serve::switch(platform, |world| put_phase(world, name, phase)).await?;
    platform.changed();
    Ok(took)
}

/// The rollout is over: the new release is what is applied.
pub(super) fn complete(platform: &Arc<Platform>, name: &SiteName) {
    if let Some(site) = platform.world().sites.get_mut(name)
        && let Some(rollout) = site.rollout.take()
    {
        site.applied = rollout.next;
        site.values = rollout.values;
        site.rejected.clear();
    }
    keep_recorded(platform, name);
    platform.changed();
}

/// Writes what a site is by now; a disk that is full is asked again.
fn keep_recorded(platform: &Arc<Platform>, name: &SiteName) {
    let name = name.clone();
    until_written(platform, "what a site is", move |platform| record(platform, &name));
}

/// Whether requests wait because everything ended and is starting again.
pub(super) fn set_coming(platform: &Arc<Platform>, name: &SiteName, coming: bool) {
    if let Some(site) = platform.world().sites.get_mut(name) {
        site.coming = coming;
    }
    platform.changed();
}

/// The rollout is over: what was applied stays so.
pub(super) fn forget_rollout(platform: &Arc<Platform>, name: &SiteName) {
    set_rollout(&mut platform.world(), name, None);
    keep_recorded(platform, name);
    platform.changed();
}

/// Writes the site as it is wanted now.
pub(crate) fn record(platform: &Arc<Platform>, name: &SiteName) -> Result<(), Fault> {
    write(platform, name, None)
}

fn write(platform: &Arc<Platform>, name: &SiteName, phase: Option<Phase>) -> Result<(), Fault> {
    let record = {
        let world = platform.world();
        let Some(site) = world.sites.get(name) else { return Ok(()) };
        SiteRecord {
            id: site.id,
            name: name.clone(),
            project: site.project.clone(),
            manifest_text: String::new(),
            site_json: serde_json::to_string(&site.applied).unwrap_or_default(),
            release: Some(site.applied.release),
            desired: if site.running { Desired::Running } else { Desired::Stopped },
            started_by_up: true,
            applied: Timestamp::now(),
            more: site.more(phase),
        }
    };
    let id = platform.store().put_site(&record).map_err(|error| store_fault(&error))?;
    if let Some(site) = platform.world().sites.get_mut(name) {
        site.id = id;
    }
    Ok(())
}

/// Waits for every service of what is applied to have its instances ready.
pub(super) async fn wait_until_serving(
    platform: &Arc<Platform>,
    name: &SiteName,
    report: &Reporter,
) -> Result<(), Fault> {
    gate::wait(platform, name, Waiting::Applied, report).await
}
