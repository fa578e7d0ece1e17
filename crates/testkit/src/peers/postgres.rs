//! A PostgreSQL server for one test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::{Place, Server, command, run};
use crate::{eventually, eventually_some};

/// A running server; on a Unix socket, superuser `boss` (password `s3cr:t/@`) and user `app`.
#[derive(Debug)]
pub struct Postgres {
    server: Option<Server>,
    place: Place,
    /// Where its programs are, unless they are the distribution's.
    programs: Option<PathBuf>,
}

/// Where the programs are of a version that no distribution has that we test on: `cargo xtask setup` puts them there.
pub const POSTGRES_18: &str = "/usr/local/lib/seaworthy-tests/postgresql-18/bin";

/// A program of the newest version that is installed.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    newest.map_or_else(
        || name.into(),
        |version| format!("/usr/lib/postgresql/{version}/bin/{name}").into(),
    )
}

impl Postgres {
    /// Makes and starts one; every connection needs a password.
    #[track_caller]
    pub fn start() -> Self {
        Self::make(None)
    }

    /// The same of version 18, which keeps account of what changes.
    #[track_caller]
    pub fn start_18() -> Self {
        Self::make(Some(POSTGRES_18.into()))
    }

    fn program(&self, name: &str) -> PathBuf {
        self.programs.as_ref().map_or_else(|| program(name), |folder| folder.join(name))
    }

    #[track_caller]
    fn make(programs: Option<PathBuf>) -> Self {
        let place = Place::new();
        let mut server = Self { server: None, place, programs };
        let place = &server.place;
        let password = place.path().join("password");
        std::fs::write(&password, "s3cr:t/@\n").expect("a password file");
        let mut initdb = command(&server.program("initdb"), place.path());
        initdb.args([
            "-D",
            "data",
            "-U",
            "boss",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--pwfile",
        ]);
        run(initdb.arg(&password));
        server.restart();
        server
    }

    /// Starts it again, after [`Self::stop`] or from scratch.
    #[track_caller]
    pub fn restart(&mut self) {
        let mut postgres = command(&self.program("postgres"), self.place.path());
        let sockets = format!("unix_socket_directories={}", self.place.path().display());
        postgres.args(["-D", "data", "-c", &sockets]);
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "full_page_writes=off",
            "max_connections=30",
            "wal_level=replica",
            "max_wal_senders=8",
            // A dump of ten thousand tables locks each of them.
            "max_locks_per_transaction=400",
        ] {
            postgres.args(["-c", setting]);
        }
        if self.programs.is_some() {
            postgres.args(["-c", "summarize_wal=on"]);
        }
        let mut started = Server::start(postgres, &self.place.path().join("log"));
        eventually("PostgreSQL answers", Duration::from_secs(60), || {
            started.must_live();
            self.try_sql("postgres", "SELECT 1").is_some()
        });
        self.server = Some(started);
    }

    /// Stops it at once, as a crash would.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.end(Signal::QUIT);
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.place.path()
    }

    /// The URL of a database for the superuser.
    pub fn url(&self, database: &str) -> String {
        let host = self.place.path().display().to_string().replace('/', "%2F");
        format!("postgresql://boss:s3cr%3At%2F%40@{host}:5432/{database}?schema=public")
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = command(&program("psql"), self.place.path());
        psql.args(["--no-psqlrc", "-At", "-v", "ON_ERROR_STOP=1", "-d", database]);
        psql.envs([("PGUSER", "boss"), ("PGPASSWORD", "s3cr:t/@")])
            .env("PGHOST", self.place.path());
        psql
    }

    /// Runs SQL; the answer's lines.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = run(self.psql(database).args(["-c", sql]));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs SQL that may fail.
    pub fn try_sql(&self, database: &str, sql: &str) -> Option<String> {
        let output = self.psql(database).args(["-c", sql]).stderr(Stdio::null()).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// A client that goes on with statements from a file until it is dropped.
    #[track_caller]
    pub fn client(&self, database: &str, script: &Path) -> PostgresClient {
        let mut psql = self.psql(database);
        psql.arg("-f").arg(script);
        PostgresClient { server: Server::start(psql, &self.place.path().join("client.log")) }
    }

    /// Fills a database by `pgbench -i` at that scale.
    #[track_caller]
    pub fn pgbench(&self, database: &str, scale: u32) {
        let mut pgbench = command(&program("pgbench"), self.place.path());
        pgbench.args(["-i", "-q", "-s", &scale.to_string(), database]);
        pgbench
            .envs([("PGUSER", "boss"), ("PGPASSWORD", "s3cr:t/@")])
            .env("PGHOST", self.place.path());
        run(&mut pgbench);
    }

    /// Everything in a database as text, for exact comparison.
    #[track_caller]
    pub fn content(&self, database: &str) -> String {
        let mut dump = command(&program("pg_dump"), self.place.path());
        dump.envs([("PGUSER", "boss"), ("PGPASSWORD", "s3cr:t/@")])
            .env("PGHOST", self.place.path());
        let text = run(dump.args(["--inserts", "-d", database])).stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        // Newer versions put a random word around the dump.
        let mut lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('\\') && !line.starts_with("--"))
            .collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// Waits until a query gives a value that fits.
    #[track_caller]
    pub fn wait_for(
        &self,
        what: &str,
        database: &str,
        sql: &str,
        fits: impl Fn(&str) -> bool,
    ) -> String {
        eventually_some(what, Duration::from_secs(60), || {
            self.try_sql(database, sql).filter(|text| fits(text))
        })
    }
}

/// A `psql` that runs.
#[derive(Debug)]
pub struct PostgresClient {
    server: Server,
}

impl PostgresClient {
    /// Ends the test when it has ended.
    #[track_caller]
    pub fn must_run(&mut self) {
        self.server.must_live();
    }
}
