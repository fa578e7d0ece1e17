//! Backups that are proven by restoring: what is dumped, sealed, stored, kept, verified, drilled, restored.
//!
//! One piece of work (a [`Job`]) is done by one process of its own ([`worker::main`]), which gets it on
//! standard input and says on standard output how it goes: secrets stand in no argument, and a dump that
//! runs wild takes nobody with it. Flow: [`Job`] → `take` (`engine` streams → `seal` → staging →
//! `store`) → `verify` → `drill` → `restore`. Invariants: a set is published whole or not at all; what
//! could not be verified is never called verified; nothing here touches a source but to read it, except
//! `restore`. Beside it `managed`: the servers of databases that we run. Not here: when something runs and where secrets come from (the control crate knows).

mod drill;
mod engine;
mod facts;
mod judge;
mod keys;
pub mod managed;
mod model;
mod open;
mod prune;
mod records;
mod report;
mod restore;
mod retention;
pub mod schedule;
mod seal;
mod set;
mod shut_in;
mod store;
mod take;
mod tool;
mod url;
mod verify;
mod work;
pub mod worker;

pub use facts::{DatabaseFacts, Difference};
pub use judge::State;
pub use keys::{OwnerKey, make_owner_key, recipient_problem};
pub use model::{
    Action, Event, Folders, Item, Job, RestoreTarget, Rules, RunAs, Source, StoreAt, StorePlace,
};
pub use records::{Check, DrillRecord, History, Run};
pub use report::{Drilled, ItemReport, Pruned, Restored, SetReport, StoreReport, Taken, Verified};
pub use set::{Part, Set, SetId};
