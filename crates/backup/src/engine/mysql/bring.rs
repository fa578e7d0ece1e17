//! Bringing a MariaDB or MySQL dump back.
//!
//! In place means: loaded beside, which proves that it can be, then all tables change places in one RENAME TABLE,
//! and views, routines and events follow. Invariants: live tables are only ever renamed; a database that could
//! not be filled is dropped again.

use std::collections::BTreeMap;

use seaworthy_base::{Code, Fault};

use super::USERS;
use super::connect::{Client, Connection, quote, text};
use super::survey::tables;
use crate::engine::{Parts, Placed};
use crate::model::RestoreTarget;
use crate::open::feed;
use crate::set::{Part, Set};
use crate::work::Work;

/// Makes an empty database.
pub(super) fn make_database(
    client: &Client,
    name: &str,
    settings: &BTreeMap<String, String>,
) -> Result<(), Fault> {
    let word = |name: &str| {
        settings.get(name).filter(|text| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
    };
    let charset =
        word("charset").map_or_else(String::new, |charset| format!(" CHARACTER SET {charset}"));
    let collate = word("collate").map_or_else(String::new, |collate| format!(" COLLATE {collate}"));
    client.run(&format!("CREATE DATABASE {}{charset}{collate}", quote(name)))
}

/// Loads one dump into an empty database.
pub(super) fn load(
    work: &Work,
    set: &Set,
    part: &Part,
    parts: &Parts,
    client: &Client,
    database: &str,
) -> Result<(), Fault> {
    parts.feed(work, set, part, &client.loader(database)?)
}

/// Makes the users of a set; those that are there already stay as they are.
pub(super) fn users(set: &Set, parts: &Parts, client: &Client) -> Result<(), Fault> {
    let Some(part) = set.parts.iter().find(|part| part.holds == USERS) else { return Ok(()) };
    let sql = parts.text(set, part)?;
    // Who may not ask who is there may not change them either.
    let there = client.rows("SELECT user, host FROM mysql.user").unwrap_or_default();
    let sql = for_new_users(&sql, &there);
    // A right on a database that is not there, an authentication that is not installed: the rest counts.
    let mut running = client.loader_with(&["--force"], "mysql")?.start(true)?;
    if let Some(stdin) = running.stdin.as_mut() {
        feed(&mut without_passwords(&sql).as_bytes(), stdin, |_| {}).ok();
    }
    running.finish(Code::RestoreFailed).map(drop).or(Ok(()))
}

/// Statements without those that would change a user who is there.
fn for_new_users(sql: &str, there: &[Vec<String>]) -> String {
    let theirs: Vec<String> = there
        .iter()
        .filter_map(|user| match &user[..] {
            [name, host] => Some(format!("ALTER USER {}@{} ", text(name), text(host))),
            _ => None,
        })
        .collect();
    let stays = |line: &&str| !theirs.iter().any(|start| line.starts_with(start));
    sql.lines().filter(stays).flat_map(|line| [line, "\n"]).collect()
}

/// Rights without the passwords that stand with them: a user that is made gets its own where it is made, and one
/// that is there keeps what it has.
fn without_passwords(sql: &str) -> String {
    let line = |line: &str| {
        let ends = ["` IDENTIFIED BY PASSWORD '", "` IDENTIFIED VIA "];
        let cut = ends.iter().filter_map(|end| line.rfind(end)).min();
        match cut.filter(|_| line.starts_with("GRANT ")) {
            Some(at) => {
                let rights = line.get(..=at).unwrap_or(line);
                let more =
                    if line.contains(" WITH GRANT OPTION") { " WITH GRANT OPTION" } else { "" };
                format!("{rights}{more};\n")
            }
            None => format!("{line}\n"),
        }
    };
    sql.lines().map(line).collect()
}

/// Restores all databases of a set.
pub(super) fn restore(
    work: &Work,
    set: &Set,
    parts: &Parts,
    target: &RestoreTarget,
    source: &Connection,
) -> Result<Placed, Fault> {
    let connection = match target {
        RestoreTarget::To { url } => Connection::new(url)?,
        _ => source.clone(),
    };
    let scratch = work.scratch()?;
    let client = Client::new(&connection, &scratch, work)?;
    let single = set.databases.len() == 1;
    let (mut names, mut before) = (Vec::new(), Vec::new());
    for (saved, part) in set.databases.iter().zip(&set.parts) {
        let wanted = match target {
            RestoreTarget::Into { name } if single => name.clone(),
            RestoreTarget::Into { name } => format!("{name}_{}", saved.name),
            RestoreTarget::To { .. } if single => {
                connection.database().unwrap_or_else(|| saved.name.clone())
            }
            _ => saved.name.clone(),
        };
        let exists = !client
            .column(&format!(
                "SELECT 1 FROM information_schema.schemata WHERE schema_name = {}",
                text(&wanted)
            ))?
            .is_empty();
        let empty = !exists || tables(&client, &wanted)?.is_empty();
        let swap = !empty && *target == RestoreTarget::InPlace;
        if !empty && !swap {
            return Err(Fault::new(
                Code::RestoreUnconfirmed,
                format!("database `{wanted}` is there already and is not empty"),
            )
            .because("a restore never writes over data")
            .next(
                "name a new database: --into NAME, or restore in place: leave out --to and --into",
            ));
        }
        let fresh = if swap { beside(&wanted, "new", set) } else { wanted.clone() };
        work.step(format!("restoring {} into `{fresh}`", saved.name));
        if swap {
            client.run(&format!("DROP DATABASE IF EXISTS {}", quote(&fresh)))?;
        }
        if swap || !exists {
            make_database(&client, &fresh, &saved.settings)?;
        }
        if let Err(fault) = load(work, set, part, parts, &client, &fresh) {
            if swap || !exists {
                // What could not be filled must not look like something.
                client.run(&format!("DROP DATABASE IF EXISTS {}", quote(&fresh)))?;
            }
            return Err(fault);
        }
        if swap {
            work.step(format!("swapping `{wanted}`"));
            before.push(exchange(&client, set, &wanted, &fresh)?);
        }
        names.push(wanted);
    }
    users(set, parts, &client)?;
    Ok(Placed {
        to: format!("{} ({})", client.shown(), names.join(", ")),
        before: (!before.is_empty()).then(|| format!("database {}", before.join(", "))),
    })
}

/// A name beside another, 64 characters at most.
fn beside(name: &str, word: &str, set: &Set) -> String {
    let short: String = name.chars().take(30).collect();
    format!("{short}_{word}_{}", set.id.as_str().to_ascii_lowercase().replace('-', "_"))
}

/// Puts the tables of `fresh` in the place of those of `live`: one RENAME TABLE, all or nothing. What hangs on
/// tables and cannot be renamed with them (triggers) or is no table (views, routines, events) follows from a
/// dump of `fresh` without its rows.
fn exchange(client: &Client, set: &Set, live: &str, fresh: &str) -> Result<String, Fault> {
    let mut before = beside(live, "before", set);
    if !client
        .column(&format!(
            "SELECT 1 FROM information_schema.schemata WHERE schema_name = {}",
            text(&before)
        ))?
        .is_empty()
    {
        before = format!(
            "{}_{:04x}",
            before.chars().take(59).collect::<String>(),
            rand::random::<u16>()
        );
    }
    let views = |database: &str| {
        client.column(&format!(
            "SELECT table_name FROM information_schema.views WHERE table_schema = {}",
            text(database)
        ))
    };
    let mut rest = client
        .dump_tool()?
        .args([
            "--no-data",
            "--no-create-info",
            "--triggers",
            "--routines",
            "--events",
            "--",
            fresh,
        ])
        .output(Code::RestoreFailed)?;
    let fresh_views = views(fresh)?;
    if !fresh_views.is_empty() {
        let words = ["--no-data", "--skip-triggers", "--skip-routines", "--", fresh]
            .into_iter()
            .map(str::to_owned)
            .chain(fresh_views);
        rest.push_str(&client.dump_tool()?.args(words).output(Code::RestoreFailed)?);
    }
    client.run(&format!("CREATE DATABASE {}", quote(&before)))?;
    for database in [live, fresh] {
        for trigger in client.column(&format!(
            "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = {}",
            text(database)
        ))? {
            client.run(&format!("DROP TRIGGER {}.{}", quote(database), quote(&trigger)))?;
        }
    }
    let moves = |from: &str, to: &str| -> Result<Vec<String>, Fault> {
        let all = tables(client, from)?;
        Ok(all
            .iter()
            .map(|table| {
                format!("{}.{table} TO {}.{table}", quote(from), quote(to), table = quote(table))
            })
            .collect())
    };
    let all = [moves(live, &before)?, moves(fresh, live)?].concat();
    if !all.is_empty() {
        client.run(&format!("SET foreign_key_checks = 0; RENAME TABLE {}", all.join(", ")))?;
    }
    for view in views(live)? {
        client.run(&format!("DROP VIEW IF EXISTS {}.{}", quote(live), quote(&view)))?;
    }
    for row in client.rows(&format!("SELECT routine_type, routine_name FROM information_schema.routines WHERE routine_schema = {}", text(live)))? {
        if let [kind, name] = &row[..] {
            client.run(&format!("DROP {kind} IF EXISTS {}.{}", quote(live), quote(name)))?;
        }
    }
    for event in client.column(&format!(
        "SELECT event_name FROM information_schema.events WHERE event_schema = {}",
        text(live)
    ))? {
        client.run(&format!("DROP EVENT IF EXISTS {}.{}", quote(live), quote(&event)))?;
    }
    let mut running = client.loader(live)?.start(true)?;
    if let Some(stdin) = running.stdin.as_mut() {
        feed(&mut rest.as_bytes(), stdin, |_| {}).ok();
    }
    running.finish(Code::RestoreFailed)?;
    client.run(&format!("DROP DATABASE {}", quote(fresh)))?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_there_is_not_changed() {
        let sql = "CREATE USER IF NOT EXISTS 'a'@'h' IDENTIFIED WITH 'x' AS 0x24;\nALTER USER 'a'@'h' DEFAULT ROLE `r`@`%`;\nALTER USER 'a'@'hh' DEFAULT ROLE `r`@`%`;";
        let left = for_new_users(sql, &[vec!["a".to_owned(), "h".to_owned()]]);
        assert_eq!(left.lines().count(), 2, "{left}");
        assert!(left.contains("'a'@'hh' DEFAULT"), "{left}");
    }

    #[test]
    fn who_is_there_keeps_the_password_that_it_has() {
        let sql = "CREATE USER IF NOT EXISTS `a`@`h` IDENTIFIED BY PASSWORD '*1';\nGRANT USAGE ON *.* TO `a`@`h` IDENTIFIED BY PASSWORD '*1';\nGRANT ALL PRIVILEGES ON *.* TO `b`@`h` IDENTIFIED VIA unix_socket WITH GRANT OPTION;\nGRANT SELECT ON `x`.* TO `a`@`h`;";
        assert_eq!(
            without_passwords(sql).lines().collect::<Vec<_>>(),
            [
                "CREATE USER IF NOT EXISTS `a`@`h` IDENTIFIED BY PASSWORD '*1';",
                "GRANT USAGE ON *.* TO `a`@`h`;",
                "GRANT ALL PRIVILEGES ON *.* TO `b`@`h` WITH GRANT OPTION;",
                "GRANT SELECT ON `x`.* TO `a`@`h`;",
            ]
        );
    }
}
