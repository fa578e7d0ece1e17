//! How MariaDB's and MySQL's clients reach a server: an option file of mode 0600, never an argument.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_base::{Code, Fault};
use seaworthy_sys::files::write_atomically;

use super::program::{self, CLIENTS, DUMPS, Kind, Program};
use crate::model::RunAs;
use crate::open::feed;
use crate::shut_in::ShutIn;
use crate::tool::{STALL, Tool};
use crate::url::{self, DatabaseUrl};
use crate::work::{Temporary, Work};

/// Parameters of a URL that the clients know.
const PARAMETERS: [&str; 4] = ["ssl-ca", "ssl-cert", "ssl-key", "socket"];

/// Those that name files.
const FILES: [&str; 3] = ["ssl-ca", "ssl-cert", "ssl-key"];
/// The port that a server has unless it is told otherwise.
const PORT: u16 = 3306;

/// A server.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    url: DatabaseUrl,
}

impl Connection {
    pub(crate) fn new(text: &str) -> Result<Self, Fault> {
        Ok(Self { url: url::parse(text, &["mysql", "mariadb"])? })
    }

    /// A server behind a Unix socket that trusts us.
    pub(crate) fn socket(path: &std::path::Path) -> Self {
        let mut url = DatabaseUrl {
            scheme: "mysql".to_owned(),
            user: Some("root".to_owned()),
            ..DatabaseUrl::default()
        };
        url.params.insert("socket".to_owned(), path.display().to_string());
        Self { url }
    }

    pub(crate) fn database(&self) -> Option<String> {
        self.url.database.clone()
    }

    pub(crate) fn shown(&self) -> String {
        self.url.shown()
    }

    /// The option file's text.
    fn options(&self) -> String {
        let mut text = "[client]\n".to_owned();
        let mut add = |name: &str, value: &str| {
            let escaped = value.replace('\\', "\\\\").replace('\n', "\\n");
            text.push_str(&format!("{name}=\"{escaped}\"\n"));
        };
        match &self.url.host {
            Some(host) if host.starts_with('/') => add("socket", host),
            Some(host) => {
                add("host", host);
                // `localhost` means a socket to these clients; a port says that it does not.
                if self.url.port.is_some() {
                    add("protocol", "tcp");
                }
            }
            None => {}
        }
        if let Some(port) = self.url.port {
            add("port", &port.to_string());
        }
        if let Some(user) = &self.url.user {
            add("user", user);
        }
        if let Some(password) = &self.url.password {
            add("password", password);
        }
        for name in PARAMETERS {
            if let Some(value) = self.url.params.get(name) {
                add(name, value);
            }
        }
        // The dump tools do not know how long to wait for a server; the client, which goes first, does.
        text.push_str("[mysql]\nconnect-timeout=20\n");
        text
    }
}

/// Clients, ready to reach one server.
#[derive(Debug)]
pub(crate) struct Client {
    options: PathBuf,
    dir: PathBuf,
    run_as: Option<RunAs>,
    shut_in: ShutIn,
    stall: Duration,
    shown: String,
    /// Whose server it is, and the client for it; known once it was asked.
    server: OnceCell<(Kind, Program)>,
}

impl Client {
    pub(crate) fn new(
        connection: &Connection,
        scratch: &Temporary,
        work: &Work,
    ) -> Result<Self, Fault> {
        let (options, run_as) = (scratch.path().join("client.cnf"), work.job.run_as.clone());
        let written =
            write_atomically(&options, connection.options().as_bytes(), 0o600).and_then(|()| {
                run_as.as_ref().map_or(Ok(()), |user| {
                    std::os::unix::fs::chown(&options, Some(user.uid), Some(user.gid))
                })
            });
        written
            .map_err(|error| crate::seal::write_fault("could not write an option file", &error))?;
        let files = FILES.iter().filter_map(|name| connection.url.params.get(*name));
        let read = files.map(PathBuf::from).chain([options.clone()]).collect();
        Ok(Self {
            options,
            dir: scratch.path().to_path_buf(),
            run_as,
            shut_in: ShutIn::client_of(&connection.url, PORT, read),
            stall: work.patience(STALL),
            shown: connection.shown(),
            server: OnceCell::new(),
        })
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    fn tool(&self, program: &Program) -> Tool {
        let options = format!("--defaults-file={}", self.options.display());
        let tool = Tool::new(program.path.as_str(), &self.dir, self.run_as.as_ref());
        tool.shut_in(self.shut_in.clone()).stall(self.stall).args([options])
    }

    /// Whose server it is.
    pub(crate) fn kind(&self) -> Result<Kind, Fault> {
        self.server().map(|(kind, _)| *kind)
    }

    /// The same with the client of that kind. Any client may ask first, and one of the other kind may be refused
    /// because it does not know how logins are proven there.
    fn server(&self) -> Result<&(Kind, Program), Fault> {
        if let Some(known) = self.server.get() {
            return Ok(known);
        }
        let mut refused = None;
        for program in program::all(CLIENTS) {
            match self.ask(&program, "SELECT version()") {
                Ok(rows) => {
                    let kind =
                        Kind::of(rows.first().and_then(|row| row.first()).map_or("", |text| text));
                    let own = program::of_kind(kind, CLIENTS)?;
                    return Ok(self.server.get_or_init(|| (kind, own)));
                }
                Err(fault) => refused = refused.or(Some(fault)),
            }
        }
        Err(refused.unwrap_or_else(|| program::missing(CLIENTS)))
    }

    /// The dump tool.
    pub(crate) fn dump_tool(&self) -> Result<Tool, Fault> {
        let server = self.kind()?;
        let program = program::of_kind(server, DUMPS)?;
        let tool = self.tool(&program);
        Ok(match program.kind {
            Kind::MariaDb => tool,
            // What a server has seen of replication is not content, and no other server takes it.
            Kind::Mysql => tool.args(["--set-gtid-purged=OFF"]),
        }
        .args(
            (program.kind == Kind::Mysql && server == Kind::MariaDb)
                .then_some("--column-statistics=0"),
        ))
    }

    /// The client, for statements on its standard input; it ends at the first that is refused.
    pub(crate) fn loader(&self, database: &str) -> Result<Tool, Fault> {
        self.loader_with(&[], database)
    }

    /// The same with other options.
    pub(crate) fn loader_with(&self, options: &[&str], database: &str) -> Result<Tool, Fault> {
        let tool = self.tool(&self.server()?.1).args(options);
        Ok(tool.args([
            "--batch",
            "--default-character-set=utf8mb4",
            "--binary-mode",
            "--",
            database,
        ]))
    }

    /// The dump tool's version.
    pub(crate) fn version(&self) -> Result<String, Fault> {
        Ok(self.dump_tool()?.args(["--version"]).output(Code::BackupTool)?.trim().to_owned())
    }

    /// Asks; rows of cells.
    pub(crate) fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, Fault> {
        self.ask(&self.server()?.1, sql)
    }

    fn ask(&self, program: &Program, sql: &str) -> Result<Vec<Vec<String>>, Fault> {
        let tool = self.tool(program).args([
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
        ]);
        let mut running = tool.start(true)?;
        let mut stdin = running.stdin.take();
        if let Some(stdin) = &mut stdin {
            feed(&mut format!("{sql};\n").as_bytes(), stdin, |_| {}).ok();
        }
        drop(stdin);
        let mut text = Vec::new();
        let read = std::io::Read::read_to_end(&mut running.output()?, &mut text);
        running.finish(Code::BackupSource).map_err(|fault| {
            let cause = fault.evidence.first().cloned().unwrap_or_else(|| fault.causes.join(": "));
            Fault {
                what: format!("{} could not be read", self.shown),
                causes: vec![cause],
                ..fault
            }
        })?;
        read.map_err(|error| {
            Fault::new(Code::BackupSource, format!("{} could not be read", self.shown))
                .because(error.to_string())
        })?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().map(|line| line.split('\t').map(unescape).collect()).collect())
    }

    /// The first column.
    pub(crate) fn column(&self, sql: &str) -> Result<Vec<String>, Fault> {
        Ok(self.rows(sql)?.into_iter().filter_map(|row| row.into_iter().next()).collect())
    }

    /// The first value.
    pub(crate) fn one(&self, sql: &str) -> Result<String, Fault> {
        Ok(self.column(sql)?.into_iter().next().unwrap_or_default())
    }

    /// Runs statements that answer nothing.
    pub(crate) fn run(&self, sql: &str) -> Result<(), Fault> {
        self.rows(sql).map(drop)
    }
}

/// What `--batch` escapes.
fn unescape(cell: &str) -> String {
    let (mut out, mut chars) = (String::with_capacity(cell.len()), cell.chars());
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('0') => out.push('\0'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, false) => out.push(c),
        }
    }
    out
}

/// A name as it stands in SQL.
pub(crate) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text as it stands in SQL.
pub(crate) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
