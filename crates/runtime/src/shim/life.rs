//! The life of one instance: started, ready, ended, started again, stopped.
//!
//! Everything happens in [`Life::tick`], which looks at what came (ends, output, findings, binds, time)
//! and moves on. Invariants: there is at most one program at a time; after an end nothing of its tree is
//! left before the next start; every change that others may want to know bumps the sequence.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, wait};
use seaworthy_base::{Code, InstanceId, Timestamp};
use seaworthy_sys::cgroup::{Cgroup, Limits as GroupLimits};
use seaworthy_sys::proc_tree;
use seaworthy_sys::process::{group_of, signal_group, signal_name, signal_number, signal_process};
use seaworthy_sys::seccomp::{BindAnswerer, BindEvent};

use super::launch::{self, Started};
use super::prober::Prober;
use crate::backoff::Backoff;
use crate::driver::cgroup_name;
use crate::faults::{self, End, Facts};
use crate::logs::{InstanceLog, compress_aside};
use crate::model::{ExitReason, ExitRecord, Phase, Ports, Spec, Status};
use crate::ports::free_port;

/// While it starts, the tree is looked at this often.
const LOOK_FAST: Duration = Duration::from_millis(50);
/// Memory is sampled at least once a second.
const LOOK: Duration = Duration::from_secs(1);
/// Listening sockets of a ready instance are looked for this often: it reads tables of the whole host.
const LOOK_SOCKETS: Duration = Duration::from_secs(10);
/// A program that ends so soon after the kernel took a process of it for lack of memory ended of that.
const OOM_CAUSE: Duration = Duration::from_secs(5);
/// Log lines shown as evidence.
const EVIDENCE: usize = 5;

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
    backoff: Backoff,
    began: Instant,
    next_start: Option<Instant>,
    stop: Stop,
    last_exit: Option<ExitRecord>,
    /// The evidence of that end: what we saw, and the program's last lines.
    last_seen: Vec<String>,
    last_words: Vec<String>,
    usage: (Option<u64>, Option<u64>),
    sequence: u64,
    told: Option<String>,
    /// The fault that the log knows of.
    logged: Option<Code>,
    /// Processes of ours that compress rotated logs: in our tree, but not of the program.
    compressors: Vec<u32>,
    over: bool,
}

/// A running program.
#[derive(Debug)]
struct Run {
    child: Child,
    outputs: [Option<File>; 2],
    binds: Option<BindAnswerer>,
    ports: Vec<(String, u16)>,
    began: Instant,
    started: Timestamp,
    listening: Vec<SocketAddr>,
    bound: Vec<SocketAddr>,
    listened: bool,
    was_ready: bool,
    was_live: bool,
    /// Where it was last found, so that one that stops listening is seen to fail its checks.
    address: Option<SocketAddr>,
    ready_failures: u32,
    live_failures: u32,
    probe_error: Option<String>,
    /// The group's count of kills for lack of memory, and when it last grew.
    oom_kills: u64,
    oom_at: Option<Instant>,
    next_look: Instant,
    next_sockets: Instant,
    /// Set when we end it ourselves.
    reason: Option<ExitReason>,
    /// What we saw of its end.
    seen: Vec<String>,
}

/// What was asked about stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// Stop until then by signal, then by KILL; `again` starts it afterwards, `end` ends the shim.
    Until {
        deadline: Instant,
        again: bool,
        end: bool,
    },
}

impl Life {
    pub(super) fn new(spec: Spec) -> io::Result<Self> {
        let mut guards = Vec::new();
        let limits =
            GroupLimits { memory: spec.limits.memory_max, cpu_millis: spec.limits.cpu_millis };
        let cgroup = match Cgroup::create(&cgroup_name(&spec.id, &spec.run_dir), limits) {
            Ok(group) => Some(group),
            Err(why) => {
                guards
                    .push(format!("memory is watched once a second and CPU is not limited: {why}"));
                None
            }
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
            backoff: Backoff::default(),
            began: Instant::now(),
            next_start: None,
            stop: Stop::No,
            last_exit: None,
            last_seen: Vec::new(),
            last_words: Vec::new(),
            usage: (None, None),
            sequence: 1,
            told: None,
            logged: None,
            compressors: Vec::new(),
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

    /// What to poll besides clients and signals.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.wake.as_fd()];
        if let Some(run) = &self.run {
            fds.extend(run.outputs.iter().flatten().map(AsFd::as_fd));
            fds.extend(run.binds.as_ref().map(AsFd::as_fd));
        }
        fds
    }

    /// When to look again, whatever happens.
    pub(super) fn next_moment(&self) -> Option<Instant> {
        let stop = if let Stop::Until { deadline, .. } = self.stop { Some(deadline) } else { None };
        [self.next_start, self.run.as_ref().map(|run| run.next_look), stop]
            .into_iter()
            .flatten()
            .min()
    }

    fn say(&mut self, text: &str) {
        if let Some(rotated) = self.log.say(text) {
            self.compressors.extend(compress_aside(&rotated));
        }
    }

    /// Starts the program now.
    pub(super) fn start(&mut self) {
        self.next_start = None;
        self.starts += 1;
        self.log.forget_recent();
        let oom_before = self.cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        match launch::launch(&self.spec, self.cgroup.as_ref()) {
            Ok(started) => self.begin(started, oom_before),
            Err(why) => {
                self.say(&format!("could not start: {why}"));
                self.last_seen = launch::evidence(&self.spec);
                self.ended(ExitReason::CouldNotExec(why), Duration::ZERO, false);
            }
        }
        self.bump();
    }

    fn begin(&mut self, started: Started, oom_before: u64) {
        let Started { child, outputs: [out, err], binds, ports, guards } = started;
        self.guards.extend(
            guards.into_iter().filter(|guard| !self.guards.contains(guard)).collect::<Vec<_>>(),
        );
        let binds = match (&self.spec.ports, binds) {
            (Ports::Fixed(port), Some(fd)) => Some(BindAnswerer::new(fd, *port, free_port)),
            _ => None,
        };
        self.say(&format!("started as process {}", child.id()));
        self.phase = Phase::Starting;
        let now = Instant::now();
        self.run = Some(Run {
            child,
            outputs: [Some(out), Some(err)],
            binds,
            ports,
            began: now,
            started: Timestamp::now(),
            listening: Vec::new(),
            bound: Vec::new(),
            listened: false,
            was_ready: false,
            was_live: false,
            address: None,
            ready_failures: 0,
            live_failures: 0,
            probe_error: None,
            oom_kills: oom_before,
            oom_at: None,
            next_look: now + Duration::from_millis(10),
            next_sockets: now,
            reason: None,
            seen: Vec::new(),
        });
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
        let mut lines = Vec::new();
        if let Some(run) = &mut self.run
            && let Some(binds) = &mut run.binds
        {
            while readable(binds) {
                match binds.answer() {
                    Ok(Some(BindEvent::Substituted { asked, bound })) => {
                        lines.push(format!("bind to {asked} was answered with {bound}"));
                        if !run.bound.contains(&bound) {
                            run.bound.push(bound);
                        }
                        run.next_look = Instant::now();
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        for line in &lines {
            self.say(line);
        }
    }

    fn read_output(&mut self) {
        let mut piece = vec![0; 16 << 10];
        for which in [0, 1] {
            // Bounded, so that a program that writes without end does not keep us from everything else.
            for _ in 0..16 {
                let Some(file) =
                    self.run.as_mut().and_then(|run| run.outputs.get_mut(which)?.as_mut())
                else {
                    break;
                };
                match file.read(&mut piece) {
                    Ok(0) => {
                        if let Some(slot) =
                            self.run.as_mut().and_then(|run| run.outputs.get_mut(which))
                        {
                            *slot = None;
                        }
                        break;
                    }
                    Ok(n) => {
                        if let Some(rotated) =
                            self.log.take(which, piece.get(..n).unwrap_or_default())
                        {
                            self.compressors.extend(compress_aside(&rotated));
                        }
                    }
                    Err(_) => break,
                }
            }
        }
    }

    fn take_findings(&mut self) {
        while let Some(finding) = self.prober.next() {
            let (ready_rule, live_rule) = (self.spec.ready.failures, self.spec.live.failures);
            let start_time = Duration::from_millis(self.spec.ready.start_ms);
            let live_start = Duration::from_millis(self.spec.live.start_ms);
            let Some(run) =
                self.run.as_mut().filter(|_| finding.start == self.starts && self.stop == Stop::No)
            else {
                continue;
            };
            match finding.ready {
                Some(Ok(())) => {
                    run.ready_failures = 0;
                    run.probe_error = None;
                    run.was_ready = true;
                    self.phase = Phase::Ready;
                }
                Some(Err(error)) => {
                    run.ready_failures += 1;
                    run.probe_error = Some(error);
                    if run.ready_failures >= ready_rule
                        && (self.phase == Phase::Ready || run.began.elapsed() > start_time)
                    {
                        self.phase = Phase::Unready;
                    }
                }
                None => {}
            }
            match finding.live {
                Some(Ok(())) => {
                    run.live_failures = 0;
                    run.was_live = true;
                }
                Some(Err(error)) => {
                    run.live_failures += 1;
                    // One that was never live is slow, not hung, until its time to start is over.
                    let begun = run.was_live || run.began.elapsed() > live_start;
                    if run.live_failures >= live_rule && begun && run.reason.is_none() {
                        run.reason = Some(ExitReason::Hung);
                        run.seen = vec![format!("{} times in a row: {error}", run.live_failures)];
                        self.say(&format!("hung, restarting: {error}"));
                        self.kill_tree();
                    }
                }
                None => {}
            }
        }
    }

    fn pids(&self) -> Vec<u32> {
        match (&self.cgroup, &self.run) {
            (Some(group), Some(_)) => group.pids(),
            // All our descendants: an orphan of the program's is our child, because we are its subreaper.
            (None, Some(_)) => self.tree(),
            (_, None) => Vec::new(),
        }
    }

    /// Our descendants but for those that compress logs.
    fn tree(&self) -> Vec<u32> {
        let mut pids = proc_tree::descendants(std::process::id());
        pids.retain(|pid| !self.compressors.contains(pid));
        pids
    }

    /// Notes kills for lack of memory since the last look.
    fn count_oom_kills(&mut self) {
        let (Some(group), Some(run)) = (&self.cgroup, &mut self.run) else { return };
        let kills = group.oom_kills();
        if kills > run.oom_kills {
            run.oom_kills = kills;
            run.oom_at = Some(Instant::now());
            run.seen = vec!["the kernel ended a process of it for lack of memory".to_owned()];
            self.say("the kernel ended a process of it: out of memory");
        }
    }

    /// Samples memory, finds where it listens, and aims the prober.
    fn look(&mut self) {
        let now = Instant::now();
        if self.run.as_ref().is_none_or(|run| now < run.next_look) {
            return;
        }
        self.count_oom_kills();
        let pids = self.pids();
        let (memory, cpu) = proc_tree::usage(&pids);
        let memory = self.cgroup.as_ref().and_then(Cgroup::memory).unwrap_or(memory);
        self.usage = (Some(memory), Some(cpu));
        let too_much =
            self.cgroup.is_none() && self.spec.limits.memory_max.is_some_and(|max| memory > max);
        if too_much {
            if let Some(run) = &mut self.run {
                run.reason = Some(ExitReason::OutOfMemory);
                run.seen = vec![format!("it used {} MiB", memory >> 20)];
            }
            self.kill_tree();
        }
        let starts = self.starts;
        let ready = self.phase == Phase::Ready;
        let Some(run) = &mut self.run else { return };
        if !ready || now >= run.next_sockets {
            run.listening = proc_tree::listening(&pids);
            run.next_sockets = now + LOOK_SOCKETS;
        }
        run.next_look = now
            + if run.was_ready || run.began.elapsed() > Duration::from_secs(60) {
                LOOK
            } else {
                LOOK_FAST
            };
        run.address = run.address_of(0, &self.spec.ports).or(run.address);
        let address = run.address;
        run.listened |= address.is_some();
        let was_ready = run.was_ready;
        self.prober.aim(starts, address, was_ready);
    }

    /// Takes every dead process; our program's death is the end of the run.
    fn reap(&mut self) {
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            self.compressors.retain(|one| i64::from(*one) != i64::from(pid.as_raw_nonzero().get()));
            if self
                .run
                .as_ref()
                .is_some_and(|run| run.child.id() == pid.as_raw_nonzero().get() as u32)
            {
                ended = Some(ExitStatus::from_raw(status.as_raw()));
            }
        }
        let Some(status) = ended else { return };
        self.count_oom_kills();
        self.kill_tree();
        self.read_output();
        self.log.finish();
        let Some(run) = self.run.take() else { return };
        self.prober.aim(self.starts, None, false);
        let ran = run.began.elapsed();
        self.last_seen.clone_from(&run.seen);
        // A parent that loses a child to it (a shell, npm) mostly ends with a code soon after.
        let oom = run.oom_at.is_some_and(|at| at.elapsed() < OOM_CAUSE) && !status.success();
        let reason = match (run.reason.clone(), status.code(), status.signal()) {
            (Some(reason), ..) => reason,
            _ if self.stop != Stop::No => ExitReason::Asked,
            _ if oom => ExitReason::OutOfMemory,
            (None, Some(code), _) => ExitReason::Code(code),
            (None, None, signal) => ExitReason::Signal(signal_name(signal.unwrap_or(0))),
        };
        self.say(&format!("{} after {} ms", faults::reason(&reason), ran.as_millis()));
        if !run.listened && matches!(reason, ExitReason::Code(_)) && run.lost_its_port() {
            self.say("another program took its port: starting again on another one");
            self.start();
            return;
        }
        self.ended(reason, ran, run.listened);
    }

    fn ended(&mut self, reason: ExitReason, ran: Duration, listened: bool) {
        self.last_words = self.log.last(EVIDENCE);
        self.last_exit = Some(ExitRecord {
            at: Timestamp::now(),
            reason,
            ran_ms: ran.as_millis() as u64,
            listened,
        });
        match std::mem::replace(&mut self.stop, Stop::No) {
            Stop::Until { again: true, .. } => self.next_start = Some(Instant::now()),
            Stop::Until { end, .. } => {
                self.phase = Phase::Stopped;
                self.over = end;
            }
            Stop::No => {
                let pause = self.backoff.ended(&self.spec.restart, self.began.elapsed(), ran);
                self.phase = Phase::Backoff;
                self.next_start = Some(Instant::now() + pause);
                self.say(&format!("starting again in {} ms", pause.as_millis()));
            }
        }
        self.bump();
    }

    /// KILL for everything that is left of the program's tree.
    fn kill_tree(&mut self) {
        let own = self.run.as_ref().map(|run| run.child.id());
        if let Some(group) = &self.cgroup {
            group.kill_all(Duration::from_secs(2));
        }
        // Without a group: all our descendants are its tree, because we are their subreaper.
        for _ in 0..100 {
            let left = self.tree();
            if left.is_empty() {
                break;
            }
            for pid in &left {
                signal_process(*pid, 9);
            }
            // Reaps orphans only; the program itself is taken by `reap`.
            let zombies_only = left.iter().all(|pid| Some(*pid) == own || is_zombie(*pid));
            if zombies_only {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Begins to stop; with `end` the shim ends afterwards.
    pub(super) fn stop(&mut self, end: bool) {
        self.begin_stop(false, end);
    }

    /// Stops and starts.
    pub(super) fn restart(&mut self) {
        if self.run.is_some() {
            self.begin_stop(true, false);
        } else {
            self.next_start = Some(Instant::now());
        }
    }

    /// Starts when it is stopped.
    pub(super) fn start_again(&mut self) {
        if self.run.is_none() && self.next_start.is_none() {
            self.next_start = Some(Instant::now());
        }
    }

    fn begin_stop(&mut self, again: bool, end: bool) {
        self.next_start = None;
        let Some(run) = &self.run else {
            self.phase = Phase::Stopped;
            self.over |= end;
            return self.bump();
        };
        let grace = Duration::from_millis(self.spec.stop.grace_ms);
        let (deadline, again, end) = match self.stop {
            // What was told to end ends, whatever is asked meanwhile.
            Stop::Until { deadline, end: true, .. } => (deadline, false, true),
            Stop::Until { deadline, .. } => (deadline, again, end),
            Stop::No => {
                self.ask_to_stop(run.child.id());
                (Instant::now() + grace, again, end)
            }
        };
        self.stop = Stop::Until { deadline, again, end };
        self.phase = Phase::Stopping;
        self.say("stopping");
        self.bump();
    }

    /// The stop signal to the group of `leader` and everybody outside of it, to each once: many servers take
    /// a second one as the order to drop what they are doing.
    fn ask_to_stop(&self, leader: u32) {
        let signal = signal_number(&self.spec.stop.signal).unwrap_or(15);
        signal_group(leader, signal);
        for pid in self.pids().into_iter().filter(|pid| group_of(*pid) != Some(leader)) {
            signal_process(pid, signal);
        }
    }

    fn press_stop(&mut self) {
        if let Stop::Until { deadline, again, end } = self.stop
            && Instant::now() >= deadline
            && self.run.is_some()
        {
            self.say(&format!("did not stop within {} ms: KILL", self.spec.stop.grace_ms));
            self.stop =
                Stop::Until { deadline: Instant::now() + Duration::from_secs(1), again, end };
            self.kill_tree();
            if let Some(run) = &self.run {
                signal_group(run.child.id(), 9);
            }
        }
    }

    /// Sends a signal to the program; false when there is none of either.
    pub(super) fn signal(&mut self, name: &str) -> bool {
        match (signal_number(name), &self.run) {
            (Some(number), Some(run)) => {
                signal_process(run.child.id(), number);
                true
            }
            _ => false,
        }
    }

    fn bump(&mut self) {
        self.sequence += 1;
    }

    /// Bumps the sequence when what others see has changed.
    fn notice(&mut self) {
        let status = self.status();
        let fault = status.fault.as_ref().map(|fault| (fault.code, fault.causes.clone()));
        let seen = format!(
            "{:?} {:?} {:?} {:?} {:?}",
            status.phase, status.pid, status.listening, fault, status.wants_replacement
        );
        if self.told.as_ref() != Some(&seen) {
            self.told = Some(seen);
            self.bump();
        }
        let code = status.fault.as_ref().map(|fault| fault.code);
        if self.logged != code {
            self.logged = code;
            let words = [self.last_words.clone(), self.log.last(EVIDENCE)].concat();
            let lines = status.fault.map(|fault| faults::log_lines(&fault, &self.spec.id, &words));
            lines.unwrap_or_default().iter().for_each(|line| self.say(line));
        }
    }

    /// How it is.
    pub(super) fn status(&self) -> Status {
        let mut backoff_view = self.crash_loop();
        let run = self.run.as_ref();
        let mut listening = BTreeMap::new();
        if let Some(run) = run {
            let names: Vec<String> = match &self.spec.ports {
                Ports::Environment(variables) => {
                    variables.iter().map(|(name, _)| name.clone()).collect()
                }
                Ports::Fixed(_) => vec!["http".to_owned()],
            };
            for (index, name) in names.into_iter().enumerate() {
                if let Some(address) = run.address_of(index, &self.spec.ports) {
                    listening.insert(name, address);
                }
            }
        }
        let restarts = self.starts.saturating_sub(1) as u32;
        let facts = Facts {
            id: &self.spec.id,
            program: self.spec.argv.first().map_or("", String::as_str),
            last_end: self.last_exit.as_ref().map(|exit| End {
                exit,
                seen: &self.last_seen,
                words: &self.last_words,
            }),
            running: run.is_some(),
            crash_loop: backoff_view,
            restarts,
            listening: run.map_or(&[], |run| &run.listening[..]),
            expected: run.and_then(|run| run.expected(&self.spec.ports)),
            ports: &self.spec.ports,
            ready: self.phase == Phase::Ready,
            was_ready: run.is_some_and(|run| run.was_ready),
            past_start: run.is_some_and(|run| {
                run.began.elapsed() > Duration::from_millis(self.spec.ready.start_ms)
            }),
            probe_error: run.and_then(|run| run.probe_error.as_deref()),
            memory_max: self.spec.limits.memory_max,
            log: self.log.last(EVIDENCE),
        };
        let fault = if matches!(self.phase, Phase::Stopping | Phase::Stopped) {
            None
        } else {
            faults::judge(&facts)
        };
        backoff_view &= self.phase != Phase::Ready;
        Status {
            id: self.spec.id.clone(),
            phase: self.phase,
            shim_pid: std::process::id(),
            pid: run.map(|run| run.child.id()),
            started: run.map(|run| run.started),
            listening,
            restarts,
            crash_loop: backoff_view,
            last_exit: self.last_exit.clone(),
            fault,
            memory: self.usage.0.filter(|_| run.is_some()),
            cpu_ms: self.usage.1.filter(|_| run.is_some()),
            log_dropped: self.log.dropped(),
            guards: self.guards.clone(),
            wants_replacement: run.is_some()
                && self
                    .spec
                    .limits
                    .memory_restart
                    .is_some_and(|bound| self.usage.0.is_some_and(|used| used > bound)),
            hash: self.spec.hash.clone(),
            sequence: self.sequence,
        }
    }

    fn crash_loop(&self) -> bool {
        self.backoff.is_loop(&self.spec.restart, self.began.elapsed())
    }
}

impl Run {
    /// The port that the program should listen on: what it was told, or what stands for its fixed one.
    fn expected(&self, ports: &Ports) -> Option<u16> {
        match ports {
            Ports::Environment(_) => self.ports.first().map(|(_, port)| *port),
            Ports::Fixed(port) => {
                Some(self.binds.as_ref().map_or(*port, |binds| binds.substitute().unwrap_or(*port)))
            }
        }
    }

    /// Where port number `index` can be reached, once it listens.
    fn address_of(&self, index: usize, ports: &Ports) -> Option<SocketAddr> {
        let port = match ports {
            Ports::Environment(_) => self.ports.get(index)?.1,
            Ports::Fixed(_) => self.expected(ports)?,
        };
        let found = self
            .listening
            .iter()
            .filter(|address| address.port() == port)
            .min_by_key(|address| address.is_ipv6())?;
        let ip: IpAddr = match found.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            // A wildcard IPv6 socket takes IPv4 too unless it was told not to; ::1 is right for both.
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Some(SocketAddr::new(ip, port))
    }

    /// Whether a stranger listens on one of its ports.
    fn lost_its_port(&self) -> bool {
        let taken = proc_tree::listening_sockets();
        self.ports.iter().any(|(_, port)| taken.iter().any(|socket| socket.address.port() == *port))
    }
}

fn readable(fd: &impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
        && fds[0].revents().contains(PollFlags::IN)
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}
