//! Makes a prepared site the wanted one and waits until it serves; goes back when it does not.
//!
//! Invariants: services whose specification is the same keep their processes, routes are swapped without
//! touching a socket; when a changed site does not come up, what ran before is wanted again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_api::model::Progress;
use seaworthy_base::{Code, Fault, InstanceId, SiteName, Timestamp};
use seaworthy_state::{Desired, SiteRecord};

use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::Reporter;
use crate::release::prepare::Prepared;
use crate::specs;
use crate::world::{Applied, SiteState, processes};

/// Makes the prepared site the wanted one and waits until it serves; goes back when it does not.
pub(super) async fn switch(
    platform: &Arc<Platform>,
    project: &Path,
    prepared: Prepared,
    applied: Applied,
    report: &Reporter,
) -> Result<(), Fault> {
    let name = prepared.site.name.clone();
    let previous = platform.world().sites.remove(&name);
    let id = previous.as_ref().map_or(0, |site| site.id);
    let before = previous
        .as_ref()
        .filter(|site| site.running)
        .map(|site| (site.applied.clone(), site.values.clone()));
    let Prepared { text, values, user, .. } = prepared;
    let state = SiteState {
        id,
        project: project.to_path_buf(),
        applied,
        running: true,
        rejected: BTreeMap::new(),
        faults: Vec::new(),
        values,
        user,
    };
    platform.world().sites.insert(name.clone(), state);
    let opened = crate::serve::publish(platform).await;
    if let Err(fault) = opened {
        // Nothing has changed yet but what we remember.
        let mut world = platform.world();
        match previous {
            Some(previous) => drop(world.sites.insert(name, previous)),
            None => drop(world.sites.remove(&name)),
        }
        return Err(fault);
    }
    record(platform, &name, &text)?;
    platform.changed();
    report.step("starting");
    let waited = wait_until_serving(platform, &name, report).await;
    let Err(fault) = waited else { return Ok(()) };
    if let Some((applied, values)) = before {
        report.step("it did not come up: going back to what ran before");
        if let Some(site) = platform.world().sites.get_mut(&name) {
            site.applied = applied;
            site.values = values;
            site.rejected.clear();
        }
        crate::serve::publish(platform).await?;
        record(platform, &name, &text)?;
        platform.changed();
    }
    Err(fault)
}

/// Writes the site as it is wanted now.
pub(crate) fn record(platform: &Arc<Platform>, name: &SiteName, text: &str) -> Result<(), Fault> {
    let record = {
        let world = platform.world();
        let Some(site) = world.sites.get(name) else { return Ok(()) };
        SiteRecord {
            id: site.id,
            name: name.clone(),
            project: site.project.clone(),
            manifest_text: text.to_owned(),
            site_json: serde_json::to_string(&site.applied).unwrap_or_default(),
            release: Some(site.applied.release),
            desired: if site.running { Desired::Running } else { Desired::Stopped },
            started_by_up: true,
            applied: Timestamp::now(),
            more: String::new(),
        }
    };
    let id = platform.store().put_site(&record).map_err(|error| store_fault(&error))?;
    if let Some(site) = platform.world().sites.get_mut(name) {
        site.id = id;
    }
    Ok(())
}

/// Waits for every service to have its instances ready in the wanted form; a fault on the way is shown at once.
async fn wait_until_serving(
    platform: &Arc<Platform>,
    name: &SiteName,
    report: &Reporter,
) -> Result<(), Fault> {
    let mut changes = platform.changes.subscribe();
    let mut shown: Vec<Fault> = Vec::new();
    loop {
        match serving(platform, name) {
            Serving::Yes => return Ok(()),
            Serving::Failed(fault) => return Err(*fault),
            Serving::NotYet(faults) => {
                for fault in faults {
                    if !shown.contains(&fault) {
                        report.say(Progress::Warning { fault: fault.clone() });
                        shown.push(fault);
                    }
                }
            }
        }
        tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.ok();
    }
}

enum Serving {
    Yes,
    NotYet(Vec<Fault>),
    Failed(Box<Fault>),
}

fn serving(platform: &Arc<Platform>, name: &SiteName) -> Serving {
    let world = platform.world();
    let Some(site) = world.sites.get(name) else { return Serving::Yes };
    let (mut all_ready, mut faults) = (true, site.faults.clone());
    for (service, process) in processes(&site.applied.site) {
        let wanted = site.applied.hashes.get(service).cloned().unwrap_or_default();
        let of_service = |id: &InstanceId| &id.site == name && &id.service == service;
        let current = world
            .instances
            .iter()
            .filter(|(id, one)| of_service(id) && one.draining.is_none() && one.hash == wanted);
        let mut ready = 0;
        for (id, one) in current {
            ready += u16::from(one.is_ready());
            faults.extend(
                one.status
                    .as_ref()
                    .and_then(|status| status.fault.clone())
                    .filter(|_| !one.is_ready()),
            );
            if world.failed_start(id, one) {
                return Serving::Failed(Box::new(start_fault(
                    id,
                    one.status.as_ref().and_then(|status| status.fault.clone()),
                )));
            }
        }
        if site.rejected.get(service) == Some(&wanted) {
            let left =
                world.instances.iter().find(|(id, one)| of_service(id) && one.hash == wanted);
            let fault = left
                .and_then(|(_, one)| one.status.as_ref().and_then(|status| status.fault.clone()));
            let fault = fault.unwrap_or_else(|| {
                Fault::new(
                    Code::StartFailed,
                    format!("a new instance of `{service}` did not become ready"),
                )
            });
            return Serving::Failed(Box::new(fault));
        }
        all_ready &= ready >= specs::count(process, platform.cores);
    }
    if all_ready { Serving::Yes } else { Serving::NotYet(faults) }
}

fn start_fault(id: &InstanceId, fault: Option<Fault>) -> Fault {
    fault
        .unwrap_or_else(|| {
            Fault::new(Code::StartFailed, format!("`{id}` did not become ready in time"))
        })
        .next(format!("seaworthy explain instance {}/{}", id.site, id.service))
}
