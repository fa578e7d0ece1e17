//! Under systemd, edge and applications live in a scope of their own and not in the unit of control.
//!
//! Why: a unit whose child groups hold living processes with limits cannot be started again (control groups version 2
//! let no process into a group with limits below it), and what is in a scope is no business of the unit's restart. A
//! scope lives as long as a process is in it: while control runs that is the holder, a process of ours which does nothing
//! and ends with us; later it is whatever serves. Invariants: nothing of ours stands in the scope's own group, only in
//! leaves; a scope that is there is joined, never replaced; where there is none to be had that is said and everything stands
//! in the unit as it does elsewhere. Not here: which limits (`seaworthy_sys::cgroup`).

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use seaworthy_base::Exit;
use seaworthy_sys::cgroup::Delegated;
use seaworthy_sys::spawn::inherit_nothing;

use crate::manager;

/// What a scope is told when it is made. Ordered before the unit, so that a machine that goes down ends control first:
/// it would start again what ends.
const PROPERTIES: [&str; 3] =
    ["--property=Delegate=yes", "--property=TasksMax=infinity", "--property=After=network.target"];

/// The scope of this control process.
#[derive(Debug)]
pub(crate) struct Scope {
    /// The unit of control.
    unit: String,
    /// The scope's.
    name: String,
    program: PathBuf,
    holder: Mutex<Option<(Child, Delegated)>>,
}

impl Scope {
    /// The scope that belongs to our unit; `None` where we are no service of systemd's, not root, or on version 1.
    pub(crate) fn find(program: &Path) -> Option<Self> {
        if !manager::is_ours() || seaworthy_sys::process::current_uid() != 0 {
            return None;
        }
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let unit = unit_of(&groups)?.to_owned();
        let name = format!("{}-run.scope", unit.strip_suffix(".service")?);
        Some(Self { unit, name, program: program.to_path_buf(), holder: Mutex::new(None) })
    }

    /// The group in which what outlives us starts, made if need be. Blocking: systemd answers in milliseconds.
    pub(crate) fn home(&self) -> io::Result<Delegated> {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((process, home)) = &mut *holder
            && process.try_wait()?.is_none()
        {
            return Ok(home.clone());
        }
        let (process, home) = self.hold()?;
        *holder = Some((process, home.clone()));
        Ok(home)
    }

    /// Starts the holder, in the scope that is there or in a new one.
    fn hold(&self) -> io::Result<(Child, Delegated)> {
        if let Some(home) = self.there() {
            let mut command = Command::new(&self.program);
            // It may have ended since: then one of these fails, and there is a new one.
            let held = home.admit(&mut command).and_then(|()| start(command.arg(ROLE)));
            if held.is_ok() {
                return held;
            }
        }
        let mut command = Command::new("systemd-run");
        command.args(["--scope", "--quiet", "--collect", "--unit", &self.name]).args(PROPERTIES);
        command.arg(format!("--property=Before={}", self.unit));
        command.arg("--description=Edge and applications of Seaworthy");
        start(command.arg("--").arg(&self.program).arg(ROLE))
    }

    /// The scope, if it is there: left by the control process before us. One that is being stopped is none: what joins
    /// it would be ended with it.
    fn there(&self) -> Option<Delegated> {
        let mut command = Command::new("systemctl");
        command.args(["show", "--property=ActiveState,ControlGroup", &self.name]);
        let said = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        let said = String::from_utf8(said.stdout).ok()?;
        let is_active = said.lines().any(|line| line == "ActiveState=active");
        let group = said.lines().find_map(|line| line.strip_prefix("ControlGroup=/"));
        let folder = group.filter(|group| is_active && !group.is_empty())?;
        Delegated::at(Path::new("/sys/fs/cgroup").join(folder))
    }

    /// Ends the holder: for a control process that becomes another program, which starts its own.
    pub(crate) fn release(&self) {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((mut process, _)) = holder {
            // Its input ends it.
            drop(process.stdin.take());
            if let Err(error) = process.wait() {
                crate::say(&format!("the holder of the scope did not end: {error}"));
            }
        }
    }
}

/// The holder's role, as `main` knows it.
const ROLE: &str = "hold-scope";

/// Starts a holder and waits until it says where it is.
fn start(command: &mut Command) -> io::Result<(Child, Delegated)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
    inherit_nothing(command);
    let mut process = command.spawn()?;
    let mut folder = String::new();
    if let Some(output) = process.stdout.take() {
        BufReader::new(output).read_line(&mut folder)?;
    }
    if let Some(home) = Delegated::at(PathBuf::from(folder.trim())).filter(|_| !folder.is_empty()) {
        return Ok((process, home));
    }
    let mut why = String::new();
    if let Some(errors) = process.stderr.take() {
        errors.take(4096).read_to_string(&mut why)?;
    }
    process.wait()?;
    Err(io::Error::other(format!("the scope could not be made: {}", why.trim())))
}

/// The holder: enters the leaf of the group that it was started in, says where that is, and ends with its control.
#[expect(clippy::print_stdout, reason = "control reads it")]
pub fn main() -> Exit {
    seaworthy_sys::process::lower_memory_use();
    match Delegated::enter() {
        Ok(home) => {
            println!("{}", home.folder().display());
            // Nothing comes; the end of it is the end of control.
            io::copy(&mut io::stdin(), &mut io::sink()).ok();
            Exit::Ok
        }
        Err(error) => {
            crate::say(&error.to_string());
            Exit::Internal
        }
    }
}

/// The service that a process is in, from its control groups: version 2 alone.
fn unit_of(groups: &str) -> Option<&str> {
    let mut lines = groups.lines();
    let path = lines.next()?.strip_prefix("0::")?;
    let unit = path.split('/').find(|part| part.ends_with(".service"))?;
    lines.next().is_none().then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_read_from_version_2_alone() {
        assert_eq!(unit_of("0::/system.slice/seaworthy.service\n"), Some("seaworthy.service"));
        assert_eq!(
            unit_of("0::/system.slice/seaworthy.service/seaworthy-platform\n"),
            Some("seaworthy.service")
        );
        let hybrid =
            "1:name=systemd:/system.slice/seaworthy.service\n0::/system.slice/seaworthy.service\n";
        assert_eq!(unit_of(hybrid), None);
        assert_eq!(unit_of("0::/user.slice/session-3.scope\n"), None);
    }
}
