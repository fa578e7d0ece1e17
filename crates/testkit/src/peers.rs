//! Real servers for tests: each with a folder of its own, unprivileged, gone with the test.
//!
//! The distribution's programs (`cargo xtask setup` installs them), never the distribution's services: a
//! server listens on a Unix socket or a free loopback port. Invariants: as root it runs as `nobody`, since
//! most refuse root; it dies with the thread that started it; a missing program fails the test.

mod acme;
mod mariadb;
mod named;
mod outside;
mod postgres;
mod redis;
mod route53;
mod sshd;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

pub use acme::{Authority, Front, Ordered, Renewal, Wish, free_port, make_certificate};
pub use mariadb::MariaDb;
pub use named::{KEY, KEY_NAME, Named};
pub use outside::{Call, Outside, Say};
pub use postgres::{POSTGRES_18, Postgres};
pub use redis::Redis;
pub use route53::{ROUTE53_KEYS, Route53};
pub use sshd::Sshd;

/// The user that nobody is, by number: there on every Linux.
const NOBODY: u32 = 65_534;

/// As whom servers and tools of tests run: `nobody` for root, else ourselves.
pub fn unprivileged() -> Option<(u32, u32)> {
    rustix::process::geteuid().is_root().then_some((NOBODY, NOBODY))
}

/// A folder with a short path that belongs to the user that servers run as.
#[derive(Debug)]
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A new one.
    pub fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("sw-").tempdir_in("/tmp").expect("a folder in /tmp");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        if let Some((uid, gid)) = unprivileged() {
            chown(folder.path(), Some(uid), Some(gid)).expect("root gives folders away");
        }
        Self { folder }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// A command that runs as that user and dies with us.
pub(crate) fn command(program: &Path, dir: &Path) -> Command {
    command_as(unprivileged(), program, dir)
}

/// The same for another user.
pub(crate) fn command_as(user: Option<(u32, u32)>, program: &Path, dir: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some((uid, gid)) = user {
        command.args([
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--clear-groups".to_owned(),
        ]);
    }
    command.arg(program).current_dir(dir).env_clear();
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    command.envs([("PATH", path.as_str()), ("LANG", "C.UTF-8"), ("HOME", "/nonexistent")]);
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end; the test ends unless it ended well.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; cargo xtask setup installs it"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    output
}

/// A server process that ends with this value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; what it says goes to `log`.
    #[track_caller]
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let file = fs::File::options().create(true).append(true).open(log).expect("a log");
        command.stdout(file.try_clone().expect("a log")).stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; cargo xtask setup installs it"));
        Self { child, log: log.to_path_buf() }
    }

    /// What it said, for a test that fails.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends the test when the server has ended.
    #[track_caller]
    pub(crate) fn must_live(&mut self) {
        let ended = self.child.try_wait().expect("a child can be waited for");
        assert!(ended.is_none(), "the server ended with {ended:?}: {}", self.said());
    }

    /// Ends it with that signal and waits.
    pub(crate) fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.child.wait().ok();
    }

    /// Sends it a signal while it lives.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, signal).ok();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}
