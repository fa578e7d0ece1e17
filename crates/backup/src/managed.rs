//! Servers that we run for a site: PostgreSQL, MariaDB or Redis, from the distribution's own programs.
//!
//! The role `database-server` makes the data folder ready and then becomes the server, so that a shim is the
//! server's parent and nothing of ours stays in between. Rooms: `postgres`, `mariadb`, `redis`, `memory` (how
//! much of the machine each takes). Invariants: it listens on loopback only, every login has a password;
//! passwords come in the environment and go on in no argument and no file; a data folder is made beside and
//! renamed when it is whole, is used by one process at a time, and by no server of another major version.
//! Not here: which servers should run.

mod mariadb;
mod memory;
mod postgres;
mod redis;

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;
use seaworthy_base::{Code, Exit, Fault};
use seaworthy_sys::files::{create_private_dir, write_atomically};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::set::hex;
use crate::url::{self, DatabaseUrl};

/// The variable with the URL that the application gets.
pub const APPLICATION: &str = "SEAWORTHY_DATABASE_URL";
/// The variable with the URL of the server's administrator.
pub const ADMINISTRATOR: &str = "SEAWORTHY_DATABASE_ADMIN_URL";
/// The administrator's name.
pub const ADMINISTRATOR_NAME: &str = "seaworthy";

/// What kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerKind {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    Mariadb,
    /// Redis or Valkey.
    Redis,
}

impl ServerKind {
    /// The word for it in an argument.
    pub fn word(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
            Self::Redis => "redis",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Postgres, Self::Mariadb, Self::Redis].into_iter().find(|kind| kind.word() == word)
    }

    /// The URL of a login.
    pub fn url(self, user: &str, password: &str, port: u16, database: &str) -> String {
        match self {
            Self::Postgres => format!("postgresql://{user}:{password}@127.0.0.1:{port}/{database}"),
            Self::Mariadb => format!("mysql://{user}:{password}@127.0.0.1:{port}/{database}"),
            Self::Redis => format!("redis://{user}:{password}@127.0.0.1:{port}/0"),
        }
    }

    /// The signal that ends it soon and cleanly.
    pub fn stop_signal(self) -> &'static str {
        match self {
            // A fast shutdown: sessions are ended, what was committed is kept.
            Self::Postgres => "INT",
            Self::Mariadb | Self::Redis => "TERM",
        }
    }

    /// What is said to it to learn whether it is ready, and how it answers then. It takes connections earlier.
    pub fn greeting(self) -> Option<(Vec<u8>, Vec<u8>)> {
        match self {
            Self::Postgres => Some(postgres::greeting()),
            Self::Redis => Some(redis::greeting()),
            // Listens when it is ready, not before.
            Self::Mariadb => None,
        }
    }

    /// Whether its programs are here, and fit what lies in the folder.
    pub fn check(self, folder: &Path) -> Result<(), Fault> {
        match self {
            Self::Postgres => postgres::programs(folder).map(drop),
            Self::Mariadb => mariadb::program(folder).map(drop),
            Self::Redis => redis::program(folder).map(drop),
        }
    }
}

/// The port of a URL that [`ServerKind::url`] made.
pub fn port_of(text: &str) -> Option<u16> {
    let schemes = ["postgresql", "postgres", "mysql", "mariadb", "redis"];
    url::parse(text, &schemes).ok()?.port
}

/// The role: `database-server KIND FOLDER`, logins in the environment.
pub fn main(arguments: &[String]) -> Exit {
    let [word, folder] = arguments else { return Exit::Usage };
    let Some(kind) = ServerKind::from_word(word) else { return Exit::Usage };
    let Err(fault) = become_server(kind, Path::new(folder));
    complain(&fault);
    Exit::UserFixable
}

#[expect(
    clippy::print_stderr,
    reason = "what stands here is in the instance's log and in `status`"
)]
fn complain(fault: &Fault) {
    let parts = std::iter::once(&fault.what).chain(&fault.causes);
    let text = parts.map(String::as_str).collect::<Vec<_>>().join(": ");
    fault.evidence.iter().for_each(|line| eprintln!("{line}"));
    // One line, the last: that is what is shown of a program that ended.
    eprintln!("{}", [&[text], &fault.next[..]].concat().join("; "));
}

/// Only ever returns with a fault.
fn become_server(kind: ServerKind, folder: &Path) -> Result<std::convert::Infallible, Fault> {
    let logins = Logins::read()?;
    let home = Home::open(folder)?;
    port_is_free(logins.port)?;
    let mut command = match kind {
        ServerKind::Postgres => postgres::ready(&home, &logins)?,
        ServerKind::Mariadb => mariadb::ready(&home, &logins)?,
        ServerKind::Redis => redis::ready(&home, &logins)?,
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.current_dir(folder).env_clear().env("PATH", path).env("HOME", folder);
    command.env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8");
    let error = command.exec();
    let program = command.get_program().to_string_lossy().into_owned();
    Err(failed(format!("could not become `{program}`"), &error))
}

/// Who may come in, and where.
#[derive(Debug)]
pub(super) struct Logins {
    application: DatabaseUrl,
    administrator: DatabaseUrl,
    port: u16,
    /// Changes when any of it does.
    digest: String,
}

impl Logins {
    fn read() -> Result<Self, Fault> {
        let missing = |name: &str| Fault::new(Code::Internal, format!("`{name}` is not set"));
        let schemes = ["postgresql", "mysql", "redis"];
        let read = |name: &str| {
            let text = std::env::var(name).map_err(|_| missing(name))?;
            Ok::<_, Fault>((url::parse(&text, &schemes)?, text))
        };
        let (application, one) = read(APPLICATION)?;
        let (administrator, other) = read(ADMINISTRATOR)?;
        let port = application.port.ok_or_else(|| missing("the port"))?;
        let digest = hex(&Sha256::digest(format!("{one}\n{other}").as_bytes()));
        Ok(Self { application, administrator, port, digest })
    }
}

/// Name and password of a login, as they are put into statements: those that we make are letters and digits.
fn login(url: &DatabaseUrl) -> Result<(&str, &str), Fault> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let (user, password) =
        (url.user.as_deref().unwrap_or_default(), url.password.as_deref().unwrap_or_default());
    if plain(user) && plain(password) && !password.is_empty() {
        return Ok((user, password));
    }
    Err(Fault::new(Code::ServerFailed, "the URL of a managed database was changed by hand")
        .because("its user and password may have letters, digits and `_` only")
        .next("seaworthy secrets remove NAME, then deploy: a new one is made"))
}

/// The folder of one server.
#[derive(Debug)]
pub(super) struct Home {
    folder: PathBuf,
    /// Inherited by the server: held as long as anything of it lives.
    _lock: File,
}

impl Home {
    fn open(folder: &Path) -> Result<Self, Fault> {
        let refused = |error: io::Error| {
            failed(format!("could not use the folder `{}`", folder.display()), &error)
        };
        create_private_dir(folder, 0o700).map_err(refused)?;
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))
            .map_err(refused)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            failed(format!("another server still uses `{}`", folder.display()), &error.into())
        })?;
        rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty())
            .map_err(|error| refused(error.into()))?;
        Ok(Self { folder: folder.to_path_buf(), _lock: lock })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes the data folder: `make` fills another, which gets the name when it is whole.
    fn make_data(&self, make: impl FnOnce(&Path) -> Result<(), Fault>) -> Result<(), Fault> {
        let (fresh, data) = (self.path("new"), self.path("data"));
        let broken = |error: io::Error| failed("could not make the data folder", &error);
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(broken)?;
        }
        make(&fresh)?;
        fs::rename(&fresh, &data).map_err(broken)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(broken)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Fault> {
        write_atomically(&self.path(name), text.as_bytes(), 0o600)
            .map_err(|error| failed(format!("could not write `{name}`"), &error))
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }
}

/// A taken port is found out here: the servers say it in ways that send people to the wrong place.
fn port_is_free(port: u16) -> Result<(), Fault> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|_| {
        Fault::new(Code::ServerFailed, format!("another program listens on port {port}"))
            .because("it is this database's: the application's URL names it")
            .next(format!("ss -ltnp 'sport = :{port}' shows which"))
    })
}

fn failed(what: impl Into<String>, error: &io::Error) -> Fault {
    crate::seal::write_fault(what, error)
}

/// A server of another version than what lies in the folder.
fn other_version(name: &str, data: &str, here: &str, package: &str) -> Fault {
    Fault::new(Code::ServerUnfit, format!("the data is of {name} {data}"))
        .because(format!("the programs here are of version {here}, and would not read it or would change it for good"))
        .next(format!("apt install {package}"))
        .next("to move to another version: make a backup with the old one (seaworthy backup now), move the data folder away, and restore")
}

/// A descriptor with this text, for a program that reads a file: nothing lies on a disk.
fn in_memory(text: &str) -> io::Result<File> {
    use std::io::{Seek, Write};
    let flags = rustix::fs::MemfdFlags::empty();
    let mut file = File::from(rustix::fs::memfd_create("settings", flags)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// A program and its arguments.
fn command(program: impl AsRef<std::ffi::OsStr>, words: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    command
}
