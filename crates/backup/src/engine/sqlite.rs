//! SQLite: an online copy of a live file, by SQLite's own backup interface.
//!
//! The copy is made beside, checked (`integrity_check`), counted, and only then sealed: a damaged database is
//! found out here and not years later. Invariants: the source is opened read-only; a writer is not locked
//! out for longer than a step, unless it writes so fast that the copy would never end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use seaworthy_base::{Code, Fault};
use sha2::{Digest, Sha256};

use super::{Dump, Engine, Into, Parts, Placed, Trial, place};
use crate::facts::{DatabaseFacts, Difference, differences};
use crate::model::RestoreTarget;
use crate::seal::{pump, write_fault};
use crate::set::{Set, hex};
use crate::work::Work;

/// Pages copied at a time: about four megabytes.
const STEP: i32 = 1024;
/// After so many starts from the front (somebody wrote in between) the rest is copied in one go.
const PATIENCE: u32 = 3;
/// The part.
const FILE: &str = "database.sqlite.zst.age";

/// A database file.
#[derive(Debug)]
pub(crate) struct Sqlite {
    path: PathBuf,
}

impl Sqlite {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    fn unreadable(&self, error: &rusqlite::Error) -> Fault {
        Fault::new(Code::BackupSource, format!("`{}` could not be read", self.path.display()))
            .because(error.to_string())
    }

    fn copy(&self, work: &Work, to: &Path) -> Result<(), rusqlite::Error> {
        let source = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        source.busy_timeout(std::time::Duration::from_secs(60))?;
        let mut target = Connection::open(to)?;
        let size: u64 = source
            .query_row("SELECT page_size FROM pragma_page_size", [], |row| row.get::<_, i64>(0))?
            as u64;
        let backup = Backup::new(&source, &mut target)?;
        let (mut last, mut starts) = (i32::MAX, 0);
        loop {
            let step = backup.step(if starts < PATIENCE { STEP } else { -1 })?;
            let progress = backup.progress();
            starts += u32::from(progress.remaining > last);
            last = progress.remaining;
            work.moved(
                (progress.pagecount - progress.remaining) as u64 * size,
                Some(progress.pagecount as u64 * size),
            );
            match step {
                StepResult::Done => return Ok(()),
                StepResult::Busy | StepResult::Locked => {
                    std::thread::park_timeout(std::time::Duration::from_millis(20))
                }
                _ => {}
            }
        }
    }
}

impl Engine for Sqlite {
    fn dump(&self, work: &Work, into: &Into<'_>) -> Result<Dump, Fault> {
        let size = fs::metadata(&self.path).map_err(|error| {
            Fault::new(Code::BackupSource, format!("`{}` could not be read", self.path.display()))
                .because(error.to_string())
        })?;
        work.need_space(into.staging, size.len() * 2, "a copy of the database")?;
        work.step(format!("copying {}", self.path.display()));
        let plain = into.staging.join("plain");
        self.copy(work, &plain).map_err(|error| self.unreadable(&error))?;
        let facts = survey(&plain, &self.path.display().to_string())
            .map_err(|error| self.unreadable(&error))?;
        damage(&plain).map_err(|error| self.unreadable(&error))?.map_or(Ok(()), |found| {
            Err(Fault::new(Code::BackupSource, format!("`{}` is damaged", self.path.display()))
                .because(found)
                .next(format!(
                    "sqlite3 {} .recover   saves what can be saved",
                    self.path.display()
                )))
        })?;
        let failed = |error: std::io::Error| write_fault("could not write the copy", &error);
        let mut from = fs::File::open(&plain).map_err(failed)?;
        fs::remove_file(&plain).map_err(failed)?;
        let name = self
            .path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let part = into.seal(&mut from, FILE, &name, "sqlite")?;
        let version = rusqlite::version().to_owned();
        Ok(Dump {
            parts: vec![part],
            databases: vec![facts],
            server: version.clone(),
            tool: version,
            ..Dump::default()
        })
    }

    fn trial(&self, work: &Work, set: &Set, parts: &Parts) -> Result<Trial, Fault> {
        let scratch = work.scratch()?;
        work.need_space(scratch.path(), set.plain_bytes(), "a drill")?;
        let copy = scratch.path().join("copy");
        unseal(set, parts, &copy)?;
        work.step("checking the restored copy");
        let unusable = |error: rusqlite::Error| {
            Fault::new(Code::DrillFailed, "the restored copy is no database")
                .because(error.to_string())
        };
        let mut trial = Trial::default();
        if let Some(found) = damage(&copy).map_err(unusable)? {
            trial.differences.push(Difference {
                subject: "integrity".to_owned(),
                saved: "ok".to_owned(),
                restored: found,
            });
        }
        for saved in &set.databases {
            let found = survey(&copy, &saved.name).map_err(unusable)?;
            trial.rows += found.rows.values().sum::<u64>();
            trial.differences.extend(differences(saved, &found));
        }
        for question in &work.job.item.rules.sql {
            trial.differences.extend(ask(&copy, question));
        }
        Ok(trial)
    }

    fn restore(
        &self,
        work: &Work,
        set: &Set,
        parts: &Parts,
        target: &RestoreTarget,
    ) -> Result<Placed, Fault> {
        let to = match target {
            RestoreTarget::InPlace => self.path.clone(),
            RestoreTarget::Into { name } => self.path.with_file_name(name),
            RestoreTarget::To { url } => PathBuf::from(url.trim_start_matches("sqlite://")),
        };
        work.step(format!("restoring into {}", to.display()));
        let fresh = place::beside(&to, "new", set);
        place::remove(&fresh)?;
        unseal(set, parts, &fresh)?;
        place::give_like(&fresh, &to, &self.path, work.job.run_as.as_ref())?;
        // A journal of the old file would be played into the new one: it goes with the old one.
        place::exchange(
            &fresh,
            &to,
            set,
            *target == RestoreTarget::InPlace,
            &["-wal", "-shm", "-journal"],
        )
    }
}

fn unseal(set: &Set, parts: &Parts, to: &Path) -> Result<(), Fault> {
    let failed =
        |error: std::io::Error| write_fault(format!("could not write `{}`", to.display()), &error);
    let mut plain = parts.open(set.id.as_str(), FILE)?;
    let mut file = fs::File::create(to).map_err(failed)?;
    pump(&mut plain, &mut file, |_| {}).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// What SQLite's own check finds wrong.
fn damage(path: &Path) -> Result<Option<String>, rusqlite::Error> {
    let found: String =
        Connection::open(path)?.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    Ok((found != "ok").then_some(found))
}

fn survey(path: &Path, name: &str) -> Result<DatabaseFacts, rusqlite::Error> {
    let connection = Connection::open(path)?;
    let mut facts = DatabaseFacts { name: name.to_owned(), ..DatabaseFacts::default() };
    facts.bytes = fs::metadata(path).map_or(0, |meta| meta.len());
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    facts.migrations.insert("user_version".to_owned(), version.to_string());
    let mut statement = connection
        .prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name")?;
    let objects: Vec<(String, String, String)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut kinds: BTreeMap<&str, (u64, Sha256)> = BTreeMap::new();
    for (kind, name, sql) in &objects {
        let (count, hash) = kinds.entry(kind).or_default();
        *count += 1;
        hash.update(format!("{name}\0{sql}\n").as_bytes());
        // What a missing module serves cannot be counted here, and its shadow tables are.
        if kind == "table"
            && let Ok(rows) =
                connection.query_row(&format!("SELECT count(*) FROM {}", quote(name)), [], |row| {
                    row.get::<_, i64>(0)
                })
        {
            facts.rows.insert(name.clone(), rows as u64);
        }
    }
    facts.objects = kinds
        .into_iter()
        .map(|(kind, (count, hash))| (kind.to_owned(), (count, hex(&hash.finalize()))))
        .collect();
    Ok(facts)
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The owner's own question: its first value must be neither null nor 0 nor empty.
fn ask(path: &Path, question: &str) -> Option<Difference> {
    use rusqlite::types::Value;
    let answer = Connection::open(path)
        .and_then(|connection| connection.query_row(question, [], |row| row.get::<_, Value>(0)));
    let restored = match answer {
        Ok(Value::Null) => "nothing".to_owned(),
        Ok(Value::Integer(0)) => "0".to_owned(),
        Ok(Value::Text(text)) if text.is_empty() => "an empty text".to_owned(),
        Ok(_) => return None,
        Err(error) => error.to_string(),
    };
    Some(Difference::untrue(question, restored))
}
