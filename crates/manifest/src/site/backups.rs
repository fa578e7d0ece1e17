//! What a site has backed up, and where to.

use std::collections::BTreeMap;
use std::time::Duration;

use seaworthy_base::{Keep, ServiceName};
use serde::{Deserialize, Serialize};

use super::EnvValue;

/// `[database.X]`, `[redis.X]`, `[files.X]` and `[store.X]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backups {
    /// By name, such as `database.main`.
    pub items: BTreeMap<String, Item>,
    /// By name; `local` is always there and not among them.
    pub stores: BTreeMap<String, Store>,
    /// `zone`: in which times of day are meant; the machine's when absent.
    pub zone: Option<String>,
}

impl Backups {
    /// What of it is on a server that we run.
    pub fn managed(&self) -> impl Iterator<Item = (&str, &Item)> {
        let servers = self
            .items
            .iter()
            .filter(|(_, item)| item.managed && !matches!(item.source, Source::PostgresLog { .. }));
        servers.map(|(name, item)| (name.as_str(), item))
    }
}

/// The name that the managed server of an item has among the site's services.
pub fn server_name(item: &str) -> Option<ServiceName> {
    item.replace('.', "-").parse().ok()
}

/// Something with content that is worth keeping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Where its content is.
    pub source: Source,
    /// How it is backed up; without, only when somebody asks.
    pub backup: Option<Rules>,
    /// Its server is run by us; `url` names the secret that is made for the application.
    #[serde(default)]
    pub managed: bool,
}

/// Where content is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A PostgreSQL server.
    Postgres {
        /// Its URL.
        url: EnvValue,
        /// Which databases.
        databases: Option<String>,
    },
    /// The log of the PostgreSQL server of another item, which is called the same but for `.log`.
    PostgresLog {
        /// Its URL.
        url: EnvValue,
    },
    /// A MariaDB or MySQL server.
    Mysql {
        /// Its URL.
        url: EnvValue,
        /// Which databases.
        databases: Option<String>,
    },
    /// A SQLite file.
    Sqlite {
        /// Where.
        path: String,
    },
    /// A Redis server.
    Redis {
        /// Its URL.
        url: EnvValue,
    },
    /// Files and folders.
    Files {
        /// Which.
        paths: Vec<String>,
    },
}

/// `backup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// When.
    pub rhythm: Rhythm,
    /// What stays.
    pub keep: Keep,
    /// Names of stores, `local` among them or not.
    pub to: Vec<String>,
    /// How often a backup is restored to prove it; never when absent.
    pub drill: Option<Duration>,
    /// Questions to the restored copy.
    pub drill_sql: Vec<String>,
    /// How old the newest verified backup may become.
    pub rpo: Option<Duration>,
    /// How long a restore may take.
    pub rto: Option<Duration>,
    /// How the server's log is kept.
    #[serde(default)]
    pub pitr: Option<Pitr>,
}

/// `backup.pitr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pitr {
    /// Any moment of so long ago can be restored.
    pub keep: Duration,
    /// A base backup is so much younger than the one after it.
    pub base: Duration,
    /// What was received is stored so often.
    pub every: Duration,
}

impl Default for Pitr {
    /// A week; a minute is what is lost with the machine.
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { keep: 7 * day, base: day, every: Duration::from_secs(60) }
    }
}

impl Default for Rules {
    /// Each night, proven each week.
    fn default() -> Self {
        Self {
            rhythm: Rhythm::At(2 * 60),
            keep: Keep::default(),
            to: vec!["local".to_owned()],
            drill: Some(Duration::from_secs(7 * 86_400)),
            drill_sql: Vec::new(),
            rpo: None,
            rto: None,
            pitr: None,
        }
    }
}

/// When something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rhythm {
    /// Each day at this minute of the day.
    At(u16),
    /// So long after the last time.
    Every(Duration),
}

/// `[store.X]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Where.
    pub place: Place,
    /// `key`.
    pub key: Option<EnvValue>,
    /// `secret`.
    pub secret: Option<EnvValue>,
    /// `encrypt`.
    pub encrypt: Vec<String>,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// `file:///path`.
    Folder(String),
    /// `s3://bucket/prefix`.
    S3 {
        /// Bucket.
        bucket: String,
        /// Prefix, without slashes at its ends.
        prefix: String,
        /// `endpoint`.
        endpoint: Option<String>,
        /// `region`.
        region: String,
    },
    /// `sftp://user@host:port/path`.
    Sftp {
        /// Host.
        host: String,
        /// Port.
        port: u16,
        /// User.
        user: Option<String>,
        /// Path: below the user's home, absolute when it begins with two slashes in the URL.
        path: String,
        /// `host_key`.
        host_key: Option<String>,
    },
}
