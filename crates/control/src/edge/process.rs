//! The edge's process: its arguments, its user, where it lives.
//!
//! Invariant: it is in a process group of its own, so that a terminal's signals are none of its. Not here: what it is
//! told once it runs.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use seaworthy_api::Layout;
use seaworthy_runtime::model::User;

use crate::edge_link::LinkError;
use crate::scope::Scope;

/// What the edge's allocator keeps for each thread: more of freed pieces (docs/decisions/008).
const EDGE_ALLOCATOR: &str = "glibc.malloc.tcache_count=127:glibc.malloc.tcache_max=16384";

/// How the edge is started.
#[derive(Debug, Clone)]
pub(crate) struct EdgeOptions {
    /// The map.
    pub layout: Layout,
    /// The program: our own.
    pub program: PathBuf,
    /// Threads that serve.
    pub threads: u16,
    /// Unix sockets that it may open.
    pub sockets: Sockets,
    /// As whom it runs.
    pub user: Option<User>,
    /// What every edge signs cookies with.
    pub signing: [u8; 16],
    /// Where it lives under systemd.
    pub scope: Option<Arc<Scope>>,
}

/// Unix sockets that an edge may open; each is more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sockets {
    /// None.
    None,
    /// Those of our own instances.
    Own,
    /// Any: servers that somebody else runs may listen anywhere.
    Any,
}

/// Starts an edge process that inherits the listening socket of its link; returns where that is, and the process.
pub(super) fn spawn(options: &EdgeOptions, number: u32) -> Result<(PathBuf, Child), LinkError> {
    let socket = options.layout.edge_socket(number);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(LinkError::Gone(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&socket).map_err(LinkError::Gone)?;
    let logs = options.layout.edge_logs();
    std::fs::create_dir_all(&logs).map_err(LinkError::Gone)?;
    if let Some(user) = &options.user {
        std::os::unix::fs::chown(&logs, Some(user.uid), Some(user.gid)).map_err(LinkError::Gone)?;
    }
    let mut command = Command::new(&options.program);
    command
        .arg("edge")
        .arg("--number")
        .arg(number.to_string())
        .arg("--threads")
        .arg(options.threads.to_string());
    command.arg("--public").arg(options.layout.public_root());
    match options.sockets {
        Sockets::None => {}
        Sockets::Own => {
            command.arg("--sockets").arg(options.layout.sockets());
        }
        Sockets::Any => {
            command.arg("--unix-sockets");
        }
    }
    command.arg("--log-dir").arg(&logs).env("GLIBC_TUNABLES", EDGE_ALLOCATOR);
    if let Some(user) = &options.user {
        command.arg("--user").arg(format!("{}:{}", user.uid, user.gid));
    }
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null());
    if let Some(scope) = &options.scope {
        let home = scope.home().map_err(LinkError::Gone)?;
        home.admit(&mut command).map_err(LinkError::Gone)?;
    }
    let child = command.spawn().map_err(LinkError::Gone)?;
    Ok((socket, child))
}
