//! Starts, watches and ends instances: the runtime's driver, tied to the world.
//!
//! Each living shim is watched by one small thread that waits for its events; what it says goes into
//! the world. Invariants: liveness is the shim's lock, never a pid; a shim that cannot be reached while
//! its lock is held is asked again, not declared dead; what a dead shim left behind is swept before the
//! slot is used again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seaworthy_base::{Code, Fault, InstanceId, ReleaseId, ServiceName, SiteName, Timestamp};
use seaworthy_manifest::site::ServiceKind;
use seaworthy_release::Side;
use seaworthy_runtime::driver::{self, ShimClient};
use seaworthy_runtime::model::Status;
use seaworthy_runtime::socket;
use seaworthy_state::{InstanceRecord, InstanceState};

use crate::databases;
use crate::old_logs;
use crate::platform::Platform;
use crate::processes;
use crate::specs::{self, Place};
use crate::users;
use crate::world::Instance;

/// How long one call to a shim may take; it answers in microseconds unless the machine is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// One long poll for events.
const POLL: Duration = Duration::from_secs(20);

/// Starts a new generation in a slot and begins to watch it.
pub(crate) async fn launch(
    platform: &Arc<Platform>,
    site: &SiteName,
    service: &ServiceName,
    slot: u16,
    hash: &str,
) -> Result<InstanceId, Fault> {
    let generation =
        platform.store().next_generation(site, service).map_err(|error| store_fault(&error))?;
    let id = InstanceId { site: site.clone(), service: service.clone(), slot, generation };
    let server = platform.world().servers.get(site).and_then(|all| all.get(service)).cloned();
    let (spec, release) = if let Some(server) = server {
        (databases::spec(platform, &id, &server)?, ReleaseId { number: 0, digest: 0 })
    } else {
        let world = platform.world();
        let state = world
            .sites
            .get(site)
            .ok_or_else(|| Fault::new(Code::NoSuchSite, format!("no site `{site}`")))?;
        let missing =
            || Fault::new(Code::NoSuchInstance, format!("no service `{service}` in site `{site}`"));
        let (side, applied, description) = state.described(service, hash).ok_or_else(missing)?;
        let ServiceKind::Process(process) = &description.kind else { return Err(missing()) };
        let user = match &process.user {
            Some(name) if platform.root => Some(users::existing(name)?),
            _ => state.user.clone(),
        };
        let values = match (&state.rollout, side) {
            (Some(rollout), Side::Next) => &rollout.values,
            _ => &state.values,
        };
        let place = Place { layout: &platform.layout, site, release: applied.release };
        let users = (user, platform.edge_user.as_ref().map(|edge| edge.gid));
        let spec = specs::build(&id, description, process, place, values, users, hash.to_owned());
        (spec, applied.release)
    };
    let record = InstanceRecord {
        id: id.clone(),
        spec_hash: spec.hash.clone(),
        release,
        run_dir: spec.run_dir.clone(),
        boot_id: seaworthy_sys::process::boot_id(),
        created: Timestamp::now(),
        state: InstanceState::Wanted,
    };
    let (run_dir, hash) = (spec.run_dir.clone(), spec.hash.clone());
    prepare_log_dir(&spec.log.path)?;
    let living: Vec<InstanceId> = platform.world().instances.keys().cloned().collect();
    old_logs::trim(&id, &spec.log, &living);
    // Recorded first: a shim that we did not live to see started is found by its lock.
    platform.store().put_instance(&record).map_err(|error| store_fault(&error))?;
    let (program, scope) = (platform.program.clone(), platform.scope.clone());
    let launched = tokio::task::spawn_blocking(move || {
        let home =
            scope.map(|scope| scope.home()).transpose().map_err(|error| error.to_string())?;
        driver::launch(&program, &spec, home.as_ref()).map_err(|error| error.to_string())
    })
    .await;
    let failed = |cause: String| {
        Fault::new(Code::SpawnFailed, format!("could not start a shim for `{id}`")).because(cause)
    };
    if let Err(cause) =
        launched.map_err(|error| error.to_string()).and_then(|result| result.map(drop))
    {
        platform.store().remove_instance(&id).map_err(|error| store_fault(&error))?;
        return Err(failed(cause));
    }
    let instance = Instance {
        hash,
        release,
        run_dir: run_dir.clone(),
        status: None,
        alive: true,
        draining: None,
        drained: false,
        stopping: false,
        since: Instant::now(),
    };
    platform.world().instances.insert(id.clone(), instance);
    watch(platform, id.clone(), &run_dir);
    Ok(id)
}

fn prepare_log_dir(log: &Path) -> Result<(), Fault> {
    let Some(dir) = log.parent() else { return Ok(()) };
    std::fs::create_dir_all(dir).map_err(|error| {
        crate::release::disk_fault(format!("could not make `{}`", dir.display()), &error)
    })
}

/// Takes over the instances that an earlier control left; those whose shim is gone are swept.
pub(crate) fn adopt(platform: &Arc<Platform>) -> Result<usize, Fault> {
    let records = platform.store().instances().map_err(|error| store_fault(&error))?;
    let mut adopted = 0;
    for record in records {
        let alive =
            record.boot_id == seaworthy_sys::process::boot_id() && holds_lock(&record.run_dir);
        if !alive {
            sweep(platform, &record.id, &record.run_dir);
            continue;
        }
        let draining = (record.state != InstanceState::Wanted).then(Instant::now);
        let instance = Instance {
            hash: record.spec_hash,
            release: record.release,
            run_dir: record.run_dir.clone(),
            status: None,
            alive: true,
            draining,
            drained: false,
            stopping: false,
            since: Instant::now(),
        };
        platform.world().instances.insert(record.id.clone(), instance);
        watch(platform, record.id, &record.run_dir);
        adopted += 1;
    }
    Ok(adopted)
}

fn holds_lock(run_dir: &Path) -> bool {
    seaworthy_sys::process::Lock::is_locked(&run_dir.join("lock")).unwrap_or(false)
}

/// Watches a shim until it is gone.
fn watch(platform: &Arc<Platform>, id: InstanceId, run_dir: &Path) {
    let (platform, run_dir) = (Arc::clone(platform), run_dir.to_path_buf());
    let thread = std::thread::Builder::new().name("shim-watch".to_owned()).stack_size(128 << 10);
    let spawned = thread.spawn(move || {
        let (started, mut answered) = (Instant::now(), false);
        while !platform.world().closing || started.elapsed() < PATIENCE {
            answered |= follow(&platform, &id, &run_dir);
            // A shim that was just launched may not hold its lock yet; one that answered did.
            let had_its_time = answered || started.elapsed() > Duration::from_secs(2);
            if !holds_lock(&run_dir) && had_its_time {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(instance) = platform.world().instances.get_mut(&id) {
            instance.alive = false;
        }
        platform.changed();
    });
    if let Err(error) = spawned {
        crate::say(&format!("could not watch an instance: {error}"));
    }
}

/// Follows the events of one connection until it ends; says whether there was one.
fn follow(platform: &Arc<Platform>, id: &InstanceId, run_dir: &Path) -> bool {
    let Ok(mut client) = ShimClient::connect(run_dir, POLL + PATIENCE) else { return false };
    let Ok(mut status) = client.status() else { return false };
    loop {
        let sequence = status.sequence;
        take(platform, id, status);
        status = match client.events_since(sequence, POLL) {
            Ok(mut events) => match events.pop() {
                Some(event) => event.status,
                None => match client.status() {
                    Ok(status) => status,
                    Err(_) => return true,
                },
            },
            Err(_) => return true,
        };
    }
}

fn take(platform: &Arc<Platform>, id: &InstanceId, status: Status) {
    let mut news = None;
    if let Some(instance) = platform.world().instances.get_mut(id) {
        let before = instance
            .status
            .as_ref()
            .and_then(|status| status.fault.as_ref().map(|fault| fault.code));
        let now = status.fault.as_ref().map(|fault| fault.code);
        if before != now {
            news.clone_from(&status.fault);
        }
        instance.status = Some(status);
    }
    if let Some(fault) = news {
        platform.event(
            Some(id.site.as_str()),
            Some(&id.to_string()),
            "instance-fault",
            &fault.what,
            Some(&fault),
        );
    }
    platform.changed();
}

/// Memory in bytes and CPU time in milliseconds of an instance's tree, as they are now.
pub(crate) async fn usage(platform: &Arc<Platform>, id: &InstanceId) -> Option<(u64, u64)> {
    let run_dir = platform.world().instances.get(id)?.run_dir.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let status = ShimClient::connect(&run_dir, PATIENCE).ok()?.status().ok()?;
        Some((status.memory?, status.cpu_ms?))
    });
    asked.await.ok().flatten()
}

/// Tells a shim to end its program and itself; returns at once.
pub(crate) fn stop(platform: &Arc<Platform>, id: &InstanceId) {
    let run_dir = {
        let mut world = platform.world();
        let Some(instance) = world.instances.get_mut(id) else { return };
        instance.stopping = true;
        instance.run_dir.clone()
    };
    call(platform, id, run_dir, |client| {
        client.stop(true).map(drop).map_err(|error| error.to_string())
    });
}

/// Restarts the program of an instance under the same shim; returns at once.
pub(crate) fn restart(platform: &Arc<Platform>, id: &InstanceId) {
    let run_dir = platform.world().instances.get(id).map(|instance| instance.run_dir.clone());
    if let Some(run_dir) = run_dir {
        call(platform, id, run_dir, |client| {
            client.restart().map(drop).map_err(|error| error.to_string())
        });
    }
}

fn call(
    platform: &Arc<Platform>,
    id: &InstanceId,
    run_dir: std::path::PathBuf,
    what: impl FnOnce(&mut ShimClient) -> Result<(), String> + Send + 'static,
) {
    let (platform, id) = (Arc::clone(platform), id.clone());
    tokio::task::spawn_blocking(move || {
        let connected = ShimClient::connect(&run_dir, PATIENCE).map_err(|error| error.to_string());
        let done = connected.and_then(|mut client| what(&mut client));
        if let Err(cause) = done
            && holds_lock(&run_dir)
        {
            crate::say(&format!("the shim of {id} did not do as it was told: {cause}"));
            if let Some(instance) = platform.world().instances.get_mut(&id) {
                instance.stopping = false;
            }
        }
        platform.changed();
    });
}

/// Cleans up after an instance whose shim is gone, and forgets it.
pub(crate) fn forget(platform: &Arc<Platform>, id: &InstanceId) {
    let removed = platform.world().instances.remove(id);
    if let Some(instance) = removed {
        if let Some(status) = &instance.status {
            processes::reap_raw(status.shim_pid);
        }
        if !instance.stopping {
            let mut what = "the shim of this instance ended; what it left is ended too".to_owned();
            if let Some(word) = driver::last_words(&instance.run_dir).pop() {
                what.extend([": ", &word]);
            }
            let instance = id.to_string();
            platform.event(Some(id.site.as_str()), Some(&instance), "shim-lost", &what, None);
        }
        sweep(platform, id, &instance.run_dir);
    }
}

fn sweep(platform: &Arc<Platform>, id: &InstanceId, run_dir: &Path) {
    let home = platform.scope.as_ref().map(|scope| scope.home()).transpose();
    let swept = home
        .and_then(|home| driver::sweep(id, run_dir, home.as_ref()))
        .and_then(|()| socket::remove(&platform.layout.sockets_of(id)));
    if let Err(error) = swept {
        crate::say(&format!("could not clean up after {id}: {error}"));
    }
    if let Err(error) = platform.store().remove_instance(id) {
        crate::say(&format!("could not forget {id}: {error}"));
    }
}

/// A failure of the store as people meet it.
pub(crate) fn store_fault(error: &seaworthy_state::StateError) -> Fault {
    let code = if matches!(error, seaworthy_state::StateError::DiskFull { .. }) {
        Code::DiskFull
    } else {
        Code::StateUnwritable
    };
    Fault::new(code, "the state could not be written")
        .because_of(error)
        .next("df -h   (shows which disk is full)")
}
