//! Where groups of ours stand, and making that place fit for limits.
//!
//! Version 2 wants limits below a group that holds no process itself, so our own processes move into a
//! leaf. Invariant: nobody else's processes are moved; where others share our group it stays as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::proc_tree;

/// Where kernels mount the hierarchies.
pub(super) const MOUNT: &str = "/sys/fs/cgroup";
/// The leaf for our own processes (version 2).
const LEAF: &str = "seaworthy-platform";
/// Below this group stand those of instances.
const OURS: &str = "seaworthy";
/// What limits need.
const CONTROLLERS: [&str; 3] = ["+memory", "+cpu", "+pids"];
/// Processes of ours may fork while they are moved; they are not that many.
const ROUNDS: u32 = 20;

/// The folders of one group.
pub(super) struct Place {
    pub(super) memory: Option<PathBuf>,
    pub(super) cpu: Option<PathBuf>,
    pub(super) pids: Option<PathBuf>,
    pub(super) v2: bool,
}

/// Where the group of that name stands, there or not.
pub(super) fn find(name: &str) -> Option<Place> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let v1 = |controller: &str| {
        let path = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|one| one == controller).then_some(path)
        })?;
        let base = Path::new(MOUNT).join(controller).join(base_of(path).trim_start_matches('/'));
        base.is_dir().then(|| base.join(OURS).join(name))
    };
    let (memory, cpu, pids) = (v1("memory"), v1("cpu"), v1("pids"));
    if memory.is_some() || cpu.is_some() || pids.is_some() {
        return Some(Place { memory, cpu, pids, v2: false });
    }
    own_base().map(|base| below(&base, name))
}

/// Version 2: the group below which those of ours stand.
pub(super) fn own_base() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let base = Path::new(MOUNT).join(base_of(path).trim_start_matches('/'));
    // Beside version 1 the second one is mounted elsewhere, and holds no controllers.
    base.join("cgroup.controllers").is_file().then_some(base)
}

/// Version 2: the group of that name below another one.
pub(super) fn below(base: &Path, name: &str) -> Place {
    let all = || Some(base.join(OURS).join(name));
    Place { memory: all(), cpu: all(), pids: all(), v2: true }
}

/// Where our own processes stand below a group.
pub(super) fn leaf(base: &Path) -> PathBuf {
    base.join(LEAF)
}

/// The group below which ours stand, from that of a process: one inside an instance's group or in the
/// leaf for our own processes stands beside them, so that whoever asks gets the same answer.
fn base_of(path: &str) -> &str {
    let path = path.find("/seaworthy/").map_or(path, |at| &path[..at]);
    path.strip_suffix(LEAF).map_or(path, |base| base.trim_end_matches('/'))
}

/// Version 2: lets the group of an instance have limits. The error says in words why it cannot.
pub(super) fn prepare(group: &Path) -> Result<(), String> {
    let (Some(ours), Some(own)) = (group.parent(), group.parent().and_then(Path::parent)) else {
        return Ok(());
    };
    let cannot = |error: io::Error| {
        format!("controllers cannot be enabled below `{}`: {error}", own.display())
    };
    fs::create_dir_all(ours).map_err(cannot)?;
    if let Err(error) = enable(own) {
        if error.kind() != io::ErrorKind::ResourceBusy {
            return Err(cannot(error));
        }
        move_ours(own).map_err(cannot)?;
        enable(own).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => {
                format!("the control group `{}` holds other programs as well", own.display())
            }
            _ => cannot(error),
        })?;
    }
    enable(ours).map_err(cannot)
}

/// Enables each controller that there is; a limit without its controller is missed when it is set.
fn enable(group: &Path) -> io::Result<()> {
    let there = fs::read_to_string(group.join("cgroup.controllers"))?;
    let file = group.join("cgroup.subtree_control");
    let wanted = |name: &&&str| there.split_whitespace().any(|one| one == &name[1..]);
    CONTROLLERS.iter().filter(wanted).try_for_each(|name| fs::write(&file, name))
}

/// Moves our processes and what they started into the leaf.
fn move_ours(own: &Path) -> io::Result<()> {
    let leaf = leaf(own).join("cgroup.procs");
    fs::create_dir_all(self::leaf(own))?;
    for _ in 0..ROUNDS {
        let text = fs::read_to_string(own.join("cgroup.procs"))?;
        let pids = text.lines().filter_map(|line| line.parse().ok());
        let ours: Vec<u32> = pids.filter(|pid| proc_tree::is_ours(*pid)).collect();
        if ours.is_empty() {
            break;
        }
        for pid in ours {
            match fs::write(&leaf, pid.to_string()) {
                // It ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
    }
    Ok(())
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
