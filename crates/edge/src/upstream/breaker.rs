//! Circuit breakers: a service that fails is left alone for a while, then tried carefully.
//!
//! [`Machine`] decides, on a clock that it is told; [`Breaker`] is one that all threads share, for all
//! routes with the same rule to the same service. Invariants: it opens only after enough answers of which
//! too many were errors, all within the rule's time; while it is open nothing is sent; then [`PROBES`]
//! requests at most are under way at once, as many successes close it and one failure opens it again; a
//! probe whose client went away gives its place back; an open one is open for the next edge too (a table of all edges
//! says until when), though never for longer than the rule says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seaworthy_base::delivery::Breaker as Rule;

use crate::model::BreakerState;
use crate::policy::keys::ident;
use crate::table::Table;

/// Requests that try whether a service is back.
const PROBES: u32 = 3;
/// The window moves on by a tenth of its time.
const SLICES: usize = 10;

/// Answers within one slice of time.
#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    number: u64,
    all: u32,
    errors: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// Until then.
    Open(u64),
    /// So many are under way, so many came back well.
    HalfOpen {
        trying: u32,
        well: u32,
    },
}

/// Times in milliseconds.
#[derive(Debug)]
struct Machine {
    rule: Rule,
    slices: [Slice; SLICES],
    state: State,
    trips: u64,
}

/// How a request passed. Answers of one kind do not count for another state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Closed,
    /// Of the so many-th time that it was half open.
    Probe(u64),
}

impl Machine {
    fn new(rule: Rule) -> Self {
        Self { rule, slices: [Slice::default(); SLICES], state: State::Closed, trips: 0 }
    }

    fn enter(&mut self, now: u64) -> Option<Pass> {
        if let State::Open(until) = self.state {
            let longest = now + self.rule.open.as_millis() as u64;
            self.state = if now >= until {
                State::HalfOpen { trying: 0, well: 0 }
            } else {
                State::Open(until.min(longest))
            };
        }
        match &mut self.state {
            State::Closed => Some(Pass::Closed),
            State::Open(_) => None,
            State::HalfOpen { trying, well } => (*trying + *well < PROBES).then(|| {
                *trying += 1;
                Pass::Probe(self.trips)
            }),
        }
    }

    /// `failed`: none where nobody knows.
    fn leave(&mut self, pass: Pass, failed: Option<bool>, now: u64) {
        match (pass, &mut self.state) {
            (Pass::Closed, State::Closed) => {
                if let Some(failed) = failed {
                    self.count(failed, now);
                }
            }
            (Pass::Probe(trips), State::HalfOpen { trying, well }) if trips == self.trips => {
                *trying -= 1;
                *well += u32::from(failed == Some(false));
                if failed == Some(true) {
                    self.trip(now);
                } else if *well == PROBES {
                    self.state = State::Closed;
                    self.slices = [Slice::default(); SLICES];
                }
            }
            // Of a time that is over.
            _ => {}
        }
    }

    fn count(&mut self, failed: bool, now: u64) {
        let length = (self.rule.over.as_millis() as u64 / SLICES as u64).max(1);
        let number = now / length;
        let slice = &mut self.slices[number as usize % SLICES];
        if slice.number != number {
            *slice = Slice { number, all: 0, errors: 0 };
        }
        slice.all = slice.all.saturating_add(1);
        slice.errors = slice.errors.saturating_add(u32::from(failed));
        if !failed {
            return;
        }
        let fresh = self.slices.iter().filter(|one| one.number + SLICES as u64 > number);
        let (all, errors) = fresh.fold((0_u64, 0_u64), |(all, errors), one| {
            (all + u64::from(one.all), errors + u64::from(one.errors))
        });
        if all >= u64::from(self.rule.min_requests)
            && errors * 1000 >= all * u64::from(self.rule.errors)
        {
            self.trip(now);
        }
    }

    fn trip(&mut self, now: u64) {
        self.state = State::Open(now + self.rule.open.as_millis() as u64);
        self.trips += 1;
    }
}

/// One breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    machine: Mutex<Machine>,
    /// Where the table says until when it is open.
    key: u64,
    counts: Arc<Table>,
}

impl Breaker {
    /// As an earlier edge left it.
    fn new(service: &str, rule: &Rule, counts: &Arc<Table>) -> Self {
        let key = ident(service, &format!("{rule:?}")).max(1);
        let mut machine = Machine::new(rule.clone());
        if let Some(until) = counts.breakers().get(key) {
            machine.state = State::Open(until);
            machine.trips = 1;
        }
        Self { machine: Mutex::new(machine), key, counts: Arc::clone(counts) }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds until it lets something through; none while it does.
    pub(crate) fn closed_for(&self, now: u64) -> Option<u64> {
        match self.machine().state {
            State::Open(until) => until.checked_sub(now).filter(|left| *left > 0),
            State::Closed | State::HalfOpen { .. } => None,
        }
    }

    fn leave(&self, pass: Pass, failed: Option<bool>, now: u64) {
        let mut machine = self.machine();
        let before = machine.state;
        machine.leave(pass, failed, now);
        match (before, machine.state) {
            (State::Closed | State::HalfOpen { .. }, State::Open(until)) => {
                // Of too many the one that opens first gives way: it is the first that is of no use.
                let after = |_| Ok::<_, std::convert::Infallible>(until);
                let Ok(()) = self.counts.breakers().change(self.key, |state| !state, after);
            }
            (State::HalfOpen { .. }, State::Closed) => {
                self.counts.breakers().forget(self.key);
            }
            _ => {}
        }
    }

    /// Lets a request through, or not.
    pub(crate) fn enter(self: &Arc<Self>, now: u64) -> Option<Passage> {
        let pass = self.machine().enter(now)?;
        Some(Passage { breaker: Arc::clone(self), pass, settled: false })
    }
}

/// A request that was let through, until it is known how it went.
#[derive(Debug)]
pub(crate) struct Passage {
    breaker: Arc<Breaker>,
    pass: Pass,
    settled: bool,
}

impl Passage {
    /// How it went.
    pub(crate) fn settle(mut self, failed: bool, now: u64) {
        self.settled = true;
        self.breaker.leave(self.pass, Some(failed), now);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if !self.settled {
            // Nothing is counted, so that no time is needed.
            self.breaker.leave(self.pass, None, 0);
        }
    }
}

/// All breakers, by service and rule.
#[derive(Debug)]
pub(crate) struct Breakers {
    all: Mutex<HashMap<(String, Rule), Arc<Breaker>>>,
    counts: Arc<Table>,
}

impl Breakers {
    pub(crate) fn new(counts: Arc<Table>) -> Self {
        Self { all: Mutex::default(), counts }
    }

    /// The one for a rule of a route to a service; the same for all routes with that rule.
    pub(crate) fn of(&self, service: &str, rule: &Rule) -> Arc<Breaker> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Breaker::new(service, rule, &self.counts));
        Arc::clone(all.entry((service.to_owned(), rule.clone())).or_insert_with(fresh))
    }

    /// Forgets those that no route has any more.
    pub(crate) fn clean(&self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, breaker| Arc::strong_count(breaker) > 1);
    }

    /// Closes all of them, and forgets why they were open.
    pub(crate) fn close(&self) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for breaker in all.values() {
            let mut machine = breaker.machine();
            let (rule, trips) = (machine.rule.clone(), machine.trips);
            // What is under way of a time that is over changes nothing.
            *machine = Machine { trips, ..Machine::new(rule) };
        }
        self.counts.breakers().clear();
    }

    /// How they are.
    pub(crate) fn tell(&self, now: u64) -> Vec<BreakerState> {
        self.tell_of(|_| true, now)
    }

    /// How those of some services are.
    pub(crate) fn tell_of(&self, asked: impl Fn(&str) -> bool, now: u64) -> Vec<BreakerState> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told: Vec<BreakerState> = all
            .iter()
            .filter(|((service, _), _)| asked(service))
            .map(|((service, _), breaker)| {
                let machine = breaker.machine();
                let opens_in = match machine.state {
                    State::Closed => None,
                    State::Open(until) => Some(until.saturating_sub(now)),
                    State::HalfOpen { .. } => Some(0),
                };
                BreakerState { service: service.clone(), opens_in, trips: machine.trips }
            })
            .collect();
        told.sort_by(|a, b| (&a.service, a.trips).cmp(&(&b.service, b.trips)));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn machine() -> Machine {
        let seconds = Duration::from_secs;
        Machine::new(Rule { errors: 500, over: seconds(10), min_requests: 4, open: seconds(30) })
    }

    fn ask(machine: &mut Machine, failed: bool, now: u64) -> bool {
        let pass = machine.enter(now);
        pass.inspect(|pass| machine.leave(*pass, Some(failed), now)).is_some()
    }

    #[test]
    fn it_opens_when_too_many_of_enough_answers_are_errors_and_closes_after_probes() {
        let mut machine = machine();
        let answers = [true, false, false, true].map(|failed| ask(&mut machine, failed, 100));
        assert_eq!((answers, machine.trips), ([true; 4], 1));
        assert!(!ask(&mut machine, false, 30_099));
        // Three at once and no more; a client that goes away gives its place back.
        let probes: Vec<Pass> = (0..4).filter_map(|_| machine.enter(30_100)).collect();
        assert_eq!(probes.len(), 3);
        machine.leave(probes[0], None, 30_100);
        let again = machine.enter(30_100).unwrap();
        for pass in [probes[1], probes[2], again] {
            machine.leave(pass, Some(false), 30_200);
        }
        assert_eq!(machine.state, State::Closed);
        // What was before does not count.
        assert!(ask(&mut machine, true, 30_300) && machine.state == State::Closed);
    }

    #[test]
    fn one_failed_probe_opens_it_again_and_what_is_late_changes_nothing() {
        let mut machine = machine();
        let late = machine.enter(0).unwrap();
        (0..4).for_each(|_| assert!(ask(&mut machine, true, 0)));
        let (first, second) = (machine.enter(30_000).unwrap(), machine.enter(30_000).unwrap());
        machine.leave(first, Some(true), 31_000);
        assert_eq!((machine.state, machine.trips), (State::Open(61_000), 2));
        machine.leave(second, Some(false), 31_000);
        machine.leave(late, Some(true), 31_000);
        assert_eq!((machine.state, machine.trips), (State::Open(61_000), 2));
        let third = machine.enter(61_000).unwrap();
        machine.leave(second, Some(true), 61_000);
        assert_eq!(machine.state, State::HalfOpen { trying: 1, well: 0 });
        machine.leave(third, Some(false), 61_000);
    }

    #[test]
    fn errors_that_are_older_than_its_time_are_forgotten() {
        let mut machine = machine();
        for second in [0, 5, 10, 15, 20, 25] {
            assert!(ask(&mut machine, true, second * 1000));
        }
        assert_eq!(machine.state, State::Closed);
    }

    proptest! {
        #[test]
        fn nothing_passes_while_it_is_open_and_few_while_it_tries(
            steps in prop::collection::vec((0u64..4_000, prop::option::of(any::<bool>()), any::<bool>()), 1..300),
        ) {
            let (mut machine, mut now, mut under_way) = (machine(), 0, Vec::new());
            for (pause, result, enters) in steps {
                now += pause;
                if enters {
                    let before = machine.state;
                    let pass = machine.enter(now);
                    if let State::Open(until) = before {
                        prop_assert_eq!(pass.is_some(), now >= until);
                    }
                    under_way.extend(pass);
                } else if let Some(pass) = under_way.pop() {
                    machine.leave(pass, result, now);
                }
                if let State::HalfOpen { trying, well } = machine.state {
                    prop_assert!(trying + well <= PROBES);
                    let known = under_way.iter().filter(|pass| **pass == Pass::Probe(machine.trips));
                    prop_assert_eq!(known.count() as u32, trying);
                }
            }
        }
    }
}
