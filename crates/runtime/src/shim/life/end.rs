//! Ends: those that happen, those that are asked for, and what follows.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, wait};
use seaworthy_base::Timestamp;
use seaworthy_sys::proc_tree;
use seaworthy_sys::process::{group_of, signal_group, signal_if, signal_number, signal_process};

use super::Life;
use crate::ending::{self, End};
use crate::faults;
use crate::model::{ExitReason, ExitRecord, Phase, Ports};

/// Log lines shown as evidence.
pub(super) const EVIDENCE: usize = 5;
/// How long those that were killed are waited for: longer takes only one that the kernel holds (a disk
/// that hangs), and meanwhile the shim answers nobody.
const KILL_PATIENCE: Duration = Duration::from_millis(500);
/// The same without a control group, in rounds of 2 ms.
const KILL_ROUNDS: u32 = 100;

/// How the program last ended, with what is left to show of it.
#[derive(Debug)]
pub(super) struct LastEnd {
    pub(super) exit: ExitRecord,
    /// What we saw ourselves: a check's answer, memory, where a program was looked for.
    pub(super) seen: Vec<String>,
    /// Its last lines.
    pub(super) words: Vec<String>,
}

/// What was asked about stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// Stop until then by signal, then by KILL; `again` starts it afterwards, `end` ends the shim.
    Until {
        deadline: Instant,
        again: bool,
        end: bool,
    },
}

impl Stop {
    pub(super) fn deadline(self) -> Option<Instant> {
        if let Self::Until { deadline, .. } = self { Some(deadline) } else { None }
    }
}

impl Life {
    /// Takes every dead process; our program's death is the end of the run.
    pub(super) fn reap(&mut self) {
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get() as u32;
            self.log.compressor_ended(pid);
            if self.run.as_ref().is_some_and(|run| run.child.id() == pid) {
                ended = Some(ExitStatus::from_raw(status.as_raw()));
            }
        }
        if let Some(status) = ended {
            self.finish_run(status);
        }
    }

    /// The program is gone: so is the rest of its tree, and what it still wrote is kept.
    fn finish_run(&mut self, status: ExitStatus) {
        self.count_oom_kills();
        self.kill_tree();
        self.read_output();
        self.log.finish();
        let Some(run) = self.run.take() else { return };
        self.prober.aim(self.starts, None, false);
        self.withdraw_socket();
        let ran = self.now().saturating_sub(run.began);
        let end = End {
            forced: run.forced.clone(),
            asked: self.stop != Stop::No,
            starved: run.oom_at.map(|at| self.now().saturating_sub(at)),
            how: status.code().ok_or_else(|| status.signal().unwrap_or(0)),
        };
        let reason = end.reason();
        self.log.say(&format!("{} after {} ms", faults::reason(&reason), ran.as_millis()));
        if ending::starts_at_once(&reason, run.listened, self.lost_ports) && run.lost_its_port() {
            self.lost_ports += 1;
            self.log.say("another program took its port: starting again on another one");
            self.start();
            return;
        }
        self.ended(reason, ran, run.listened, run.seen);
    }

    /// Nobody is to connect to what is gone.
    fn withdraw_socket(&mut self) {
        if let Ports::Socket(rule) = &self.spec.ports
            && let Err(error) = rule.withdraw()
        {
            self.log.say(&format!("its socket could not be withdrawn: {error}"));
        }
    }

    pub(super) fn ended(
        &mut self,
        reason: ExitReason,
        ran: Duration,
        listened: bool,
        seen: Vec<String>,
    ) {
        let at = Timestamp::now();
        let exit = ExitRecord { at, reason, ran_ms: ran.as_millis() as u64, listened };
        self.last_end = Some(LastEnd { exit, seen, words: self.log.last(EVIDENCE) });
        match std::mem::replace(&mut self.stop, Stop::No) {
            Stop::Until { again: true, .. } => self.next_start = Some(Instant::now()),
            Stop::Until { end, .. } => {
                self.phase = Phase::Stopped;
                self.over = end;
            }
            Stop::No => {
                let pause = self.backoff.ended(&self.spec.restart, self.now(), ran);
                self.phase = Phase::Backoff;
                self.next_start = Some(Instant::now() + pause);
                self.log.say(&format!("starting again in {} ms", pause.as_millis()));
            }
        }
        self.bump();
    }

    /// KILL for everything that is left of the program's tree.
    pub(super) fn kill_tree(&mut self) {
        let own = self.run.as_ref().map(|run| run.child.id());
        if self.cgroup.as_ref().is_some_and(|group| !group.kill_all(KILL_PATIENCE)) {
            self.log
                .say("processes of it do not end though they were killed: the kernel holds them");
        }
        // Without a group, or outside of it: all our descendants are its tree, because we are their subreaper.
        for _ in 0..KILL_ROUNDS {
            let left = self.tree();
            for pid in &left {
                self.signal_member(*pid, 9);
            }
            // Zombies are left to `reap`.
            if left.iter().all(|pid| Some(*pid) == own || proc_tree::is_zombie(*pid)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A signal to one of the tree, if it still is the one whose number was read.
    fn signal_member(&self, pid: u32, signal: i32) {
        let shim = std::process::id();
        signal_if(pid, signal, |pid| {
            proc_tree::is_descendant(pid, shim)
                || self.cgroup.as_ref().is_some_and(|group| group.holds(pid))
        });
    }

    /// Begins to stop; with `end` the shim ends afterwards.
    pub(in crate::shim) fn stop(&mut self, end: bool) {
        self.begin_stop(false, end);
    }

    /// Stops and starts.
    pub(in crate::shim) fn restart(&mut self) {
        if self.run.is_some() {
            self.begin_stop(true, false);
        } else {
            self.next_start = Some(Instant::now());
        }
    }

    /// Starts when it is stopped.
    pub(in crate::shim) fn start_again(&mut self) {
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
        self.log.say("stopping");
        self.bump();
    }

    /// The stop signal to the group of `leader` and everybody outside of it, to each once: many servers take
    /// a second one as the order to drop what they are doing.
    fn ask_to_stop(&self, leader: u32) {
        let signal = signal_number(&self.spec.stop.signal).unwrap_or(15);
        signal_group(leader, signal);
        for pid in self.pids().into_iter().filter(|pid| group_of(*pid) != Some(leader)) {
            self.signal_member(pid, signal);
        }
    }

    pub(super) fn press_stop(&mut self) {
        if let Stop::Until { deadline, again, end } = self.stop
            && Instant::now() >= deadline
            && self.run.is_some()
        {
            self.log.say(&format!("did not stop within {} ms: KILL", self.spec.stop.grace_ms));
            self.stop =
                Stop::Until { deadline: Instant::now() + Duration::from_secs(1), again, end };
            self.kill_tree();
            if let Some(run) = &self.run {
                signal_group(run.child.id(), 9);
            }
        }
    }

    /// Sends a signal to the program; false when there is none of either.
    pub(in crate::shim) fn signal(&mut self, name: &str) -> bool {
        match (signal_number(name), &self.run) {
            (Some(number), Some(run)) => {
                signal_process(run.child.id(), number);
                true
            }
            _ => false,
        }
    }
}
