//! Shutting a process in: what the edge and workers give up before they speak to anybody.
//!
//! Two locks, because each leaves a gap. Landlock says which files may be opened, and that no socket is bound and
//! nobody outside is signalled; but it lets a program in memory be executed and (before Linux 7.1) any Unix socket
//! be reached. seccomp refuses the calls themselves: starting programs, tracing, mounting, new namespaces, code
//! that is written and then run, every new socket but TCP. Who may open sockets of our own instances gets a root of its
//! own besides, in which there is no path to others ([`see_only`]). Invariants: what was open stays usable; there is no
//! way back; a lock that the kernel does not have is named, not hidden. Not here: users and `no_new_privs`, which
//! come first ([`crate::process`]).

mod program;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

pub use self::program::{Prepared, Program, is_known};

/// The newest rules that are asked for; an older kernel enforces what it knows.
const NEWEST: ABI = ABI::V9;

/// What stays allowed. Nothing by default but TCP outward.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Files and folders that may be read.
    pub read: Vec<PathBuf>,
    /// Folders in which files may be made, changed and removed.
    pub write: Vec<PathBuf>,
    /// New Unix stream sockets.
    pub sockets: Sockets,
}

/// Which Unix stream sockets may be opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sockets {
    /// None.
    #[default]
    None,
    /// Those below this folder.
    Below(PathBuf),
    /// Any that its mode leaves open.
    Any,
}

/// The first version of Landlock that tells Unix sockets apart by their path.
const KNOWS_SOCKETS: i64 = 9;

/// Takes everything out of sight but what the rules name, where [`Sockets::Below`] asks for it: of a process that has one
/// thread and is root still. Returns the guards that this machine does not give.
pub fn see_only(rules: &Rules) -> Vec<String> {
    let Sockets::Below(sockets) = &rules.sockets else { return Vec::new() };
    let named = rules.read.iter().chain(&rules.write).filter(|path| path.is_dir());
    let mut folders: Vec<PathBuf> = named.cloned().collect();
    folders.extend([PathBuf::from("/proc"), sockets.clone()]);
    match view::enter(&folders) {
        Err(error) if program::landlock_version() < KNOWS_SOCKETS => vec![format!(
            "Unix sockets of others are not shut off from the edge (a root of its own could not be made: {error})"
        )],
        _ => Vec::new(),
    }
}

/// Both locks for a process of one thread. Returns the guards that this kernel does not give.
pub fn enter(rules: &Rules) -> io::Result<Vec<String>> {
    let mut missing = restrict_files(rules)?;
    missing.extend(restrict_calls(rules)?);
    Ok(missing)
}

/// Landlock, for the calling thread and those that it starts later.
pub fn restrict_files(rules: &Rules) -> io::Result<Vec<String>> {
    crate::process::no_new_privs()?;
    let mut handled = AccessFs::from_all(NEWEST);
    if rules.sockets == Sockets::Any {
        handled.remove(AccessFs::ResolveUnix);
    }
    let ruleset = Ruleset::default()
        .handle_access(handled)
        .and_then(|ruleset| ruleset.handle_access(AccessNet::BindTcp))
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket))
        .and_then(|ruleset| ruleset.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    let mut ruleset = ruleset.set_compatibility(landlock::CompatLevel::BestEffort);
    let reading = (&rules.read, AccessFs::ReadFile | AccessFs::ReadDir);
    let writing = (
        &rules.write,
        (AccessFs::from_read(NEWEST) & !AccessFs::Execute)
            | AccessFs::WriteFile
            | AccessFs::MakeReg
            | AccessFs::RemoveFile
            | AccessFs::Truncate,
    );
    for (paths, access) in [reading, writing] {
        for path in paths {
            // What is not there cannot be opened either way.
            let Ok(fd) = PathFd::new(path) else { continue };
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
            ruleset = ruleset.add_rule(PathBeneath::new(fd, access)).map_err(io::Error::other)?;
        }
    }
    if let Sockets::Below(folder) = &rules.sockets
        && let Ok(fd) = PathFd::new(folder)
    {
        // An older kernel knows nothing of it: there it is out of sight (`see_only`).
        let reach = PathBeneath::new(fd, AccessFs::ResolveUnix);
        ruleset = ruleset.add_rule(reach).map_err(io::Error::other)?;
    }
    let status = ruleset.restrict_self().map_err(io::Error::other)?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => {
            vec!["files are not shut off: this kernel has no Landlock".to_owned()]
        }
        (_, LandlockStatus::Available { effective_abi, .. }) if effective_abi < ABI::V4 => {
            vec!["listening on TCP is not shut off: this kernel's Landlock is too old".to_owned()]
        }
        _ => Vec::new(),
    })
}

/// seccomp, for all threads of the process.
pub fn restrict_calls(rules: &Rules) -> io::Result<Vec<String>> {
    crate::process::no_new_privs()?;
    for program in filters(rules)? {
        match seccompiler::apply_filter_all_threads(&program) {
            Ok(()) => {}
            Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error))
                if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
            {
                return Ok(vec![
                    "system calls are not shut off: this kernel has no seccomp".to_owned(),
                ]);
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(Vec::new())
}

/// What is refused; all are asked for each call, and the strictest answer counts.
fn filters(rules: &Rules) -> io::Result<Vec<BpfProgram>> {
    let mut programs = vec![
        compile(forbidden()?, libc::EPERM)?,
        compile(wrong_sockets(rules.sockets != Sockets::None)?, libc::EACCES)?,
        // Its arguments lie in memory, where a filter cannot look; the C library falls back to `clone`.
        compile([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)?,
    ];
    programs.iter_mut().for_each(refuse_other_tables);
    Ok(programs)
}

type Calls = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(calls: Calls, errno: i32) -> io::Result<BpfProgram> {
    let filter = SeccompFilter::new(
        calls,
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().map_err(io::Error::other)?,
    );
    filter.map_err(io::Error::other)?.try_into().map_err(io::Error::other)
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        .map_err(io::Error::other)
}

fn rule(conditions: Vec<SeccompCondition>) -> io::Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(io::Error::other)
}

/// Calls that nothing shut in needs.
fn forbidden() -> io::Result<Calls> {
    let whole = [
        // Programs, also from memory.
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_memfd_create,
        // Other processes.
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        // Sockets are made by control.
        libc::SYS_bind,
        libc::SYS_listen,
        // The kernel's large doors.
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_fanotify_init,
        libc::SYS_open_by_handle_at,
        libc::SYS_clock_settime,
        libc::SYS_settimeofday,
        libc::SYS_adjtimex,
        libc::SYS_personality,
        // Namespaces and mounts.
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_mount_setattr,
    ];
    let mut calls: Calls = whole.into_iter().map(|call| (call, Vec::new())).collect();
    let executable = u64::try_from(libc::PROT_EXEC).unwrap_or_default();
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        let asked = condition(2, SeccompCmpOp::MaskedEq(executable), executable)?;
        calls.insert(call, vec![rule(vec![asked])?]);
    }
    let mut spaces = Vec::new();
    for space in [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ] {
        let flag = u64::from(space as u32);
        spaces.push(rule(vec![condition(0, SeccompCmpOp::MaskedEq(flag), flag)?])?);
    }
    calls.insert(libc::SYS_clone, spaces);
    Ok(calls)
}

/// `socket` for anything but TCP, and Unix streams where they are allowed.
fn wrong_sockets(unix: bool) -> io::Result<Calls> {
    let number = |value: i32| u64::from(value as u32);
    let mut families = vec![libc::AF_INET, libc::AF_INET6];
    if unix {
        families.push(libc::AF_UNIX);
    }
    let mut all = Vec::new();
    let others = families
        .iter()
        .map(|family| condition(0, SeccompCmpOp::Ne, number(*family)))
        .collect::<io::Result<Vec<_>>>()?;
    all.push(rule(others)?);
    // Of the lowest four bits; above them are flags. 10 is the old way of asking for raw packets.
    let kinds = [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_SEQPACKET];
    for kind in kinds.into_iter().chain([libc::SOCK_DCCP, 10, 0]) {
        all.push(rule(vec![condition(1, SeccompCmpOp::MaskedEq(0xf), number(kind))?])?);
    }
    let not_tcp = vec![
        condition(2, SeccompCmpOp::Ne, 0)?,
        condition(2, SeccompCmpOp::Ne, number(libc::IPPROTO_TCP))?,
    ];
    all.push(rule(not_tcp)?);
    Ok([(libc::SYS_socket, all)].into())
}

/// Filters for a program that we start: of sockets only those of TCP and Unix streams, and no second way to them.
fn no_datagrams() -> io::Result<Vec<BpfProgram>> {
    let mut sockets = compile(wrong_sockets(true)?, libc::EACCES)?;
    let rings = [(libc::SYS_io_uring_setup, Vec::new())];
    let mut rings = compile(rings.into(), libc::ENOSYS)?;
    for program in [&mut sockets, &mut rings] {
        refuse_other_tables(program);
    }
    Ok(vec![sockets, rings])
}

/// On x86-64 the same calls have second numbers (x32), which the rules above do not name.
fn refuse_other_tables(program: &mut BpfProgram) {
    #[cfg(target_arch = "x86_64")]
    {
        let statement = |code: u32, jt: u8, jf: u8, k: u32| seccompiler::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        };
        let refusal = 0x0005_0000 | libc::ENOSYS as u32;
        program.splice(
            0..0,
            [
                statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
                statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, 0x4000_0000),
                statement(libc::BPF_RET | libc::BPF_K, 0, 0, refusal),
            ],
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = program;
}

/// Tries, from inside, what must not be possible, and says on standard error what came of it: `NAME: TRIED RESULT`.
/// The places to try stand in the file that `SEAWORTHY_SANDBOX_TRY` names: a file to read, a Unix socket to reach.
/// Builds for use have none of this.
#[cfg(debug_assertions)]
#[expect(
    clippy::print_stderr,
    reason = "for tests, which read it in the log of whoever started us"
)]
pub fn attempt(name: &str) {
    let Some(places) = std::env::var_os("SEAWORTHY_SANDBOX_TRY") else { return };
    let mut places = places.to_str().unwrap_or_default().split(':');
    let (file, socket) = (places.next().unwrap_or_default(), places.next().unwrap_or_default());
    // SAFETY: both only ask.
    let [unprivileged, filtered] = unsafe {
        [libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), libc::prctl(libc::PR_GET_SECCOMP)]
    };
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective.bits());
    eprintln!(
        "sandbox {name}: user {} no_new_privs {unprivileged} seccomp {filtered} capabilities {held:?}",
        crate::process::current_uid()
    );
    let last = |code: i64| if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let empty = c"".as_ptr();
    let nothing = std::ptr::null::<libc::c_char>();
    let own = std::process::id();
    // SAFETY: each call gets a valid empty string, null pointers or numbers; a call that succeeds ends us or makes a
    // descriptor that stays open, which a test may.
    let raw = unsafe {
        [
            ("memfd", last(libc::syscall(libc::SYS_memfd_create, empty, 0))),
            (
                "execve",
                last(libc::syscall(libc::SYS_execve, c"/bin/true".as_ptr(), nothing, nothing)),
            ),
            (
                "execveat",
                last(libc::syscall(
                    libc::SYS_execveat,
                    0,
                    empty,
                    nothing,
                    nothing,
                    libc::AT_EMPTY_PATH,
                )),
            ),
            ("udp", last(libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0))),
            ("netlink", last(libc::syscall(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0))),
            ("io_uring", last(libc::syscall(libc::SYS_io_uring_setup, 1, nothing))),
            // Without the lock these fail too, but for what is wrong with their numbers.
            ("ptrace", last(libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKTEXT, 0, 0, 0))),
            (
                "peek",
                last(libc::syscall(libc::SYS_process_vm_readv, own, nothing, 0, nothing, 0, 0)),
            ),
            (
                "poke",
                last(libc::syscall(libc::SYS_process_vm_writev, own, nothing, 0, nothing, 0, 0)),
            ),
            ("getfd", last(libc::syscall(libc::SYS_pidfd_getfd, -1, 0, 0))),
            ("kcmp", last(libc::syscall(libc::SYS_kcmp, 0, 0, 0, 0, 0))),
            ("perf", last(libc::syscall(libc::SYS_perf_event_open, nothing, 0, 0, -1, 0))),
            ("keys", last(libc::syscall(libc::SYS_keyctl, -1))),
            ("setns", last(libc::syscall(libc::SYS_setns, -1, 0))),
            ("bind", last(libc::syscall(libc::SYS_bind, -1, nothing, 0))),
            ("listening", last(libc::syscall(libc::SYS_listen, -1, 0))),
            ("userns", last(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER))),
            (
                "code",
                last(libc::syscall(
                    libc::SYS_mmap,
                    0,
                    4096,
                    libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )),
            ),
        ]
    };
    let program = std::process::Command::new("/bin/true").status().map(drop);
    let files = [
        ("read", std::fs::read(file).map(drop)),
        ("write", std::fs::write("/tmp/sw-sandbox-was-here", "").map(drop)),
        ("unix", std::os::unix::net::UnixStream::connect(socket).map(drop)),
        ("listen", std::net::TcpListener::bind("127.0.0.1:0").map(drop)),
        ("program", program),
    ];
    for (tried, outcome) in raw.into_iter().chain(files) {
        let word = match outcome {
            Ok(()) => "POSSIBLE".to_owned(),
            Err(error) => format!("refused ({error})"),
        };
        eprintln!("sandbox {name}: {tried} {word}");
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn attempt(_name: &str) {}

#[cfg(test)]
mod tests;
