//! A mount namespace for one sandbox: what is mounted in it exists for the sandbox's processes only.
//!
//! Kept by a process that sleeps in it; the mounts end with the last process of the namespace, so nothing has to be
//! taken down. Invariant: nothing outside is changed (its mounts are private). Needs root.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::eventually;

/// The namespace, as long as this value lives or anything runs in it.
#[derive(Debug)]
pub(super) struct Place {
    keeper: Child,
}

impl Place {
    /// Makes the mounts (a line for a shell) in a namespace of their own.
    #[track_caller]
    pub(super) fn start(folder: &Path, mounts: &str) -> Self {
        let done = folder.join("mounted");
        let line = format!("{mounts} && touch {} && exec sleep infinity", done.display());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", &line]);
        command.stdin(Stdio::null());
        let mut place = Self { keeper: command.spawn().expect("util-linux is installed") };
        eventually("the namespace is ready", Duration::from_secs(10), || {
            let ended = place.keeper.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "`{mounts}` failed: it needs root and a kernel that lets it");
            done.exists()
        });
        let ours = std::fs::metadata("/proc/self/ns/mnt").expect("a namespace");
        let theirs = std::fs::metadata(place.namespace()).expect("a namespace");
        assert_ne!(ours.ino(), theirs.ino(), "it is a namespace of its own");
        place
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/mnt", self.keeper.id())
    }

    /// A command that runs in it.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={}", self.namespace())).arg("--").arg(program);
        command
    }

    /// A path in it, as others see it.
    pub(super) fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}
