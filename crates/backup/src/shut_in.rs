//! What the engines' own clients may open: programs and libraries, what finding a host and trusting it needs, and the
//! files that they were given.
//!
//! A dump tool reads whatever a server sends; one that is taken over shall find nothing else on this machine and reach
//! no other port; a scratch server has its folders and reaches nobody. Invariants: a file that is not named here cannot be
//! opened, though the tool's user owns it; on a kernel without Landlock a backup says so. Not here: servers that we run
//! for a site, and as whom tools run.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use seaworthy_sys::sandbox::Program;

use crate::model::RunAs;
use crate::url::DatabaseUrl;

/// Programs and libraries of the distribution.
const PROGRAMS: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"];
/// What the C library, name services and TLS libraries look up. No secrets: those are in files that were given.
const LOOKED_UP: [&str; 29] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/locale.alias",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/ca-trust",
    "/etc/crypto-policies",
    "/etc/krb5.conf",
    // Debian's `psql` is a script that looks up which version is meant.
    "/etc/perl",
    "/etc/postgresql",
    "/etc/postgresql-common",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    "/sys/devices/system/cpu/online",
];
/// What every program may throw things into.
const NOWHERE: &str = "/dev/null";
/// Names are asked for over TCP where an answer is long.
const NAMES: u16 = 53;

/// What one tool may open besides programs and what it looks up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShutIn {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    own: Vec<PathBuf>,
    ports: Option<Vec<u16>>,
    /// A name must be looked up.
    looks_up: bool,
    /// Its server is behind an abstract socket.
    is_abstract: bool,
}

impl ShutIn {
    /// A tool that reaches no server and reads these files.
    pub(crate) fn with(read: Vec<PathBuf>) -> Self {
        Self {
            read,
            write: Vec::new(),
            own: Vec::new(),
            ports: Some(Vec::new()),
            looks_up: false,
            is_abstract: false,
        }
    }

    /// A program that reaches nobody and does what it likes in folders of its own: a scratch server.
    pub(crate) fn within(own: &[&Path]) -> Self {
        let own = own.iter().map(|folder| folder.to_path_buf()).collect();
        Self { own, ..Self::with(Vec::new()) }
    }

    /// A client of that server; `port` is the one that it has unless the URL says otherwise.
    pub(crate) fn client_of(url: &DatabaseUrl, port: u16, read: Vec<PathBuf>) -> Self {
        let ports = match url.host.as_deref() {
            // Who it may reach stands elsewhere, too: then all.
            _ if ["host", "port", "krbsrvname", "gssencmode"]
                .iter()
                .any(|name| url.params.contains_key(*name)) =>
            {
                None
            }
            Some(host) if host.contains(',') => None,
            Some(host) if host.starts_with(['/', '@']) => Some(Vec::new()),
            _ => Some(vec![url.port.unwrap_or(port), NAMES]),
        };
        let host = url.host.as_deref();
        let is_address = |host: &str| host.parse::<IpAddr>().is_ok() || host == "localhost";
        Self {
            looks_up: ports.is_none()
                || host.is_some_and(|host| !host.starts_with(['/', '@']) && !is_address(host)),
            is_abstract: ports.is_none() || host.is_some_and(|host| host.starts_with('@')),
            ports,
            ..Self::with(read)
        }
    }

    /// It may read a file.
    pub(crate) fn may_read(&mut self, file: &Path) {
        self.read.push(file.to_path_buf());
    }

    /// It may make and change files in a folder.
    pub(crate) fn may_write(&mut self, folder: &Path) {
        self.write.push(folder.to_path_buf());
    }

    /// The rules for a program.
    pub(crate) fn rules(&self, program: &str) -> Program {
        let mut run: Vec<PathBuf> = PROGRAMS.iter().map(PathBuf::from).collect();
        if let Some(folder) = folder_of(program) {
            // One that was installed elsewhere has its libraries beside it.
            if let Some(prefix) = folder.parent() {
                run.extend(["lib", "lib64", "share"].map(|name| prefix.join(name)));
            }
            run.push(folder);
        }
        let read = LOOKED_UP.iter().map(PathBuf::from).chain(self.read.iter().cloned());
        let write = std::iter::once(PathBuf::from(NOWHERE)).chain(self.write.iter().cloned());
        Program {
            read: read.collect(),
            run,
            write: write.collect(),
            own: self.own.clone(),
            ports: self.ports.clone(),
            datagrams: self.looks_up,
            abstract_sockets: self.is_abstract,
        }
    }
}

/// Where libpq looks for certificates unless it is told, and for a ticket of Kerberos.
pub(crate) fn of_user(run_as: Option<&RunAs>) -> Vec<PathBuf> {
    let uid = run_as.map_or_else(seaworthy_sys::process::current_uid, |user| user.uid);
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let home = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).copied())?
    });
    let ticket = PathBuf::from(format!("/tmp/krb5cc_{uid}"));
    home.map(|home| Path::new(home).join(".postgresql")).into_iter().chain([ticket]).collect()
}

/// The folder that a program is in, links followed.
fn folder_of(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = if program.contains('/') {
        PathBuf::from(program)
    } else {
        std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())?
    };
    fs::canonicalize(found).ok()?.parent().map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reaches_its_servers_port_and_no_other_unless_nobody_can_say_which() {
        let ports = |text: &str| {
            let url = crate::url::parse(text, &["postgres"]).unwrap();
            ShutIn::client_of(&url, 5432, Vec::new()).rules("/usr/bin/psql").ports
        };
        assert_eq!(ports("postgres://db.example/shop"), Some(vec![5432, 53]));
        assert_eq!(ports("postgres://db.example:6000/shop"), Some(vec![6000, 53]));
        assert_eq!(ports("postgres://%2Frun%2Fpostgresql/shop"), Some(vec![]));
        for several in ["postgres://a,b/shop", "postgres:///shop?host=a&port=6000"] {
            assert_eq!(ports(several), None, "{several}");
        }
    }

    #[test]
    fn a_client_has_datagrams_only_where_a_name_must_be_looked_up() {
        let rules = |text: &str| {
            let url = crate::url::parse(text, &["postgres"]).unwrap();
            let rules = ShutIn::client_of(&url, 5432, Vec::new()).rules("/usr/bin/psql");
            (rules.datagrams, rules.abstract_sockets)
        };
        assert_eq!(rules("postgres://db.example/shop"), (true, false));
        assert_eq!(rules("postgres:///shop?host=db.example"), (true, true));
        assert_eq!(rules("postgres://%40name/shop"), (false, true));
        for near in ["127.0.0.1", "[::1]", "10.1.2.3:6000", "localhost", "%2Frun%2Fpostgresql"] {
            assert_eq!(rules(&format!("postgres://{near}/shop")), (false, false), "{near}");
        }
    }

    #[test]
    fn a_tool_reads_what_it_was_given_and_a_program_elsewhere_what_is_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let bin = fs::canonicalize(place.path()).unwrap().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("tool"), "").unwrap();
        let given = PathBuf::from("/given");
        let rules = ShutIn::with(vec![given.clone()]).rules(bin.join("tool").to_str().unwrap());
        assert!(rules.read.contains(&given) && rules.run.contains(&bin));
        assert!(rules.run.contains(&bin.with_file_name("lib")));
        assert!(!rules.run.contains(&bin.parent().unwrap().to_path_buf()), "nothing else there");
        assert_eq!(rules.write, [PathBuf::from("/dev/null")]);
    }
}
