//! A piece of work as control hands it to the worker, and what the worker says while it does it.
//!
//! Invariants: everything the worker needs is in the [`Job`] (it reads no manifest and no vault); values
//! that are secret are only ever written to its standard input. Sizes are bytes, times milliseconds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use seaworthy_base::{Fault, Keep, Timestamp};
use serde::{Deserialize, Serialize};

/// One piece of work on one item of one site.
#[derive(Clone, Serialize, Deserialize)]
pub struct Job {
    /// The site.
    pub site: String,
    /// What is backed up.
    pub item: Item,
    /// Where it goes, the first is asked first.
    pub stores: Vec<StoreAt>,
    /// Folders of the platform.
    pub folders: Folders,
    /// As whom tools and scratch servers run; ourselves when absent.
    pub run_as: Option<RunAs>,
    /// age recipients of the owner.
    pub owner: Vec<String>,
    /// Whether to wait for another run on the same item.
    pub patient: bool,
    /// A store, a server or a tool that moves nothing for so long is given up; what fits each of them when absent.
    #[serde(default)]
    pub stall_ms: Option<u64>,
    /// What to do.
    pub action: Action,
}

/// Shows what may be shown of a type that holds secrets.
macro_rules! debug_without_secrets {
    ($($type:ident: $shown:expr;)*) => {$(
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let shown: fn(&Self) -> &str = $shown;
                f.debug_tuple(stringify!($type)).field(&shown(self)).finish()
            }
        }
    )*};
}

debug_without_secrets! {
    Item: |item| &item.name;
    Source: |source| source.engine();
    StoreAt: |store| &store.name;
    StorePlace: |place| place.kind();
}

impl std::fmt::Debug for Job {
    /// Without the source and the stores: they hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("site", &self.site)
            .field("item", &self.item.name)
            .finish_non_exhaustive()
    }
}

/// A system user by numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// Folders of the platform that backups use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folders {
    /// Keys, records, staging, scratch.
    pub state: PathBuf,
    /// Short paths for sockets.
    pub run: PathBuf,
}

/// What is backed up, and by which rules.
#[derive(Clone, Serialize, Deserialize)]
pub struct Item {
    /// Such as `database.main`.
    pub name: String,
    /// Where its content is.
    pub source: Source,
    /// What holds for it.
    pub rules: Rules,
    /// The item with the log of its server, by which it can be restored to any moment.
    #[serde(default)]
    pub log: Option<String>,
}

/// What holds for the backups of an item.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// What is kept.
    pub keep: Keep,
    /// The owner's own questions at a drill: each must answer with a first value that is true.
    pub sql: Vec<String>,
    /// How old the newest good backup may be.
    pub rpo_ms: Option<u64>,
    /// How long a restore may take.
    pub rto_ms: Option<u64>,
    /// For a log: any moment of so long ago can be restored. Instead of `keep`.
    #[serde(default)]
    pub window_ms: Option<u64>,
}

/// Where the content is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "engine")]
pub enum Source {
    /// PostgreSQL.
    Postgres {
        /// `postgres://…`.
        url: String,
        /// Names of databases with `*` or `%`; that of the URL when absent.
        databases: Option<String>,
    },
    /// A PostgreSQL server's log with base backups of the whole server.
    PostgresLog {
        /// `postgres://…`.
        url: String,
    },
    /// Pieces of that log that were received.
    Segments {
        /// Where they are.
        folder: PathBuf,
        /// Their names.
        names: Vec<String>,
        /// What is known of them.
        facts: BTreeMap<String, String>,
    },
    /// MariaDB or MySQL.
    Mysql {
        /// `mysql://…`.
        url: String,
        /// Names of databases with `*` or `%`; that of the URL when absent.
        databases: Option<String>,
    },
    /// A SQLite file.
    Sqlite {
        /// Where it is.
        path: PathBuf,
    },
    /// Redis or Valkey.
    Redis {
        /// `redis://…`.
        url: String,
    },
    /// Files and folders.
    Files {
        /// Name in the backup, and where it is.
        trees: Vec<(String, PathBuf)>,
    },
}

impl Source {
    /// The engine's name, as it stands in a set.
    pub fn engine(&self) -> &'static str {
        match self {
            Self::Postgres { .. } => "postgres",
            Self::PostgresLog { .. } | Self::Segments { .. } => "postgres-log",
            Self::Mysql { .. } => "mysql",
            Self::Sqlite { .. } => "sqlite",
            Self::Redis { .. } => "redis",
            Self::Files { .. } => "files",
        }
    }
}

/// A store by name.
#[derive(Clone, Serialize, Deserialize)]
pub struct StoreAt {
    /// Its name in the manifest; `local` is the one that is always there.
    pub name: String,
    /// Where it is.
    pub place: StorePlace,
}

/// Where a store is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum StorePlace {
    /// A folder of this machine (or mounted on it).
    Folder {
        /// Which.
        path: PathBuf,
    },
    /// S3 or what speaks like it.
    S3 {
        /// Bucket.
        bucket: String,
        /// Put before each key.
        prefix: String,
        /// `https://host` of another provider.
        endpoint: Option<String>,
        /// Region.
        region: String,
        /// Access key and secret key; from the environment when absent.
        key: Option<(String, String)>,
    },
    /// SFTP.
    Sftp {
        /// Host.
        host: String,
        /// Port.
        port: u16,
        /// User.
        user: Option<String>,
        /// Folder there.
        path: String,
        /// Private key (OpenSSH's format); that of the user's agent or files when absent.
        key: Option<String>,
        /// The server's public keys as `known_hosts` lines have them; those of the system when absent.
        host_key: Option<String>,
    },
}

impl StorePlace {
    fn kind(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "folder",
            Self::S3 { .. } => "s3",
            Self::Sftp { .. } => "sftp",
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Make a backup.
    Take {
        /// `schedule`, `asked`, `before-restore`, `before-migration`.
        reason: String,
    },
    /// Say what there is.
    List,
    /// Re-read what is stored.
    Verify {
        /// Everything, not only what is due.
        full: bool,
        /// Only this set.
        set: Option<String>,
    },
    /// Restore into a scratch server and compare.
    Drill {
        /// Which set; the newest when absent.
        set: Option<String>,
        /// From which store; the first that has it when absent.
        store: Option<String>,
    },
    /// Bring back.
    Restore {
        /// An id, or the newest at or before `at`; the newest when both are absent.
        set: Option<String>,
        /// A time.
        at: Option<Timestamp>,
        /// From which store.
        store: Option<String>,
        /// Where to.
        target: RestoreTarget,
        /// The owner's identity (the text of an age key file), when the server's own key cannot open it.
        identity: Option<String>,
    },
    /// Receive a server's log and store it, until standard input ends.
    Follow {
        /// How often what was received is stored.
        every_ms: u64,
    },
    /// Remove what the rules no longer keep.
    Prune {
        /// Only say what would go.
        plan_only: bool,
    },
}

/// Where a restore goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "target")]
pub enum RestoreTarget {
    /// Where it came from: beside the live data first, then swapped with it.
    InPlace,
    /// A new database (or folder, or file) of that name beside the live one.
    Into {
        /// Its name.
        name: String,
    },
    /// Another server or folder.
    To {
        /// URL or path.
        url: String,
    },
}

/// What the worker says, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A step begins.
    Step {
        /// What is done, in words.
        text: String,
    },
    /// How far the step is.
    Moved {
        /// Bytes done.
        done: u64,
        /// Bytes in all, where they are known or guessed.
        total: Option<u64>,
    },
    /// Something that is not as it should be but does not stop the work.
    Warning {
        /// What.
        fault: Fault,
    },
    /// The end: done. What it came to depends on the action.
    Done {
        /// A [`crate::Taken`], [`crate::ItemReport`], …
        report: serde_json::Value,
    },
    /// The end: not done.
    Failed {
        /// Why.
        fault: Fault,
    },
}
