//! What a process does to itself and asks about others: sessions, users, locks, memory.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};

/// Becomes the leader of a session of its own: Ctrl-C and a closed terminal no longer reach it.
pub fn become_session_leader() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Orphans among our descendants become our children.
pub fn set_subreaper() -> io::Result<()> {
    // Takes the current process only; the argument of the wrapper is a flag.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// Promises the kernel that nothing we execute gains privileges.
pub fn no_new_privs() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// The number of the running boot.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// A process that is waited for, whoever its parent is. Taken while it is known to live: afterwards the
/// number may belong to another one.
#[derive(Debug)]
pub struct Awaited(Option<OwnedFd>);

impl Awaited {
    /// Takes hold of a process; one that ended already is waited for in no time.
    pub fn new(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Self(pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()))
    }

    /// Blocks until it ended or the limit passed; whether it ended.
    pub fn wait(&self, limit: Duration) -> bool {
        let Some(fd) = &self.0 else { return true };
        let until = std::time::Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            let left =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) => return false,
                _ => return true,
            }
        }
    }
}

/// Our user.
pub fn current_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Unblocks every signal and gives each its default meaning, for a program that is about to be executed:
/// it inherits what we block and ignore, and would never hear the signal that is to stop it. Safe
/// between fork and exec: allocates nothing.
pub fn reset_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by `sigemptyset` before it is used; both calls are async-signal-safe.
    let code = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    for (_, signal) in SIGNALS {
        // SAFETY: sets a disposition, installs no handler; KILL and STOP are refused by the kernel.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(())
}

/// The process group of a process; `None` when it is gone.
pub fn group_of(pid: u32) -> Option<u32> {
    let group = rustix::process::getpgid(Some(to_pid(pid)?)).ok()?;
    u32::try_from(group.as_raw_nonzero().get()).ok()
}

/// Ends every process of a group. Nothing happens when there is none.
pub fn kill_group(group: u32) {
    signal_group(group, 9);
}

/// Sends a signal (by number) to every process of a group.
pub fn signal_group(group: u32, signal: i32) {
    if let (Some(pid), Some(signal)) = (to_pid(group), Signal::from_named_raw(signal)) {
        rustix::process::kill_process_group(pid, signal).ok();
    }
}

/// Sends a signal (by number) to one process.
pub fn signal_process(pid: u32, signal: i32) {
    if let (Some(pid), Some(signal)) = (to_pid(pid), Signal::from_named_raw(signal)) {
        rustix::process::kill_process(pid, signal).ok();
    }
}

/// Sends a signal to a process only while `is_it` says that it is the one that is meant. Its number may
/// have gone to a stranger since it was read: the process is held by a descriptor before it is judged,
/// so what is judged and what is signalled are the same, or it is gone.
pub fn signal_if(pid: u32, signal: i32, is_it: impl FnOnce(u32) -> bool) {
    use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
    let (Some(held), Some(signal)) = (to_pid(pid), Signal::from_named_raw(signal)) else { return };
    if let Ok(held) = pidfd_open(held, PidfdFlags::empty())
        && is_it(pid)
    {
        // One that is gone by now needs no signal.
        pidfd_send_signal(&held, signal).ok();
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Number of a signal by its name without `SIG`.
pub fn signal_number(name: &str) -> Option<i32> {
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// Name of a signal, with `SIG`.
pub fn signal_name(number: i32) -> String {
    let known = SIGNALS.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("signal {number}"), |(name, _)| format!("SIG{name}"))
}

/// The signals that people name.
const SIGNALS: [(&str, i32); 16] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("TERM", libc::SIGTERM),
    ("WINCH", libc::SIGWINCH),
    ("SYS", libc::SIGSYS),
];

/// A lock that is held as long as this value lives, and freed by the kernel when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; `None` when somebody else holds it.
    pub fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether somebody holds the lock; a file that is not there is held by nobody.
    pub fn is_locked(path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// A system user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntry {
    /// Its name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// Finds a user by name, through the system's own name service.
pub fn lookup_user(name: &str) -> io::Result<Option<UserEntry>> {
    let c_name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut buffer = vec![0u8; 16 << 10];
    // SAFETY: an all-zero `passwd` (null pointers, zero numbers) is a valid value to be overwritten.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: every pointer is valid for the call, and the buffer's length is passed with it.
    let code = unsafe {
        libc::getpwnam_r(
            c_name.as_ptr(),
            &raw mut entry,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            &raw mut found,
        )
    };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    if found.is_null() {
        return Ok(None);
    }
    let mut groups = vec![0 as libc::gid_t; 256];
    let mut count = groups.len() as libc::c_int;
    // SAFETY: `groups` has room for `count` entries, which the call respects and updates.
    let code = unsafe {
        libc::getgrouplist(c_name.as_ptr(), entry.pw_gid, groups.as_mut_ptr(), &raw mut count)
    };
    groups.truncate(if code < 0 { 0 } else { count as usize });
    Ok(Some(UserEntry { name: name.to_owned(), uid: entry.pw_uid, gid: entry.pw_gid, groups }))
}

/// Gives up our user for another one, for good: groups first, since they need the privilege.
pub fn drop_to_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let check =
        |code: libc::c_int| if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the pointer and length describe `groups`; glibc applies the call to every thread.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: takes numbers only; glibc applies the call to every thread.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

/// Takes only the CPU that nobody else wants: the lowest priority there is for all of this process.
pub fn yield_to_others() {
    rustix::process::nice(19).ok();
    let idle = libc::sched_param { sched_priority: 0 };
    // SAFETY: a pid of 0 is this process, and the parameter lives until the call returns.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const idle) };
}

/// Gives the pages of our own code and constants back: what is used still is read again from the page cache, what only
/// the start needed is not counted as ours any more.
pub fn forget_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let Ok(program) = std::env::current_exe() else { return };
    let ours = format!(" {}", program.display());
    let ours: Vec<&str> = maps.lines().filter(|line| line.ends_with(&ours)).collect();
    // Constants lie before the code; what lies behind it was written to when the program was linked.
    let Some(code) = ours.iter().position(|line| line.contains(" r-xp ")) else { return };
    for line in ours.iter().take(code + 1) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text: &str| usize::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(a, b)| (number(a), number(b))) else {
            continue;
        };
        // SAFETY: the pages are a mapping of a file, `r--` or `r-x` from the beginning: nothing was written
        // to them, so that dropping them loses nothing; the next access reads them from the file again.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}

/// Tells glibc's allocator to keep one arena and give memory back: our processes idle most of their life.
pub fn lower_memory_use() {
    // SAFETY: mallopt takes numbers only and is called before threads start.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}

/// The most open files that we may allow a program: the hard limit, unless we hold the capability to
/// raise it (root in a container often does not).
pub fn most_open_files() -> u64 {
    if may_raise_limits() {
        let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
        return most.and_then(|text| text.trim().parse().ok()).unwrap_or(1 << 20);
    }
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Of the processes and threads that the kernel runs at once so many hundredths may be of one group that says nothing
/// about it: one that forks without end leaves room for the rest. Fifteen is what systemd gives a unit.
const TASKS: u64 = 15;

/// How many processes and threads one group may have that says nothing about it.
pub fn fair_share_of_tasks() -> u64 {
    most_tasks() * TASKS / 100
}

/// The most processes and threads that this kernel runs at once.
pub fn most_tasks() -> u64 {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse().ok()
    };
    // 32768 is what kernels have had at least since there were numbers.
    read("pid_max").unwrap_or(32_768).min(read("threads-max").unwrap_or(u64::MAX))
}

/// Whether `CAP_SYS_RESOURCE` is in force.
fn may_raise_limits() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_some_and(|set| set >> SYS_RESOURCE & 1 == 1)
}

/// Raises the soft limit of open files to the hard one; returns it.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).ok();
    limit.maximum.unwrap_or(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_freed_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!Lock::is_locked(&path).unwrap());
        let held = Lock::try_acquire(&path).unwrap();
        assert!(held.is_some());
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        assert!(Lock::is_locked(&path).unwrap());
        drop(held);
        assert!(!Lock::is_locked(&path).unwrap());
    }

    #[test]
    fn users_are_found_by_name() {
        assert_eq!(lookup_user("root").unwrap().unwrap().uid, 0);
        assert!(lookup_user("no-such-user-here").unwrap().is_none());
    }

    /// Bytes of our own program's code that are resident (proc(5), `smaps`).
    fn resident_code() -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let program = std::env::current_exe().unwrap().display().to_string();
        let mut lines = smaps.lines();
        lines.find(|line| line.contains(" r-xp ") && line.ends_with(&program)).unwrap();
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    #[test]
    fn code_that_is_forgotten_is_not_resident_and_still_runs() {
        let program = std::env::current_exe().unwrap();
        let code = std::fs::read(&program).unwrap();
        let before = resident_code();
        forget_code();
        let after = resident_code();
        assert!(after < before, "{before} bytes, then {after}");
        assert_eq!(std::fs::read(&program).unwrap(), code);
    }
}
