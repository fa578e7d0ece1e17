//! Releases, as far as they can be decided without doing anything: what a strategy wants next, what the
//! journal says, whether a new release is worse than the old one.
//!
//! Why apart from who does it (`control`): these are the decisions that must be right when everything
//! else fails, so they are functions of what is known, tested by playing them through. Invariants: nothing
//! here waits, reads or writes; a decision that is made again from the same facts is the same.

pub mod journal;
pub mod judge;
pub mod rollout;
pub mod schema;

pub use journal::{DataBack, Deployment, Ending, Owner, Point, Resolution, Step, StepRecord, Way};
pub use judge::{Counts, Rules, judge, judge_beside};
pub use rollout::{Phase, Role, Side, View, Want};
pub use schema::Ledger;
pub use seaworthy_manifest::site::Strategy;
