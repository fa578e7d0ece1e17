//! Two releases side by side: which instances of which of them are wanted, and which of them serve.
//!
//! A rollout is a phase, not a script: from the phase, the numbers and what is ready follows what is
//! wanted in each slot, so that a control process that starts in the middle goes on from there. Invariants
//! (played through in the tests): while an old release exists, there is at every moment one that serves
//! with all that it has, except where two may not run at the same time ([`View::exclusive`]); nothing of
//! the old one is given up before the switch. Not here: when a phase ends.

use serde::{Deserialize, Serialize};

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The new instances start and are tried; nobody is sent to them.
    Start {
        /// All of them, or the first of each service.
        all: bool,
    },
    /// So many of ten thousand visitors get the new release.
    Canary {
        /// The share.
        share: u16,
    },
    /// Slot by slot.
    Rolling,
    /// The old instances end before anything new starts.
    Stop,
    /// The new release serves; the old one is kept warm.
    Switched,
    /// The old release serves (again); the new one ends.
    Back,
}

/// Old or new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The release that serves before the switch.
    Now,
    /// The release that is to take its place.
    Next,
}

/// What an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everybody may be sent to it.
    Serve,
    /// Only those with the preview's key, or a share of the visitors.
    Candidate,
    /// It finishes what it has, and waits to be needed again.
    Standby,
}

/// What a slot of one side should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// An instance; one is started where there is none.
    Run,
    /// What there is stays; nothing is started.
    Keep,
    /// Nothing: what there is drains and ends.
    Nothing,
}

/// One service in the middle of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Where the rollout is.
    pub phase: Phase,
    /// Old and new must not run at the same time.
    pub exclusive: bool,
    /// Slots of the old release; 0 for a service that is new.
    pub now: u16,
    /// Slots of the new release; 0 for a service that goes away.
    pub next: u16,
    /// How many of the new release's first slots hold a ready instance, without a gap.
    pub leading: u16,
    /// Old instances that are kept after their slot was switched.
    pub warm: u16,
    /// Whether any instance of the old release lives.
    pub now_lives: bool,
    /// Whether any instance of the new release lives.
    pub next_lives: bool,
}

impl View {
    /// What a slot of a side should hold.
    pub fn want(&self, side: Side, slot: u16) -> Want {
        let count = if side == Side::Now { self.now } else { self.next };
        if slot >= count {
            return Want::Nothing;
        }
        match side {
            Side::Now => self.want_old(slot),
            Side::Next => self.want_new(slot),
        }
    }

    #[expect(clippy::match_same_arms, reason = "a table: one line for each phase")]
    fn want_old(&self, slot: u16) -> Want {
        let warm = if slot < self.warm { Want::Keep } else { Want::Nothing };
        match self.phase {
            Phase::Start { .. } | Phase::Canary { .. } => Want::Run,
            Phase::Rolling if slot >= self.leading => Want::Run,
            Phase::Switched if self.exclusive => Want::Nothing,
            Phase::Rolling | Phase::Switched => warm,
            Phase::Stop => Want::Nothing,
            Phase::Back if self.exclusive && self.next_lives => Want::Nothing,
            Phase::Back => Want::Run,
        }
    }

    #[expect(clippy::match_same_arms, reason = "a table: one line for each phase")]
    fn want_new(&self, slot: u16) -> Want {
        match self.phase {
            Phase::Start { all } if all || slot == 0 => Want::Run,
            Phase::Start { .. } => Want::Nothing,
            Phase::Canary { .. } => Want::Run,
            Phase::Rolling if slot <= self.leading => Want::Run,
            // One that lost its readiness meanwhile must not cost those after it.
            Phase::Rolling => Want::Keep,
            Phase::Switched if self.exclusive && self.now_lives => Want::Nothing,
            Phase::Switched => Want::Run,
            Phase::Stop | Phase::Back => Want::Nothing,
        }
    }

    /// What an instance in a slot of a side is for.
    #[expect(clippy::match_same_arms, reason = "a table: one line for each phase")]
    pub fn role(&self, side: Side, slot: u16) -> Role {
        match (self.phase, side) {
            (Phase::Start { .. } | Phase::Canary { .. }, Side::Next) => Role::Candidate,
            (Phase::Start { .. } | Phase::Canary { .. } | Phase::Back, Side::Now) => Role::Serve,
            (Phase::Rolling, Side::Next) if slot >= self.leading => Role::Candidate,
            (Phase::Rolling, Side::Now) if slot >= self.leading => Role::Serve,
            (Phase::Rolling | Phase::Switched, Side::Next) => Role::Serve,
            (Phase::Rolling | Phase::Switched | Phase::Stop, Side::Now) => Role::Standby,
            (Phase::Stop | Phase::Back, Side::Next) => Role::Standby,
        }
    }
}

#[cfg(test)]
mod tests;
