//! The records, as they are stored.

use std::path::PathBuf;

use seaworthy_base::{Fault, InstanceId, ReleaseId, SiteName, Timestamp};
use serde::{Deserialize, Serialize};

/// Whether something should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    /// It should.
    Running,
    /// It should not.
    Stopped,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRecord {
    /// Given by the store; 0 asks for a new one.
    pub id: u64,
    /// Its name.
    pub name: SiteName,
    /// Its folder.
    pub project: PathBuf,
    /// The manifest as it was applied.
    pub manifest_text: String,
    /// What was made of it (control's own form).
    pub site_json: String,
    /// The wanted release.
    pub release: Option<ReleaseId>,
    /// Whether it should run.
    pub desired: Desired,
    /// Whether `up` brought it.
    pub started_by_up: bool,
    /// When it was applied.
    pub applied: Timestamp,
    /// What else control keeps of it, in its own form: a rollout that goes on, switches set by hand.
    #[serde(default)]
    pub more: String,
}

/// Where an instance is in its life, as far as control decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceState {
    /// It should serve.
    Wanted,
    /// It is being taken out.
    Draining,
    /// It ended.
    Gone,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Which one.
    pub id: InstanceId,
    /// Hash of its specification.
    pub spec_hash: String,
    /// Its release.
    pub release: ReleaseId,
    /// Its run folder.
    pub run_dir: PathBuf,
    /// The boot in which it was started.
    pub boot_id: String,
    /// When it was started.
    pub created: Timestamp,
    /// What is decided about it.
    pub state: InstanceState,
}

/// How far a release came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseState {
    /// Begun.
    Building,
    /// Built.
    Built,
    /// Built and migrated: it may serve.
    Migrated,
    /// Serves, or served.
    Live,
    /// Did not come up.
    Failed,
    /// Its files are removed.
    Retired,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// Its site.
    pub site: SiteName,
    /// Its id.
    pub id: ReleaseId,
    /// Its folder.
    pub dir: PathBuf,
    /// When it was made.
    pub created: Timestamp,
    /// SHA-256 of its content.
    pub content_hash: String,
    /// How far it came.
    pub state: ReleaseState,
    /// Why it failed.
    pub note: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Given by the store.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// In which site.
    pub site: Option<String>,
    /// To which instance.
    pub instance: Option<String>,
    /// What kind.
    pub kind: String,
    /// In words.
    pub text: String,
    /// With which fault.
    pub fault: Option<Fault>,
}
