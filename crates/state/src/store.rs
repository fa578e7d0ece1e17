//! The store: one connection, every call one transaction.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, params};
use seaworthy_base::{InstanceId, ServiceName, SiteName};
use seaworthy_sys::files::write_atomically;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::model::{EventRecord, InstanceRecord, InstanceState, ReleaseRecord, SiteRecord};

/// The layout of the state folder; a later layout is refused.
const LAYOUT: &str = "1";
/// The schema's version. Migrations only add, so that the previous build still opens it.
const SCHEMA: u32 = 1;
/// Events kept.
const EVENTS: u32 = 10_000;
/// Freed when the disk is full, so that the state can still be written.
const BALLAST: usize = 1 << 20;

/// Why the state could not be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// The folder cannot be used.
    #[error("could not use the state folder `{}`", dir.display())]
    Unwritable {
        /// Which.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Written by a later build.
    #[error("`{}` was written by a later build (version {found}, this one knows {SCHEMA})", file.display())]
    TooNew {
        /// Which file.
        file: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The disk is full, and so was the ballast used up.
    #[error("the disk is full")]
    DiskFull {
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The database is damaged.
    #[error("`{}` is damaged", file.display())]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// Anything else that SQLite refused.
    #[error("the state store refused a call")]
    Query(#[source] rusqlite::Error),
    /// A record that cannot be read by this build.
    #[error("a record of `{table}` cannot be read by this build")]
    Record {
        /// Where it stands.
        table: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The open store.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    dir: PathBuf,
}

type Result<T> = std::result::Result<T, StateError>;

impl Store {
    /// Opens the store in `dir`, making and migrating it as needed.
    pub fn open(dir: &Path) -> Result<Self> {
        let unwritable = |source| StateError::Unwritable { dir: dir.to_path_buf(), source };
        fs::create_dir_all(dir).map_err(unwritable)?;
        check_layout(dir)?;
        let file = dir.join("state.db");
        let connection = Connection::open(&file).map_err(|source| sort_error(source, dir))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(unwritable)?;
        let store = Self { connection, dir: dir.to_path_buf() };
        store.prepare(&file)?;
        store.ensure_ballast();
        Ok(store)
    }

    fn prepare(&self, file: &Path) -> Result<()> {
        let run = |sql: &str| self.connection.execute_batch(sql).map_err(|source| sort_error(source, &self.dir));
        self.connection.busy_timeout(Duration::from_secs(10)).map_err(StateError::Query)?;
        run("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
        let found: u32 = self.connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|source| sort_error(source, &self.dir))?;
        if found > SCHEMA {
            return Err(StateError::TooNew { file: file.to_path_buf(), found });
        }
        run("BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS sites (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS instances (id TEXT PRIMARY KEY, record TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS releases (site TEXT NOT NULL, number INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (site, number));
             CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT, record TEXT NOT NULL);
             PRAGMA user_version = 1;
             COMMIT;")
    }

    /// Adds or replaces a site by name; returns its id, which it keeps for ever.
    pub fn put_site(&self, site: &SiteRecord) -> Result<u64> {
        let known: Option<i64> = self.one("SELECT id FROM sites WHERE name = ?1", params![site.name.as_str()])?;
        let id = if let Some(id) = known {
            id
        } else {
            self.write("INSERT INTO sites (name, record) VALUES (?1, '')", params![site.name.as_str()])?;
            self.connection.last_insert_rowid()
        };
        let record = SiteRecord { id: id as u64, ..site.clone() };
        self.write("UPDATE sites SET record = ?2 WHERE id = ?1", params![id, json(&record)])?;
        Ok(id as u64)
    }

    /// All sites, by name. One that was cut off between its two writes is left out.
    pub fn sites(&self) -> Result<Vec<SiteRecord>> {
        self.all("sites", "SELECT record FROM sites WHERE record <> '' ORDER BY name", [])
    }

    /// The next number for a release of a site.
    pub fn next_release_number(&self, site: &SiteName) -> Result<u32> {
        self.count(&format!("release:{site}"))
    }

    /// Adds or replaces an instance.
    pub fn put_instance(&self, instance: &InstanceRecord) -> Result<()> {
        self.write("INSERT OR REPLACE INTO instances (id, record) VALUES (?1, ?2)", params![instance.id.to_string(), json(instance)])
    }

    /// All instances.
    pub fn instances(&self) -> Result<Vec<InstanceRecord>> {
        self.all("instances", "SELECT record FROM instances ORDER BY id", [])
    }

    /// Changes what is decided about an instance; nothing happens when it is not there.
    pub fn set_instance_state(&self, id: &InstanceId, state: InstanceState) -> Result<()> {
        let found: Vec<InstanceRecord> = self.all("instances", "SELECT record FROM instances WHERE id = ?1", params![id.to_string()])?;
        found.into_iter().try_for_each(|record| self.put_instance(&InstanceRecord { state, ..record }))
    }

    /// Forgets an instance.
    pub fn remove_instance(&self, id: &InstanceId) -> Result<()> {
        self.write("DELETE FROM instances WHERE id = ?1", params![id.to_string()])
    }

    /// The next generation for an instance of a service.
    pub fn next_generation(&self, site: &SiteName, service: &ServiceName) -> Result<u32> {
        self.count(&format!("generation:{site}/{service}"))
    }

    /// Adds or replaces a release.
    pub fn put_release(&self, release: &ReleaseRecord) -> Result<()> {
        self.write(
            "INSERT OR REPLACE INTO releases (site, number, record) VALUES (?1, ?2, ?3)",
            params![release.site.as_str(), release.id.number, json(release)],
        )
    }

    /// Releases of a site, oldest first.
    pub fn releases(&self, site: &SiteName) -> Result<Vec<ReleaseRecord>> {
        self.all("releases", "SELECT record FROM releases WHERE site = ?1 ORDER BY number", params![site.as_str()])
    }

    /// A setting.
    pub fn get_setting(&self, name: &str) -> Result<Option<String>> {
        self.one("SELECT value FROM settings WHERE name = ?1", params![name])
    }

    /// Sets a setting.
    pub fn put_setting(&self, name: &str, value: &str) -> Result<()> {
        self.write("INSERT OR REPLACE INTO settings (name, value) VALUES (?1, ?2)", params![name, value])
    }

    /// Adds an event; the oldest beyond ten thousand go.
    pub fn append_event(&self, event: &EventRecord) -> Result<()> {
        self.write("INSERT INTO events (site, record) VALUES (?1, ?2)", params![event.site, json(event)])?;
        self.write("DELETE FROM events WHERE id <= ?1", params![self.connection.last_insert_rowid() - i64::from(EVENTS)])
    }

    /// The newest events of a site (or of all), newest first.
    pub fn recent_events(&self, site: Option<&str>, limit: u32) -> Result<Vec<EventRecord>> {
        self.all("events", "SELECT record FROM events WHERE ?1 IS NULL OR site = ?1 ORDER BY id DESC LIMIT ?2", params![site, limit])
    }

    fn count(&self, name: &str) -> Result<u32> {
        self.write("INSERT INTO counters (name, value) VALUES (?1, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1", params![name])?;
        Ok(self.one("SELECT value FROM counters WHERE name = ?1", params![name])?.unwrap_or(1))
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str, params: impl Params) -> Result<Option<T>> {
        let row = self.connection.query_row(sql, params, |row| row.get(0)).optional();
        row.map_err(|source| sort_error(source, &self.dir))
    }

    fn all<T: DeserializeOwned>(&self, table: &'static str, sql: &str, params: impl Params) -> Result<Vec<T>> {
        let failed = |source| sort_error(source, &self.dir);
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let rows = statement.query_map(params, |row| row.get::<_, String>(0)).map_err(failed)?;
        rows.map(|row| {
            let text = row.map_err(failed)?;
            serde_json::from_str(&text).map_err(|source| StateError::Record { table, source })
        })
        .collect()
    }

    /// One write; on a full disk the ballast is thrown out and it is tried once more.
    fn write(&self, sql: &str, params: impl Params + Clone) -> Result<()> {
        let run = |params| {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.execute(params).map(drop)
        };
        match run(params.clone()) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) && self.release_ballast() => {
                run(params).map_err(|source| sort_error(source, &self.dir))
            }
            other => other.map_err(|source| sort_error(source, &self.dir)),
        }
    }

    fn release_ballast(&self) -> bool {
        fs::remove_file(self.dir.join("ballast")).is_ok()
    }

    /// Best effort: a disk without room for a megabyte is full already.
    fn ensure_ballast(&self) {
        let path = self.dir.join("ballast");
        if !path.exists() {
            write_atomically(&path, &vec![0; BALLAST], 0o600).ok();
        }
    }
}

fn check_layout(dir: &Path) -> Result<()> {
    let file = dir.join("LAYOUT");
    match fs::read_to_string(&file) {
        Ok(text) if text.trim() == LAYOUT => Ok(()),
        Ok(text) => Err(StateError::TooNew { file, found: text.trim().parse().unwrap_or(0) }),
        Err(_) => write_atomically(&file, LAYOUT.as_bytes(), 0o644).map_err(|source| StateError::Unwritable { dir: dir.to_path_buf(), source }),
    }
}

fn json(record: &impl Serialize) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

fn sort_error(source: rusqlite::Error, dir: &Path) -> StateError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StateError::DiskFull { source },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StateError::Corrupt { file: dir.join("state.db"), source },
        _ => StateError::Query(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Desired;
    use seaworthy_base::Timestamp;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    fn site(name: &str) -> SiteRecord {
        SiteRecord {
            id: 0,
            name: name.parse().unwrap(),
            project: "/p".into(),
            manifest_text: String::new(),
            site_json: "{}".to_owned(),
            release: None,
            desired: Desired::Running,
            started_by_up: true,
            applied: Timestamp(1),
        }
    }

    #[test]
    fn a_site_keeps_its_id_and_numbers_are_never_given_out_twice() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = store.put_site(&site("a")).unwrap();
        assert_eq!(store.put_site(&site("a")).unwrap(), id);
        assert_ne!(store.put_site(&site("b")).unwrap(), id);
        let name = "a".parse().unwrap();
        assert_eq!([store.next_release_number(&name).unwrap(), store.next_release_number(&name).unwrap()], [1, 2]);
        drop(store);
        assert_eq!(Store::open(dir.path()).unwrap().next_release_number(&name).unwrap(), 3);
    }

    #[test]
    fn a_later_or_damaged_state_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap().connection.execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(Store::open(dir.path()).unwrap_err(), StateError::TooNew { found: 99, .. }));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state.db"), vec![7; 9000]).unwrap();
        assert!(matches!(Store::open(dir.path()).unwrap_err(), StateError::Corrupt { .. }));
    }

    /// Not a test of its own: the child of the one below, which kills it.
    #[test]
    fn writer_that_is_killed() {
        let Some(dir) = std::env::var_os("STATE_TEST_WRITER") else { return };
        let store = Store::open(Path::new(&dir)).unwrap();
        for number in 0.. {
            store.put_setting("number", &number.to_string()).unwrap();
            println!("acknowledged {number}");
        }
    }

    #[test]
    fn the_last_acknowledged_write_survives_a_kill_at_any_moment() {
        let dir = tempfile::tempdir().unwrap();
        for lines in [1, 7, 20, 45] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "store::tests::writer_that_is_killed", "--nocapture"])
                .env("STATE_TEST_WRITER", dir.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut seen: Option<u64> = None;
            let output = BufReader::new(child.stdout.take().unwrap());
            let numbers = output.lines().map_while(std::result::Result::ok);
            for number in numbers.filter_map(|line| line.strip_prefix("acknowledged ").and_then(|text| text.parse().ok())).take(lines) {
                seen = Some(number);
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let check: String = store.one("PRAGMA integrity_check", []).unwrap().unwrap();
            assert_eq!(check, "ok");
            let kept: u64 = store.get_setting("number").unwrap().unwrap().parse().unwrap();
            assert!(kept >= seen.unwrap(), "{kept} is older than {seen:?}");
        }
    }
}
