//! Changes of what a site is to be: first in the world, then on the disk, the edge told in between where
//! it could refuse.
//!
//! Invariant: what cannot be published is not recorded; a rollout that is recorded has its phase, so that
//! the next control goes on from there.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::distr::{Alphanumeric, SampleString};
use seaworthy_base::{Fault, SiteName, Timestamp};
use seaworthy_release::Phase;
use seaworthy_state::{Desired, SiteRecord};

use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::Reporter;
use crate::release::gate::{self, Waiting};
use crate::release::prepare::Prepared;
use crate::serve;
use crate::specs::Values;
use crate::world::{Applied, Rollout, SiteState};

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
    let previous = platform.world().sites.remove(name);
    let state = SiteState {
        id: previous.as_ref().map_or(0, |site| site.id),
        project: prepared.project.clone(),
        applied: next.clone(),
        running: true,
        rejected: BTreeMap::new(),
        faults: Vec::new(),
        values: prepared.values.clone(),
        user: prepared.user.clone(),
        rollout: None,
        gate: previous.as_ref().and_then(|site| site.gate.clone()),
        scale: previous.as_ref().map(|site| site.scale.clone()).unwrap_or_default(),
        auto: previous.as_ref().map(|site| site.auto.clone()).unwrap_or_default(),
        coming: false,
    };
    platform.world().sites.insert(name.clone(), state);
    if let Err(fault) = serve::publish(platform).await {
        // Nothing has changed yet but what we remember.
        let mut world = platform.world();
        match previous {
            Some(previous) => drop(world.sites.insert(name.clone(), previous)),
            None => drop(world.sites.remove(name)),
        }
        return Err(fault);
    }
    record(platform, name)?;
    platform.changed();
    Ok(())
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
    let before = exchange(platform, name, (next.clone(), prepared.values.clone()));
    if let Err(fault) = serve::publish(platform).await {
        exchange(platform, name, before);
        return Err(fault);
    }
    record(platform, name)?;
    platform.changed();
    Ok(before)
}

/// Takes back what [`replace`] did.
pub(super) async fn put_back(
    platform: &Arc<Platform>,
    name: &SiteName,
    before: Before,
) -> Result<(), Fault> {
    exchange(platform, name, before);
    serve::publish(platform).await?;
    record(platform, name)?;
    platform.changed();
    Ok(())
}

fn exchange(platform: &Arc<Platform>, name: &SiteName, new: Before) -> Before {
    let mut world = platform.world();
    let Some(site) = world.sites.get_mut(name) else { return new };
    site.rejected.clear();
    let values = std::mem::replace(&mut site.values, new.1);
    (std::mem::replace(&mut site.applied, new.0), values)
}

/// Begins a rollout. What the edge refuses of it is refused here, before anything is started.
pub(super) async fn begin(
    platform: &Arc<Platform>,
    prepared: &Prepared,
    rollout: Rollout,
) -> Result<(), Fault> {
    let name = &prepared.site.name;
    set_rollout(platform, name, Some(rollout));
    let written = match serve::publish(platform).await {
        Ok(()) => record(platform, name),
        Err(fault) => Err(fault),
    };
    if let Err(fault) = written {
        set_rollout(platform, name, None);
        serve::publish(platform).await?;
        return Err(fault);
    }
    platform.changed();
    Ok(())
}

fn set_rollout(platform: &Arc<Platform>, name: &SiteName, rollout: Option<Rollout>) {
    if let Some(site) = platform.world().sites.get_mut(name) {
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
    if let Some(site) = platform.world().sites.get_mut(name)
        && let Some(rollout) = &mut site.rollout
    {
        rollout.phase = phase;
    }
    record(platform, name)?;
    platform.changed();
    Ok(())
}

/// The rollout is over: the new release is what is applied.
pub(super) fn complete(platform: &Arc<Platform>, name: &SiteName) -> Result<(), Fault> {
    if let Some(site) = platform.world().sites.get_mut(name)
        && let Some(rollout) = site.rollout.take()
    {
        site.applied = rollout.next;
        site.values = rollout.values;
        site.rejected.clear();
    }
    record(platform, name)?;
    platform.changed();
    Ok(())
}

/// Whether requests wait because everything ended and is starting again.
pub(super) fn set_coming(platform: &Arc<Platform>, name: &SiteName, coming: bool) {
    if let Some(site) = platform.world().sites.get_mut(name) {
        site.coming = coming;
    }
    platform.changed();
}

/// The rollout is over: what was applied stays so.
pub(super) fn forget_rollout(platform: &Arc<Platform>, name: &SiteName) -> Result<(), Fault> {
    set_rollout(platform, name, None);
    record(platform, name)?;
    platform.changed();
    Ok(())
}

/// Writes the site as it is wanted now.
pub(crate) fn record(platform: &Arc<Platform>, name: &SiteName) -> Result<(), Fault> {
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
            more: site.more(),
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
