//! Control groups for instances: limits that the kernel enforces, and the certainty that all are ended.
//!
//! Works with version 2 where our own group is delegated to us, with version 1 (memory, cpu) where we may
//! write there, and says in words what it cannot give. Invariant: only groups below our own `seaworthy`
//! group are ever touched. Not here: who gets which limit.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where kernels mount the hierarchies.
const MOUNT: &str = "/sys/fs/cgroup";

/// The leaf for our own processes (version 2).
const LEAF: &str = "seaworthy-platform";

/// Which limits to set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u32>,
}

/// The group of one instance: one folder with version 2, one for each controller with version 1.
#[derive(Debug)]
pub struct Cgroup {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    v2: bool,
}

impl Cgroup {
    /// Makes the group `name` (one path component) with these limits. `Err` says in words what is missing.
    pub fn create(name: &str, limits: Limits) -> Result<Self, String> {
        let group =
            Self::find(name).ok_or_else(|| "no control group of ours can be written".to_owned())?;
        for dir in group.dirs() {
            fs::create_dir_all(dir).map_err(|error| {
                format!("the control group `{}` cannot be made: {error}", dir.display())
            })?;
        }
        group.set(limits)?;
        Ok(group)
    }

    /// The group of that name, there or not.
    pub fn find(name: &str) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let below = |mount: PathBuf, path: &str| {
            let base = mount.join(base_of(path).trim_start_matches('/'));
            base.is_dir().then(|| base.join("seaworthy").join(name))
        };
        let v1 = |controller: &str| {
            let path = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|one| one == controller).then_some(path)
            })?;
            below(Path::new(MOUNT).join(controller), path)
        };
        let (memory, cpu) = (v1("memory"), v1("cpu"));
        if memory.is_some() || cpu.is_some() {
            return Some(Self { memory, cpu, v2: false });
        }
        let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let group = below(PathBuf::from(MOUNT), path)?;
        enable_controllers(group.parent()?).ok()?;
        Some(Self { memory: Some(group.clone()), cpu: Some(group), v2: true })
    }

    fn dirs(&self) -> Vec<&PathBuf> {
        let mut dirs: Vec<&PathBuf> = self.memory.iter().chain(&self.cpu).collect();
        dirs.dedup();
        dirs
    }

    fn set(&self, limits: Limits) -> Result<(), String> {
        let write = |dir: &Option<PathBuf>, file: &str, value: String| {
            let path = dir
                .as_ref()
                .ok_or_else(|| format!("this host has no control group controller for `{file}`"))?
                .join(file);
            fs::write(&path, value)
                .map_err(|error| format!("`{}` cannot be set: {error}", path.display()))
        };
        if let Some(bytes) = limits.memory {
            let file = if self.v2 { "memory.max" } else { "memory.limit_in_bytes" };
            write(&self.memory, file, bytes.to_string())?;
            if self.v2 {
                write(&self.memory, "memory.swap.max", "0".to_owned()).ok();
            }
        }
        if let Some(millis) = limits.cpu_millis {
            let quota = u64::from(millis) * 100;
            if self.v2 {
                write(&self.cpu, "cpu.max", format!("{quota} 100000"))?;
            } else {
                write(&self.cpu, "cpu.cfs_period_us", "100000".to_owned())?;
                write(&self.cpu, "cpu.cfs_quota_us", quota.to_string())?;
            }
        }
        Ok(())
    }

    /// The files by which a starting program joins (it writes `0`).
    pub fn procs(&self) -> io::Result<Vec<File>> {
        self.dirs()
            .into_iter()
            .map(|dir| OpenOptions::new().write(true).open(dir.join("cgroup.procs")))
            .collect()
    }

    /// Bytes of memory in use, without the page cache of version 1.
    pub fn memory(&self) -> Option<u64> {
        let dir = self.memory.as_ref()?;
        if self.v2 {
            return fs::read_to_string(dir.join("memory.current")).ok()?.trim().parse().ok();
        }
        field(&dir.join("memory.stat"), "rss")
    }

    /// How often the kernel ended something here for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.v2 { "memory.events" } else { "memory.oom_control" };
        self.memory.as_ref().and_then(|dir| field(&dir.join(file), "oom_kill")).unwrap_or(0)
    }

    /// Everybody in the group.
    pub fn pids(&self) -> Vec<u32> {
        let texts = self
            .dirs()
            .into_iter()
            .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
        let mut pids: Vec<u32> = texts
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
            .collect();
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
            if let (true, Some(dir)) = (self.v2, &self.memory) {
                fs::write(dir.join("cgroup.kill"), "1").ok();
            }
            for pid in pids {
                crate::process::signal_process(pid, libc::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes the empty group.
    pub fn remove(&self) {
        for dir in self.dirs() {
            fs::remove_dir(dir).ok();
        }
    }
}

/// The group below which ours stand, from that of a process: one inside an instance's group or in the
/// leaf for our own processes stands beside them, so that whoever asks gets the same answer.
fn base_of(path: &str) -> &str {
    let path = path.find("/seaworthy/").map_or(path, |at| &path[..at]);
    path.strip_suffix(LEAF).map_or(path, |base| base.trim_end_matches('/'))
}

fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// With version 2 limits are set below a group that holds no process itself: ours moves into a leaf.
fn enable_controllers(group: &Path) -> io::Result<()> {
    let own = group.parent().ok_or(io::ErrorKind::NotFound)?;
    let wanted = "+memory +cpu +pids";
    fs::create_dir_all(group)?;
    if fs::write(own.join("cgroup.subtree_control"), wanted).is_err() {
        let leaf = own.join(LEAF);
        fs::create_dir_all(&leaf)?;
        for pid in fs::read_to_string(own.join("cgroup.procs"))?.lines() {
            fs::write(leaf.join("cgroup.procs"), pid)?;
        }
        fs::write(own.join("cgroup.subtree_control"), wanted)?;
    }
    fs::write(group.join("cgroup.subtree_control"), wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_finds_the_same_base() {
        for path in ["/a/b", "/a/b/seaworthy-platform", "/a/b/seaworthy/shop.web.0.1-00ff"] {
            assert_eq!(base_of(path), "/a/b");
        }
        assert_eq!((base_of("/"), base_of("/seaworthy-platform")), ("/", ""));
    }
}
