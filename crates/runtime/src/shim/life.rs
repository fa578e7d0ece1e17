//! The life of one instance: started, ready, ended, started again, stopped.
//!
//! Everything happens in [`Life::tick`], which looks at what came (ends, output, findings, binds, time)
//! and moves on; what is decided without looking is in `backoff`, `ending`, `health` and `pace`.
//! Rooms: `run` the running program, `watch` where it listens and what it uses, `end` ends and stops,
//! `report` what others are told. Invariants: there is at most one program at a time; after an end
//! nothing of its tree is left before the next start; every change that others may want to know bumps
//! the sequence.

mod end;
mod report;
mod run;
mod watch;

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use seaworthy_base::{Code, InstanceId};
use seaworthy_sys::cgroup::{Cgroup, Limits as GroupLimits};
use seaworthy_sys::process::fair_share_of_tasks;
use seaworthy_sys::seccomp::BindEvent;

use super::launch;
use super::prober::Prober;
use crate::backoff::Backoff;
use crate::driver::cgroup_name;
use crate::health::Readiness;
use crate::logs::InstanceLog;
use crate::model::{ExitReason, Phase, Spec};
use end::{LastEnd, Stop};
use run::Run;

/// What is lost without a control group. RLIMIT_NPROC is no substitute: it counts a user, not an instance.
const NO_GROUP: &str =
    "memory is watched once a second, CPU and the number of processes are not limited";

/// The instance.
#[derive(Debug)]
pub(super) struct Life {
    spec: Spec,
    log: InstanceLog,
    cgroup: Option<Cgroup>,
    guards: Vec<String>,
    prober: Prober,
    wake: UnixStream,
    run: Option<Run>,
    phase: Phase,
    starts: u64,
    /// Ports lost to strangers in a row.
    lost_ports: u32,
    backoff: Backoff,
    began: Instant,
    next_start: Option<Instant>,
    stop: Stop,
    last_end: Option<LastEnd>,
    sequence: u64,
    told: Option<String>,
    /// The fault that the log knows of.
    logged: Option<Code>,
    over: bool,
}

impl Life {
    pub(super) fn new(spec: Spec) -> io::Result<Self> {
        let limits = GroupLimits {
            memory: spec.limits.memory_max,
            cpu_millis: spec.limits.cpu_millis,
            tasks: Some(spec.limits.processes.unwrap_or_else(fair_share_of_tasks)),
        };
        let (cgroup, guards) = match Cgroup::create(&cgroup_name(&spec.id, &spec.run_dir), limits) {
            Ok((group, missing)) => (Some(group), missing),
            Err(why) => (None, vec![format!("{NO_GROUP}: {why}")]),
        };
        let (wake, theirs) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        Ok(Self {
            log: InstanceLog::open(&spec.log),
            prober: Prober::new(spec.ready.clone(), spec.live.clone(), theirs)?,
            cgroup,
            guards,
            wake,
            run: None,
            phase: Phase::Starting,
            starts: 0,
            lost_ports: 0,
            backoff: Backoff::default(),
            began: Instant::now(),
            next_start: None,
            stop: Stop::No,
            last_end: None,
            sequence: 1,
            told: None,
            logged: None,
            over: false,
            spec,
        })
    }

    pub(super) fn id(&self) -> &InstanceId {
        &self.spec.id
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Monotonic time, for decisions.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What to poll besides clients and signals.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.wake.as_fd()];
        fds.extend(self.run.iter().flat_map(Run::descriptors));
        fds
    }

    /// When to look again, whatever happens.
    pub(super) fn next_moment(&self) -> Option<Instant> {
        let look = self.run.as_ref().map(|run| self.began + run.pace.next(self.search(run)));
        [self.next_start, look, self.stop.deadline()].into_iter().flatten().min()
    }

    /// Starts the program now.
    pub(super) fn start(&mut self) {
        self.next_start = None;
        self.starts += 1;
        self.log.forget_recent();
        let oom_before = self.cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        match launch::launch(&self.spec, self.cgroup.as_ref()) {
            Ok(mut started) => {
                let new = std::mem::take(&mut started.guards);
                let new = new.into_iter().filter(|guard| !self.guards.contains(guard));
                let new: Vec<String> = new.collect();
                self.guards.extend(new);
                self.log.say(&format!("started as process {}", started.child.id()));
                self.phase = Phase::Starting;
                self.run = Some(Run::new(started, &self.spec.ports, self.now(), oom_before));
            }
            Err(why) => {
                self.log.say(&format!("could not start: {why}"));
                let seen = launch::evidence(&self.spec);
                self.ended(ExitReason::CouldNotExec(why), Duration::ZERO, false, seen);
            }
        }
        self.bump();
    }

    /// Looks at everything that may have happened.
    pub(super) fn tick(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.wake.read(&mut bytes), Ok(n) if n > 0) {}
        self.answer_binds();
        self.read_output();
        self.take_findings();
        self.look();
        self.reap();
        self.press_stop();
        if self.next_start.is_some_and(|at| Instant::now() >= at) {
            self.start();
        }
        self.notice();
    }

    fn answer_binds(&mut self) {
        let now = self.now();
        let Some(run) = &mut self.run else { return };
        let Some(binds) = &mut run.binds else { return };
        while readable(binds) {
            match binds.answer() {
                Ok(Some(BindEvent::Substituted { asked, bound })) => {
                    self.log.say(&format!("bind to {asked} was answered with {bound}"));
                    run.pace.hurry(now);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }

    fn read_output(&mut self) {
        if let Some(run) = &mut self.run {
            run.read_output(&mut self.log);
        }
    }

    fn take_findings(&mut self) {
        while let Some(finding) = self.prober.next() {
            let now = self.now();
            let current = finding.start == self.starts && self.stop == Stop::No;
            let Some(run) = self.run.as_mut().filter(|_| current) else { continue };
            let age = now.saturating_sub(run.began);
            let readiness =
                finding.ready.and_then(|result| run.health.ready(&self.spec.ready, age, result));
            match readiness {
                Some(Readiness::Ready) => {
                    self.phase = Phase::Ready;
                    self.lost_ports = 0;
                    self.prober.aim(self.starts, run.address, true);
                }
                Some(Readiness::Unready) => self.phase = Phase::Unready,
                None => {}
            }
            let hung =
                finding.live.and_then(|result| run.health.live(&self.spec.live, age, result));
            if let Some(error) = hung.filter(|_| run.forced.is_none()) {
                run.forced = Some(ExitReason::Hung);
                run.seen = vec![format!("{} times in a row: {error}", self.spec.live.failures)];
                self.log.say(&format!("hung, restarting: {error}"));
                self.kill_tree();
            }
        }
    }

    fn bump(&mut self) {
        self.sequence += 1;
    }
}

fn readable(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
        && fds[0].revents().contains(PollFlags::IN)
}
