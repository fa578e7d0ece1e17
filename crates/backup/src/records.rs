//! What this server remembers of an item's backups: documents, checks of each copy, runs, drills.
//!
//! All of it can be made again from the stores by reading them; what is lost with it is only when something
//! was last proven, and then it counts as unproven. Invariants: every write is atomic; one worker at a time
//! holds an item's lock and writes. Control only reads. Not here: what follows from it (`judge`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault, Timestamp};
use seaworthy_sys::files::{create_private_dir, write_atomically};
use seaworthy_sys::process::Lock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::facts::Difference;
use crate::set::{Set, SetId};
use crate::store::Stamp;

/// Runs and drills kept.
const KEPT: usize = 200;

/// A run of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub took_ms: u64,
    /// Why it was made.
    pub reason: String,
    /// What it made.
    pub set: Option<SetId>,
    /// Why it did not succeed.
    pub fault: Option<Fault>,
}

/// A drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// When it began.
    pub at: Timestamp,
    /// Which set.
    pub set: SetId,
    /// From which store.
    pub store: String,
    /// How long the restore took, from the first byte fetched to a server that answers.
    pub took_ms: u64,
    /// What came back otherwise than it was saved.
    pub differences: Vec<Difference>,
    /// Why it failed, or could not be done (then the set stays unverified).
    pub fault: Option<Fault>,
}

/// Runs and drills, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Runs.
    pub runs: Vec<Run>,
    /// Drills.
    pub drills: Vec<DrillRecord>,
}

impl History {
    /// Reads an item's history; none when it was never backed up here.
    pub fn read(state: &Path, site: &str, item: &str) -> Self {
        read_json(&folder(state, site, item).join("history.json")).unwrap_or_default()
    }

    /// Failed runs since the last that succeeded.
    pub fn failures(&self) -> u32 {
        self.runs.iter().rev().take_while(|run| run.fault.is_some()).count() as u32
    }
}

/// What is known of one copy of a set in one store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// When all of its content was last re-read.
    pub read_at: Option<Timestamp>,
    /// The stamps of its parts at that time.
    pub(crate) stamps: BTreeMap<String, Stamp>,
    /// What is wrong with it.
    pub fault: Option<Fault>,
}

/// Checks by `ID@STORE`.
pub(crate) type Checks = BTreeMap<String, Check>;

/// The records of one item, held by one worker.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
    /// Runs and drills.
    pub history: History,
    /// What is known of each copy.
    pub checks: Checks,
    _lock: Option<Lock>,
}

fn folder(state: &Path, site: &str, item: &str) -> PathBuf {
    state.join("records").join(site).join(item)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn failed(path: &Path, error: &io::Error) -> Fault {
    crate::seal::write_fault(
        format!("could not write the records of backups, `{}`", path.display()),
        error,
    )
}

impl Records {
    /// Opens an item's records for writing; refused while another worker holds them.
    pub(crate) fn open(state: &Path, site: &str, item: &str) -> Result<Self, Fault> {
        let dir = folder(state, site, item);
        create_private_dir(&state.join("records"), 0o700).map_err(|error| failed(&dir, &error))?;
        create_private_dir(&dir, 0o700).map_err(|error| failed(&dir, &error))?;
        let lock = Lock::try_acquire(&dir.join("lock")).map_err(|error| failed(&dir, &error))?;
        let Some(lock) = lock else {
            return Err(Fault::new(
                Code::BackupBusy,
                format!("another run works on the backups of `{item}`"),
            )
            .next("wait for it to end; seaworthy backup list shows what it came to"));
        };
        Ok(Self { _lock: Some(lock), ..Self::look(state, site, item) })
    }

    /// Opens an item's records for reading.
    pub(crate) fn look(state: &Path, site: &str, item: &str) -> Self {
        let dir = folder(state, site, item);
        Self {
            history: History::read(state, site, item),
            checks: read_json(&dir.join("checks.json")).unwrap_or_default(),
            dir,
            _lock: None,
        }
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Fault> {
        let path = self.dir.join(name);
        let bytes = serde_json::to_vec(value).map_err(|error| failed(&path, &error.into()))?;
        write_atomically(&path, &bytes, 0o600).map_err(|error| failed(&path, &error))
    }

    /// Notes a run.
    pub(crate) fn add_run(&mut self, run: Run) -> Result<(), Fault> {
        self.history.runs.push(run);
        let surplus = self.history.runs.len().saturating_sub(KEPT);
        self.history.runs.drain(..surplus);
        self.write("history.json", &self.history)
    }

    /// Notes a drill.
    pub(crate) fn add_drill(&mut self, drill: DrillRecord) -> Result<(), Fault> {
        self.history.drills.push(drill);
        let surplus = self.history.drills.len().saturating_sub(KEPT);
        self.history.drills.drain(..surplus);
        self.write("history.json", &self.history)
    }

    /// Notes what is known of a copy.
    pub(crate) fn put_check(&mut self, id: &SetId, store: &str, check: Check) -> Result<(), Fault> {
        self.checks.insert(format!("{id}@{store}"), check);
        self.write("checks.json", &self.checks)
    }

    /// Forgets a copy.
    pub(crate) fn forget(&mut self, id: &SetId, store: &str) -> Result<(), Fault> {
        self.checks.remove(&format!("{id}@{store}"));
        self.write("checks.json", &self.checks)
    }

    /// What is known of a copy.
    pub(crate) fn check(&self, id: &SetId, store: &str) -> Option<&Check> {
        self.checks.get(&format!("{id}@{store}"))
    }

    /// The document of a set as it was when it was made or first seen here.
    pub(crate) fn known_set(&self, id: &SetId) -> Option<Set> {
        Set::read(&fs::read(self.dir.join(format!("{id}.json"))).ok()?).ok()
    }

    /// Keeps a set's document: remote stores need not be asked for it again.
    pub(crate) fn keep_set(&self, set: &Set) -> Result<(), Fault> {
        let path = self.dir.join(format!("{}.json", set.id));
        write_atomically(&path, &set.document()?, 0o600).map_err(|error| failed(&path, &error))
    }

    /// Forgets the document of a set that no store has any more.
    pub(crate) fn drop_set(&self, id: &SetId) {
        fs::remove_file(self.dir.join(format!("{id}.json"))).ok();
    }
}
