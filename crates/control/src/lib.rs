//! The control process: decides and remembers what runs, and makes it true.
//!
//! The composition root. State (`seaworthy-state`) and manifests go in, instances (`seaworthy-runtime`) and the
//! edge (`seaworthy-edge`) are what comes out; the flow of a change is `server` → `apply` → `release` →
//! `serve` (edge) and `reconcile` (`decide`, `instances`). Invariants: it may die at any moment and lose
//! nothing; it parses nothing that comes from the internet and opens no connection outward; two controls
//! never own one state folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seaworthy_api::Layout;
use seaworthy_base::{Code, Exit, Fault, Timestamp};
use seaworthy_sys::process::Lock;

mod apply;
mod backups;
mod ca;
mod commands;
mod counts;
mod decide;
mod edge;
mod edge_config;
mod edge_link;
mod explain;
mod instances;
pub mod keeper;
mod lifecycle;
mod listeners;
mod old_logs;
mod platform;
mod processes;
mod reconcile;
mod release;
mod serve;
mod server;
mod specs;
mod status;
mod users;
mod world;

use platform::Platform;

pub use edge_link::build_id;

/// Says something in control's own log (standard error, which the keeper or systemd keeps).
#[expect(clippy::print_stderr, reason = "the daemon's log is its standard error")]
pub(crate) fn say(text: &str) {
    eprintln!("{} {text}", Timestamp::now());
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
    match start(layout, program) {
        Ok(()) => Exit::Ok,
        Err(fault) => {
            say(&fault.to_string());
            Exit::UserFixable
        }
    }
}

fn start(layout: Layout, program: PathBuf) -> Result<(), Fault> {
    prepare_folders(&layout)?;
    let lock = Lock::try_acquire(&layout.control_lock()).map_err(|error| {
        release::disk_fault(format!("could not lock `{}`", layout.control_lock().display()), &error)
    })?;
    let Some(_lock) = lock else {
        return Err(Fault::new(
            Code::ControlRunning,
            format!("another control process owns `{}`", layout.state.display()),
        )
        .next("seaworthy status"));
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build();
    let runtime = runtime.map_err(|error| {
        Fault::new(Code::Internal, "could not start the runtime").because(error.to_string())
    })?;
    let platform = Arc::new(Platform::open(layout, program)?);
    runtime.block_on(run(platform))
}

async fn run(platform: Arc<Platform>) -> Result<(), Fault> {
    let socket = platform.layout.control_socket();
    lifecycle::resume(&platform).await?;
    reconcile::pass(&platform).await;
    let listener = server::bind(&socket).map_err(|error| {
        release::disk_fault(format!("could not listen on `{}`", socket.display()), &error)
    })?;
    say(&format!("control {} owns {}", build_id(), platform.layout.state.display()));
    tokio::spawn(reconcile::run(Arc::clone(&platform)));
    tokio::spawn(backups::run_clock(Arc::clone(&platform)));
    let serving = tokio::spawn(server::serve(listener, Arc::clone(&platform)));
    platform.ending.notified().await;
    // Lets the answer to `down` go out.
    tokio::time::sleep(Duration::from_millis(50)).await;
    serving.abort();
    std::fs::remove_file(&socket).ok();
    Ok(())
}
