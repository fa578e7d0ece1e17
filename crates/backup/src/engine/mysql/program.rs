//! Which programs: MariaDB's and MySQL's have each other's names, and each knows its own server best.
//!
//! Invariant: where both are installed, a server is dumped, loaded and tried out by programs of its own kind; those of
//! the other kind only stand in where there are no others.

use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault};

use crate::tool::Tool;

/// The dump tool's names.
pub(super) const DUMPS: [&str; 2] = ["mariadb-dump", "mysqldump"];
/// The client's.
pub(super) const CLIENTS: [&str; 2] = ["mariadb", "mysql"];
/// The server's.
pub(super) const DAEMONS: [&str; 2] = ["mariadbd", "mysqld"];

/// Whose server or program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// MariaDB's.
    MariaDb,
    /// MySQL's own.
    Mysql,
}

impl Kind {
    /// By what it says of its version.
    pub(super) fn of(version: &str) -> Self {
        // Before the version stands the program's path, which may be the other's name.
        let said = version.split_once("Ver ").map_or(version, |(_, said)| said);
        if said.contains("MariaDB") { Self::MariaDb } else { Self::Mysql }
    }

    /// That of a program: by the name that it has once links are followed, else by what it says.
    fn of_program(path: &Path) -> Self {
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let name = real.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("mariadb") {
            return Self::MariaDb;
        }
        let tool = Tool::new(path.display().to_string(), Path::new("/"), None);
        let said = tool.args(["--no-defaults", "--version"]).output(Code::BackupTool);
        said.map_or(Self::Mysql, |said| Self::of(&said))
    }
}

/// The version that a server or a program says it is of: the first two numbers.
pub(super) fn version_of(said: &str) -> Option<(u32, u32)> {
    // A dump tool has a version of its own and says of which distribution it is; newer ones say it first.
    let said = ["Distrib ", "from ", "Ver "]
        .iter()
        .find_map(|word| said.split_once(word).map(|(_, rest)| rest))
        .unwrap_or(said);
    let mut numbers = said.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What there is to doubt of a dump that is made by an older program than the server.
pub(super) fn doubt(server: &str, tool: &str) -> Option<String> {
    let (is, should) = (version_of(tool)?, version_of(server)?);
    let older = Kind::of(tool) == Kind::of(server) && is < should;
    older.then(|| {
        format!(
            "the dump tool is of version {}.{}, the server of {}.{}",
            is.0, is.1, should.0, should.1
        )
    })
}

/// A program that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub path: String,
    pub kind: Kind,
}

/// All that are installed of these names, in the order of the names.
pub(super) fn all(names: [&str; 2]) -> Vec<Program> {
    let dirs = dirs();
    let found = names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
    let mut all: Vec<Program> = Vec::new();
    for path in found.filter(|path| path.is_file()) {
        let kind = Kind::of_program(&path);
        // One of each kind is enough: the first in the order of PATH.
        if all.iter().all(|one| one.kind != kind) {
            all.push(Program { path: path.display().to_string(), kind });
        }
    }
    all
}

/// The program for a server of that kind.
pub(super) fn of_kind(kind: Kind, names: [&str; 2]) -> Result<Program, Fault> {
    let mut all = all(names);
    let own = all.iter().position(|one| one.kind == kind).unwrap_or(0);
    if all.is_empty() { Err(missing(names)) } else { Ok(all.swap_remove(own)) }
}

/// The first of these programs that is installed.
pub(crate) fn find(names: [&str; 2]) -> Result<String, Fault> {
    let dirs = dirs();
    let found = names
        .iter()
        .find_map(|name| dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()));
    found.map(|path| path.display().to_string()).ok_or_else(|| missing(names))
}

fn dirs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]).collect()
}

pub(super) fn missing(names: [&str; 2]) -> Fault {
    Fault::new(
        Code::BackupTool,
        format!("there is neither `{}` nor `{}` on this machine", names[0], names[1]),
    )
    .next("apt install mariadb-client")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_dump_tool_raises_a_doubt_and_a_newer_one_does_not() {
        let old = "mysqldump  Ver 10.19 Distrib 10.3.39-MariaDB, for debian-linux-gnu";
        assert!(doubt("10.11.6-MariaDB", old).unwrap().contains("10.3, the server of 10.11"));
        for (server, tool) in [
            ("10.11.6-MariaDB", "mariadb-dump  Ver 10.19 Distrib 10.11.14-MariaDB, for Linux"),
            ("10.11.6-MariaDB", "mariadb-dump from 11.4.2-MariaDB, client 10.19 for Linux"),
            ("8.4.3", "mysqldump  Ver 9.7.4-2 for Linux on x86_64 ((Debian))"),
            // Numbers of different kinds say nothing of each other.
            ("8.4.3", "mariadb-dump from 11.4.2-MariaDB, client 10.19 for Linux"),
            ("10.11.6-MariaDB", "mysqldump  Ver 9.7.4-2 for Linux on x86_64 ((Debian))"),
        ] {
            assert_eq!(doubt(server, tool), None, "{server} {tool}");
        }
    }

    #[test]
    fn a_program_is_of_the_kind_that_it_says_whatever_its_name() {
        for (said, kind) in [
            ("mysqldump  Ver 10.19 Distrib 10.11.6-MariaDB, for debian-linux-gnu", Kind::MariaDb),
            ("mariadb from 11.8.2-MariaDB, client 15.2 for debian-linux-gnu", Kind::MariaDb),
            ("10.11.6-MariaDB-0+deb12u1", Kind::MariaDb),
            ("/usr/sbin/mariadbd  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", Kind::Mysql),
            ("/opt/MariaDB/mysqld  Ver 8.0.36 for Linux on x86_64", Kind::Mysql),
            ("8.4.3", Kind::Mysql),
        ] {
            assert_eq!(Kind::of(said), kind, "{said}");
        }
    }
}
