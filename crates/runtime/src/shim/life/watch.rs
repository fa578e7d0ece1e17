//! Looking at the running program from outside: who belongs to it, what it uses, where it listens.

use seaworthy_sys::cgroup::Cgroup;
use seaworthy_sys::proc_tree;

use super::Life;
use super::run::Run;
use crate::ending::{Memory, judge_memory};
use crate::model::{ExitReason, Phase};
use crate::pace::Search;

impl Life {
    /// Everybody of the program's tree.
    pub(super) fn pids(&self) -> Vec<u32> {
        match (&self.cgroup, &self.run) {
            (Some(group), Some(_)) => group.pids(),
            (None, Some(_)) => self.tree(),
            (_, None) => Vec::new(),
        }
    }

    /// Our descendants but for those that compress logs: an orphan of the program's is our child,
    /// because we are its subreaper.
    pub(super) fn tree(&self) -> Vec<u32> {
        let mut pids = proc_tree::descendants(std::process::id());
        pids.retain(|pid| !self.log.is_compressor(*pid));
        pids
    }

    /// Notes kills for lack of memory since the last look.
    pub(super) fn count_oom_kills(&mut self) {
        let now = self.now();
        let (Some(group), Some(run)) = (&self.cgroup, &mut self.run) else { return };
        let kills = group.oom_kills();
        if kills > run.oom_kills {
            run.oom_kills = kills;
            run.oom_at = Some(now);
            run.seen = vec!["the kernel ended a process of it for lack of memory".to_owned()];
            self.log.say("the kernel ended a process of it: out of memory");
        }
    }

    /// What is still looked for.
    pub(super) fn search(&self, run: &Run) -> Search {
        if run.is_missing(&self.spec.ports) {
            Search::Ports
        } else if self.phase == Phase::Ready {
            Search::Over
        } else {
            Search::Readiness
        }
    }

    /// Looks at what is due.
    pub(super) fn look(&mut self) {
        let now = self.now();
        if self.run.as_mut().is_some_and(|run| run.pace.sample_now(now)) {
            self.sample();
        }
        let Some(search) = self.run.as_ref().map(|run| self.search(run)) else { return };
        let ports = &self.spec.ports;
        let Some(run) = &mut self.run else { return };
        let found = run.pace.try_now(now, search) && run.answers_at_missing(ports);
        if run.pace.scan_now(now, search, found) {
            self.find_sockets();
        }
    }

    /// Memory and CPU of the tree; ends it where it uses too much and the kernel does not see to that.
    fn sample(&mut self) {
        self.count_oom_kills();
        let (memory, cpu) = proc_tree::usage(&self.pids());
        let memory = self.cgroup.as_ref().and_then(Cgroup::memory).unwrap_or(memory);
        let enforces = self.cgroup.as_ref().is_some_and(Cgroup::enforces_memory);
        let Some(run) = &mut self.run else { return };
        run.usage = Some((memory, cpu));
        if judge_memory(&self.spec.limits, memory, enforces) == Memory::TooMuch {
            run.forced.get_or_insert(ExitReason::OutOfMemory);
            run.seen = vec![format!("it used {} MiB", memory >> 20)];
            self.kill_tree();
        }
    }

    /// Finds where it listens, and aims the prober.
    pub(super) fn find_sockets(&mut self) {
        let listening = proc_tree::listening(&self.pids());
        let Some(run) = &mut self.run else { return };
        run.listening = listening;
        run.address = run.find_address(&self.spec.ports).or(run.address.take());
        run.listened |= run.address.is_some();
        self.prober.aim(self.starts, run.address.clone(), run.health.was_ready());
        if run.usage.is_none() {
            // Whoever is told that it listens is told what it uses.
            self.sample();
        }
    }
}
