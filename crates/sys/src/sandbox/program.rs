//! Shutting in a program that we start: what it may open, fixed before it runs.
//!
//! The rules are made into a descriptor beforehand, because nothing may be allocated between fork and exec; the new
//! process takes them on and cannot lay them down. Invariants: what is not named cannot be opened, whoever owns it;
//! everything that the program starts is shut in with it. Not here: which files a program needs.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};

use super::NEWEST;

/// What a program may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// Files and folders that may be read.
    pub read: Vec<PathBuf>,
    /// Folders with programs and libraries.
    pub run: Vec<PathBuf>,
    /// Files that may be written, and folders in which files may be made, changed and removed.
    pub write: Vec<PathBuf>,
    /// TCP ports, of whichever machine, that may be connected to; none means all.
    pub ports: Option<Vec<u16>>,
}

/// Rules that a new process takes on; nothing where the kernel has no Landlock.
#[derive(Debug)]
pub struct Prepared(Option<OwnedFd>);

/// Whether programs can be shut in on this kernel.
pub fn is_known() -> bool {
    landlock_version() > 0
}

/// Which version of Landlock this kernel has; nothing or less where it has none.
pub(super) fn landlock_version() -> i64 {
    // SAFETY: with this flag the call takes no pointer and answers with a version number.
    unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32)
    }
}

impl Program {
    /// Makes the rules ready.
    pub fn prepare(&self) -> io::Result<Prepared> {
        if !is_known() {
            return Ok(Prepared(None));
        }
        let mut handled = AccessFs::from_all(NEWEST);
        // A database's socket may be anywhere; its own mode says who may reach it.
        handled.remove(AccessFs::ResolveUnix);
        let mut ruleset = Ruleset::default()
            .set_compatibility(landlock::CompatLevel::BestEffort)
            .handle_access(handled)
            .and_then(|ruleset| ruleset.handle_access(AccessNet::BindTcp))
            .and_then(|ruleset| ruleset.scope(Scope::Signal))
            .map_err(io::Error::other)?;
        if self.ports.is_some() {
            ruleset = ruleset.handle_access(AccessNet::ConnectTcp).map_err(io::Error::other)?;
        }
        let mut ruleset = ruleset.create().map_err(io::Error::other)?;
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        let writing = reading
            | AccessFs::WriteFile
            | AccessFs::MakeReg
            | AccessFs::RemoveFile
            | AccessFs::Truncate;
        let kinds = [
            (&self.read, reading),
            (&self.run, reading | AccessFs::Execute),
            (&self.write, writing),
        ];
        for (paths, access) in kinds {
            for path in paths {
                // What is not there cannot be opened either way.
                let Ok(fd) = PathFd::new(path) else { continue };
                let fits =
                    if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V5) };
                ruleset = ruleset.add_rule(PathBeneath::new(fd, fits)).map_err(io::Error::other)?;
            }
        }
        for port in self.ports.iter().flatten() {
            ruleset = ruleset
                .add_rule(NetPort::new(*port, AccessNet::ConnectTcp))
                .map_err(io::Error::other)?;
        }
        Ok(Prepared(ruleset.into()))
    }
}

impl Prepared {
    /// Takes the rules on, for good. Safe between fork and exec; `no_new_privs` comes first.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let Some(fd) = &self.0 else { return Ok(()) };
        // SAFETY: takes two numbers; the descriptor is open.
        let code = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_raw_fd(), 0u32) };
        if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
