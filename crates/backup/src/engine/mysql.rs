//! MariaDB and MySQL: `mariadb-dump --single-transaction`, rows counted in the dump's own stream.
//!
//! These servers cannot lend one session's snapshot to another, so what is recorded is counted from the dump
//! itself (`rows`), which is of one moment. Rooms: `connect` (how clients reach a server), `program` (whose
//! programs), `survey` (facts), `server` (a scratch server), `bring` (restore). Several databases are several dumps,
//! each of one moment.

mod bring;
pub(crate) mod connect;
pub(crate) mod program;
mod rows;
mod server;
mod survey;

use std::collections::VecDeque;
use std::io;

use seaworthy_base::{Code, Fault};

use self::connect::{Client, Connection, text};
use self::program::Kind;
use self::rows::RowCounter;
use super::{Dump, Engine, Into, Parts, Placed, Trial};
use crate::facts::{DatabaseFacts, differences};
use crate::judge;
use crate::model::RestoreTarget;
use crate::seal::{Sealing, pump, write_fault};
use crate::set::{Part, Set};
use crate::tool::Gathered;
use crate::url;
use crate::work::Work;

/// The part with users and their rights.
pub(super) const USERS: &str = "users";
/// How a dump ends when it is whole.
const END: &[u8] = b"-- Dump completed";
/// Databases that belong to the server.
const OWN: [&str; 4] = ["information_schema", "mysql", "performance_schema", "sys"];

/// A server and which of its databases.
#[derive(Debug)]
pub(crate) struct Mysql {
    connection: Connection,
    databases: Option<String>,
}

impl Mysql {
    pub(crate) fn new(url: &str, databases: Option<&str>) -> Result<Self, Fault> {
        Ok(Self { connection: Connection::new(url)?, databases: databases.map(str::to_owned) })
    }

    fn names(&self, client: &Client) -> Result<Vec<String>, Fault> {
        let all =
            client.column("SELECT schema_name FROM information_schema.schemata ORDER BY 1")?;
        let all = all.into_iter().filter(|name| !OWN.contains(&name.as_str()));
        let fits = |name: &String| match (&self.databases, self.connection.database()) {
            (Some(pattern), _) => url::fits(pattern, name),
            (None, Some(database)) => *name == database,
            (None, None) => true,
        };
        let chosen: Vec<String> = all.filter(fits).collect();
        let wanted =
            self.databases.clone().or_else(|| self.connection.database()).unwrap_or_default();
        super::chosen(chosen, &wanted, &self.connection.shown())
    }
}

impl Engine for Mysql {
    fn dump(&self, work: &Work, into: &Into<'_>) -> Result<Dump, Fault> {
        let scratch = work.scratch()?;
        let client = Client::new(&self.connection, &scratch, work)?;
        let server = client.one("SELECT version()")?;
        let tool = client.version()?;
        let names = self.names(&client)?;
        let doubts = program::doubt(&server, &tool).into_iter().collect();
        let mut dump = Dump { server, tool, doubts, ..Dump::default() };
        for (at, name) in names.iter().enumerate() {
            work.step(format!("dumping {name}"));
            let file = super::dump_file(at, names.len(), "sql.zst.age");
            let (part, facts) =
                super::again_when(vanished, work, name, &into.staging.join(&file), || {
                    database(work, &client, name, &file, into, &mut dump.doubts)
                })?;
            dump.parts.push(part);
            dump.databases.push(facts);
            let loose = survey::without_transactions(&client, name)?;
            if !loose.is_empty() {
                dump.notes.push(format!(
                    "tables without transactions are not of one moment: {}",
                    loose.join(", ")
                ));
            }
        }
        match users(&client, into) {
            Ok(part) => dump.parts.push(part),
            Err(fault) => dump.notes.push(format!(
                "users and their rights are not in it: {}",
                fault.evidence.first().unwrap_or(&fault.what)
            )),
        }
        Ok(dump)
    }

    fn trial(&self, work: &Work, set: &Set, parts: &Parts) -> Result<Trial, Fault> {
        let server = server::Scratch::start(work, set)?;
        let client = server.client();
        bring::users(set, parts, client)?;
        let mut trial = Trial::default();
        for (saved, part) in set.databases.iter().zip(&set.parts) {
            work.step(format!("restoring {} into a scratch server", saved.name));
            bring::make_database(client, &saved.name, &saved.settings)?;
            bring::load(work, set, part, parts, client, &saved.name).map_err(|fault| Fault {
                code: if fault.code == Code::RestoreFailed {
                    Code::DrillFailed
                } else {
                    fault.code
                },
                what: "the backup could not be restored into a scratch server".to_owned(),
                ..fault
            })?;
            let mut found = survey::facts(client, &saved.name)?;
            found.rows = survey::count(client, &saved.name)?;
            trial.rows += found.rows.values().sum::<u64>();
            trial.differences.extend(differences(saved, &found));
            for question in &work.job.item.rules.sql {
                trial.differences.extend(survey::ask(client, &saved.name, question));
            }
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
        bring::restore(work, set, parts, target, &self.connection)
    }
}

/// Whether a dump failed by what somebody else did to a table as it was read.
fn vanished(line: &str) -> bool {
    ["doesn't exist", "(1146)", "definition has changed"].iter().any(|part| line.contains(part))
}

/// Dumps one database.
fn database(
    work: &Work,
    client: &Client,
    name: &str,
    file: &str,
    into: &Into<'_>,
    doubts: &mut Vec<String>,
) -> Result<(Part, DatabaseFacts), Fault> {
    let mut facts = survey::facts(client, name)?;
    let words = [
        "--single-transaction",
        "--quick",
        "--routines",
        "--events",
        "--triggers",
        "--hex-blob",
        "--no-tablespaces",
        "--default-character-set=utf8mb4",
        "--skip-lock-tables",
    ];
    let mut running = client.dump_tool()?.args(words).args(["--", name]).start(false)?;
    let failed =
        |error: io::Error| write_fault(format!("could not write the dump of {name}"), &error);
    let mut sealing = Sealing::create(&into.staging.join(file), into.recipients).map_err(failed)?;
    let (mut counter, mut tail, mut done) =
        (RowCounter::default(), VecDeque::with_capacity(256), 0);
    let total = into.previous.map_or(facts.bytes, Set::plain_bytes);
    let mut output = Gathered::new(running.output()?);
    let pumped = pump(&mut output, &mut sealing, |bytes| {
        counter.feed(bytes);
        tail.extend(bytes.iter().rev().take(200).rev());
        let surplus = tail.len().saturating_sub(200);
        tail.drain(..surplus);
        done += bytes.len() as u64;
        work.moved(done, Some(total));
    });
    // Closed first: a tool whose output nobody takes any more must end, not wait.
    drop(output);
    let said = running.finish(Code::BackupSource);
    pumped.map_err(failed)?;
    let said = said?;
    let tail: Vec<u8> = tail.into_iter().collect();
    if !tail.windows(END.len()).any(|part| part == END) {
        return Err(super::not_whole(name, "it does not end as a whole dump does"));
    }
    doubts.extend(judge::doubts(&said));
    let counted = counter.finish();
    // Tables without rows stand in no INSERT.
    let tables = survey::tables(client, name)?;
    facts.rows = tables.into_iter().map(|table| (table, 0)).collect();
    facts.rows.extend(counted);
    let part = sealing.finish(file, name, "sql").map_err(failed)?;
    Ok((part, facts))
}

/// Users and rights, as statements that any later server takes. MySQL's own dump tool does not know how: then the
/// server is asked for the statements one by one.
fn users(client: &Client, into: &Into<'_>) -> Result<Part, Fault> {
    const FILE: &str = "users.sql.zst.age";
    let one_by_one = || into.seal(&mut statements(client)?.as_bytes(), FILE, USERS, "sql");
    if client.kind()? == Kind::Mysql {
        return one_by_one();
    }
    let running = client.dump_tool()?.args(["--system=users", "--insert-ignore"]).start(false)?;
    match into.seal_output(running, FILE, USERS, "sql") {
        Err(fault) if fault.evidence.iter().any(|line| line.contains("unknown variable")) => {
            one_by_one()
        }
        other => other,
    }
}

/// How to make each user that is not the server's own, and what it may do.
fn statements(client: &Client) -> Result<String, Fault> {
    let own = "user NOT IN ('mariadb.sys', 'mysql.sys', 'mysql.session', 'mysql.infoschema', '')";
    let users =
        client.rows(&format!("SELECT user, host FROM mysql.user WHERE {own} ORDER BY 1, 2"))?;
    // A hash is bytes, line ends and quotes among them.
    let readable = match client.kind()? {
        Kind::Mysql => "SET print_identified_with_as_hex = ON; ",
        Kind::MariaDb => "",
    };
    // Everybody first, then what they may do: a role that is given must be there.
    let (mut made, mut rights) = (String::new(), String::new());
    for user in &users {
        let [name, host] = &user[..] else { continue };
        let name = format!("{}@{}", text(name), text(host));
        let make = client.one(&format!("{readable}SHOW CREATE USER {name}"))?;
        let (make, roles) = without_roles(&make);
        made.push_str(&make.replacen("CREATE USER ", "CREATE USER IF NOT EXISTS ", 1));
        made.push_str(";\n");
        for grant in client.column(&format!("SHOW GRANTS FOR {name}"))? {
            rights.push_str(&format!("{grant};\n"));
        }
        if let Some(roles) = roles {
            rights.push_str(&format!("ALTER USER {name} DEFAULT ROLE {roles};\n"));
        }
    }
    Ok(made + &rights)
}

/// How a user is made, and the roles that are its own from the start: MySQL takes them only once they were given.
fn without_roles(make: &str) -> (String, Option<&str>) {
    let parts = make.split_once(" DEFAULT ROLE ");
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(" REQUIRE ")?)));
    match parts {
        Some((before, (roles, after))) => (format!("{before} REQUIRE {after}"), Some(roles)),
        None => (make.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_of_a_user_come_after_the_user() {
        let make = "CREATE USER `a`@`%` IDENTIFIED WITH 'x' AS 0x24 DEFAULT ROLE `r`@`%`,`s`@`%` REQUIRE NONE ACCOUNT UNLOCK";
        assert_eq!(
            without_roles(make),
            (
                "CREATE USER `a`@`%` IDENTIFIED WITH 'x' AS 0x24 REQUIRE NONE ACCOUNT UNLOCK"
                    .to_owned(),
                Some("`r`@`%`,`s`@`%`")
            )
        );
        let plain = "CREATE USER `a`@`%` IDENTIFIED BY PASSWORD '*1'";
        assert_eq!(without_roles(plain), (plain.to_owned(), None));
    }
}
