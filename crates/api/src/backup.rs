//! Words of `POST /v1/backup` and `POST /v1/backup/key`.
//!
//! The answer is one [`BackupProgress`] a line, the last one is [`BackupProgress::End`]. What an action came to is
//! a document of the backup crate, carried as it is: control adds nothing to it. Keys travel as the names of
//! files, never as values.

use std::path::PathBuf;

use seaworthy_base::{Fault, Timestamp};
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRequest {
    /// The project's folder (absolute): its manifest counts, whether the site runs or not.
    pub project: Option<PathBuf>,
    /// Without a folder: a site as it was last applied; not needed when there is one only.
    pub site: Option<String>,
    /// Which items, such as `database.main`; all that have a `backup` when empty.
    pub items: Vec<String>,
    /// What to do with them.
    pub action: BackupAction,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum BackupAction {
    /// Make backups.
    Now,
    /// Say what there is.
    List,
    /// Re-read what is stored.
    Verify {
        /// Everything, not only what is due.
        full: bool,
        /// Only this one.
        id: Option<String>,
    },
    /// Restore into a scratch place and compare.
    Drill {
        /// Which; the newest when absent.
        id: Option<String>,
        /// From which store.
        store: Option<String>,
    },
    /// Bring back.
    Restore(RestoreRequest),
    /// Remove what the rules no longer keep.
    Prune {
        /// Only say what would go.
        plan_only: bool,
    },
}

/// Details of a restore. Without `into` and `to` it is in place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// Which; the newest when absent.
    pub id: Option<String>,
    /// The newest at or before this time.
    pub at: Option<Timestamp>,
    /// From which store.
    pub store: Option<String>,
    /// A new database, folder or file of that name.
    pub into: Option<String>,
    /// Another server or folder. A URL may hold a password, so it comes from a secret or a file: `secret:NAME`.
    pub to: Option<String>,
    /// The file with the owner's key (absolute).
    pub identity: Option<PathBuf>,
    /// The item's name again, typed by a person, for a restore in place.
    pub confirmed: Option<String>,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum BackupProgress {
    /// Work on an item begins.
    Item {
        /// Its name.
        item: String,
    },
    /// A step of it begins.
    Step {
        /// In words.
        text: String,
    },
    /// How far the step is, in bytes.
    Moved {
        /// Done.
        done: u64,
        /// In all, where known or guessed.
        total: Option<u64>,
    },
    /// Something that does not stop the work.
    Warning {
        /// What.
        fault: Fault,
    },
    /// An item is done.
    Done {
        /// Its name.
        item: String,
        /// What it came to.
        report: serde_json::Value,
    },
    /// An item could not be done.
    Failed {
        /// Its name; none when nothing was begun.
        item: Option<String>,
        /// Why.
        fault: Fault,
    },
    /// The end.
    End,
}

/// `GET /v1/backup/key`, and the answer to a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupKey {
    /// Version of the document.
    pub v: u32,
    /// Public halves of the owner's keys; the owner alone has the others.
    pub owner: Vec<String>,
}
