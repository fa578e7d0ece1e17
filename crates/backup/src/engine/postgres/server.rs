//! A scratch server: a data folder of its own, a Unix socket only, gone when it is dropped.
//!
//! Invariants: it is of the same major version as the one that was dumped; it listens on no address; it
//! dies with us; it opens nothing but its folders. Durability is off: what it holds is thrown away.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use seaworthy_base::{Code, Fault};

use super::connect::{Connection, Tools, find_exactly};
use crate::facts::DatabaseFacts;
use crate::seal::write_fault;
use crate::set::Set;
use crate::shut_in::ShutIn;
use crate::tool::{Running, Tool};
use crate::work::{Temporary, Work};

/// The scratch server's superuser: no role of anybody's dump has that name.
const USER: &str = "seaworthy_scratch";
/// A server on a busy machine may take this long to come up.
const START: Duration = Duration::from_secs(60);
/// Playing a log takes as long as the log is.
const REPLAY: Duration = Duration::from_secs(12 * 3600);

/// A running scratch server.
#[derive(Debug)]
pub(crate) struct Scratch {
    running: Option<Running>,
    tools: Tools,
    major: u32,
    user: String,
    _dir: Temporary,
    sockets: Temporary,
}

/// What a data folder is to become.
#[derive(Debug, Clone)]
pub(crate) struct Recovery {
    /// Where the files of the log are.
    pub log: PathBuf,
    /// The moment, as the server reads it; the end of the log without one.
    pub target: Option<String>,
}

impl Scratch {
    /// Makes and starts one for a set.
    pub(crate) fn start(work: &Work, set: &Set) -> Result<Self, Fault> {
        let major = major_of(set);
        let (initdb, postgres) = (program("initdb", set)?, program("postgres", set)?);
        let (dir, sockets) = (work.scratch()?, work.sockets()?);
        // What the tables and indexes take there, once more for the log of the load.
        let needed = set.databases.iter().map(|one| one.bytes).sum::<u64>();
        work.need_space(dir.path(), needed + needed / 4 + (64 << 20), "a drill")?;
        work.step("starting a scratch server");
        let data = dir.path().join("data").display().to_string();
        let run_as = work.job.run_as.as_ref();
        let words =
            ["-D", &data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"];
        // Not shut in: it looks up who it is, in a file that is another one once somebody adds a user, and it reads
        // nothing of a backup.
        Tool::new(initdb.display().to_string(), dir.path(), run_as)
            .args(words)
            .output(Code::BackupUnverified)?;
        let mut words = vec!["-D".to_owned(), data];
        for setting in
            ["wal_level=minimal", "max_wal_senders=0", "max_wal_size=256MB", "autovacuum=off"]
        {
            words.extend(["-c".to_owned(), setting.to_owned()]);
        }
        let up = Up { postgres: &postgres, words, user: USER, patience: START };
        let running = up.start(work, &dir, &sockets).map_err(|fault| no_server(set, fault))?;
        let tools = Tools::new(&Connection::socket(sockets.path(), USER), &dir, work)?;
        Ok(Self { running: Some(running), tools, major, user: USER.to_owned(), _dir: dir, sockets })
    }

    /// Starts one on a copied data folder (`data` in `dir`) that first plays a log.
    pub(crate) fn recover(
        work: &Work,
        set: &Set,
        dir: Temporary,
        recovery: &Recovery,
    ) -> Result<Self, Box<(Fault, Temporary)>> {
        match recover(work, set, &dir, recovery) {
            Ok((running, tools, user, sockets)) => {
                let major = major_of(set);
                Ok(Self { running: Some(running), tools, major, user, _dir: dir, sockets })
            }
            Err(fault) => Err(Box::new((fault, dir))),
        }
    }

    /// How it is reached by a tool of another job.
    pub(crate) fn connection(&self, database: &str) -> Connection {
        Connection::socket(self.sockets.path(), &self.user).to(database)
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

fn major_of(set: &Set) -> u32 {
    let digits = set.server.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn program(name: &str, set: &Set) -> Result<PathBuf, Fault> {
    let major = major_of(set);
    find_exactly(name, major).ok_or_else(|| {
        let what = format!("backup {} cannot be tried on this machine", set.id);
        Fault::new(Code::BackupUnverified, what)
            .because(format!(
                "it is of PostgreSQL {major}, and there is no `{name}` of that version here"
            ))
            .next(format!("apt install postgresql-{major}"))
    })
}

fn no_server(set: &Set, fault: Fault) -> Fault {
    Fault { what: format!("backup {} cannot be tried: no scratch server came up", set.id), ..fault }
}

/// A server to start on a data folder; it listens on a socket only.
struct Up<'a> {
    postgres: &'a Path,
    words: Vec<String>,
    user: &'a str,
    patience: Duration,
}

impl Up<'_> {
    fn start(self, work: &Work, dir: &Temporary, sockets: &Temporary) -> Result<Running, Fault> {
        let socket_dir = format!("unix_socket_directories={}", sockets.path().display());
        let settings = [
            socket_dir.as_str(),
            "listen_addresses=",
            "fsync=off",
            "full_page_writes=off",
            "max_connections=20",
            "max_locks_per_transaction=1024",
            "shared_buffers=32MB",
            "maintenance_work_mem=64MB",
            "logging_collector=off",
            // In its own folder, not in one that is everybody's.
            "dynamic_shared_memory_type=mmap",
        ];
        let program = self.postgres.display().to_string();
        let mut tool = Tool::new(program, dir.path(), work.job.run_as.as_ref())
            .shut_in(ShutIn::within(&[dir.path(), sockets.path()]))
            .args(self.words);
        tool = settings.iter().fold(tool, |tool, setting| tool.args(["-c", setting]));
        let running = tool.start(false)?;
        let tools = Tools::new(&Connection::socket(sockets.path(), self.user), dir, work)?;
        let socket = sockets.path().join(".s.PGSQL.5432");
        running.ready(self.patience, Code::BackupUnverified, || {
            socket.exists() && tools.session("postgres").is_ok()
        })
    }
}

type Recovered = (Running, Tools, String, Temporary);

fn recover(
    work: &Work,
    set: &Set,
    dir: &Temporary,
    recovery: &Recovery,
) -> Result<Recovered, Fault> {
    let postgres = program("postgres", set)?;
    let sockets = work.sockets()?;
    let data = dir.path().join("data");
    let quoted = |path: &Path| path.display().to_string().replace('\'', "''");
    let log = quoted(&recovery.log);
    // Not the source's own settings: they name its paths, its memory, its libraries.
    let mut settings = format!(
        "hba_file = '{0}/hba'\nident_file = '{0}/ident'\nhot_standby = off\narchive_mode = off\nmax_wal_senders = 0\nwal_level = minimal\nautovacuum = off\nshared_preload_libraries = ''\nrestore_command = 'cp \"{log}/%f\" \"%p\"'\nrecovery_target_action = 'promote'\n",
        quoted(dir.path())
    );
    if let Some(target) = &recovery.target {
        settings.push_str(&format!("recovery_target_time = '{target}'\n"));
    }
    for (path, text) in [
        (dir.path().join("hba"), "local all all trust\n"),
        (dir.path().join("ident"), ""),
        (dir.path().join("conf"), settings.as_str()),
        (data.join("recovery.signal"), ""),
        // What ALTER SYSTEM set there would go before ours.
        (data.join("postgresql.auto.conf"), ""),
    ] {
        let written = fs::write(&path, text).and_then(|()| match &work.job.run_as {
            Some(user) => std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        });
        written.map_err(|error| {
            write_fault(format!("could not write `{}`", path.display()), &error)
        })?;
    }
    let facts = set.databases.first().and_then(|facts| facts.settings.get(super::log::SUPERUSER));
    let user = facts.map_or("postgres", String::as_str);
    let config = format!("--config-file={}", dir.path().join("conf").display());
    let words = vec!["-D".to_owned(), data.display().to_string(), config];
    let up = Up { postgres: &postgres, words, user, patience: REPLAY };
    let running = up.start(work, dir, &sockets).map_err(|fault| no_server(set, fault))?;
    let tools = Tools::new(&Connection::socket(sockets.path(), user), dir, work)?;
    Ok((running, tools, user.to_owned(), sockets))
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
