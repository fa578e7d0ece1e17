//! What others are told: the status, and when it is worth telling.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use seaworthy_base::{Fault, Timestamp};

use super::Life;
use super::end::EVIDENCE;
use crate::ending::{Memory, judge_memory};
use crate::faults::{self, End, Facts};
use crate::model::{Phase, Ports, Status};

impl Life {
    /// Bumps the sequence when what others see has changed.
    pub(super) fn notice(&mut self) {
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
            let mut words = self.log.last(EVIDENCE);
            words.extend(self.last_end.iter().flat_map(|end| end.words.clone()));
            let lines = status.fault.map(|fault| faults::log_lines(&fault, &self.spec.id, &words));
            lines.unwrap_or_default().iter().for_each(|line| self.log.say(line));
        }
    }

    /// How it is.
    pub(in crate::shim) fn status(&self) -> Status {
        let run = self.run.as_ref();
        let usage = run.and_then(|run| run.usage);
        Status {
            id: self.spec.id.clone(),
            phase: self.phase,
            shim_pid: std::process::id(),
            pid: run.map(|run| run.child.id()),
            started: run.map(|run| run.started),
            listening: self.addresses(),
            socket: self.socket(),
            restarts: self.restarts(),
            crash_loop: self.phase != Phase::Ready && self.crash_loop(),
            last_exit: self.last_end.as_ref().map(|end| end.exit.clone()),
            next_start: self.next_start.map(moment),
            fault: self.fault(),
            memory: usage.map(|(memory, _)| memory),
            cpu_ms: usage.map(|(_, cpu)| cpu),
            log_dropped: self.log.dropped(),
            guards: self.guards.clone(),
            wants_replacement: usage.is_some_and(|(memory, _)| {
                judge_memory(&self.spec.limits, memory, true) == Memory::Replace
            }),
            hash: self.spec.hash.clone(),
            sequence: self.sequence,
        }
    }

    /// Where it can be reached, by port name.
    fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        let Some(run) = &self.run else { return BTreeMap::new() };
        let names: Vec<&str> = match &self.spec.ports {
            Ports::Environment(variables) => {
                variables.iter().map(|(name, _)| name.as_str()).collect()
            }
            Ports::Fixed(_) | Ports::Own(_) => vec!["http"],
            Ports::Socket(_) => Vec::new(),
        };
        let found = names.into_iter().enumerate().filter_map(|(index, name)| {
            Some((name.to_owned(), run.address_of(index, &self.spec.ports)?))
        });
        found.collect()
    }

    /// The Unix socket by which it can be reached.
    fn socket(&self) -> Option<PathBuf> {
        let Ports::Socket(rule) = &self.spec.ports else { return None };
        self.run.as_ref().filter(|run| run.on_socket).map(|_| rule.reached_at())
    }

    /// What is wrong now.
    fn fault(&self) -> Option<Fault> {
        if matches!(self.phase, Phase::Stopping | Phase::Stopped) {
            return None;
        }
        let run = self.run.as_ref();
        let time_to_start = Duration::from_millis(self.spec.ready.start_ms);
        faults::judge(&Facts {
            id: &self.spec.id,
            program: self.spec.argv.first().map_or("", String::as_str),
            last_end: self.last_end.as_ref().map(|end| End {
                exit: &end.exit,
                seen: &end.seen,
                words: &end.words,
            }),
            running: run.is_some(),
            crash_loop: self.crash_loop(),
            restarts: self.restarts(),
            listening: run.map_or(&[], |run| &run.listening[..]),
            expected: run.and_then(|run| run.expected(&self.spec.ports)),
            ports: &self.spec.ports,
            on_socket: run.is_some_and(|run| run.on_socket),
            ready: self.phase == Phase::Ready,
            was_ready: run.is_some_and(|run| run.health.was_ready()),
            past_start: run.is_some_and(|run| self.now().saturating_sub(run.began) > time_to_start),
            probe_error: run.and_then(|run| run.health.error()),
            memory_max: self.spec.limits.memory_max,
            log: self.log.last(EVIDENCE),
        })
    }

    fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1) as u32
    }

    fn crash_loop(&self) -> bool {
        self.backoff.is_loop(&self.spec.restart, self.now())
    }
}

/// A moment to come in wall time, from what is left until then: a clock that is set does not make it wrong.
fn moment(at: Instant) -> Timestamp {
    let left = at.saturating_duration_since(Instant::now());
    Timestamp(Timestamp::now().0.saturating_add(left.as_millis() as u64))
}
