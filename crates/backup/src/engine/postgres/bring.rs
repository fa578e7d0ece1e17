//! Bringing a PostgreSQL dump back: into a scratch server, a new database, another server, or in place.
//!
//! In place means: restored beside, then both names are swapped in one transaction. Invariants: `pg_restore`
//! stops at the first error; a database that could not be filled is dropped again; live data is only ever
//! renamed.

use seaworthy_base::{Code, Fault};

use super::connect::{Connection, Tools};
use super::server::{make_database, quote};
use super::{Postgres, ROLES};
use crate::engine::{Parts, Placed};
use crate::model::RestoreTarget;
use crate::open::feed;
use crate::set::{Part, Set};
use crate::work::Work;

/// Whether owners and rights are restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// As they were.
    All,
    /// Rights, but everything belongs to the user who restores.
    NoOwners,
    /// Neither: the roles are not known there.
    None,
}

/// Where a dump is restored to.
#[derive(Debug, Clone, Copy)]
pub(super) struct To<'a> {
    pub tools: &'a Tools,
    pub major: u32,
    pub database: &'a str,
    pub rights: Rights,
}

/// Restores one database into an empty one.
pub(super) fn database(
    work: &Work,
    set: &Set,
    part: &Part,
    parts: &Parts,
    to: &To<'_>,
) -> Result<(), Fault> {
    let mut words = vec!["--exit-on-error", "--no-password", "--no-tablespaces"];
    match to.rights {
        Rights::All => {}
        Rights::NoOwners => words.push("--no-owner"),
        Rights::None => words.extend(["--no-owner", "--no-privileges"]),
    }
    let dbname = format!("--dbname={}", to.database);
    let tool = to.tools.tool("pg_restore", to.major, to.database)?.args(words).args([dbname]);
    parts.feed(work, set, part, &tool)
}

/// Makes the roles of a set. Those that are there already stay as they are.
pub(super) fn roles(
    work: &Work,
    set: &Set,
    parts: &Parts,
    tools: &Tools,
    major: u32,
    must: bool,
) -> Result<(), Fault> {
    let Some(part) = set.parts.iter().find(|part| part.holds == ROLES) else { return Ok(()) };
    let text = parts.text(set, part)?;
    let statements = tools
        .session("template1")?
        .texts("SELECT to_json(rolname) FROM pg_roles")
        .map(|names| for_new_roles(&text, &names))?;
    let mut running = tools
        .tool("psql", major, "template1")?
        .args(["--no-psqlrc", "--quiet", "--no-password", "--file=-"])
        .start(true)?;
    if let Some(stdin) = running.stdin.as_mut() {
        feed(&mut statements.as_bytes(), stdin, |_| {}).ok();
    }
    let said = running.finish(Code::RestoreFailed)?;
    let known = |line: &&String| line.contains("already exists") || !line.contains("ERROR");
    if let Some(line) = said.iter().find(|line| !known(line))
        && must
    {
        work.warn(
            Fault::new(Code::BackupUnverified, "a role could not be made in the scratch server")
                .because(line.clone()),
        );
    }
    Ok(())
}

/// Statements that make roles, without those that would change one that is there: `pg_dumpall` makes each role bare
/// and then alters it, password included.
fn for_new_roles(sql: &str, there: &[String]) -> String {
    let theirs: Vec<String> =
        there.iter().map(|name| format!("ALTER ROLE {} ", quote(name))).collect();
    let stays = |line: &&str| !theirs.iter().any(|start| line.starts_with(start));
    sql.lines().filter(stays).flat_map(|line| [line, "\n"]).collect()
}

/// A scratch server that lacks an extension proves nothing about the backup.
pub(super) fn here_or_there(fault: Fault) -> Fault {
    let lacking = |line: &String| {
        line.contains("is not available")
            || line.contains("could not open extension control file")
            || line.contains("could not access file")
    };
    if !fault.evidence.iter().any(lacking) {
        return Fault {
            code: Code::DrillFailed,
            what: "the backup could not be restored into a scratch server".to_owned(),
            ..fault
        };
    }
    Fault { code: Code::BackupUnverified, what: "the backup cannot be tried on this machine: an extension is not installed here".to_owned(), ..fault }
        .next("install the extension's package (such as postgresql-15-pgvector), then: seaworthy backup drill")
}

/// Restores all databases of a set.
pub(super) fn restore(
    work: &Work,
    set: &Set,
    parts: &Parts,
    target: &RestoreTarget,
    source: &Postgres,
) -> Result<Placed, Fault> {
    let connection = match target {
        RestoreTarget::To { url } => Connection::new(url)?,
        _ => source.connection.clone(),
    };
    let scratch = work.scratch()?;
    let tools = Tools::new(&connection, &scratch, work)?;
    let single = set.databases.len() == 1;
    let desk = maintenance(&tools, &connection)?;
    let mut session = tools.session(&desk)?;
    let (_, major) = session.version()?;
    let superuser =
        session.one("SELECT to_json(rolsuper) FROM pg_roles WHERE rolname = current_user")? == true;
    drop(session);
    let rights = match (superuser, target) {
        (true, _) => Rights::All,
        (false, RestoreTarget::To { .. }) => Rights::None,
        (false, _) => Rights::NoOwners,
    };
    if superuser {
        roles(work, set, parts, &tools, major, false)?;
    }
    let mut placed = Vec::new();
    for (saved, part) in set.databases.iter().zip(&set.parts) {
        let wanted = match target {
            RestoreTarget::Into { name } if single => name.clone(),
            RestoreTarget::Into { name } => format!("{name}_{}", saved.name),
            RestoreTarget::To { .. } if single => connection.database(),
            _ => saved.name.clone(),
        };
        let exists = databases(&tools, &desk)?.contains(&wanted);
        let swap = exists && *target == RestoreTarget::InPlace;
        if exists && !swap && !is_empty(&tools, &wanted)? {
            return Err(Fault::new(
                Code::RestoreUnconfirmed,
                format!("database `{wanted}` is there already and is not empty"),
            )
            .because("a restore never writes over data")
            .next(
                "name a new database: --into NAME, or restore in place: leave out --to and --into",
            ));
        }
        let fresh = if swap {
            format!("{}_new_{}", shortened(&wanted), stamp(set))
        } else {
            wanted.clone()
        };
        if swap && databases(&tools, &desk)?.contains(&fresh) {
            tools.session(&desk)?.run(&format!("DROP DATABASE {}", quote(&fresh)))?;
        }
        work.step(format!("restoring {} into `{fresh}`", saved.name));
        if swap || !exists {
            make_database(&tools, &desk, &fresh, &saved.settings)?;
        }
        let to = To { tools: &tools, major, database: &fresh, rights };
        if let Err(fault) = database(work, set, part, parts, &to) {
            if swap || !exists {
                // What could not be filled must not look like something.
                tools.session(&desk)?.run(&format!("DROP DATABASE IF EXISTS {}", quote(&fresh)))?;
            }
            return Err(fault);
        }
        let before =
            if swap { Some(exchange(work, set, &tools, &desk, &wanted, &fresh)?) } else { None };
        placed.push((wanted, before));
    }
    let names: Vec<String> = placed.iter().map(|(name, _)| name.clone()).collect();
    let before: Vec<String> = placed.into_iter().filter_map(|(_, before)| before).collect();
    Ok(Placed {
        to: format!("{} ({})", tools.shown(), names.join(", ")),
        before: (!before.is_empty()).then(|| format!("database {}", before.join(", "))),
    })
}

/// A database to stand in while others are made and renamed.
fn maintenance(tools: &Tools, connection: &Connection) -> Result<String, Fault> {
    let mut last = None;
    for name in ["postgres".to_owned(), "template1".to_owned(), connection.database()] {
        match tools.session(&name) {
            Ok(_) => return Ok(name),
            Err(fault) => last = last.or(Some(fault)),
        }
    }
    Err(last.unwrap_or_else(|| {
        Fault::new(Code::RestoreFailed, format!("{} cannot be reached", tools.shown()))
    }))
}

fn databases(tools: &Tools, desk: &str) -> Result<Vec<String>, Fault> {
    tools.session(desk)?.texts("SELECT to_json(datname) FROM pg_database")
}

fn is_empty(tools: &Tools, name: &str) -> Result<bool, Fault> {
    let count = tools.session(name)?.one("SELECT to_json(count(*)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'")?;
    Ok(count == 0)
}

/// Gives the restored database the live one's name, and the live one another: one transaction.
fn exchange(
    work: &Work,
    set: &Set,
    tools: &Tools,
    desk: &str,
    live: &str,
    fresh: &str,
) -> Result<String, Fault> {
    work.step(format!("swapping `{live}`"));
    let before = format!("{}_before_{}", shortened(live), stamp(set));
    let taken = databases(tools, desk)?.contains(&before);
    let before = if taken { format!("{before}_{:04x}", rand::random::<u16>()) } else { before };
    let text = live.replace('\'', "''");
    let mut session = tools.session(desk)?;
    for statement in session.texts(&like(live, fresh))? {
        session.try_one(&statement)?;
    }
    drop(session);
    let swap = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{text}' AND pid <> pg_backend_pid();\nBEGIN; ALTER DATABASE {live} RENAME TO {before}; ALTER DATABASE {fresh} RENAME TO {live}; COMMIT",
        live = quote(live),
        before = quote(&before),
        fresh = quote(fresh)
    );
    // A pool may be back before the name is locked. Closing the database first would be surer, and would
    // leave it closed if we died in between.
    let mut tries = 0;
    loop {
        tries += 1;
        match tools.session(desk)?.run(&swap) {
            Err(fault)
                if tries < 10
                    && fault.causes.iter().any(|cause| cause.contains("being accessed")) => {}
            other => break other?,
        }
    }
    Ok(before)
}

/// Asks for the statements that give one database owner, rights and settings of another: they stand outside of
/// its dump.
fn like(live: &str, fresh: &str) -> String {
    let (live, fresh) = (live.replace('\'', "''"), quote(fresh).replace('\'', "''"));
    let format = fresh.replace('%', "%%");
    [
        format!("SELECT to_json(statement) FROM pg_database d, LATERAL (SELECT 0, format('ALTER DATABASE {format} OWNER TO %I', pg_get_userbyid(d.datdba))"),
        format!("UNION ALL SELECT 1, 'REVOKE ALL ON DATABASE {fresh} FROM PUBLIC' WHERE d.datacl IS NOT NULL"),
        format!("UNION ALL SELECT 2, format('GRANT %s ON DATABASE {format} TO %s', a.privilege_type, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) FROM aclexplode(d.datacl) a"),
        format!("UNION ALL SELECT 3, format('ALTER DATABASE {format} SET %I = %L', split_part(one, '=', 1), substr(one, strpos(one, '=') + 1)) FROM pg_db_role_setting s, unnest(s.setconfig) one WHERE s.setdatabase = d.oid AND s.setrole = 0"),
        format!(") AS all_of (position, statement) WHERE d.datname = '{live}' ORDER BY position"),
    ]
    .join(" ")
}

/// Names have 63 bytes at most, and ours add up to 33.
fn shortened(name: &str) -> &str {
    let mut end = name.len().min(30);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or(name)
}

fn stamp(set: &Set) -> String {
    set.id.as_str().to_ascii_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_is_there_keeps_its_password() {
        let sql = "CREATE ROLE \"a\";\nALTER ROLE \"a\" WITH LOGIN PASSWORD 'old';\nCREATE ROLE \"a b\";\nALTER ROLE \"a b\" WITH LOGIN PASSWORD 'new';\nGRANT \"a\" TO \"a b\";\n";
        let left = for_new_roles(sql, &["a".to_owned()]);
        assert!(
            !left.contains("'old'") && left.contains("'new'") && left.contains("GRANT"),
            "{left}"
        );
    }
}
