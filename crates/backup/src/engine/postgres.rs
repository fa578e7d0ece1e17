//! PostgreSQL: `pg_dump -Fc` in an exported snapshot, and `pg_restore`.
//!
//! For each database a session exports a snapshot, `pg_dump` dumps in it, and the same session counts rows in
//! it, so that what is recorded is what was dumped. Everything is asked through `psql`: it takes part in
//! whatever authentication and encryption the server asks of `pg_dump`. Rooms: `connect` (how tools reach
//! a server), `session` (questions), `survey` (facts), `server` (a scratch server), `bring` (restore), `log` (any moment).

mod bring;
pub(crate) mod connect;
pub(crate) mod log;
mod server;
mod session;
mod survey;

use std::io::Read;

use seaworthy_base::{Code, Fault};

use self::connect::Connection;
use self::session::Session;
use super::{Dump, Engine, Into, Placed, Trial};
use crate::facts::{DatabaseFacts, differences};
use crate::judge;
use crate::model::RestoreTarget;
use crate::seal::{CHUNK, Sealing, pump, write_fault};
use crate::set::{Part, Set};
use crate::url;
use crate::work::Work;

/// The part with roles and their rights.
pub(super) const ROLES: &str = "roles";
/// A dump waits so long for a lock that somebody holds, in milliseconds.
const LOCK_WAIT: &str = "600000";

/// A server and which of its databases.
#[derive(Debug)]
pub(crate) struct Postgres {
    connection: Connection,
    databases: Option<String>,
}

impl Postgres {
    pub(crate) fn new(url: &str, databases: Option<&str>) -> Result<Self, Fault> {
        Ok(Self { connection: Connection::new(url)?, databases: databases.map(str::to_owned) })
    }

    /// The databases that are meant, and they must be there.
    fn names(&self, session: &mut Session) -> Result<Vec<String>, Fault> {
        let Some(pattern) = &self.databases else { return Ok(vec![self.connection.database()]) };
        let all = session.texts("SELECT to_json(datname) FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname")?;
        let chosen: Vec<String> = all.into_iter().filter(|name| url::fits(pattern, name)).collect();
        if chosen.is_empty() {
            return Err(Fault::new(
                Code::BackupSource,
                format!("no database of {} fits `{pattern}`", self.connection.shown()),
            ));
        }
        Ok(chosen)
    }
}

impl Engine for Postgres {
    fn dump(&self, work: &Work, into: &Into<'_>) -> Result<Dump, Fault> {
        let scratch = work.scratch()?;
        let tools = connect::Tools::new(&self.connection, &scratch, work)?;
        let mut session = tools.session(&self.connection.database())?;
        let (server, major) = session.version()?;
        let names = self.names(&mut session)?;
        let superuser = session
            .one("SELECT to_json(rolsuper) FROM pg_roles WHERE rolname = current_user")?
            == true;
        drop(session);
        let tool = tools.version("pg_dump", major)?;
        let mut dump = Dump { server, tool, ..Dump::default() };
        let server = Server { tools: &tools, major };
        for (at, name) in names.iter().enumerate() {
            work.step(format!("dumping {name}"));
            let file = if names.len() == 1 {
                "database.dump.zst.age".to_owned()
            } else {
                format!("{at:04}.dump.zst.age")
            };
            let (part, facts) = database(work, &server, name, &file, into, &mut dump.doubts)?;
            dump.parts.push(part);
            dump.databases.push(facts);
        }
        match roles(&tools, major, superuser, into) {
            Ok(part) => dump.parts.push(part),
            Err(fault) => {
                dump.notes.push(format!("roles are not in it: {}", fault.causes.join(": ")))
            }
        }
        if !superuser {
            dump.notes.push(
                "roles are in it without their passwords: the user is no superuser".to_owned(),
            );
        }
        Ok(dump)
    }

    fn trial(&self, work: &Work, set: &Set, parts: &super::Parts) -> Result<Trial, Fault> {
        let mut trial = Trial::default();
        let server = server::Scratch::start(work, set)?;
        bring::roles(work, set, parts, server.tools(), server.major(), true)?;
        for (saved, part) in set.databases.iter().zip(&set.parts) {
            work.step(format!("restoring {} into a scratch server", saved.name));
            server.make_database(saved)?;
            bring::database(
                work,
                set,
                part,
                parts,
                &bring::To {
                    tools: server.tools(),
                    major: server.major(),
                    database: &saved.name,
                    rights: bring::Rights::All,
                },
            )
            .map_err(bring::here_or_there)?;
            let mut session = server.tools().session(&saved.name)?;
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
            let mut found = survey::facts(&mut session, &saved.name)?;
            survey::count(&mut session, &mut found)?;
            trial.rows += found.rows.values().sum::<u64>();
            trial.differences.extend(differences(saved, &found));
            for question in &work.job.item.rules.sql {
                let mut session = server.tools().session(&saved.name)?;
                trial.differences.extend(survey::ask(&mut session, question));
            }
        }
        Ok(trial)
    }

    fn restore(
        &self,
        work: &Work,
        set: &Set,
        parts: &super::Parts,
        target: &RestoreTarget,
    ) -> Result<Placed, Fault> {
        bring::restore(work, set, parts, target, self)
    }
}

/// A server and the tools that fit it.
struct Server<'a> {
    tools: &'a connect::Tools,
    major: u32,
}

/// Dumps one database; once more when something vanished between the snapshot and the dump's locks.
fn database(
    work: &Work,
    server: &Server<'_>,
    name: &str,
    file: &str,
    into: &Into<'_>,
    doubts: &mut Vec<String>,
) -> Result<(Part, DatabaseFacts), Fault> {
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt(work, server, name, file, into, doubts) {
            Err(fault)
                if tries < 3
                    && fault.evidence.iter().any(|line| line.contains("does not exist")) =>
            {
                work.step(format!("dumping {name} again: something was dropped as the dump began"));
                std::fs::remove_file(into.staging.join(file)).ok();
            }
            other => return other,
        }
    }
}

fn attempt(
    work: &Work,
    server: &Server<'_>,
    name: &str,
    file: &str,
    into: &Into<'_>,
    doubts: &mut Vec<String>,
) -> Result<(Part, DatabaseFacts), Fault> {
    let mut session = server.tools.session(name)?;
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    let snapshot = session.one("SELECT to_json(pg_export_snapshot())")?;
    let mut facts = survey::facts(&mut session, name)?;
    let snapshot = format!("--snapshot={}", snapshot.as_str().unwrap_or_default());
    let wait = format!("--lock-wait-timeout={LOCK_WAIT}");
    let words = ["-Fc", "-Z0", &snapshot, &wait, "--no-password", "--quote-all-identifiers"];
    let mut running = server.tools.tool("pg_dump", server.major, name)?.args(words).start(false)?;
    let path = into.staging.join(file);
    let failed =
        |error: &std::io::Error| write_fault(format!("could not write the dump of {name}"), error);
    // The first bytes come when all tables are locked: from then on none can vanish under the counting.
    let mut first = vec![0; CHUNK];
    let mut output = running.output()?;
    let got = output.read(&mut first).map_err(|error| failed(&error))?;
    first.truncate(got);
    if !first.starts_with(b"PGDMP") {
        let shown = Fault::new(Code::BackupFailed, "`pg_dump` wrote no dump")
            .because("it ended well, but what it wrote is none");
        return Err(running.finish(Code::BackupSource).err().unwrap_or(shown));
    }
    let total = into.previous.map_or(facts.bytes, Set::plain_bytes);
    let mut sealing = Sealing::create(&path, into.recipients).map_err(|error| failed(&error))?;
    let (pumped, counted) = std::thread::scope(|scope| {
        let counting = scope.spawn(|| survey::count(&mut session, &mut facts));
        let mut done = 0;
        let mut source = std::io::Cursor::new(first).chain(&mut output);
        let pumped = pump(&mut source, &mut sealing, |bytes| {
            done += bytes.len() as u64;
            work.moved(done, Some(total));
        });
        (pumped, counting.join())
    });
    let said = running.finish(Code::BackupSource);
    pumped.map_err(|error| failed(&error))?;
    doubts.extend(judge::doubts(&said?));
    counted.unwrap_or_else(|_| {
        Err(Fault::new(Code::Internal, "counting rows ended without a word"))
    })?;
    drop(session);
    let mut after = server.tools.session(name)?;
    survey::sequences_after(&mut after, &mut facts)?;
    let part = sealing.finish(file, name, "pg_dump -Fc").map_err(|error| failed(&error))?;
    Ok((part, facts))
}

/// Roles, their memberships and rights: what a dump of a database refers to and does not hold.
fn roles(
    tools: &connect::Tools,
    major: u32,
    superuser: bool,
    into: &Into<'_>,
) -> Result<Part, Fault> {
    let mut words = vec!["--roles-only", "--no-password", "--quote-all-identifiers"];
    if !superuser {
        words.push("--no-role-passwords");
    }
    let running = tools.tool("pg_dumpall", major, "")?.args(words).start(false)?;
    into.seal_output(running, "roles.sql.zst.age", ROLES, "sql")
}
