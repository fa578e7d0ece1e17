//! `install`: a systemd unit for control, written and removed again.
//!
//! The unit's main process is control itself, which systemd starts again when it dies; which build that is control
//! chooses (`seaworthy_control`). Invariants: stopping or restarting the unit ends control only: edge and applications
//! live in a scope of their own, and the next start adopts them; after a reboot everything that was wanted comes back
//! from the state. What the unit forbids is inherited by applications: nothing stands there that one of them may need.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use seaworthy_api::Layout;
use seaworthy_api::model::PlatformStatus;
use seaworthy_base::{Code, Exit, Fault};
use seaworthy_sys::process::{Awaited, signal_process};

use crate::args::Install;
use crate::platform;
use crate::render::{self, Failure, io_failure};

/// The unit's name.
const UNIT: &str = "seaworthy.service";
/// Where edge and applications live then.
const SCOPE: &str = "seaworthy-run.scope";
/// Capabilities that nothing of ours needs, so that whoever takes control over does not have them either.
const GIVEN_UP: [&str; 19] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SYSLOG",
    "CAP_SYS_BOOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_PACCT",
    "CAP_SYS_RAWIO",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
];
/// Asks a process to end.
const TERM: i32 = 15;
/// Where systemd looks for units of this machine.
const UNITS: &str = "/etc/systemd/system";

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
        platform::block_on(async { make_way(layout).await.map(|()| Exit::Ok) })?;
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
            "removed {}; what it served goes on until `systemctl stop {SCOPE}`, and `seaworthy up` takes it over",
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

/// Whether systemd starts the control process of this state folder.
fn is_installed(layout: &Layout) -> bool {
    let file = Path::new(UNITS).join(UNIT);
    let text = fs::read_to_string(&file).unwrap_or_default();
    let ours = format!(" control --state {}", quoted(&layout.state.display().to_string()));
    is_systems(&file) && text.lines().any(|line| line.ends_with(&ours))
}

/// Has systemd start the control process of this state folder, where it is systemd that does; says whether.
pub(crate) fn start(layout: &Layout) -> Result<bool, Failure> {
    let installed = is_installed(layout);
    if installed {
        systemctl(&["start", UNIT])?;
    }
    Ok(installed)
}

/// What control said to systemd's journal, its last thousand lines; nothing where it speaks to a file of ours.
pub(crate) fn journal(layout: &Layout) -> Vec<u8> {
    if !is_installed(layout) {
        return Vec::new();
    }
    let mut command = Command::new("journalctl");
    command.args(["--unit", UNIT, "--output=cat", "--no-pager", "--lines=1000"]);
    // Who may not read it gets what the file has.
    command.stdin(Stdio::null()).output().map(|output| output.stdout).unwrap_or_default()
}

/// A control process that was started without systemd makes way: what is served goes on, and the unit takes it over.
async fn make_way(layout: &Layout) -> Result<(), Failure> {
    let Ok(client) = platform::connect(layout).await else { return Ok(()) };
    let status: PlatformStatus = client.get("/v1/status").await?;
    let Some(keeper) = status.control.keeper else { return Ok(()) };
    let ours = [keeper, status.control.pid].map(Awaited::new);
    // Asked to end it does so in order, and the keeper with it.
    signal_process(status.control.pid, TERM);
    if ours.iter().all(|process| process.wait(platform::PATIENCE)) {
        return Ok(());
    }
    let what = format!("control (process {}) does not make way for the unit", status.control.pid);
    Err(Fault::new(Code::ControlRunning, what).next("seaworthy status").into())
}

/// Whether systemd reads units there, and runs.
fn is_systems(file: &Path) -> bool {
    file.starts_with(UNITS) && Path::new("/run/systemd/system").is_dir()
}

fn systemctl(words: &[&str]) -> Result<(), Failure> {
    let failed = |cause: String| {
        let what = format!("`systemctl {}` failed", words.join(" "));
        let fault = Fault::new(Code::StateUnwritable, what).because(cause);
        Failure::from(fault.next(format!("journalctl --unit {UNIT} --lines 20")))
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
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} control --state {state}
Environment={run}
Restart=always
RestartSec=500ms
TimeoutStartSec=5min
TimeoutStopSec=5min
# Control that answers nobody is ended, which costs what it serves nothing; no core, which would hold secrets.
WatchdogSec=2min
WatchdogSignal=SIGKILL
# Keeps the listening sockets (HTTP/3 has four for an address): should control and edge end at once, connections wait.
FileDescriptorStoreMax=1024
# Stopping or restarting this unit ends control only: edge and applications, in seaworthy-run.scope, go on.
KillMode=process
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
# All of this is inherited by applications; those that run as users of their own could not do it anyway.
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
PrivateMounts=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=~{capabilities}

[Install]
WantedBy=multi-user.target
",
        capabilities = GIVEN_UP.join(" "),
        program = quoted(&program.display().to_string()),
        state = quoted(&layout.state.display().to_string()),
        run = quoted(&format!("SEAWORTHY_RUN={}", layout.run.display()))
    )
}

/// A word as systemd.service(5) reads it: one, whatever is in it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+,@:".contains(c);
    if word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            _ => text.push(c),
        }
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(state: &str) -> Layout {
        Layout { state: state.into(), run: "/run/seaworthy".into() }
    }

    #[test]
    fn a_unit_is_written_and_removed_again_where_systemd_does_not_look() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout("/var/lib/seaworthy");
        let options = |remove| Install { print: false, remove, units: dir.path().to_path_buf() };
        install(&layout, &options(false)).unwrap();
        let text = fs::read_to_string(dir.path().join(UNIT)).unwrap();
        assert!(text.contains(" control --state /var/lib/seaworthy\n"), "{text}");
        assert!(text.contains("\nEnvironment=SEAWORTHY_RUN=/run/seaworthy\n"), "{text}");
        install(&layout, &options(true)).unwrap();
        assert!(!dir.path().join(UNIT).exists());
        install(&layout, &options(true)).unwrap();
    }

    #[test]
    fn what_the_promises_rest_on_is_in_the_unit() {
        let text = unit(Path::new("/usr/local/bin/seaworthy"), &layout("/var/lib/seaworthy"));
        for line in [
            "ExecStart=/usr/local/bin/seaworthy control --state /var/lib/seaworthy",
            "Type=notify",
            "NotifyAccess=main",
            "Restart=always",
            "FileDescriptorStoreMax=1024",
            "KillMode=process",
            "Delegate=yes",
            "OOMPolicy=continue",
            "WantedBy=multi-user.target",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        // A folder of its own below `/tmp` ends with the unit, and what runs in it does not.
        assert!(!text.contains("PrivateTmp"), "{text}");
    }

    #[test]
    fn a_path_with_spaces_and_signs_is_one_word() {
        let text = unit(Path::new("/opt/sea worthy/bin"), &layout("/srv/100%/\"a\\b"));
        assert!(
            text.contains(
                "ExecStart=\"/opt/sea worthy/bin\" control --state \"/srv/100%%/\\\"a\\\\b\"\n"
            ),
            "{text}"
        );
    }
}
