//! Shutting in a program that we start: what it may open, fixed before it runs.
//!
//! The rules are made into a descriptor and a filter beforehand, because nothing may be allocated between fork and exec;
//! the new process takes them on and cannot lay them down. Landlock for files, TCP ports and abstract sockets; it does not
//! know UDP, and for that there is seccomp. Invariants: what is not named cannot be opened, whoever owns it; everything
//! that the program starts is shut in with it. Not here: which files a program needs.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use seccompiler::BpfProgram;

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
    /// Folders that are its own: in them it may do everything but run programs.
    pub own: Vec<PathBuf>,
    /// TCP ports, of whichever machine, that may be connected to; none means all.
    pub ports: Option<Vec<u16>>,
    /// Whether it may have sockets other than those of TCP and Unix streams. Names are looked up over UDP.
    pub datagrams: bool,
    /// Whether it may reach abstract Unix sockets of others: those without a file.
    pub abstract_sockets: bool,
}

/// Rules that a new process takes on; files and ports are open where the kernel has no Landlock.
#[derive(Debug)]
pub struct Prepared {
    ruleset: Option<OwnedFd>,
    filters: Vec<BpfProgram>,
}

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
        let ruleset = if is_known() { self.ruleset()? } else { None };
        let filters = if self.datagrams { Vec::new() } else { super::no_datagrams()? };
        Ok(Prepared { ruleset, filters })
    }

    fn ruleset(&self) -> io::Result<Option<OwnedFd>> {
        let mut handled = AccessFs::from_all(NEWEST);
        // A database's socket may be anywhere; its own mode says who may reach it.
        handled.remove(AccessFs::ResolveUnix);
        let mut ruleset = Ruleset::default()
            .set_compatibility(landlock::CompatLevel::BestEffort)
            .handle_access(handled)
            .and_then(|ruleset| ruleset.handle_access(AccessNet::BindTcp))
            .and_then(|ruleset| ruleset.scope(Scope::Signal))
            .map_err(io::Error::other)?;
        if !self.abstract_sockets {
            ruleset = ruleset.scope(Scope::AbstractUnixSocket).map_err(io::Error::other)?;
        }
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
            (&self.own, handled & !AccessFs::Execute),
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
        Ok(ruleset.into())
    }
}

impl Prepared {
    /// Takes the rules on, for good. Safe between fork and exec; `no_new_privs` comes first.
    pub(crate) fn enter(&self) -> io::Result<()> {
        if let Some(fd) = &self.ruleset {
            // SAFETY: takes two numbers; the descriptor is open.
            let code =
                unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_raw_fd(), 0u32) };
            if code < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        for filter in &self.filters {
            match seccompiler::apply_filter(filter) {
                Ok(()) => {}
                Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error)) => {
                    // A kernel without seccomp: as open as it is then.
                    if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) {
                        return Err(error);
                    }
                }
                Err(_) => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        Ok(())
    }
}
