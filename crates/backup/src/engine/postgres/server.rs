//! A scratch server: a data folder of its own, a Unix socket only, gone when it is dropped.
//!
//! Invariants: it is of the same major version as the one that was dumped; it listens on no address; it
//! dies with us. Durability is off: what it holds is thrown away.

use std::collections::BTreeMap;
use std::time::Duration;

use seaworthy_base::{Code, Fault};

use super::connect::{Connection, Tools, find_exactly};
use crate::facts::DatabaseFacts;
use crate::set::Set;
use crate::tool::{Running, Tool};
use crate::work::{Temporary, Work};

/// The scratch server's superuser: no role of anybody's dump has that name.
const USER: &str = "seaworthy_scratch";
/// A server on a busy machine may take this long to come up.
const START: Duration = Duration::from_secs(60);

/// A running scratch server.
#[derive(Debug)]
pub(crate) struct Scratch {
    running: Option<Running>,
    tools: Tools,
    major: u32,
    _dir: Temporary,
    _sockets: Temporary,
}

impl Scratch {
    /// Makes and starts one for a set.
    pub(crate) fn start(work: &Work, set: &Set) -> Result<Self, Fault> {
        let major: u32 = set
            .server
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let missing = |name: &str| {
            Fault::new(
                Code::BackupUnverified,
                format!("backup {} cannot be tried on this machine", set.id),
            )
            .because(format!(
                "it is of PostgreSQL {major}, and there is no `{name}` of that version here"
            ))
            .next(format!("apt install postgresql-{major}"))
        };
        let initdb = find_exactly("initdb", major).ok_or_else(|| missing("initdb"))?;
        let postgres = find_exactly("postgres", major).ok_or_else(|| missing("postgres"))?;
        let (dir, sockets) = (work.scratch()?, work.sockets()?);
        // What the tables and indexes take there, once more for the log of the load.
        let needed = set.databases.iter().map(|one| one.bytes).sum::<u64>();
        work.need_space(dir.path(), needed + needed / 4 + (64 << 20), "a drill")?;
        work.step("starting a scratch server");
        let data = dir.path().join("data").display().to_string();
        let run_as = work.job.run_as.as_ref();
        let words =
            ["-D", &data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"];
        Tool::new(initdb.display().to_string(), dir.path(), run_as)
            .args(words)
            .output(Code::BackupUnverified)?;
        let socket_dir = format!("unix_socket_directories={}", sockets.path().display());
        let settings = [
            socket_dir.as_str(),
            "listen_addresses=",
            "fsync=off",
            "full_page_writes=off",
            "wal_level=minimal",
            "max_wal_senders=0",
            "autovacuum=off",
            "max_connections=20",
            "max_locks_per_transaction=1024",
            "shared_buffers=32MB",
            "maintenance_work_mem=64MB",
            "max_wal_size=256MB",
            "logging_collector=off",
        ];
        let mut tool =
            Tool::new(postgres.display().to_string(), dir.path(), run_as).args(["-D", &data]);
        tool = settings.iter().fold(tool, |tool, setting| tool.args(["-c", setting]));
        let running = tool.start(false)?;
        let tools = Tools::new(&Connection::socket(sockets.path(), USER), &dir, work)?;
        let socket = sockets.path().join(".s.PGSQL.5432");
        let running = running
            .ready(START, Code::BackupUnverified, || {
                socket.exists() && tools.session("postgres").is_ok()
            })
            .map_err(|fault| Fault {
                what: format!("backup {} cannot be tried: no scratch server came up", set.id),
                ..fault
            })?;
        Ok(Self { running: Some(running), tools, major, _dir: dir, _sockets: sockets })
    }

    /// Tools that reach it.
    pub(crate) fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Its major version.
    pub(crate) fn major(&self) -> u32 {
        self.major
    }

    /// Makes an empty database like the one that was saved.
    pub(crate) fn make_database(&self, saved: &DatabaseFacts) -> Result<(), Fault> {
        if saved.name == "postgres" {
            // Every server has one; its own goes so that the saved one's settings hold.
            self.tools.session("template1")?.run("DROP DATABASE postgres")?;
        }
        make_database(&self.tools, "template1", &saved.name, &saved.settings)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // Immediate shutdown: there is nothing to keep.
            running.stop(rustix::process::Signal::QUIT.as_raw(), Duration::from_secs(10));
        }
    }
}

/// Makes an empty database; where the server does not know the locale, the plain one.
pub(super) fn make_database(
    tools: &Tools,
    from: &str,
    name: &str,
    settings: &BTreeMap<String, String>,
) -> Result<(), Fault> {
    let setting = |name: &str| {
        settings.get(name).map(|text| text.replace('\'', "''")).filter(|text| !text.is_empty())
    };
    let quoted = quote(name);
    let encoding = setting("encoding").unwrap_or_else(|| "UTF8".to_owned());
    let (collate, ctype) = (
        setting("collate").unwrap_or_else(|| "C".to_owned()),
        setting("ctype").unwrap_or_else(|| "C".to_owned()),
    );
    let sql = |collate: &str, ctype: &str| {
        format!(
            "CREATE DATABASE {quoted} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE '{collate}' LC_CTYPE '{ctype}'"
        )
    };
    match tools.session(from)?.run(&sql(&collate, &ctype)) {
        Err(fault) if fault.causes.iter().any(|cause| cause.contains("locale")) => {
            let plain = if encoding == "UTF8" { "C.UTF-8" } else { "C" };
            tools.session(from)?.run(&sql("C", plain))?;
        }
        other => other?,
    }
    let Some(owner) = setting("owner") else { return Ok(()) };
    // Who owns it stands outside of a dump, and without the application may make nothing in it.
    let mut session = tools.session(from)?;
    let statements = session.texts(&format!("SELECT to_json(format('ALTER DATABASE {} OWNER TO %I', rolname)) FROM pg_roles WHERE rolname = '{owner}' AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)", quoted.replace('\'', "''").replace('%', "%%")))?;
    statements.iter().try_for_each(|statement| session.run(statement))
}

/// A name as it stands in SQL.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
