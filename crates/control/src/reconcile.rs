//! The loop that makes what runs what is wanted: look, decide, do, tell the edge; again after every change.
//!
//! Invariants: the edge is told of a draining instance before it is asked whether anything is left to it;
//! one failure never stops the loop; nothing here waits for an instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_base::InstanceId;
use seaworthy_state::InstanceState;

use crate::crash;
use crate::decide::{Action, decide};
use crate::instances;
use crate::platform::Platform;

/// A look is taken at least this often, changes or not.
const PULSE: Duration = Duration::from_secs(2);
/// While something drains or the edge has to be asked.
const FAST: Duration = Duration::from_millis(50);
/// A drain that takes longer is cut: what is left are requests that take longer than anybody waits.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// So long after their time sockets may take to say goodbye.
const CLOSING: Duration = Duration::from_secs(3);

/// Runs until control ends.
pub(crate) async fn run(platform: Arc<Platform>) {
    loop {
        let draining = platform.world().instances.values().any(|one| one.draining.is_some());
        let pulse = if draining { FAST } else { PULSE };
        tokio::time::timeout(pulse, platform.wake.notified()).await.ok();
        pass(&platform).await;
    }
}

/// One look.
pub(crate) async fn pass(platform: &Arc<Platform>) {
    crash::wait("reconcile").await;
    crash::point("reconcile");
    keep_edge(platform).await;
    // Decisions follow from one another (forget, then launch): until there is nothing left to do.
    for _ in 0..8 {
        let actions = {
            let world = platform.world();
            decide(&world.wanted(platform.cores), &world.seen())
        };
        if actions.is_empty() {
            break;
        }
        let mut failed = false;
        for action in actions {
            failed |= !perform(platform, action).await;
        }
        if failed {
            break;
        }
    }
    tell_edge(platform).await;
    platform.world().passes += 1;
}

/// Starts a new edge when the last one died and something is served.
async fn keep_edge(platform: &Arc<Platform>) {
    let needed = {
        let world = platform.world();
        !world.closing && world.sites.values().any(|site| site.running)
    };
    if !needed {
        return;
    }
    let mut edge = platform.edge.lock().await;
    // `down` may have ended it while we waited for our turn.
    if platform.world().closing {
        return;
    }
    let before = platform.world().unpublished.clone();
    match crate::serve::ensure(platform, &mut edge).await {
        Ok(false) => {}
        Ok(true) => {
            if let Err(fault) = crate::serve::remember(platform, &edge.record()) {
                crate::say(&format!("could not record the edge process: {fault}"));
            }
            platform.event(None, None, "edge-started", "an edge process was started", None);
        }
        // Said already, and tried again with each look.
        Err(fault) if before.as_ref() == Some(&fault) => {}
        Err(fault) => {
            crate::say(&fault.to_string());
            platform.event(None, None, "edge-failed", &fault.what, Some(&fault));
            let unpublished = &mut platform.world().unpublished;
            *unpublished = before.map(|_| fault);
        }
    }
}

async fn perform(platform: &Arc<Platform>, action: Action) -> bool {
    match action {
        Action::Launch(site, service, slot, hash) => {
            if let Err(fault) = instances::launch(platform, &site, &service, slot, &hash).await {
                crate::say(&fault.to_string());
                platform.event(
                    Some(site.as_str()),
                    None,
                    "launch-failed",
                    &fault.what,
                    Some(&fault),
                );
                if let Some(state) = platform.world().sites.get_mut(&site) {
                    state.faults = vec![fault];
                }
                return false;
            }
            if let Some(state) = platform.world().sites.get_mut(&site) {
                state.faults.clear();
            }
        }
        Action::Drain(id) => drain(platform, &id),
        Action::Stop(id) => instances::stop(platform, &id),
        Action::Forget(id) => instances::forget(platform, &id),
        Action::Reject(id) => {
            if let Some(site) = platform.world().sites.get_mut(&id.site) {
                let hash = site.applied.hashes.get(&id.service).cloned().unwrap_or_default();
                site.rejected.insert(id.service.clone(), hash);
            }
            drain(platform, &id);
        }
    }
    true
}

fn drain(platform: &Arc<Platform>, id: &InstanceId) {
    if let Some(instance) = platform.world().instances.get_mut(id) {
        instance.draining = Some(std::time::Instant::now());
    }
    let marked = platform.store().set_instance_state(id, InstanceState::Draining);
    if let Err(error) = marked {
        crate::say(&format!("could not record that {id} drains: {error}"));
    }
}

/// Sends the endpoints when they changed, and learns which draining instances are done with.
pub(crate) async fn tell_edge(platform: &Arc<Platform>) {
    let mut edge = platform.edge.lock().await;
    // Read under the edge's lock: what is sent last is what is true last.
    let services = platform.world().endpoints(platform.cores).services;
    let before = edge.record().number;
    let told = edge.point(services).await;
    if edge.record().number != before
        && let Err(fault) = crate::serve::remember(platform, &edge.record())
    {
        crate::say(&fault.to_string());
    }
    if let Err(error) = &told {
        crate::say(&format!("the edge was not told where the instances are: {error}"));
        return;
    }
    let draining =
        platform.world().instances.values().any(|one| one.draining.is_some() && !one.drained);
    if !draining {
        return;
    }
    let status = edge.status().await;
    let is_silent = edge.is_silent();
    drop(edge);
    let mut world = platform.world();
    let limits: BTreeMap<InstanceId, Duration> = world
        .instances
        .keys()
        .map(|id| (id.clone(), world.sockets_end(id, platform.cores)))
        .collect();
    for (id, instance) in &mut world.instances {
        let Some(since) = instance.draining.map(|since| since.elapsed()) else { continue };
        let sockets = limits.get(id).copied().unwrap_or_default();
        let left = status.as_ref().and_then(|status| status.instances.get(&id.to_string()));
        let idle = left.is_none_or(|load| {
            let open = load.tunnels > 0 && since < sockets + CLOSING;
            load.in_flight == 0 && load.pooled == 0 && !open
        });
        let idle = idle && !is_silent;
        instance.drained = idle || since > DRAIN_LIMIT.max(sockets + CLOSING);
    }
    if let Some(status) = status {
        world.edge = status;
    }
    drop(world);
    platform.wake.notify_one();
}
