//! Where commands run that are no instances, and within which limits: a control group of their own, beside those of
//! instances.
//!
//! In control's own group a build that eats memory leaves the kernel the choice between it and control; under systemd a
//! limit there would keep the unit from starting again; and what a command started in sessions of its own is found by
//! nobody once control died. Invariants: the group of a deployment or a job has a name that the next control knows; it
//! is never shared with another deployment. Where a host gives no groups, commands run all the same, and limits that were
//! asked for are said to be missing. Not here: what runs (`commands`).

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_base::{ByteSize, SiteName};
use seaworthy_runtime::driver;
use seaworthy_sys::cgroup::{self, Cgroup};
use seaworthy_sys::process::fair_share_of_tasks;

use crate::platform::Platform;

/// What is killed is gone at once, unless a device holds it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What commands may use together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes.
    pub memory: Option<ByteSize>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u32>,
    /// The key of the manifest that says so of memory.
    pub memory_key: &'static str,
}

/// The group of a site's deployment.
pub(crate) fn of_deployment(site: &SiteName, number: u64) -> String {
    format!("{site}.deployment.{number}")
}

/// The group of a job.
pub(crate) fn of_job(site: &SiteName, job: &str) -> String {
    format!("{site}.job.{job}")
}

/// A control group for commands that run one after another.
#[derive(Debug)]
pub(crate) struct Bounds {
    group: Option<Arc<Cgroup>>,
    limits: Limits,
    /// Whether what runs ends with us.
    pub bound: bool,
    /// Limits that were asked for and cannot be had here, in words.
    pub missing: Option<String>,
}

impl Bounds {
    /// Makes the group of that name, or joins the one that is there.
    pub(crate) fn new(platform: &Platform, name: &str, limits: Limits, bound: bool) -> Self {
        let wanted = cgroup::Limits {
            memory: limits.memory.map(|size| size.0),
            cpu_millis: limits.cpu_millis,
            tasks: Some(fair_share_of_tasks()),
        };
        let name = full_name(platform, name);
        let made = match platform.scope.as_ref().map(|scope| scope.home()).transpose() {
            Ok(Some(home)) => home.create(&name, wanted),
            Ok(None) => Cgroup::create(&name, wanted),
            Err(error) => Err(error.to_string()),
        };
        let (group, missing) = match made {
            Ok((group, missing)) => (Some(Arc::new(group)), missing),
            Err(why) => (None, vec![why]),
        };
        let asked = limits.memory.is_some() || limits.cpu_millis.is_some();
        let missing = (asked && !missing.is_empty())
            .then(|| format!("its limits cannot be held to on this host: {}", missing.join("; ")));
        Self { group, limits, bound, missing }
    }

    /// The files by which a command joins.
    pub(super) fn procs(&self) -> io::Result<Vec<File>> {
        self.group.as_ref().map_or_else(|| Ok(Vec::new()), |group| group.procs())
    }

    /// How often something in it was ended because of its limit of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        self.group.as_ref().map_or(0, |group| group.oom_kills())
    }

    /// Why something was ended because of it, and what helps.
    pub(super) fn out_of_memory(&self) -> (String, String) {
        let Limits { memory, memory_key, .. } = self.limits;
        match memory {
            Some(size) => (
                format!("it needs more memory than the {size} that {memory_key} gives it"),
                format!("raise {memory_key} in seaworthy.toml, then: seaworthy deploy"),
            ),
            None => (
                "the machine ran out of memory, and the kernel ended it".to_owned(),
                "free -m   (shows what is left; a smaller build, or more memory)".to_owned(),
            ),
        }
    }

    /// Ends whatever runs in it.
    pub(super) async fn end(&self) {
        let Some(group) = self.group.clone() else { return };
        let ended = tokio::task::spawn_blocking(move || group.kill_all(PATIENCE)).await;
        if !ended.unwrap_or(false) {
            crate::say("what a command left running could not be ended");
        }
    }
}

impl Drop for Bounds {
    /// One that holds somebody stays.
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            group.remove();
        }
    }
}

/// Ends what is left in the group of that name, and removes it: also that of a control process before us.
pub(crate) async fn sweep(platform: &Arc<Platform>, name: String) {
    let platform = Arc::clone(platform);
    let swept = tokio::task::spawn_blocking(move || {
        let name = full_name(&platform, &name);
        let home = platform.scope.as_ref().map(|scope| scope.home()).transpose();
        let group = match home {
            Ok(home) => home.map_or_else(|| Cgroup::find(&name), |home| Some(home.find(&name))),
            Err(error) => return crate::say(&format!("the scope does not answer: {error}")),
        };
        let Some(group) = group else { return };
        if !group.kill_all(PATIENCE) {
            crate::say(&format!("what runs in {name} could not be ended"));
        }
        group.remove();
    });
    // It runs to its end whether we wait or not.
    swept.await.ok();
}

fn full_name(platform: &Platform, words: &str) -> String {
    driver::group_name(words, &platform.layout.run)
}
