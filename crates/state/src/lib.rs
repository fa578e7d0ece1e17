//! What must survive any crash: sites, instances, releases, settings, events, in one SQLite file.
//!
//! SQLite with a write-ahead log and `synchronous = FULL`: what was acknowledged is there after a power
//! cut, what was not is gone whole. Records are stored as JSON beside the columns they are found by, so
//! that a field can be added without a migration. Invariants: the only writer of `state.db`; numbers
//! (site ids, generations, releases) are never given out twice; secrets never come here. Not here:
//! decisions, caches.

mod model;
mod store;

pub use model::{
    Desired, EventRecord, InstanceRecord, InstanceState, ReleaseRecord, ReleaseState, SiteRecord,
};
pub use store::{AuditRow, Broken, StateError, Store};
