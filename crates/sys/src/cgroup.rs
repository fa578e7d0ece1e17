//! Control groups for instances: limits that the kernel enforces, and the certainty that all are ended.
//!
//! Works with version 2 where our own group is delegated to us, with version 1 (memory, cpu, pids) where
//! we may write there, and says in words what it cannot give: a limit that cannot be set costs that limit
//! and no other. Invariants: only groups below our own `seaworthy` group are ever touched, and only
//! processes of ours are ever moved. Not here: who gets which limit.

mod place;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::proc_tree;
use crate::process::signal_if;
use crate::spawn;

/// Groups within a group of ours are an instance's own doing; no sane one goes deeper.
const DEPTH: u32 = 8;
/// Lists the processes of a group, and takes new ones.
const PROCS: &str = "cgroup.procs";

/// Which limits to set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// A group (version 2) that a service manager leaves to us: instances' groups stand in it, and our own processes in a
/// leaf beside them, because a group with limits below it may hold none itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegated(PathBuf);

impl Delegated {
    /// The group that this process is in; from now on the process is in its leaf.
    pub fn enter() -> io::Result<Self> {
        let base = place::own_base()
            .ok_or_else(|| io::Error::other("there are no control groups version 2"))?;
        fs::create_dir_all(place::leaf(&base))?;
        fs::write(place::leaf(&base).join(PROCS), "0")?;
        Ok(Self(base))
    }

    /// The group in that folder, if processes of ours can be in it.
    pub fn at(folder: PathBuf) -> Option<Self> {
        place::leaf(&folder).is_dir().then_some(Self(folder))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Lets a program of ours start in its leaf.
    pub fn admit(&self, command: &mut Command) -> io::Result<()> {
        let procs = OpenOptions::new().write(true).open(place::leaf(&self.0).join(PROCS))?;
        spawn::join(command, procs.into());
        Ok(())
    }

    /// Makes the group `name` in it with these limits, as [`Cgroup::create`] does.
    pub fn create(&self, name: &str, limits: Limits) -> Result<(Cgroup, Vec<String>), String> {
        self.find(name).make(limits)
    }

    /// The instance's group of that name in it, there or not.
    pub fn find(&self, name: &str) -> Cgroup {
        Cgroup::of(place::below(&self.0, name))
    }
}

/// The group of one instance: one folder with version 2, one for each controller with version 1.
#[derive(Debug)]
pub struct Cgroup {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
    v2: bool,
    enforces_memory: bool,
}

impl Cgroup {
    /// Makes the group `name` (one path component) with these limits. The texts say in words which of
    /// them this host cannot give; `Err` when it can give no group at all.
    pub fn create(name: &str, limits: Limits) -> Result<(Self, Vec<String>), String> {
        let group = Self::find(name);
        group.ok_or_else(|| "no control group of ours can be written".to_owned())?.make(limits)
    }

    fn make(mut self, limits: Limits) -> Result<(Self, Vec<String>), String> {
        let mut missing = Vec::new();
        if let (true, Some(dir)) = (self.v2, &self.memory) {
            missing.extend(place::prepare(dir).err());
        }
        for dir in [&mut self.memory, &mut self.cpu, &mut self.pids] {
            if let Some(path) = dir
                && let Err(error) = fs::create_dir_all(&*path)
            {
                let text =
                    format!("the control group `{}` cannot be made: {error}", path.display());
                *dir = None;
                if !missing.contains(&text) {
                    missing.push(text);
                }
            }
        }
        if self.dirs().is_empty() {
            return Err(missing.join("; "));
        }
        missing.extend(self.set(limits));
        Ok((self, missing))
    }

    /// The group of that name, there or not.
    pub fn find(name: &str) -> Option<Self> {
        place::find(name).map(Self::of)
    }

    fn of(place: place::Place) -> Self {
        let place::Place { memory, cpu, pids, v2 } = place;
        Self { memory, cpu, pids, v2, enforces_memory: false }
    }

    fn dirs(&self) -> Vec<&PathBuf> {
        let mut dirs: Vec<&PathBuf> =
            self.memory.iter().chain(&self.cpu).chain(&self.pids).collect();
        dirs.dedup();
        dirs
    }

    /// Sets what can be set; returns what cannot.
    fn set(&mut self, limits: Limits) -> Vec<String> {
        let mut missing = Vec::new();
        if let Some(bytes) = limits.memory {
            let file = if self.v2 { "memory.max" } else { "memory.limit_in_bytes" };
            match write(self.memory.as_deref(), file, &bytes.to_string()) {
                Ok(()) => self.enforces_memory = true,
                Err(why) => missing.push(format!("memory is watched once a second: {why}")),
            }
            if self.v2 {
                // Without it a limit is a way into swap; hosts without swap have no such file.
                write(self.memory.as_deref(), "memory.swap.max", "0").ok();
            }
        }
        if let Some(millis) = limits.cpu_millis {
            let quota = (u64::from(millis) * 100).to_string();
            let cpu = self.cpu.as_deref();
            let set = if self.v2 {
                write(cpu, "cpu.max", &format!("{quota} 100000"))
            } else {
                write(cpu, "cpu.cfs_period_us", "100000")
                    .and_then(|()| write(cpu, "cpu.cfs_quota_us", &quota))
            };
            missing.extend(set.err().map(|why| format!("CPU is not limited: {why}")));
        }
        if let Some(tasks) = limits.tasks {
            let set = write(self.pids.as_deref(), "pids.max", &tasks.to_string());
            missing.extend(
                set.err().map(|why| format!("the number of processes is not limited: {why}")),
            );
        }
        missing
    }

    /// Whether the kernel itself ends what uses more memory than it may.
    pub fn enforces_memory(&self) -> bool {
        self.enforces_memory
    }

    /// The files by which a starting program joins (it writes `0`).
    pub fn procs(&self) -> io::Result<Vec<File>> {
        self.dirs()
            .into_iter()
            .map(|dir| OpenOptions::new().write(true).open(dir.join(PROCS)))
            .collect()
    }

    /// Bytes of memory in use, without the page cache, which the kernel takes back when it needs it.
    pub fn memory(&self) -> Option<u64> {
        let stat = self.memory.as_ref()?.join("memory.stat");
        let own = field(&stat, if self.v2 { "anon" } else { "rss" })?;
        Some(own + field(&stat, "shmem").unwrap_or(0))
    }

    /// How often the kernel ended something here for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.v2 { "memory.events" } else { "memory.oom_control" };
        self.memory.as_ref().and_then(|dir| field(&dir.join(file), "oom_kill")).unwrap_or(0)
    }

    /// How often a process or thread was refused, and how often the group had to wait for CPU.
    pub fn refusals(&self) -> (u64, u64) {
        let read = |dir: &Option<PathBuf>, file: &str, name: &str| {
            dir.as_ref().and_then(|dir| field(&dir.join(file), name)).unwrap_or(0)
        };
        (read(&self.pids, "pids.events", "max"), read(&self.cpu, "cpu.stat", "nr_throttled"))
    }

    /// The most processes and threads; nothing where there is no such limit.
    pub fn tasks_limit(&self) -> Option<u64> {
        fs::read_to_string(self.pids.as_ref()?.join("pids.max")).ok()?.trim().parse().ok()
    }

    /// Everybody in the group and in groups that they made within it.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for dir in self.dirs() {
            collect(dir, DEPTH, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Ends everybody in the group, however they fork; gives up after `patience`.
    pub fn kill_all(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let pids = self.pids();
            if pids.is_empty() {
                return true;
            }
            if begun.elapsed() > patience {
                return false;
            }
            // Floor of our kernels is 5.15, which has it (5.14); it misses nobody and meets no stranger.
            let dir = self.memory.as_ref().filter(|_| self.v2);
            let killed = dir.is_some_and(|dir| fs::write(dir.join("cgroup.kill"), "1").is_ok());
            for pid in pids.into_iter().filter(|_| !killed) {
                signal_if(pid, libc::SIGKILL, |pid| self.holds(pid));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a process is in the group now.
    pub fn holds(&self, pid: u32) -> bool {
        let inside = proc_tree::cgroups_of(pid);
        let mount = Path::new(place::MOUNT);
        self.dirs().into_iter().any(|dir| {
            let Ok(dir) = dir.strip_prefix(mount) else { return false };
            inside.iter().any(|path| {
                // With version 1 the controllers' names stand before the path.
                let within =
                    if self.v2 { dir } else { dir.strip_prefix(first(dir)).unwrap_or(dir) };
                Path::new(path.trim_start_matches('/')).starts_with(within)
            })
        })
    }

    /// Removes the empty group.
    pub fn remove(&self) {
        for dir in self.dirs() {
            remove_within(dir, DEPTH);
        }
    }
}

fn first(path: &Path) -> &Path {
    path.components().next().map_or(Path::new(""), |first| Path::new(first.as_os_str()))
}

fn write(dir: Option<&Path>, file: &str, value: &str) -> Result<(), String> {
    let Some(dir) = dir else {
        return Err(format!("this host has no control group controller for `{file}`"));
    };
    let path = dir.join(file);
    fs::write(&path, value).map_err(|error| format!("`{}` cannot be set: {error}", path.display()))
}

fn inner(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|one| one.path())
}

fn collect(dir: &Path, depth: u32, into: &mut Vec<u32>) {
    let text = fs::read_to_string(dir.join(PROCS)).unwrap_or_default();
    // A process outside of our namespace is shown as 0.
    into.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|pid: &u32| *pid != 0));
    if depth > 0 {
        inner(dir).for_each(|dir| collect(&dir, depth - 1, into));
    }
}

fn remove_within(dir: &Path, depth: u32) {
    if depth > 0 {
        inner(dir).for_each(|dir| remove_within(&dir, depth - 1));
    }
    // One that still holds somebody stays; whoever sweeps comes again.
    fs::remove_dir(dir).ok();
}

fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// A group of our own, or nothing and a word about it where this host gives none.
    fn group(name: &str, limits: Limits) -> Option<Cgroup> {
        match Cgroup::create(&format!("test-{name}-{}", std::process::id()), limits) {
            Ok((group, missing)) if missing.is_empty() => return Some(group),
            Ok((group, missing)) => {
                group.remove();
                eprintln!("unproven here: {}", missing.join("; "));
            }
            Err(why) => eprintln!("unproven here: {why}"),
        }
        None
    }

    /// Runs a shell inside the group; what it leaves behind holds nothing of ours.
    fn inside(group: &Cgroup, script: &str) {
        let dirs = group.dirs();
        let join =
            dirs.iter().map(|dir| format!("echo $$ > {}/cgroup.procs || exit 1", dir.display()));
        let script = join.chain([script.to_owned()]).collect::<Vec<_>>().join("; ");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap();
    }

    #[test]
    fn the_number_of_processes_is_bounded() {
        let Some(group) = group("tasks", Limits { tasks: Some(5), ..Limits::default() }) else {
            return;
        };
        inside(&group, "for i in 1 2 3 4 5 6 7 8; do sleep 600 & done");
        assert!((1..=5).contains(&group.pids().len()), "{:?}", group.pids());
        assert!(group.refusals().0 > 0);
        assert!(group.kill_all(Duration::from_secs(10)));
        group.remove();
    }

    #[test]
    fn all_are_ended_those_in_groups_of_their_own_too() {
        let Some(group) = group("kill", Limits::default()) else { return };
        let dir = group.dirs()[0].join("own");
        fs::create_dir(&dir).unwrap();
        let own = format!("setsid sh -c 'echo $$ > {}/cgroup.procs; sleep 600' &", dir.display());
        inside(
            &group,
            &format!(
                "{own} sleep 600 & while [ -z \"$(cat {}/cgroup.procs)\" ]; do :; done",
                dir.display()
            ),
        );
        let pids = group.pids();
        assert!(pids.len() >= 2 && pids.iter().all(|pid| group.holds(*pid)), "{pids:?}");
        assert!(!group.holds(1) && !group.holds(std::process::id()));
        assert!(group.kill_all(Duration::from_secs(10)));
        group.remove();
        assert!(!dir.exists() && group.dirs().iter().all(|dir| !dir.exists()));
    }
}
