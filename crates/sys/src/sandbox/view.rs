//! What a process sees of the file system: a root of its own in which nothing stands but what it is named.
//!
//! For an edge that may open Unix sockets. seccomp cannot look at paths, and Landlock knows of sockets since Linux 7.1
//! only; so on older kernels everybody's socket that its mode leaves open could be reached. In a root of its own there is
//! no path to them. Invariants: what is named stays where it was, under its own path; what is mounted below it later is
//! seen too; a root that could not be made whole is not entered, and nothing is changed. Not here: who may do what with
//! what is seen (Landlock).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The new root holds folders only.
const ROOT: &std::ffi::CStr = c"size=64k,mode=0755";

/// Leaves the calling process, which has one thread yet, nothing but these folders. As root only.
pub(super) fn enter(folders: &[PathBuf]) -> io::Result<()> {
    let base = folders.last().ok_or(io::ErrorKind::InvalidInput)?.clone();
    // SAFETY: only the table of mounts is taken apart; descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // What is mounted outside later still comes in, nothing of ours goes out.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let mut trees = Vec::new();
    for folder in folders {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        trees.push((folder, open_tree(CWD, folder, flags)?));
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", &base, "tmpfs", flags, ROOT)?;
    let entered = furnish(&base, &trees).and_then(|()| go(&base, flags));
    if entered.is_err() {
        unmount(&base, UnmountFlags::DETACH)?;
    }
    entered
}

/// Puts each tree where it was, below the new root.
fn furnish(base: &Path, trees: &[(&PathBuf, OwnedFd)]) -> io::Result<()> {
    for (folder, tree) in trees {
        let place = base.join(folder.strip_prefix("/").unwrap_or(folder));
        fs::create_dir_all(&place)?;
        move_mount(tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

fn go(base: &Path, flags: MountFlags) -> io::Result<()> {
    mount_remount(base, flags | MountFlags::RDONLY, ROOT)?;
    std::env::set_current_dir(base)?;
    // The old root lies over the new one for a moment, and is let go.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}
