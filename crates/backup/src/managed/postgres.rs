//! A PostgreSQL server of ours.
//!
//! Settings stand in a file of ours beside the data folder, so that `ALTER SYSTEM` overrides them. Logins and the
//! database are made in single-user mode before the server starts: nobody can come in before they hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use seaworthy_base::{Code, Fault};

use super::memory::{self, share};
use super::{Home, Logins, command, login, other_version};
use crate::engine::postgres::connect::{find_exactly, newest};
use crate::open::feed;
use crate::tool::Tool;

/// Sessions at a time. Pools of a few instances fit; each costs some megabytes.
const CONNECTIONS: u64 = 100;
/// The file that says for whom logins and database were made.
const MADE: &str = "logins";

/// The version of what lies in the folder, and the programs: `initdb` when it is still to be made.
pub(super) fn programs(folder: &Path) -> Result<(PathBuf, Option<PathBuf>), Fault> {
    let missing = || {
        Fault::new(Code::ServerUnfit, "PostgreSQL is not installed on this machine")
            .because("`managed = true` runs the distribution's own server")
            .next("apt install postgresql   (or your distribution's package that has `initdb`)")
    };
    let Ok(text) = fs::read_to_string(folder.join("data/PG_VERSION")) else {
        let (major, initdb) = newest("initdb").ok_or_else(missing)?;
        return Ok((find_exactly("postgres", major).ok_or_else(missing)?, Some(initdb)));
    };
    let text = text.trim();
    let major = text.parse().unwrap_or(0);
    if let Some(postgres) = find_exactly("postgres", major) {
        return Ok((postgres, None));
    }
    let (here, _) = newest("postgres").ok_or_else(missing)?;
    Err(other_version("PostgreSQL", text, &here.to_string(), &format!("postgresql-{text}")))
}

/// Says hello as a client does; a server that is ready asks for the password.
pub(super) fn greeting() -> (Vec<u8>, Vec<u8>) {
    let mut words = vec![0, 0, 0, 0, 0, 3, 0, 0];
    words.extend_from_slice(b"user\0seaworthy\0database\0postgres\0\0");
    words[3] = words.len() as u8;
    (words, b"R".to_vec())
}

/// Makes everything ready; the server as it is to be started.
pub(super) fn ready(home: &Home, logins: &Logins) -> Result<Command, Fault> {
    let (postgres, initdb) = programs(&home.folder)?;
    if let Some(initdb) = initdb {
        home.make_data(|fresh| make(home, &initdb, fresh, logins))?;
    }
    let hba = "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n";
    home.write("pg_hba.conf", hba)?;
    let major = fs::read_to_string(home.path("data/PG_VERSION")).unwrap_or_default();
    let major = major.trim().parse().unwrap_or(0);
    home.write("postgresql.conf", &settings(home, logins.port, memory::of_machine(), major))?;
    if home.read(MADE).as_deref() != Some(&logins.digest) {
        make_logins(home, &postgres, logins)?;
        home.write(MADE, &logins.digest)?;
    }
    Ok(command(&postgres, &where_it_is(home)))
}

fn where_it_is(home: &Home) -> Vec<String> {
    let config = format!("--config-file={}", home.path("postgresql.conf").display());
    vec!["-D".to_owned(), home.path("data").display().to_string(), config]
}

fn make(home: &Home, initdb: &Path, fresh: &Path, logins: &Logins) -> Result<(), Fault> {
    let (name, password) = login(&logins.administrator)?;
    let fresh = fresh.display().to_string();
    let words = [
        "-D",
        &fresh,
        "-U",
        name,
        "--auth=scram-sha-256",
        "--pwfile=/dev/stdin",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
    ];
    let mut running =
        Tool::new(initdb.display().to_string(), &home.folder, None).args(words).start(true)?;
    if let Some(stdin) = running.stdin.as_mut() {
        // What it says of an input that it did not want is better than what we could.
        feed(&mut format!("{password}\n").as_bytes(), stdin, |_| {}).ok();
    }
    running.finish(Code::ServerFailed).map(drop)
}

/// Logins and the database, whoever was there before: a password that changed holds from this start on.
fn make_logins(home: &Home, postgres: &Path, logins: &Logins) -> Result<(), Fault> {
    let ((user, password), (boss, secret)) =
        (login(&logins.application)?, login(&logins.administrator)?);
    let database = logins.application.database.as_deref().unwrap_or(user).replace('"', "");
    let statements = [
        format!("ALTER ROLE \"{boss}\" PASSWORD '{secret}'"),
        format!("CREATE ROLE \"{user}\" LOGIN"),
        format!("ALTER ROLE \"{user}\" LOGIN PASSWORD '{password}'"),
        format!("CREATE DATABASE \"{database}\" OWNER \"{user}\""),
    ];
    let mut words = vec!["--single".to_owned()];
    words.extend(where_it_is(home));
    // No statement in a log: they hold passwords.
    words.extend(["-c".to_owned(), "log_min_error_statement=panic".to_owned()]);
    words.push("postgres".to_owned());
    let mut running =
        Tool::new(postgres.display().to_string(), &home.folder, None).args(words).start(true)?;
    if let Some(stdin) = running.stdin.as_mut() {
        feed(&mut format!("{}\n", statements.join("\n")).as_bytes(), stdin, |_| {}).ok();
    }
    let said = running.finish(Code::ServerFailed)?;
    let error = |line: &&String| line.contains("ERROR") && !line.contains("already exists");
    match said.iter().find(error) {
        None => Ok(()),
        Some(line) => {
            Err(Fault::new(Code::ServerFailed, "the database's logins could not be made")
                .because(line.clone()))
        }
    }
}

fn settings(home: &Home, port: u16, memory: u64, major: u32) -> String {
    let quoted = |path: PathBuf| format!("'{}'", path.display().to_string().replace('\'', "''"));
    let buffers = share(memory, 8, 32, 8192);
    let each = [
        ("data_directory", quoted(home.path("data"))),
        ("hba_file", quoted(home.path("pg_hba.conf"))),
        ("listen_addresses", "'127.0.0.1'".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", "''".to_owned()),
        ("password_encryption", "'scram-sha-256'".to_owned()),
        ("max_connections", CONNECTIONS.to_string()),
        ("shared_buffers", format!("{buffers}MB")),
        ("effective_cache_size", format!("{}MB", share(memory, 2, 64, 1 << 20))),
        ("maintenance_work_mem", format!("{}MB", share(memory, 32, 16, 1024))),
        // Two sorts of every session at once still leave most of the machine to others.
        ("work_mem", format!("{}MB", share(memory, 8 * CONNECTIONS, 2, 64))),
        ("max_wal_size", "1GB".to_owned()),
        ("checkpoint_completion_target", "0.9".to_owned()),
        ("wal_compression", "on".to_owned()),
        // Disks without heads: a page anywhere costs little more than the next one.
        ("random_page_cost", "1.1".to_owned()),
        ("log_line_prefix", "'%p %u@%d '".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("wal_level", "replica".to_owned()),
        ("max_wal_senders", "4".to_owned()),
        // A log that nobody fetches must not fill the disk.
        ("max_slot_wal_keep_size", "4GB".to_owned()),
    ];
    // From then on a server keeps account of what changes, so that a base backup copies only that.
    let account = (major >= 17).then(|| ("summarize_wal", "on".to_owned()));
    let lines = each.iter().chain(&account).map(|(name, value)| format!("{name} = {value}\n"));
    let head = "# Written at each start. ALTER SYSTEM SET … overrides what stands here.\n";
    std::iter::once(head.to_owned()).chain(lines).collect()
}
