//! Starting a program under rules: session, groups, user, limits, death with its parent, answered binds.
//!
//! The order matters and is settled here: signals → session → cgroup → limits → user → death signal (a change of
//! user clears it) → no_new_privs → Landlock → filter → exec. Invariants: nothing is allocated between fork and
//! exec; must be called by the thread that lives as long as the program shall (the death signal follows
//! the thread).

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::sandbox::Prepared;
use crate::{fdpass, process, seccomp};

/// A program and the rules it starts under.
#[derive(Debug)]
pub struct Start<'a> {
    /// Program (looked up in the given PATH as the given user) and arguments.
    pub argv: &'a [String],
    /// Working folder.
    pub dir: &'a Path,
    /// The whole environment.
    pub environment: &'a [(String, String)],
    /// Standard input; nothing to read without one.
    pub input: Option<OwnedFd>,
    /// Standard output and error.
    pub output: (OwnedFd, OwnedFd),
    /// User, group and groups to change to.
    pub user: Option<(u32, u32, &'a [u32])>,
    /// Control groups to join (`cgroup.procs`, open for writing).
    pub cgroups: &'a [File],
    /// Limit of open files.
    pub nofile: Option<u64>,
    /// What it may open.
    pub shut_in: Option<Prepared>,
    /// Stop at `bind` and hand the notifications out.
    pub answer_binds: bool,
}

/// Starts it. The descriptor is there when binds are to be answered.
pub fn start(start: Start<'_>) -> io::Result<(Child, Option<OwnedFd>)> {
    let (program, arguments) = start.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(start.dir)
        .env_clear()
        .envs(start.environment.iter().map(|(name, value)| (name, value)));
    command
        .stdin(start.input.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::from(start.output.0))
        .stderr(Stdio::from(start.output.1));
    let cgroups: Vec<OwnedFd> = start
        .cgroups
        .iter()
        .map(|file| file.as_fd().try_clone_to_owned())
        .collect::<io::Result<_>>()?;
    let parent = std::process::id();
    let user = start.user.map(|(uid, gid, groups)| (uid, gid, groups.to_vec()));
    let (nofile, shut_in, answer_binds) = (start.nofile, start.shut_in, start.answer_binds);
    let rules = move || {
        process::reset_signals()?;
        process::become_session_leader()?;
        for group in &cgroups {
            rustix::io::write(group, b"0")?;
        }
        limit_files(nofile)?;
        if let Some((uid, gid, groups)) = &user {
            process::drop_to_user(*uid, *gid, groups)?;
        }
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // A parent that died before that line sends nothing any more.
        if parent_of_ours() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        process::no_new_privs()?;
        close_others_on_exec()?;
        if let Some(rules) = &shut_in {
            rules.enter()?;
        }
        if answer_binds {
            let fd = seccomp::stop_at_bind()?;
            send_descriptor(&theirs, fd)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(rules) };
    let child = command.spawn()?;
    drop(command);
    let listener = if answer_binds { receive_descriptor(&ours)? } else { None };
    Ok((child, listener))
}

fn parent_of_ours() -> u32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32)
}

fn limit_files(nofile: Option<u64>) -> io::Result<()> {
    let Some(limit) = nofile else { return Ok(()) };
    let limits = rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, limits)?)
}

fn send_descriptor(stream: &UnixStream, fd: i32) -> io::Result<()> {
    // SAFETY: the descriptor was made a moment ago and stays open until exec.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [borrowed];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    // The same frame as `fdpass`: an empty payload.
    rustix::net::sendmsg(stream, &[IoSlice::new(&[0; 4])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_descriptor(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    Ok(fdpass::receive_message(stream, 0)?.and_then(|(_, mut fds)| fds.pop()))
}

/// Lets a process of ours inherit its three standard descriptors and nothing else, whatever we were
/// given by whoever started us.
pub fn inherit_nothing(command: &mut Command) {
    // SAFETY: the closure makes one system call; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(close_others_on_exec) };
}

/// What a command of somebody else's starts under that is no instance: a build, a migration, a job.
#[derive(Debug)]
pub struct Confined {
    /// Control groups to join (`cgroup.procs`, open for writing).
    pub cgroups: Vec<File>,
    /// User, group and groups to change to.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Whether it ends with the thread that starts it.
    pub bound: bool,
}

/// So much of the machine's memory, in thousandths, a command counts as using beyond what it does when the kernel looks
/// for whom to end: before control and before an application of the same size.
const EXPENDABLE: &[u8] = b"500";

/// Lets a command start under these rules. The order is that of [`start`].
pub fn confine(command: &mut Command, rules: Confined) {
    let parent = std::process::id();
    let enter = move || {
        for group in &rules.cgroups {
            rustix::io::write(group, b"0")?;
        }
        be_expendable();
        if let Some((uid, gid, groups)) = &rules.user {
            process::drop_to_user(*uid, *gid, groups)?;
        }
        if rules.bound {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            if parent_of_ours() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter) };
}

/// Where that cannot be said the kernel chooses by size alone.
fn be_expendable() {
    use rustix::fs::{Mode, OFlags, open};
    let file = open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    if let Ok(file) = file {
        rustix::io::write(file, EXPENDABLE).ok();
    }
}

/// Has a process of ours start in another control group: the descriptor is its `cgroup.procs`, open for writing.
pub(crate) fn join(command: &mut Command, group: OwnedFd) {
    let enter = move || {
        rustix::io::write(&group, b"0")?;
        Ok(())
    };
    // SAFETY: the closure makes one system call; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter) };
}

/// Marks every descriptor but the three standard ones to be closed by exec. Safe between fork and exec.
fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: takes numbers only, and closes nothing yet: no owner of a descriptor is surprised.
    let code =
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // Sandboxes that do not know the call: what is ours is close-on-exec anyway.
    let error = if code < 0 { io::Error::last_os_error().raw_os_error() } else { None };
    match error {
        None | Some(libc::ENOSYS | libc::EINVAL) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A pipe whose reading end does not block.
pub fn output_pipe() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((File::from(reader), writer))
}

/// A descriptor that becomes readable when one of these signals is pending; they are blocked for the
/// calling thread and all threads it starts later. Programs inherit that; [`start`] sets it back.
pub fn signal_descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by `sigemptyset` before it is used.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid signal set for all of these calls.
    let fd = unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(seccomp::own(fd)) }
}

/// Takes one pending signal off the descriptor.
pub fn next_signal(descriptor: &OwnedFd) -> Option<i32> {
    let mut raw = [0u8; 128];
    // SAFETY: the buffer has the size of one `signalfd_siginfo`.
    let got = unsafe { libc::read(descriptor.as_raw_fd(), raw.as_mut_ptr().cast(), raw.len()) };
    (got == 128).then(|| i32::from_ne_bytes([raw[0], raw[1], raw[2], raw[3]]))
}
