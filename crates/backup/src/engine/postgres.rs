//! PostgreSQL: `pg_dump -Fc` in an exported snapshot, and `pg_restore`.
//!
//! For each database a session exports a snapshot and `pg_dump` dumps in it; rows are counted as they go by
//! (`archive`), so that what is recorded is what was dumped. Everything is asked through `psql`: it takes part in
//! whatever authentication and encryption the server asks of `pg_dump`. Rooms: `connect` (how tools reach
//! a server), `session` (questions), `survey` (facts), `server` (a scratch server), `bring` (restore), `log` (any moment).

mod archive;
mod bring;
pub(crate) mod connect;
pub(crate) mod log;
mod server;
mod session;
mod survey;

use std::collections::BTreeMap;
use std::io;

use seaworthy_base::{Code, Fault};

use self::archive::{Archive, Content};
use self::connect::Connection;
use self::session::Session;
use super::{Dump, Engine, Into, Placed, Trial};
use crate::facts::{DatabaseFacts, differences};
use crate::judge;
use crate::model::RestoreTarget;
use crate::seal::{Sealing, pump, write_fault};
use crate::set::{Part, Set};
use crate::tool::Gathered;
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
        let fitting = all.into_iter().filter(|name| url::fits(pattern, name)).collect();
        super::chosen(fitting, pattern, &self.connection.shown())
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
        // Roles are outside of any snapshot: they are asked for meanwhile.
        let roles = std::thread::scope(|scope| {
            let roles = scope.spawn(|| roles(&server, superuser, into));
            for (at, name) in names.iter().enumerate() {
                work.step(format!("dumping {name}"));
                let file = super::dump_file(at, names.len(), "dump.zst.age");
                let (part, facts) =
                    super::again_when(vanished, work, name, &into.staging.join(&file), || {
                        database(work, &server, name, &file, into, &mut dump.doubts)
                    })?;
                dump.parts.push(part);
                dump.databases.push(facts);
            }
            Ok(roles.join().unwrap_or_else(|_| {
                Err(Fault::new(Code::Internal, "asking for roles ended without a word"))
            }))
        })?;
        match roles {
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
            survey::count(&mut session, &mut found, &BTreeMap::new())?;
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

/// Whether a dump failed because something went between the snapshot and the dump's locks.
fn vanished(line: &str) -> bool {
    line.contains("does not exist")
}

/// Dumps one database.
fn database(
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
    let snapshot = format!("--snapshot={}", snapshot.as_str().unwrap_or_default());
    let wait = format!("--lock-wait-timeout={LOCK_WAIT}");
    let words = ["-Fc", "-Z0", &snapshot, &wait, "--no-password", "--quote-all-identifiers"];
    let mut running = server.tools.tool("pg_dump", server.major, name)?.args(words).start(false)?;
    // While the dump looks around.
    let mut facts = survey::facts(&mut session, name)?;
    let failed =
        |error: io::Error| write_fault(format!("could not write the dump of {name}"), &error);
    let mut sealing = Sealing::create(&into.staging.join(file), into.recipients).map_err(failed)?;
    let total = into.previous.map_or(facts.bytes, Set::plain_bytes);
    let (mut archive, mut done) = (Archive::new(), 0);
    let mut output = Gathered::new(running.output()?);
    let pumped = pump(&mut output, &mut sealing, |bytes| {
        archive.feed(bytes);
        session.stay();
        done += bytes.len() as u64;
        work.moved(done, Some(total));
    });
    // Closed first: a tool whose output nobody takes any more must end, not wait.
    drop(output);
    let said = running.finish(Code::BackupSource);
    pumped.map_err(failed)?;
    doubts.extend(judge::doubts(&said.map_err(advised)?));
    let rows = match archive.finish() {
        Content::Whole(rows) => rows,
        Content::Unknown => BTreeMap::new(),
        Content::Cut => return Err(super::not_whole(name, "it ends in the middle")),
        Content::Nothing => return Err(super::not_whole(name, "what it begins with is no dump")),
    };
    survey::count(&mut session, &mut facts, &rows)?;
    session.run("COMMIT")?;
    survey::sequences_after(&mut session, &mut facts)?;
    let part = sealing.finish(file, name, "pg_dump -Fc").map_err(failed)?;
    Ok((part, facts))
}

/// A dump locks every table, and a server has room for so many locks only.
fn advised(fault: Fault) -> Fault {
    if fault.evidence.iter().any(|line| line.contains("max_locks_per_transaction")) {
        fault.next("psql -c 'ALTER SYSTEM SET max_locks_per_transaction = 1024', then restart that server: a dump locks every table")
    } else {
        fault
    }
}

/// Roles, their memberships and rights: what a dump of a database refers to and does not hold.
fn roles(server: &Server<'_>, superuser: bool, into: &Into<'_>) -> Result<Part, Fault> {
    let mut words = vec!["--roles-only", "--no-password", "--quote-all-identifiers"];
    if !superuser {
        words.push("--no-role-passwords");
    }
    let tool = server.tools.tool("pg_dumpall", server.major, "")?;
    let running = tool.args(words).start(false)?;
    into.seal_output(running, "roles.sql.zst.age", ROLES, "sql")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_room_for_so_many_locks_is_told_what_to_do() {
        let mut fault = Fault::new(Code::BackupSource, "`pg_dump` failed");
        assert_eq!(advised(fault.clone()).next, fault.next);
        fault.evidence =
            vec!["HINT:  You might need to increase max_locks_per_transaction.".to_owned()];
        assert!(advised(fault).next[0].contains("ALTER SYSTEM SET max_locks_per_transaction"));
    }
}
