//! The edge: accepts, speaks TLS and HTTP, routes, forwards, answers.
//!
//! A request goes one way: `accept` → `conn` (TLS, HTTP; `quic` for HTTP/3) → `serve` (route, action) → `upstream` or
//! `static_files` → `serve` again only to put headers on; `body` logs at its end. Threads share nothing but counters and
//! immutable snapshots; a connection never leaves its thread. Invariants: what it serves comes over the
//! control link and is swapped whole; it goes on serving when control is gone; nothing internal is shown
//! to clients. Not here: what should be served, certificates' making.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use seaworthy_sys::{process, sandbox};

mod accept;
mod access_log;
mod ahead;
mod body;
mod cache;
mod candidate;
mod challenge;
mod client_events;
mod conn;
mod counter;
mod date;
mod ending;
mod events;
mod floods;
mod forwarded;
mod gate;
mod h1;
mod h2;
mod head;
mod health;
mod instance;
mod link;
pub mod model;
mod outgoing;
mod policy;
mod proxy_header;
mod quic;
mod respond;
mod rooms;
pub mod route;
mod seats;
mod serve;
mod shape;
mod snapshot;
mod socket;
mod static_files;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
mod upstream;
mod watch;
mod worker;

pub use outgoing::judge_server_authorities;
pub use table::create as create_counts;
pub use tls::judge_client_authorities;

/// How an edge is started.
#[derive(Debug, Clone, Default)]
pub struct EdgeOptions {
    /// Its number, which stands in request ids.
    pub number: u32,
    /// Threads that serve.
    pub threads: u16,
    /// Where access logs go.
    pub log_dir: PathBuf,
    /// Where files are served from; the only place it may read.
    pub public: PathBuf,
    /// Whether it may open Unix sockets: only where servers that somebody else runs listen on them.
    pub unix_sockets: bool,
    /// The folder below which it may open Unix sockets: only where our own instances listen on them.
    pub sockets: Option<PathBuf>,
    /// User and group to become.
    pub user: Option<(u32, u32)>,
}

/// The role. The listening socket of the control link is standard input. Returns when it was drained.
pub fn main(options: &EdgeOptions) -> io::Result<()> {
    process::lower_memory_use();
    let open_files = process::raise_open_files();
    let link = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let starter = process::current_uid();
    let rules = sandbox::Rules {
        // The two of the kernel say where our own code lies and which boot this is.
        read: vec![
            options.public.clone(),
            "/proc/self/maps".into(),
            "/proc/sys/kernel/random/boot_id".into(),
        ],
        write: vec![options.log_dir.clone()],
        sockets: if options.unix_sockets {
            sandbox::Sockets::Any
        } else {
            options.sockets.clone().map_or(sandbox::Sockets::None, sandbox::Sockets::Below)
        },
    };
    let mut unguarded = sandbox::see_only(&rules);
    if let Some((uid, gid)) = options.user {
        process::drop_to_user(uid, gid, &[gid])?;
    }
    // Before there are threads: they get it from the one that starts them.
    unguarded.extend(sandbox::restrict_files(&rules)?);
    let shared = Arc::new(snapshot::Shared::new(options));
    shared.allow_open_files(open_files);
    let workers = (0..options.threads.max(1))
        .map(|thread| worker::spawn(thread, Arc::clone(&shared)))
        .collect::<io::Result<Vec<_>>>()?;
    let listeners = link::Listeners {
        tcp: accept::Acceptor::new(&workers),
        quic: quic::Quic::new(&workers, &shared),
    };
    unguarded.extend(sandbox::restrict_calls(&rules)?);
    sandbox::attempt("edge");
    let unix = match rules.sockets {
        sandbox::Sockets::None => None,
        sandbox::Sockets::Below(_) => Some(model::OWN_SOCKETS.to_owned()),
        sandbox::Sockets::Any => Some(model::UNIX_SOCKETS.to_owned()),
    };
    let always = [model::COUNTS, model::WHOLE, model::HTTP3].map(str::to_owned);
    let features = unix.into_iter().chain(always).collect();
    let link = link::Socket { listener: link, starter, unguarded, features };
    link::serve(&link, &shared, &workers, &listeners)
}
