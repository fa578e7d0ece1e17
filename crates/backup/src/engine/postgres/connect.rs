//! How PostgreSQL's tools reach a server: variables and a password file, never arguments.
//!
//! Invariants: the password stands in a file of mode 0600 that belongs to the user the tools run as, and goes
//! with the scratch folder; tools are at least as new as the server (an older `pg_dump` refuses anyway, but
//! says it worse).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use seaworthy_base::{Code, Fault};
use seaworthy_sys::files::write_atomically;

use super::session::Session;
use crate::model::RunAs;
use crate::shut_in::{self, ShutIn};
use crate::tool::{STALL, Tool};
use crate::url::{self, DatabaseUrl};
use crate::work::{Temporary, Work};

/// Parameters of a URL that libpq knows, and the variable of each. Others are the application's own.
const PARAMETERS: [(&str, &str); 13] = [
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcrl", "PGSSLCRL"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("gssencmode", "PGGSSENCMODE"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("host", "PGHOST"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
];

/// Those that name files.
const FILES: [&str; 4] = ["sslrootcert", "sslcert", "sslkey", "sslcrl"];
/// The port that a server has unless it is told otherwise.
const PORT: u16 = 5432;

/// Folders in which distributions keep each major version's programs.
const PLACES: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr/libexec/postgresql", ""),
    ("/usr/pgsql-", "bin"),
    ("/usr/local/pgsql-", "bin"),
];

/// A server and the database that a session begins in.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    url: DatabaseUrl,
}

impl Connection {
    pub(crate) fn new(text: &str) -> Result<Self, Fault> {
        Ok(Self { url: url::parse(text, &["postgres", "postgresql"])? })
    }

    /// A server behind a Unix socket that trusts us.
    pub(crate) fn socket(dir: &Path, user: &str) -> Self {
        let url = DatabaseUrl {
            scheme: "postgres".to_owned(),
            host: Some(dir.display().to_string()),
            user: Some(user.to_owned()),
            database: Some("postgres".to_owned()),
            ..DatabaseUrl::default()
        };
        Self { url }
    }

    /// The same server, another database.
    pub(crate) fn to(mut self, database: &str) -> Self {
        self.url.database = Some(database.to_owned());
        self
    }

    /// Where it points, without a password.
    pub(crate) fn shown(&self) -> String {
        self.url.shown()
    }

    /// The database; libpq's default is the user's name.
    pub(crate) fn database(&self) -> String {
        let named = self.url.database.clone().or_else(|| self.url.params.get("dbname").cloned());
        named.or_else(|| self.url.user.clone()).unwrap_or_else(|| "postgres".to_owned())
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for (name, variable) in PARAMETERS {
            if let Some(value) = self.url.params.get(name) {
                all.insert(variable.to_owned(), value.clone());
            }
        }
        let fixed = [
            ("PGHOST", self.url.host.clone()),
            ("PGPORT", self.url.port.map(|port| port.to_string())),
            ("PGUSER", self.url.user.clone()),
        ];
        all.extend(fixed.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        all.insert("PGAPPNAME".to_owned(), "seaworthy backup".to_owned());
        all.insert("PGCONNECT_TIMEOUT".to_owned(), "20".to_owned());
        all
    }

    fn password(&self) -> Option<&String> {
        self.url.password.as_ref().or_else(|| self.url.params.get("password"))
    }
}

/// The tools, ready to reach one server.
#[derive(Debug)]
pub(crate) struct Tools {
    environment: BTreeMap<String, String>,
    dir: PathBuf,
    run_as: Option<RunAs>,
    shut_in: ShutIn,
    stall: Duration,
    shown: String,
}

impl Tools {
    pub(crate) fn new(
        connection: &Connection,
        scratch: &Temporary,
        work: &Work,
    ) -> Result<Self, Fault> {
        let mut environment = connection.environment();
        let run_as = work.job.run_as.clone();
        if let Some(password) = connection.password() {
            let path = scratch.path().join("pgpass");
            let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
            let written = write_atomically(&path, format!("*:*:*:*:{escaped}\n").as_bytes(), 0o600)
                .and_then(|()| {
                    run_as.as_ref().map_or(Ok(()), |user| {
                        std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))
                    })
                });
            written.map_err(|error| {
                crate::seal::write_fault("could not write a password file", &error)
            })?;
            environment.insert("PGPASSFILE".to_owned(), path.display().to_string());
        } else {
            // Nothing of the user's home is to be found by chance: a file that is not there is no password.
            let path = scratch.path().join("no-password").display().to_string();
            environment.insert("PGPASSFILE".to_owned(), path);
        }
        let mut read = shut_in::of_user(run_as.as_ref());
        let files = FILES.iter().filter_map(|name| connection.url.params.get(*name));
        read.extend(files.map(PathBuf::from));
        read.extend(environment.get("PGPASSFILE").map(PathBuf::from));
        Ok(Self {
            environment,
            dir: scratch.path().to_path_buf(),
            run_as,
            shut_in: ShutIn::client_of(&connection.url, PORT, read),
            stall: work.patience(STALL),
            shown: connection.shown(),
        })
    }

    /// Where they reach to, for people.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// A tool of that major version or the next that there is, for that database (`""` for the default).
    pub(crate) fn tool(&self, name: &str, major: u32, database: &str) -> Result<Tool, Fault> {
        let program = find(name, major)?;
        let mut environment: Vec<_> = self.environment.clone().into_iter().collect();
        if !database.is_empty() {
            environment.push(("PGDATABASE".to_owned(), database.to_owned()));
        }
        Ok(Tool::new(program.display().to_string(), &self.dir, self.run_as.as_ref())
            .shut_in(self.shut_in.clone())
            .stall(self.stall)
            .envs(environment))
    }

    /// The version of a tool, as it says it.
    pub(crate) fn version(&self, name: &str, major: u32) -> Result<String, Fault> {
        let text = self.tool(name, major, "")?.args(["--version"]).output(Code::BackupTool)?;
        Ok(text.trim().to_owned())
    }

    /// A session in that database.
    pub(crate) fn session(&self, database: &str) -> Result<Session, Fault> {
        Session::open(
            &self.tool("psql", 0, database)?,
            &format!("{} (database `{database}`)", self.shown),
        )
    }
}

/// The program of that major version, else the oldest newer one, else what PATH finds if it is new enough.
pub(crate) fn find(name: &str, major: u32) -> Result<PathBuf, Fault> {
    let mut versions: Vec<(u32, PathBuf)> = installed(name);
    versions.sort();
    if let Some((_, path)) = versions.iter().find(|(version, _)| *version >= major && *version > 0)
    {
        return Ok(path.clone());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    match found {
        Some(path) if major == 0 || version_of(&path).is_some_and(|version| version >= major) => {
            Ok(path)
        }
        _ => Err(too_old(name, major, versions.last().map(|(version, _)| *version))),
    }
}

/// The program of exactly that major version.
pub(crate) fn find_exactly(name: &str, major: u32) -> Option<PathBuf> {
    if let Some((_, path)) = installed(name).into_iter().find(|(version, _)| *version == major) {
        return Some(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())?;
    (version_of(&found) == Some(major)).then_some(found)
}

/// The program of the newest version that is installed.
pub(crate) fn newest(name: &str) -> Option<(u32, PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|dir| dir.join(name));
    let found = all.find(|path| path.is_file());
    let found = found.and_then(|path| Some((version_of(&path)?, path)));
    installed(name).into_iter().chain(found).max_by_key(|(version, _)| *version)
}

fn installed(name: &str) -> Vec<(u32, PathBuf)> {
    let mut all = Vec::new();
    for (place, bin) in PLACES {
        let (folder, prefix) = if place.ends_with('-') {
            ("/usr", place.trim_start_matches("/usr/"))
        } else {
            (place, "")
        };
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let version = file.strip_prefix(prefix).and_then(|rest| rest.parse::<u32>().ok());
            let path = entry.path().join(bin).join(name);
            if let Some(version) = version
                && path.is_file()
            {
                all.push((version, path));
            }
        }
    }
    all
}

/// `pg_dump (PostgreSQL) 15.12 (Debian …)` → 15.
fn version_of(path: &Path) -> Option<u32> {
    let text = Tool::new(path.display().to_string(), Path::new("/"), None)
        .args(["--version"])
        .output(Code::BackupTool)
        .ok()?;
    let number = text.split(") ").nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?;
    number.parse().ok()
}

fn too_old(name: &str, major: u32, newest: Option<u32>) -> Fault {
    let cause = match newest {
        Some(newest) => format!(
            "the server is of version {major}, the newest `{name}` here is of version {newest}"
        ),
        None => format!("there is no `{name}` on this machine"),
    };
    let package = if major == 0 {
        "postgresql-client".to_owned()
    } else {
        format!("postgresql-client-{major}")
    };
    Fault::new(Code::BackupTool, format!("`{name}` cannot be used"))
        .because(cause)
        .next(format!("apt install {package}"))
}
