//! The engines: what each source needs to be dumped, tried out and brought back.
//!
//! One trait, one room for each engine. Invariants: a dump is of one moment and only reads its source; a
//! trial runs in a scratch place and knows nothing of the source; a restore never writes over live data
//! before what it brings is complete beside it. Not here: sealing, stores, what is kept.

pub(crate) mod files;
pub(crate) mod kept;
pub(crate) mod mysql;
mod place;
pub(crate) mod postgres;
mod redis;
mod sqlite;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use age::x25519::{Identity, Recipient};
use seaworthy_base::{Code, Fault};

use crate::facts::{DatabaseFacts, Difference};
use crate::model::{RestoreTarget, Source};
use crate::open::{self, Plain};
use crate::seal::{Sealing, pump, write_fault};
use crate::set::{Part, Set};
use crate::tool::{LOADING, Running, Tool};
use crate::work::Work;

/// More than this of roles or users is not taken into memory.
const SMALL: u64 = 64 << 20;

/// What a dump came to.
#[derive(Debug, Default)]
pub(crate) struct Dump {
    pub parts: Vec<Part>,
    pub databases: Vec<DatabaseFacts>,
    pub server: String,
    pub tool: String,
    pub doubts: Vec<String>,
    pub notes: Vec<String>,
    pub needs: Vec<crate::set::SetId>,
}

/// Where a dump goes.
#[derive(Debug)]
pub(crate) struct Into<'a> {
    /// Folder of the sealed parts.
    pub staging: &'a Path,
    /// Who can open them.
    pub recipients: &'a [Recipient],
    /// The set before this one, where there is one.
    pub previous: Option<&'a Set>,
    /// The same, if every store has it and all that it needs, each found good: a set may refer to it.
    pub base: Option<&'a Set>,
}

impl Into<'_> {
    /// Seals a whole stream as one part.
    pub(crate) fn seal(
        &self,
        from: &mut impl Read,
        file: &str,
        holds: &str,
        format: &str,
    ) -> Result<Part, Fault> {
        let failed = |error: io::Error| write_fault(format!("could not write the {holds}"), &error);
        let mut sealing =
            Sealing::create(&self.staging.join(file), self.recipients).map_err(failed)?;
        pump(from, &mut sealing, |_| {}).map_err(failed)?;
        sealing.finish(file, holds, format).map_err(failed)
    }

    /// Seals what a tool prints; of one that fails nothing is left.
    pub(crate) fn seal_output(
        &self,
        mut running: Running,
        file: &str,
        holds: &str,
        format: &str,
    ) -> Result<Part, Fault> {
        let sealed = self.seal(&mut running.output()?, file, holds, format);
        let part = running.finish(Code::BackupSource).and(sealed);
        if part.is_err() {
            std::fs::remove_file(self.staging.join(file)).ok();
        }
        part
    }
}

/// The name of a database's part; the only one needs no number.
fn dump_file(at: usize, of: usize, ending: &str) -> String {
    if of == 1 { format!("database.{ending}") } else { format!("{at:04}.{ending}") }
}

/// The databases that were chosen, and there must be some.
fn chosen(names: Vec<String>, wanted: &str, shown: &str) -> Result<Vec<String>, Fault> {
    if names.is_empty() {
        let what = format!("no database of {shown} fits `{wanted}`");
        return Err(Fault::new(Code::BackupSource, what));
    }
    Ok(names)
}

/// Dumps a database; again when something was dropped or changed as the dump began.
fn again_when<T>(
    vanished: impl Fn(&str) -> bool,
    work: &Work,
    name: &str,
    file: &Path,
    mut attempt: impl FnMut() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt() {
            Err(fault) if tries < 3 && fault.evidence.iter().any(|line| vanished(line)) => {
                work.step(format!(
                    "dumping {name} again: something was dropped or changed as it was read"
                ));
                std::fs::remove_file(file).ok();
            }
            other => return other,
        }
    }
}

/// A dump that is not what a whole one is, though its tool said that all went well.
fn not_whole(name: &str, why: &str) -> Fault {
    Fault::new(Code::BackupFailed, format!("the dump of {name} is not whole"))
        .because(format!("{why}, though the tool said that all went well"))
}

/// What a trial found.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    /// What came back otherwise than it was saved.
    pub differences: Vec<Difference>,
    /// Rows, keys or files compared.
    pub rows: u64,
}

/// Sealed parts that were fetched and found whole.
pub(crate) struct Parts {
    files: BTreeMap<String, PathBuf>,
    identities: Vec<Identity>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Parts {
    pub(crate) fn new(identities: Vec<Identity>) -> Self {
        Self { files: BTreeMap::new(), identities }
    }

    /// Adds a part; `set` is its set's id.
    pub(crate) fn add(&mut self, set: &str, file: &str, path: PathBuf) {
        self.files.insert(format!("{set}/{file}"), path);
    }

    /// Opens a part.
    pub(crate) fn open(&self, set: &str, file: &str) -> Result<Plain, Fault> {
        let path = self.files.get(&format!("{set}/{file}")).ok_or_else(|| {
            Fault::new(Code::BackupDamaged, format!("backup {set} has no part `{file}`"))
        })?;
        open::open(path, &self.identities)
    }

    /// What is in a part that fits into memory: roles, users.
    pub(crate) fn text(&self, set: &Set, part: &Part) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        let plain = self.open(set.id.as_str(), &part.file)?;
        plain.take(SMALL).read_to_end(&mut bytes).map_err(|error| {
            let what = format!("the {} of backup {} cannot be read", part.holds, set.id);
            Fault::new(Code::BackupDamaged, what).because(error.to_string())
        })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Feeds an opened part to a tool, to the end of both.
    pub(crate) fn feed(&self, work: &Work, set: &Set, part: &Part, to: &Tool) -> Result<(), Fault> {
        let mut plain = self.open(set.id.as_str(), &part.file)?;
        let mut running = to.clone().stall(work.patience(LOADING)).start(true)?;
        let (total, mut done) = (part.plain_bytes, 0);
        let fed = running.stdin.as_mut().map_or(Ok(()), |stdin| {
            open::feed(&mut plain, stdin, |bytes| {
                done += bytes.len() as u64;
                work.moved(done, Some(total));
            })
        });
        // What the tool says of an input that ends too early is less telling than why it ended.
        let ended = running.finish(Code::RestoreFailed);
        fed.map_err(|error| {
            Fault::new(
                Code::BackupDamaged,
                format!("`{}` of backup {} cannot be opened to its end", part.file, set.id),
            )
            .because(error.to_string())
        })?;
        ended.map(drop)
    }
}

/// Where restored content went.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Where, for people.
    pub to: String,
    /// Where the content that it replaced is now.
    pub before: Option<String>,
}

/// What an engine can do.
pub(crate) trait Engine {
    /// Dumps the source.
    fn dump(&self, work: &Work, into: &Into<'_>) -> Result<Dump, Fault>;
    /// Restores into a scratch place and compares; a fault with [`Code::BackupUnverified`] says that it
    /// could not be tried here.
    fn trial(&self, work: &Work, set: &Set, parts: &Parts) -> Result<Trial, Fault>;
    /// Brings content back.
    fn restore(
        &self,
        work: &Work,
        set: &Set,
        parts: &Parts,
        target: &RestoreTarget,
    ) -> Result<Placed, Fault>;
}

/// The engine of a source.
pub(crate) fn of(source: &Source) -> Result<Box<dyn Engine>, Fault> {
    match source {
        Source::Postgres { url, databases } => {
            Ok(Box::new(postgres::Postgres::new(url, databases.as_deref())?))
        }
        Source::PostgresLog { url } => Ok(Box::new(postgres::log::Log::new(url)?)),
        Source::Segments { folder, names, facts } => {
            Ok(Box::new(postgres::log::Segments::new(folder, names, facts)))
        }
        Source::Sqlite { path } => Ok(Box::new(sqlite::Sqlite::new(path))),
        Source::Files { trees } => Ok(Box::new(files::Files::new(trees))),
        Source::Mysql { url, databases } => {
            Ok(Box::new(mysql::Mysql::new(url, databases.as_deref())?))
        }
        Source::Redis { url } => Ok(Box::new(redis::Redis::new(url)?)),
    }
}
