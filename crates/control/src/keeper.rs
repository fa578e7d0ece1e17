//! Where no systemd does it: a small process that starts control again when it dies.
//!
//! Invariants: it holds nothing and knows nothing, so its own death costs only the next restart; a
//! control that ends in order (exit code 0) or that is refused its state folder (1) is not started again.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use seaworthy_api::Layout;
use seaworthy_base::Exit;

use crate::upgrade;

/// First pause after a quick death; doubles up to [`SLOWEST`].
const QUICKEST: Duration = Duration::from_millis(50);
/// Longest pause.
const SLOWEST: Duration = Duration::from_secs(5);

/// The role: runs until control ends in order.
pub fn main(layout: &Layout, program: &std::path::Path) -> Exit {
    seaworthy_sys::process::lower_memory_use();
    // Fails when the caller made us a group leader already; then there is nothing left to leave.
    seaworthy_sys::process::become_session_leader().ok();
    let mut pause = QUICKEST;
    loop {
        let started = Instant::now();
        let chosen = upgrade::program(layout, program);
        let mut command = Command::new(&chosen);
        command.arg("control").arg("--state").arg(&layout.state).stdin(Stdio::null());
        command
            .env("SEAWORTHY_RUN", &layout.run)
            .env("SEAWORTHY_KEEPER", std::process::id().to_string());
        match command.status().map(|status| status.code()) {
            Ok(code) if upgrade::on_probation(layout) => {
                crate::say(&format!("a new build ended ({code:?}): the one before runs again"));
            }
            Ok(Some(0)) => return Exit::Ok,
            Ok(Some(1)) if started.elapsed() < Duration::from_secs(5) => return Exit::UserFixable,
            Ok(code) => crate::say(&format!("control ended ({code:?}): starting it again")),
            Err(error) => crate::say(&format!("could not start control: {error}")),
        }
        pause = if started.elapsed() > SLOWEST { QUICKEST } else { (pause * 2).min(SLOWEST) };
        std::thread::sleep(pause);
    }
}
