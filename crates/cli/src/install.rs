//! `install`: a systemd unit for control, written and removed again.
//!
//! The unit's main process is the keeper, which starts control again and, in an upgrade, chooses which
//! build. Invariants: stopping the unit stops control only (`KillMode=process`): edge and instances go on,
//! and the next start adopts them; after a reboot everything that was wanted comes back from the state.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use seaworthy_api::Layout;
use seaworthy_base::{Code, Exit, Fault};

use crate::args::Install;
use crate::render::{self, Failure, io_failure};

/// The unit's name.
const UNIT: &str = "seaworthy.service";

/// Writes, prints or removes the unit.
pub(crate) fn install(layout: &Layout, options: &Install) -> Result<Exit, Failure> {
    let file = options.units.join(UNIT);
    if options.remove {
        return remove(&file);
    }
    let program =
        std::env::current_exe().map_err(|error| io_failure("could not find myself", &error))?;
    let text = unit(&program, layout);
    if options.print {
        render::print(&text);
        return Ok(Exit::Ok);
    }
    fs::write(&file, text).map_err(|error| {
        let what = format!("could not write `{}`", file.display());
        Failure::from(
            Fault::new(Code::StateUnwritable, what)
                .because(error.to_string())
                .next("sudo seaworthy install"),
        )
    })?;
    render::talk(&format!("wrote {}", file.display()));
    if is_systems(&file) {
        systemctl(&["daemon-reload"])?;
        systemctl(&["enable", "--now", UNIT])?;
        render::talk("seaworthy is started now and at every boot: systemctl status seaworthy");
    }
    Ok(Exit::Ok)
}

fn remove(file: &Path) -> Result<Exit, Failure> {
    if is_systems(file) {
        systemctl(&["disable", "--now", UNIT])?;
    }
    match fs::remove_file(file) {
        Ok(()) => render::talk(&format!(
            "removed {}; what it started goes on: seaworthy down --all",
            file.display()
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            render::talk("there is no unit")
        }
        Err(error) => return Err(io_failure("could not remove the unit", &error)),
    }
    if is_systems(file) {
        systemctl(&["daemon-reload"])?;
    }
    Ok(Exit::Ok)
}

/// Whether systemd reads units there, and runs.
fn is_systems(file: &Path) -> bool {
    file.starts_with("/etc/systemd/system") && Path::new("/run/systemd/system").is_dir()
}

fn systemctl(words: &[&str]) -> Result<(), Failure> {
    let failed = |cause: String| {
        let what = format!("`systemctl {}` failed", words.join(" "));
        Failure::from(Fault::new(Code::StateUnwritable, what).because(cause))
    };
    let mut command = Command::new("systemctl");
    let output = command.args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn unit(program: &Path, layout: &Layout) -> String {
    format!(
        "\
[Unit]
Description=Seaworthy: TLS edge, supervised applications, releases, backups
Documentation=man:seaworthy(1)
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={program} control --keep --state {state}
Environment=SEAWORTHY_RUN={run}
Restart=always
RestartSec=1
# Stopping or restarting this unit ends control only: edge and applications go on, and are adopted.
KillMode=process
# Limits of applications are control groups below this one.
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
RestrictRealtime=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
",
        program = program.display(),
        state = layout.state.display(),
        run = layout.run.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_written_and_removed_again_where_systemd_does_not_look() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { state: "/var/lib/seaworthy".into(), run: "/run/seaworthy".into() };
        let options = |remove| Install { print: false, remove, units: dir.path().to_path_buf() };
        install(&layout, &options(false)).unwrap();
        let text = fs::read_to_string(dir.path().join(UNIT)).unwrap();
        assert!(
            text.contains("control --keep --state /var/lib/seaworthy")
                && text.contains("KillMode=process")
        );
        install(&layout, &options(true)).unwrap();
        assert!(!dir.path().join(UNIT).exists());
        install(&layout, &options(true)).unwrap();
    }
}
