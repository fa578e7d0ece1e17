//! The store: one connection, every call one transaction.
//!
//! Invariants: a call that returned `Ok` is on the disk; one that failed left nothing behind. A full disk
//! costs the ballast first and the call only then. Not here: what the records mean.

mod audit;
mod deployments;
mod room;
mod schema;

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Params, Transaction, TransactionBehavior, params,
};
use seaworthy_base::{InstanceId, ServiceName, SiteName};
use seaworthy_sys::files::write_atomically;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use audit::{AuditRow, Broken};

use crate::model::{EventRecord, InstanceRecord, InstanceState, ReleaseRecord, SiteRecord};

/// The layout of the state folder; a later layout is refused.
const LAYOUT: u32 = 1;
/// Events kept.
const EVENTS: i64 = 10_000;
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
    #[error("`{}` was written by a later build (version {found}, this one knows {known})", file.display())]
    TooNew {
        /// Which file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this build knows.
        known: u32,
    },
    /// The disk is full, and the ballast did not help or was used up.
    #[error("the disk is full")]
    DiskFull {
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The state is damaged.
    #[error("`{}` is damaged: {reason}", file.display())]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else that SQLite refused.
    #[error("the state store refused a call")]
    Query(#[source] rusqlite::Error),
    /// A record that this build cannot write or read.
    #[error("a record of `{table}` cannot be written or read by this build")]
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
        // Made before SQLite would make it with the umask's mode; its journals take over the mode.
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&file)
            .map_err(unwritable)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(unwritable)?;
        let connection = Connection::open(&file).map_err(|source| sort_error(source, dir))?;
        let store = Self { connection, dir: dir.to_path_buf() };
        store.prepare(&file)?;
        store.ensure_ballast();
        Ok(store)
    }

    /// Sets the connection up, looks the file over and brings the schema up to date.
    fn prepare(&self, file: &Path) -> Result<()> {
        let refused = |source| sort_error(source, &self.dir);
        self.connection.busy_timeout(Duration::from_secs(10)).map_err(refused)?;
        let found: u32 = self.one("PRAGMA user_version", [])?.unwrap_or_default();
        let since: u32 = self.one("PRAGMA application_id", [])?.unwrap_or_default();
        let steps = schema::steps();
        let known = steps.len() as u32;
        if found > known && !(1..=known).contains(&since) {
            return Err(StateError::TooNew { file: file.to_path_buf(), found, known });
        }
        let pragmas =
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";
        self.connection.execute_batch(pragmas).map_err(refused)?;
        let verdict: String = self.one("PRAGMA quick_check(1)", [])?.unwrap_or_default();
        if verdict != "ok" {
            return Err(StateError::Corrupt { file: file.to_path_buf(), reason: verdict });
        }
        for (version, step) in (1_u32..).zip(steps).skip(found as usize) {
            self.transaction(|connection| {
                connection.execute_batch(step)?;
                connection.pragma_update(None, "application_id", schema::SINCE)?;
                connection.pragma_update(None, "user_version", version)
            })?;
        }
        if found == known && since != schema::SINCE {
            // Written before builds left word for earlier ones.
            self.connection
                .pragma_update(None, "application_id", schema::SINCE)
                .map_err(refused)?;
        }
        Ok(())
    }

    /// Copies the whole state, as it is at this moment, into a file that does not exist yet.
    pub fn copy_to(&self, file: &Path) -> Result<()> {
        let path = file.to_string_lossy().into_owned();
        let copied = self.connection.execute("VACUUM INTO ?1", [path]).map(drop);
        copied.map_err(|source| sort_error(source, &self.dir))?;
        let unwritable = |source| StateError::Unwritable { dir: self.dir.clone(), source };
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).map_err(unwritable)
    }

    /// Adds or replaces a site by name; returns its id, which the name keeps until it is removed.
    pub fn put_site(&self, site: &SiteRecord) -> Result<u64> {
        json("sites", site)?;
        self.transaction(|connection| {
            let name = site.name.as_str();
            let known = connection
                .query_row("SELECT id FROM sites WHERE name = ?1", [name], |row| row.get(0))
                .optional()?;
            let id: i64 = if let Some(id) = known {
                id
            } else {
                connection.execute("INSERT INTO sites (name, record) VALUES (?1, '')", [name])?;
                connection.last_insert_rowid()
            };
            let record = SiteRecord { id: id as u64, ..site.clone() };
            let text = serde_json::to_string(&record)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            connection.execute("UPDATE sites SET record = ?2 WHERE id = ?1", params![id, text])?;
            Ok(id as u64)
        })
    }

    /// A site by name.
    pub fn site(&self, name: &SiteName) -> Result<Option<SiteRecord>> {
        Ok(self.all("sites", "SELECT record FROM sites WHERE name = ?1", [name.as_str()])?.pop())
    }

    /// All sites, by name.
    pub fn sites(&self) -> Result<Vec<SiteRecord>> {
        self.all("sites", "SELECT record FROM sites ORDER BY name", [])
    }

    /// Forgets a site. Its counters stay, so that a later site of that name repeats no number; so do its
    /// instances and releases, which name what is left to stop and to delete.
    pub fn remove_site(&self, name: &SiteName) -> Result<()> {
        self.write("DELETE FROM sites WHERE name = ?1", [name.as_str()])
    }

    /// The next number for a release of a site.
    pub fn next_release_number(&self, site: &SiteName) -> Result<u32> {
        self.count(&format!("release:{site}"))
    }

    /// Adds or replaces an instance.
    pub fn put_instance(&self, instance: &InstanceRecord) -> Result<()> {
        let text = json("instances", instance)?;
        self.write(
            "INSERT OR REPLACE INTO instances (id, record) VALUES (?1, ?2)",
            params![instance.id.to_string(), text],
        )
    }

    /// All instances.
    pub fn instances(&self) -> Result<Vec<InstanceRecord>> {
        self.all("instances", "SELECT record FROM instances ORDER BY id", [])
    }

    /// Changes what is decided about an instance; nothing happens when it is not there.
    pub fn set_instance_state(&self, id: &InstanceId, state: InstanceState) -> Result<()> {
        let text = json("instances", &state)?;
        self.write(
            "UPDATE instances SET record = json_set(record, '$.state', json(?2)) WHERE id = ?1",
            params![id.to_string(), text],
        )
    }

    /// Forgets an instance.
    pub fn remove_instance(&self, id: &InstanceId) -> Result<()> {
        self.write("DELETE FROM instances WHERE id = ?1", [id.to_string()])
    }

    /// The next generation for an instance of a service.
    pub fn next_generation(&self, site: &SiteName, service: &ServiceName) -> Result<u32> {
        self.count(&format!("generation:{site}/{service}"))
    }

    /// Adds or replaces a release.
    pub fn put_release(&self, release: &ReleaseRecord) -> Result<()> {
        let text = json("releases", release)?;
        let sql = "INSERT OR REPLACE INTO releases (site, number, record) VALUES (?1, ?2, ?3)";
        self.write(sql, params![release.site.as_str(), release.id.number, text])
    }

    /// Releases of a site, oldest first.
    pub fn releases(&self, site: &SiteName) -> Result<Vec<ReleaseRecord>> {
        self.all(
            "releases",
            "SELECT record FROM releases WHERE site = ?1 ORDER BY number",
            [site.as_str()],
        )
    }

    /// A setting.
    pub fn get_setting(&self, name: &str) -> Result<Option<String>> {
        self.one("SELECT value FROM settings WHERE name = ?1", [name])
    }

    /// The values of all settings whose names begin so.
    pub fn settings_under(&self, beginning: &str) -> Result<Vec<String>> {
        let sql = "SELECT value FROM settings WHERE substr(name, 1, length(?1)) = ?1";
        self.texts(sql, [beginning])
    }

    /// Sets a setting.
    pub fn put_setting(&self, name: &str, value: &str) -> Result<()> {
        self.write("INSERT OR REPLACE INTO settings (name, value) VALUES (?1, ?2)", [name, value])
    }

    /// Adds an event under an id of the store's own; the oldest beyond ten thousand go.
    pub fn append_event(&self, event: &EventRecord) -> Result<()> {
        let text = json("events", event)?;
        self.transaction(|connection| {
            let add = "INSERT INTO events (site, record) VALUES (?1, ?2)";
            connection.prepare_cached(add)?.execute(params![event.site, text])?;
            let oldest = connection.last_insert_rowid() - EVENTS;
            connection
                .prepare_cached("DELETE FROM events WHERE id <= ?1")?
                .execute([oldest])
                .map(drop)
        })
    }

    /// The newest events of a site (or of all), newest first.
    pub fn recent_events(&self, site: Option<&str>, limit: u32) -> Result<Vec<EventRecord>> {
        let sql = "SELECT json_set(record, '$.id', id) FROM events WHERE ?1 IS NULL OR site = ?1 ORDER BY id DESC LIMIT ?2";
        self.all("events", sql, params![site, limit])
    }

    /// Counts up and returns the new value, in one statement.
    fn count(&self, name: &str) -> Result<u32> {
        let sql = "INSERT INTO counters (name, value) VALUES (?1, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value";
        self.transaction(|connection| connection.query_row(sql, [name], |row| row.get(0)))
    }

    fn one<T: rusqlite::types::FromSql>(
        &self,
        sql: &str,
        params: impl Params,
    ) -> Result<Option<T>> {
        let row = self.connection.query_row(sql, params, |row| row.get(0)).optional();
        row.map_err(|source| sort_error(source, &self.dir))
    }

    fn all<T: DeserializeOwned>(
        &self,
        table: &'static str,
        sql: &str,
        params: impl Params,
    ) -> Result<Vec<T>> {
        let failed = |source| sort_error(source, &self.dir);
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let rows = statement.query_map(params, |row| row.get::<_, String>(0)).map_err(failed)?;
        rows.map(|row| {
            let text = row.map_err(failed)?;
            serde_json::from_str(&text).map_err(|source| StateError::Record { table, source })
        })
        .collect()
    }

    fn texts(&self, sql: &str, params: impl Params) -> Result<Vec<String>> {
        self.rows(sql, params, |row| row.get(0))
    }

    fn rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let failed = |source| sort_error(source, &self.dir);
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let rows = statement.query_map(params, read).map_err(failed)?;
        rows.map(|row| row.map_err(failed)).collect()
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers write `params![..]`, which is a temporary"
    )]
    fn write(&self, sql: &str, params: impl Params + Clone) -> Result<()> {
        self.transaction(|connection| {
            connection.prepare_cached(sql)?.execute(params.clone()).map(drop)
        })
    }

    /// All of `work` or nothing of it; on a full disk the ballast is thrown out and it is tried once more.
    fn transaction<T>(&self, work: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let run = || {
            let transaction =
                Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit().map(|()| done)
        };
        let done = match run() {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DiskFull)
                    && self.release_ballast() =>
            {
                run()
            }
            other => other,
        };
        done.map_err(|source| sort_error(source, &self.dir))
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

/// Only a folder without `LAYOUT` gets one: one that cannot be read may belong to a later build.
fn check_layout(dir: &Path) -> Result<()> {
    let file = dir.join("LAYOUT");
    let unwritable = |source| StateError::Unwritable { dir: dir.to_path_buf(), source };
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return write_atomically(&file, LAYOUT.to_string().as_bytes(), 0o644)
                .map_err(unwritable);
        }
        other => other.map_err(unwritable)?,
    };
    match text.trim().parse() {
        Ok(LAYOUT) => Ok(()),
        Ok(found) if found > LAYOUT => Err(StateError::TooNew { file, found, known: LAYOUT }),
        _ => Err(StateError::Corrupt { file, reason: "it holds no layout number".to_owned() }),
    }
}

/// Fails where a record has no JSON form, such as a path that is not UTF-8.
fn json(table: &'static str, record: &impl Serialize) -> Result<String> {
    serde_json::to_string(record).map_err(|source| StateError::Record { table, source })
}

fn sort_error(source: rusqlite::Error, dir: &Path) -> StateError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StateError::DiskFull { source },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StateError::Corrupt { file: dir.join("state.db"), reason: source.to_string() }
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            StateError::Unwritable { dir: dir.to_path_buf(), source: io::Error::other(source) }
        }
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
            more: String::new(),
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
        assert_eq!(
            [store.next_release_number(&name).unwrap(), store.next_release_number(&name).unwrap()],
            [1, 2]
        );
        drop(store);
        assert_eq!(Store::open(dir.path()).unwrap().next_release_number(&name).unwrap(), 3);
    }

    #[test]
    fn a_later_state_is_read_where_the_later_build_says_that_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.put_setting("kept", "1").unwrap();
        let later = "CREATE TABLE later (id); ALTER TABLE settings ADD COLUMN later TEXT; PRAGMA user_version = 99";
        store.connection.execute_batch(later).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.get_setting("kept").unwrap().as_deref(), Some("1"));
        store.put_setting("more", "2").unwrap();
        assert_eq!(store.one::<u32>("PRAGMA user_version", []).unwrap(), Some(99));
        store.connection.execute_batch("PRAGMA application_id = 99").unwrap();
        drop(store);
        assert!(matches!(Store::open(dir.path()).unwrap_err(), StateError::TooNew { .. }));
    }

    #[test]
    fn a_later_or_damaged_state_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path())
            .unwrap()
            .connection
            .execute_batch("PRAGMA user_version = 99; PRAGMA application_id = 99")
            .unwrap();
        assert!(matches!(
            Store::open(dir.path()).unwrap_err(),
            StateError::TooNew { found: 99, .. }
        ));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state.db"), vec![7; 9000]).unwrap();
        assert!(matches!(Store::open(dir.path()).unwrap_err(), StateError::Corrupt { .. }));
    }

    #[test]
    fn a_removed_site_is_gone_and_its_numbers_are_not_given_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let name: SiteName = "a".parse().unwrap();
        let id = store.put_site(&site("a")).unwrap();
        assert_eq!(store.site(&name).unwrap().unwrap(), SiteRecord { id, ..site("a") });
        assert_eq!(store.next_generation(&name, &"web".parse().unwrap()).unwrap(), 1);
        store.remove_site(&name).unwrap();
        assert_eq!((store.site(&name).unwrap(), store.sites().unwrap()), (None, vec![]));
        assert!(store.put_site(&site("a")).unwrap() > id);
        assert_eq!(store.next_generation(&name, &"web".parse().unwrap()).unwrap(), 2);
    }

    #[test]
    fn an_instance_changes_its_state_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let wanted = InstanceRecord {
            id: "a/web/0@1".parse().unwrap(),
            spec_hash: "x".to_owned(),
            release: "r1-00000001".parse().unwrap(),
            run_dir: "/run/a".into(),
            boot_id: "b".to_owned(),
            created: Timestamp(4),
            state: InstanceState::Wanted,
        };
        store.put_instance(&wanted).unwrap();
        store.set_instance_state(&wanted.id, InstanceState::Draining).unwrap();
        assert_eq!(
            store.instances().unwrap(),
            [InstanceRecord { state: InstanceState::Draining, ..wanted.clone() }]
        );
        store.remove_instance(&wanted.id).unwrap();
        assert_eq!(store.instances().unwrap(), []);
    }

    #[test]
    fn releases_come_oldest_first_by_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let release = |id: &str| ReleaseRecord {
            site: "a".parse().unwrap(),
            id: id.parse().unwrap(),
            dir: "/r".into(),
            created: Timestamp(1),
            content_hash: String::new(),
            state: crate::model::ReleaseState::Built,
            note: String::new(),
        };
        for id in ["r10-00000001", "r9-00000002"] {
            store.put_release(&release(id)).unwrap();
        }
        assert_eq!(
            store.releases(&"a".parse().unwrap()).unwrap(),
            [release("r9-00000002"), release("r10-00000001")]
        );
    }

    #[test]
    fn settings_are_found_by_how_their_names_begin() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for (name, value) in [("port:a", "1"), ("port:b", "2"), ("report:a", "3"), ("por", "4")] {
            store.put_setting(name, value).unwrap();
        }
        let mut found = store.settings_under("port:").unwrap();
        found.sort_unstable();
        assert_eq!(found, ["1", "2"]);
    }

    #[test]
    fn what_is_acknowledged_is_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let journal: Option<String> = store.one("PRAGMA journal_mode", []).unwrap();
        let synchronous: Option<u32> = store.one("PRAGMA synchronous", []).unwrap();
        // 2 is FULL: with a write-ahead log NORMAL would lose the last commits with the power.
        assert_eq!((journal.as_deref(), synchronous), (Some("wal"), Some(2)));
    }

    #[test]
    fn events_get_ids_of_their_own_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
        let event = |site: &str| EventRecord {
            id: 0,
            at: Timestamp(1),
            site: Some(site.to_owned()),
            instance: None,
            kind: "k".to_owned(),
            text: String::new(),
            fault: None,
        };
        store.append_event(&event("first")).unwrap();
        for _ in 0..EVENTS {
            store.append_event(&event("a")).unwrap();
        }
        let newest: Vec<u64> =
            store.recent_events(Some("a"), 2).unwrap().iter().map(|event| event.id).collect();
        assert_eq!(newest, [EVENTS as u64 + 1, EVENTS as u64]);
        assert_eq!(store.recent_events(Some("first"), 9).unwrap(), []);
        assert_eq!(store.recent_events(None, u32::MAX).unwrap().len(), EVENTS as usize);
    }

    #[test]
    fn a_full_disk_costs_the_ballast_and_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let ballast = dir.path().join("ballast");
        assert_eq!(fs::metadata(&ballast).unwrap().len(), BALLAST as u64);
        store.put_setting("kept", "1").unwrap();
        // SQLite's own limit gives the same answer as a full disk does.
        store.connection.execute_batch("PRAGMA max_page_count = 1").unwrap();
        assert!(matches!(
            store.put_setting("big", &"x".repeat(1 << 16)).unwrap_err(),
            StateError::DiskFull { .. }
        ));
        assert!(!ballast.exists());
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.get_setting("kept").unwrap().as_deref(), Some("1"));
        assert_eq!(store.get_setting("big").unwrap(), None);
        assert!(ballast.exists());
    }

    #[test]
    fn a_full_disk_is_survived_by_a_second_try_without_the_ballast() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let full = || {
            rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
                None,
            )
        };
        let ballast = dir.path().join("ballast");
        let written = store.transaction(|connection| {
            connection.execute("INSERT INTO settings (name, value) VALUES ('a', '1')", [])?;
            if ballast.exists() { Err(full()) } else { Ok(()) }
        });
        written.unwrap();
        assert_eq!(store.get_setting("a").unwrap().as_deref(), Some("1"));
    }

    #[test]
    fn a_record_that_has_no_stored_form_is_refused_and_changes_nothing() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let odd = SiteRecord { project: std::ffi::OsStr::from_bytes(b"/\xff").into(), ..site("a") };
        assert!(matches!(
            store.put_site(&odd).unwrap_err(),
            StateError::Record { table: "sites", .. }
        ));
        assert_eq!(store.sites().unwrap(), []);
    }

    #[test]
    fn only_the_owner_may_read_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.put_setting("a", "1").unwrap();
        for file in ["state.db", "state.db-wal", "ballast"] {
            assert_eq!(
                fs::metadata(dir.path().join(file)).unwrap().permissions().mode() & 0o777,
                0o600,
                "{file}"
            );
        }
        assert_eq!(fs::read_to_string(dir.path().join("LAYOUT")).unwrap(), "1");
    }

    #[test]
    fn a_layout_of_a_later_build_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("LAYOUT"), "2\n").unwrap();
        assert!(matches!(
            Store::open(dir.path()).unwrap_err(),
            StateError::TooNew { found: 2, known: 1, .. }
        ));
        assert!(!dir.path().join("state.db").exists());
        fs::write(dir.path().join("LAYOUT"), "what").unwrap();
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
            for number in numbers
                .filter_map(|line| {
                    line.strip_prefix("acknowledged ").and_then(|text| text.parse().ok())
                })
                .take(lines)
            {
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
