//! Services that have as many instances as the load asks for: measured here, decided by
//! `seaworthy_runtime::scale`.
//!
//! Memory and CPU time come from the shims, requests from the edge, each as the difference between two looks.
//! Invariants: while a release takes the place of another, and where a number was set by hand, nothing is
//! decided; the number outlives control. Not here: starting and ending instances (`reconcile`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seaworthy_base::{InstanceId, ServiceName, SiteName, Timestamp};
use seaworthy_manifest::site::{Auto, Instances, Process};
use seaworthy_runtime::scale::{Measured, Scale, Targets};

use crate::platform::Platform;
use crate::world::{World, processes};
use crate::{instances, release};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// What an instance had used at a moment.
#[derive(Debug, Clone, Copy)]
struct Used {
    at: Instant,
    cpu_ms: u64,
    answered: u64,
}

type Memory = BTreeMap<InstanceId, Used>;

/// Looks and decides until control ends.
pub(crate) async fn run(platform: Arc<Platform>) {
    let mut before = Memory::new();
    loop {
        tokio::time::sleep(LOOK).await;
        look(&platform, &mut before).await;
    }
}

/// A service that scales, with its instances.
struct Service {
    site: SiteName,
    name: ServiceName,
    targets: Targets,
    own: Vec<InstanceId>,
}

fn services(world: &World) -> Vec<Service> {
    let decided = |(_, site): &(&SiteName, &crate::world::SiteState)| {
        site.running && site.rollout.is_none() && !site.coming
    };
    let sites = world.sites.iter().filter(decided);
    sites
        .flat_map(|(site, state)| {
            let all = processes(&state.applied.site);
            all.filter(|(name, _)| !state.scale.contains_key(*name)).filter_map(
                move |(name, process)| {
                    let Instances::Auto(auto) = process.instances else { return None };
                    let own = world.instances.iter().filter(|(id, one)| {
                        &id.site == site
                            && &id.service == name
                            && one.draining.is_none()
                            && one.is_ready()
                    });
                    let own = own.map(|(id, _)| id.clone()).collect();
                    let targets = targets(&auto, process);
                    Some(Service { site: site.clone(), name: name.clone(), targets, own })
                },
            )
        })
        .collect()
}

/// Shares are those of an instance's limits; without a limit of cores, of one core, and without one of memory,
/// of what the machine has for each of `max` instances.
fn targets(auto: &Auto, process: &Process) -> Targets {
    let share = |part: u16| f64::from(part) / 10_000.0;
    let cores = process.cpu_millis.map_or(1.0, |millis| f64::from(millis) / 1000.0);
    let limit = process.memory_max.map(|size| size.0);
    let limit = limit.or_else(|| Some(machine_memory()? / u64::from(auto.max)));
    let of_limit = |part| Some((limit? as f64 * share(part)) as u64);
    Targets {
        min: auto.min,
        max: auto.max,
        cpu: auto.cpu.map(|part| share(part) * cores),
        memory: auto.memory.map(|size| size.0).or_else(|| auto.memory_share.and_then(of_limit)),
        rps: auto.rps.map(f64::from),
    }
}

/// Bytes of memory that the machine has.
fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

async fn look(platform: &Arc<Platform>, before: &mut Memory) {
    let all = services(&platform.world());
    if all.is_empty() {
        before.clear();
        return;
    }
    let edge = platform.edge.lock().await.status().await;
    let mut after = Memory::new();
    for service in all {
        let mut measured = Measured::default();
        for id in &service.own {
            let Some((memory, cpu_ms)) = instances::usage(platform, id).await else { continue };
            let load = edge.as_ref().and_then(|edge| edge.instances.get(&id.to_string()));
            let answered = load.map_or(0, |load| load.answered);
            let now = Used { at: Instant::now(), cpu_ms, answered };
            after.insert(id.clone(), now);
            if let Some(then) = before.get(id) {
                add(&mut measured, memory, *then, now);
            }
        }
        decide(platform, &service, measured);
    }
    *before = after;
}

fn add(sum: &mut Measured, memory: u64, then: Used, now: Used) {
    let seconds = now.at.duration_since(then.at).as_secs_f64().max(0.001);
    // One that began again counts from nothing; that passes at the next look.
    let cpu_ms = now.cpu_ms.saturating_sub(then.cpu_ms);
    let answered = now.answered.saturating_sub(then.answered);
    sum.instances += 1;
    sum.memory += memory;
    sum.cpu += cpu_ms as f64 / 1000.0 / seconds;
    sum.rps += answered as f64 / seconds;
}

fn decide(platform: &Arc<Platform>, service: &Service, measured: Measured) {
    let Service { targets, .. } = service;
    let told = {
        let mut world = platform.world();
        let Some(site) = world.sites.get_mut(&service.site) else { return };
        let scale =
            site.auto.entry(service.name.clone()).or_insert_with(|| Scale::new(targets.min));
        let changed = scale.look(Timestamp::now(), Some(measured), targets);
        changed.then(|| format!("{}: {} instances, {}", service.name, scale.count(), scale.why()))
    };
    let Some(told) = told else { return };
    if let Err(fault) = release::record(platform, &service.site) {
        crate::say(&fault.to_string());
    }
    platform.event(Some(service.site.as_str()), None, "scaled", &told, None);
    platform.changed();
}
