//! The control process: decides and remembers what runs, and makes it true.
//!
//! The composition root. State (`seaworthy-state`) and manifests go in, instances (`seaworthy-runtime`) and the
//! edge (`seaworthy-edge`) are what comes out; the flow of a change is `server` → `release` →
//! `serve` (edge) and `reconcile` (`decide`, `instances`). Invariants: it may die at any moment and lose
//! nothing; it parses nothing that comes from the internet and opens no connection outward; two controls
//! never own one state folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seaworthy_api::Layout;
use seaworthy_base::{Code, Exit, Fault, Timestamp};
use seaworthy_sys::process::Lock;
use tokio::signal::unix::{SignalKind, signal};

mod authorities;
mod backups;
mod by_hand;
mod ca;
mod certificates;
mod commands;
mod counts;
mod crash;
mod databases;
mod datagrams;
mod decide;
mod defect;
mod edge;
mod edge_config;
mod edge_link;
mod explain;
mod instances;
mod jobs;
pub mod keeper;
mod lifecycle;
mod listeners;
mod manager;
mod names;
mod old_logs;
mod outgoing;
mod platform;
pub mod probe;
mod processes;
mod reconcile;
mod release;
mod scaling;
pub mod scope;
mod serve;
mod server;
mod site_secrets;
mod specs;
mod status;
mod stores;
mod upgrade;
mod users;
mod worker;
mod world;

use platform::Platform;

pub use edge_link::build_id;

/// From the moment in which a control closes its socket to that in which the kernel frees its lock.
const HANDOVER: Duration = Duration::from_secs(10);

/// Says something in control's own log (standard error, which the keeper or systemd keeps). Where that cannot be
/// written either, on a disk that is full, the work goes on.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr(), "{} {text}", Timestamp::now()).ok();
}

/// Makes the folders that control needs, with the modes they need.
pub fn prepare_folders(layout: &Layout) -> Result<(), Fault> {
    let refused = |dir: &Path, error: &std::io::Error| {
        let fault =
            release::disk_fault(format!("could not make or use `{}`", dir.display()), error);
        fault.next("choose another folder: --state DIR, or SEAWORTHY_STATE=DIR")
    };
    for dir in [
        &layout.state,
        &layout.run,
        &layout.instances(),
        &layout.sockets(),
        &layout.state.join("logs"),
        &layout.state.join("sites"),
        &layout.state.join("data"),
        &layout.state.join("public"),
    ] {
        std::fs::create_dir_all(dir).map_err(|error| refused(dir, &error))?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .map_err(|error| refused(dir, &error))?;
    }
    Ok(())
}

/// The role: owns the state folder until it is told to end. `program` is our own executable.
pub fn main(layout: Layout, program: PathBuf) -> Exit {
    seaworthy_sys::process::lower_memory_use();
    if manager::is_ours() {
        upgrade::become_the_chosen(&layout, &program);
    }
    loop {
        match start(layout.clone(), program.clone()) {
            Ok(End::Done) => return Exit::Ok,
            Ok(End::Become(new)) => {
                let error = upgrade::become_it(&layout, &new);
                say(&format!("could not become {}: {error}; going on as before", new.display()));
            }
            Err(fault) => {
                say(&fault.to_string());
                return Exit::UserFixable;
            }
        }
    }
}

/// How a control process ends.
#[derive(Debug)]
pub(crate) enum End {
    /// It was told to, or everything is down.
    Done,
    /// Another program goes on in this process.
    Become(PathBuf),
}

fn start(layout: Layout, program: PathBuf) -> Result<End, Fault> {
    prepare_folders(&layout)?;
    let _lock = take_over(&layout)?;
    upgrade::settle(&layout, &program)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build();
    let runtime = runtime.map_err(|error| {
        Fault::new(Code::Internal, "could not start the runtime").because(error.to_string())
    })?;
    let platform = Arc::new(Platform::open(layout, program)?);
    let end = runtime.block_on(run(platform));
    // Threads that wait for shims must not hold up what comes next.
    runtime.shutdown_background();
    end
}

/// Takes the state folder's lock. One that is about to end serves its socket to the last moment and is
/// waited for; one that goes on is not.
fn take_over(layout: &Layout) -> Result<Lock, Fault> {
    let file = layout.control_lock();
    let begun = Instant::now();
    loop {
        let lock = Lock::try_acquire(&file).map_err(|error| {
            release::disk_fault(format!("could not lock `{}`", file.display()), &error)
        })?;
        if let Some(lock) = lock {
            return Ok(lock);
        }
        let answers = std::os::unix::net::UnixStream::connect(layout.control_socket()).is_ok();
        if answers || begun.elapsed() > HANDOVER {
            return Err(Fault::new(
                Code::ControlRunning,
                format!("another control process owns `{}`", layout.state.display()),
            )
            .next("seaworthy status"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn run(platform: Arc<Platform>) -> Result<End, Fault> {
    let socket = platform.layout.control_socket();
    lifecycle::resume(&platform).await?;
    release::resume(&platform).await;
    reconcile::pass(&platform).await;
    upgrade::confirm(&platform).await?;
    let listener = server::bind(&socket).map_err(|error| {
        release::disk_fault(format!("could not listen on `{}`", socket.display()), &error)
    })?;
    say(&format!("control {} owns {}", build_id(), platform.layout.state.display()));
    manager::tell(platform.manager.as_deref(), "READY=1");
    if let Some(manager) = platform.manager.clone() {
        tokio::spawn(manager::report(manager));
    }
    defect::keep_running(&platform, "instances", reconcile::run);
    defect::keep_running(&platform, "names", names::run);
    defect::keep_running(&platform, "jobs", jobs::run);
    defect::keep_running(&platform, "scaling", scaling::run);
    defect::keep_running(&platform, "backups", backups::run_clock);
    defect::keep_running(&platform, "certificates", certificates::run_clock);
    let serving = tokio::spawn(server::serve(listener, Arc::clone(&platform)));
    let told = |kind| {
        signal(kind).map_err(|error| {
            Fault::new(Code::Internal, "could not wait for signals").because(error.to_string())
        })
    };
    let (mut terminate, mut interrupt) =
        (told(SignalKind::terminate())?, told(SignalKind::interrupt())?);
    let mut end = End::Done;
    tokio::select! {
        () = platform.ending.notified() => {
            // Lets the answer to `down` go out.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Sites are ended by `down` only: edge and instances go on, and the next control adopts them.
        new = platform.next_program.notified_path() => {
            say(&format!("becoming {}", new.display()));
            platform.scope.iter().for_each(|scope| scope.release());
            end = End::Become(new);
        }
        _ = terminate.recv() => {
            if platform.manager.is_some() && manager::machine_goes_down().await {
                lifecycle::rest(&platform).await;
            } else {
                say("told to end: what is served goes on");
            }
        }
        _ = interrupt.recv() => say("told to end: what is served goes on"),
    }
    serving.abort();
    Ok(end)
}
