//! SQLite.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use seaworthy_backup::{Action, RestoreTarget, Restored, Source, State};

use crate::platform::{Platform, take};

const ITEM: &str = "database.main";

fn fill(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT); CREATE TABLE pairs (v INT); CREATE INDEX i ON notes (text); PRAGMA user_version = 7; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO notes SELECT i, hex(randomblob(100)) FROM n").unwrap();
    connection
}

fn content(path: &Path) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare("SELECT id || text FROM notes ORDER BY id").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_live_file_is_copied_while_it_is_written_lost_and_brought_back() {
    let platform = Platform::new();
    let path: PathBuf = platform.place.path().join("app.db");
    let connection = fill(&path);
    let source = Source::Sqlite { path: path.clone() };
    let stop = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        scope.spawn(|| {
            let connection = Connection::open(&path).unwrap();
            connection.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
            while !stop.load(Ordering::Relaxed) {
                connection.execute_batch("BEGIN; INSERT INTO pairs VALUES (1); INSERT INTO pairs VALUES (-1); COMMIT").unwrap();
            }
        });
        let taken = platform.take(ITEM, &source);
        stop.store(true, Ordering::Relaxed);
        taken
    });
    let facts = &taken.set.databases[0];
    assert_eq!((facts.rows["notes"], facts.rows["pairs"] % 2), (20_000, 0));
    let drilled = platform.drill(ITEM, &source);
    assert_eq!(drilled.drill.fault, None, "{drilled:?}");
    let before = content(&path);
    drop(connection);
    for end in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{end}", path.display())).ok();
    }
    let in_place = || Action::Restore {
        set: None,
        at: None,
        store: None,
        target: RestoreTarget::InPlace,
        identity: None,
    };
    let restored: Restored = platform.run(ITEM, &source, in_place());
    assert_eq!((restored.before, content(&path)), (None, before.clone()));

    // Over a live file: it is backed up first and stays beside, with its journal.
    Connection::open(&path).unwrap().execute_batch("DELETE FROM notes").unwrap();
    let restored: Restored = platform.run(
        ITEM,
        &source,
        Action::Restore {
            set: Some(taken.set.id.to_string()),
            at: None,
            store: None,
            target: RestoreTarget::InPlace,
            identity: None,
        },
    );
    assert_eq!(content(&path), before);
    assert!(restored.safety.is_some() && content(Path::new(&restored.before.unwrap())).is_empty());
    platform.assert_tidy();
}

#[test]
fn a_damaged_database_is_found_out_when_it_is_backed_up() {
    let platform = Platform::new();
    let path = platform.place.path().join("app.db");
    drop(fill(&path));
    let source = Source::Sqlite { path: path.clone() };
    let good = platform.take(ITEM, &source);
    let mut bytes = std::fs::read(&path).unwrap();
    let length = bytes.len();
    bytes[length / 2..length / 2 + 8192].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let fault = platform.fails(ITEM, &source, take());
    assert_eq!(fault.code.as_str(), "SW-BAK-002", "{fault:?}");
    let report = platform.list(ITEM, &source);
    assert_eq!(
        (report.sets.len(), &report.sets[0].set.id, &report.sets[0].copies[0].1),
        (1, &good.set.id, &State::Verified)
    );
}
