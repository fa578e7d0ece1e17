//! What the actions come to, as documents for people and scripts.

use seaworthy_base::{Fault, Timestamp};
use serde::{Deserialize, Serialize};

use crate::facts::Difference;
use crate::judge::State;
use crate::records::{DrillRecord, Run};
use crate::set::{Set, SetId};

/// What `backup now` came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// The set.
    pub set: Set,
    /// The stores that have it, re-read and found good.
    pub stores: Vec<String>,
    /// The stores that do not.
    pub failed: Vec<StoreReport>,
    /// Sets that went, by the rules of retention.
    pub removed: Vec<(String, SetId)>,
}

/// A store that could not be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Its name.
    pub store: String,
    /// Why.
    pub fault: Fault,
}

/// One set in `backup list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetReport {
    /// The set.
    pub set: Set,
    /// Each store that has it, and what may be said of that copy.
    pub copies: Vec<(String, State)>,
    /// Its last drill.
    pub drill: Option<DrillRecord>,
}

/// One item in `backup list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemReport {
    /// The site.
    pub site: String,
    /// The item.
    pub item: String,
    /// The engine.
    pub engine: String,
    /// Its sets, newest first.
    pub sets: Vec<SetReport>,
    /// Stores that could not be asked.
    pub failed: Vec<StoreReport>,
    /// The last run.
    pub last_run: Option<Run>,
    /// The last drill, whatever its set.
    pub last_drill: Option<DrillRecord>,
    /// When that was seen.
    pub at: Timestamp,
    /// Declared: how old the newest good backup may be.
    pub rpo_ms: Option<u64>,
    /// Declared: how long a restore may take.
    pub rto_ms: Option<u64>,
}

impl ItemReport {
    /// The newest set of which a copy is verified.
    pub fn newest_verified(&self) -> Option<&SetReport> {
        self.sets.iter().find(|set| set.copies.iter().any(|(_, state)| *state == State::Verified))
    }

    /// How old the newest verified set is: what would be lost now.
    pub fn rpo_now_ms(&self) -> Option<u64> {
        self.newest_verified().map(|set| self.at.since(set.set.taken).as_millis() as u64)
    }

    /// How long the last restore of a drill took.
    pub fn rto_measured_ms(&self) -> Option<u64> {
        self.last_drill.as_ref().filter(|drill| drill.fault.is_none()).map(|drill| drill.took_ms)
    }
}

/// What `backup verify` came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// The item.
    pub item: String,
    /// Each copy that was looked at: set, store, whether its content was read now, what may be said.
    pub copies: Vec<(SetId, String, bool, State)>,
    /// Bytes read.
    pub read_bytes: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// What `backup drill` came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drilled {
    /// The item.
    pub item: String,
    /// What was done.
    pub drill: DrillRecord,
    /// Rows (or keys, or files) that were compared.
    pub rows: u64,
    /// Differences, again for scripts.
    pub differences: Vec<Difference>,
}

/// What `backup restore` came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// The item.
    pub item: String,
    /// Which set.
    pub set: SetId,
    /// From which store.
    pub store: String,
    /// Where it went, without a password.
    pub to: String,
    /// Where the content that it replaced is now.
    pub before: Option<String>,
    /// The backup of the live data that was made first.
    pub safety: Option<SetId>,
    /// Bytes restored.
    pub bytes: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// What `backup prune` came to, or would.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pruned {
    /// The item.
    pub item: String,
    /// Store, set, and why it stays; without reasons it went.
    pub sets: Vec<(String, SetId, Vec<String>)>,
    /// Nothing was done, only shown.
    pub plan_only: bool,
    /// Bytes that went.
    pub bytes: u64,
}
