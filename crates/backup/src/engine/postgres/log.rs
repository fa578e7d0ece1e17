//! PostgreSQL's log: base backups, what was written since, and the state at any moment between.
//!
//! An item of its own beside the database's: its sets are base backups (`pg_basebackup`, the whole server) and
//! pieces of the log that follow each other. Rooms: `segment` (names of files), `base` (copies of the
//! server), `follow` (receives and ships),
//! `replay` (a scratch server at a moment). Invariants: a moment is only promised when the log reaches it
//! without a gap; the live server is never written to: what is brought back goes the way of any other restore.

mod base;
mod follow;
mod replay;
mod segment;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault};

pub(crate) use self::follow::follow;
pub(crate) use self::replay::{Wanted, drill, restore};
use super::connect::{Connection, Tools};
use crate::engine::{Dump, Engine, Into, Parts, Placed, Trial};
use crate::facts::DatabaseFacts;
use crate::model::RestoreTarget;
use crate::set::Set;
use crate::work::Work;

/// The engine's name in a set.
pub(crate) const ENGINE: &str = "postgres-log";
/// The part with a base backup.
const BASE: &str = "base.tar.zst.age";
/// The part with what the next base backup is compared with.
pub(crate) const MANIFEST: &str = "manifest.zst.age";
/// Format of a part with a piece of the log.
const WAL: &str = "wal";
/// Facts of a set, by name: where the log begins that a base needs, where it ends, up to when a piece reaches.
const FIRST: &str = "first";
const LAST: &str = "last";
const UNTIL: &str = "until";
const SEGMENT_SIZE: &str = "segment size";
/// As whom a scratch server is asked.
pub(super) const SUPERUSER: &str = "superuser";

/// A server whose log is kept.
#[derive(Debug)]
pub(crate) struct Log {
    connection: Connection,
}

impl Log {
    pub(crate) fn new(url: &str) -> Result<Self, Fault> {
        Ok(Self { connection: Connection::new(url)? })
    }
}

/// Whether a set is a base backup.
pub(crate) fn is_base(set: &Set) -> bool {
    set.parts.iter().any(|part| part.file == BASE)
}

fn fact<'a>(set: &'a Set, name: &str) -> Option<&'a String> {
    set.databases.first()?.settings.get(name)
}

impl Engine for Log {
    fn dump(&self, work: &Work, into: &Into<'_>) -> Result<Dump, Fault> {
        let scratch = work.scratch()?;
        let tools = Tools::new(&self.connection, &scratch, work)?;
        let mut session = tools.session(&self.connection.database())?;
        let (server, major) = session.version()?;
        let size = segment_size(&mut session)?;
        let boss = session.one("SELECT to_json(rolname) FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY rolname <> current_user, oid")?;
        follow::hold(work, &tools, &self.connection, major)?;
        let tool = tools.version("pg_basebackup", major)?;
        let mut notes = Vec::new();
        let copied = base::copy(work, &tools, &mut session, &scratch, into, &mut notes)?;
        drop(session);
        let mut session = tools.session(&self.connection.database())?;
        let settings = BTreeMap::from([
            (FIRST.to_owned(), copied.first),
            (LAST.to_owned(), current(&mut session)?),
            (SEGMENT_SIZE.to_owned(), size.to_string()),
            (SUPERUSER.to_owned(), boss.as_str().unwrap_or("postgres").to_owned()),
        ]);
        let facts = DatabaseFacts {
            name: "server".to_owned(),
            settings,
            bytes: copied.parts.iter().map(|part| part.plain_bytes).sum(),
            ..DatabaseFacts::default()
        };
        Ok(Dump {
            parts: copied.parts,
            databases: vec![facts],
            server,
            tool,
            notes,
            needs: copied.needs,
            ..Dump::default()
        })
    }

    fn trial(&self, _: &Work, set: &Set, _: &Parts) -> Result<Trial, Fault> {
        Err(not_alone(set))
    }

    fn restore(&self, _: &Work, set: &Set, _: &Parts, _: &RestoreTarget) -> Result<Placed, Fault> {
        Err(not_alone(set))
    }
}

fn not_alone(set: &Set) -> Fault {
    let item = set.item.trim_end_matches(".log");
    Fault::new(
        Code::RestoreFailed,
        format!("`{}` is a server's log and is not restored by itself", set.item),
    )
    .next(format!("seaworthy backup restore {item} --at TIME"))
}

fn segment_size(session: &mut super::session::Session) -> Result<u64, Fault> {
    let size = session
        .one("SELECT to_json(setting::bigint) FROM pg_settings WHERE name = 'wal_segment_size'")?;
    Ok(size.as_u64().filter(|size| *size > 0).unwrap_or(16 << 20))
}

/// The file of the log that is written now.
fn current(session: &mut super::session::Session) -> Result<String, Fault> {
    let name = session.one("SELECT to_json(pg_walfile_name(pg_current_wal_lsn()))")?;
    Ok(name.as_str().unwrap_or_default().to_owned())
}

/// Pieces of the log that were received, to be stored.
#[derive(Debug)]
pub(crate) struct Segments {
    folder: PathBuf,
    names: Vec<String>,
    facts: BTreeMap<String, String>,
}

impl Segments {
    pub(crate) fn new(folder: &Path, names: &[String], facts: &BTreeMap<String, String>) -> Self {
        Self { folder: folder.to_path_buf(), names: names.to_vec(), facts: facts.clone() }
    }
}

impl Engine for Segments {
    fn dump(&self, _: &Work, into: &Into<'_>) -> Result<Dump, Fault> {
        let mut dump = Dump::default();
        for name in &self.names {
            let path = self.folder.join(name);
            let mut file = std::fs::File::open(&path).map_err(|error| {
                Fault::new(Code::BackupSource, format!("`{}` could not be read", path.display()))
                    .because(error.to_string())
            })?;
            dump.parts.push(into.seal(&mut file, &format!("{name}.zst.age"), name, WAL)?);
        }
        let bytes = dump.parts.iter().map(|part| part.plain_bytes).sum();
        let settings = self.facts.clone();
        dump.databases = vec![DatabaseFacts {
            name: "log".to_owned(),
            settings,
            bytes,
            ..DatabaseFacts::default()
        }];
        Ok(dump)
    }

    fn trial(&self, _: &Work, set: &Set, _: &Parts) -> Result<Trial, Fault> {
        Err(not_alone(set))
    }

    fn restore(&self, _: &Work, set: &Set, _: &Parts, _: &RestoreTarget) -> Result<Placed, Fault> {
        Err(not_alone(set))
    }
}
