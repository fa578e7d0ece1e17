//! A MariaDB server for one test, or one of MySQL's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Place, Server, command, run};
use crate::eventually;

/// What only MySQL's server knows: no files for its clients (its package has a folder for them), no second door.
const OF_MYSQL: [&str; 2] = ["--secure-file-priv=NULL", "--mysqlx=OFF"];

/// A running server on a Unix socket; user `boss` with the password `s3cr:t/@"\` may do everything.
#[derive(Debug)]
pub struct MariaDb {
    server: Option<Server>,
    place: Place,
    /// Where the programs of MySQL's own server are, and the loopback port that it listens on.
    mysql: Option<(PathBuf, u16)>,
}

impl MariaDb {
    /// Makes and starts one.
    #[track_caller]
    pub fn start() -> Self {
        let place = Place::new();
        let mut install = command(Path::new("mariadb-install-db"), place.path());
        let data = format!("--datadir={}", place.path().join("data").display());
        // Two that begin at the same moment take the same names in a shared folder.
        let temporary = format!("--tmpdir={}", place.path().display());
        run(install.args([
            "--no-defaults",
            &data,
            &temporary,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ]));
        Self { server: None, place, mysql: None }.with_boss()
    }

    /// One of MySQL's own, which writes a log of what changes and is reached by a port, too. No distribution that we
    /// test on has it: `cargo xtask mysql-tests` brings its programs.
    #[track_caller]
    pub fn start_mysql(programs: &Path) -> Self {
        let place = Place::new();
        let data = format!("--datadir={}", place.path().join("data").display());
        let mut initialize = command(&programs.join("mysqld"), place.path());
        run(initialize.args(["--no-defaults", "--initialize-insecure", &data]).args(OF_MYSQL));
        let mysql = Some((programs.to_path_buf(), super::free_port()));
        Self { server: None, place, mysql }.with_boss()
    }

    #[track_caller]
    fn with_boss(mut self) -> Self {
        self.restart();
        self.sql("CREATE USER boss@'%' IDENTIFIED BY 's3cr:t/@\"\\\\'; GRANT ALL ON *.* TO boss@'%' WITH GRANT OPTION");
        self
    }

    fn program(&self, ours: &str, theirs: &str) -> PathBuf {
        self.mysql.as_ref().map_or_else(|| ours.into(), |(programs, _)| programs.join(theirs))
    }

    /// Starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        let mut daemon = command(&self.program("/usr/sbin/mariadbd", "mysqld"), self.place.path());
        let path = |name: &str| self.place.path().join(name).display().to_string();
        let words = [
            format!("--datadir={}", path("data")),
            format!("--socket={}", self.socket().display()),
            format!("--pid-file={}", path("pid")),
        ];
        daemon
            .arg("--no-defaults")
            .args(words)
            .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"]);
        match &self.mysql {
            None => daemon.arg("--skip-networking"),
            Some((_, port)) => daemon.arg(format!("--port={port}")).args(OF_MYSQL).args([
                "--bind-address=127.0.0.1",
                "--log-bin=changes",
                "--server-id=1",
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
            ]),
        };
        let mut started = Server::start(daemon, &self.place.path().join("log"));
        eventually("MariaDB answers", Duration::from_secs(60), || {
            started.must_live();
            self.client()
                .args(["-e", "SELECT 1"])
                .stderr(Stdio::null())
                .output()
                .is_ok_and(|output| output.status.success())
        });
        self.server = Some(started);
    }

    fn socket(&self) -> PathBuf {
        self.place.path().join("s")
    }

    /// The URL of a database for the superuser.
    pub fn url(&self, database: &str) -> String {
        if let Some((_, port)) = &self.mysql {
            return format!("mysql://boss:s3cr%3At%2F%40%22%5C@127.0.0.1:{port}/{database}");
        }
        let socket = self.socket().display().to_string().replace('/', "%2F");
        format!("mysql://boss:s3cr%3At%2F%40%22%5C@{socket}/{database}")
    }

    fn client(&self) -> Command {
        let mut client = command(&self.program("mariadb", "mysql"), self.place.path());
        client
            .args([
                "--no-defaults",
                "--batch",
                "--skip-column-names",
                "--default-character-set=utf8mb4",
                "--user=root",
            ])
            .arg(format!("--socket={}", self.socket().display()));
        client
    }

    /// Runs SQL; the answer's lines.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        let output = run(self.client().args(["-e", sql]));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// A client that goes on with statements from a text until it is dropped.
    #[track_caller]
    pub fn writes(&self, database: &str, statements: &str) -> MariaDbClient {
        let file = self.place.path().join("writes.sql");
        std::fs::write(&file, statements).expect("a file of statements");
        let mut client = self.client();
        client.arg(database).stdin(std::fs::File::open(&file).expect("that file"));
        MariaDbClient { server: Server::start(client, &self.place.path().join("client.log")) }
    }

    /// Everything in a database as text, for exact comparison.
    #[track_caller]
    pub fn content(&self, database: &str) -> String {
        let mut dump = command(&self.program("mariadb-dump", "mysqldump"), self.place.path());
        dump.args([
            "--no-defaults",
            "--user=root",
            "--skip-extended-insert",
            "--routines",
            "--events",
            "--triggers",
            "--hex-blob",
            "--default-character-set=utf8mb4",
            "--skip-dump-date",
        ]);
        if self.mysql.is_some() {
            dump.arg("--set-gtid-purged=OFF");
        }
        let text =
            run(dump.arg(format!("--socket={}", self.socket().display())).arg(database)).stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n")
    }
}

/// A client that runs.
#[derive(Debug)]
pub struct MariaDbClient {
    server: Server,
}

impl MariaDbClient {
    /// Ends the test when it has ended.
    #[track_caller]
    pub fn must_run(&mut self) {
        self.server.must_live();
    }
}
