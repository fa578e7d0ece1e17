//! The real binary, end to end: what the README promises, one file for each verb or promise.
//!
//! Each test has a platform of its own (see `seaworthy-testkit`), so they run side by side. The long
//! run under full load is `cargo run -p seaworthy-testkit --bin soak`.
#![expect(clippy::unwrap_used, reason = "test code")]

mod attacks;
mod attacks_slow;
mod backup;
mod by_hand;
mod cache;
mod certificates;
mod change;
mod check;
mod client_events;
mod clock;
mod commands;
mod control;
mod counted;
mod crash;
mod database;
mod defect;
mod delivery;
mod deploy;
mod disk;
mod down;
mod drain;
mod each_protocol;
mod evasion;
mod explain;
mod faults;
mod guide;
mod health;
mod http3;
mod http3_attacks;
mod jobs;
mod kill;
mod logs;
mod manifests;
mod memory;
mod named;
mod offline;
mod origins;
mod outgoing;
mod outgoing_peers;
mod poison;
mod policy;
mod ranges;
mod remembered;
mod remote;
mod restart;
mod schema;
mod secrets;
mod serving;
mod shut_in;
mod sockets;
mod status;
mod stored;
mod systemd;
mod tls;
mod unix_socket;
mod up;
mod upgrade;

use std::time::Duration;

use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};

/// Long enough for a busy machine; nothing waits that long when all is well.
const LIMIT: Duration = Duration::from_secs(30);

/// Control and edge die at the same time; until others serve `site`.
fn lose_control_and_edge(sandbox: &Sandbox, site: &Site) {
    let before = sandbox.status();
    sandbox.kill_hard(before.control_pid());
    sandbox.kill_hard(before.edge_pid().unwrap());
    eventually("control and edge are back", LIMIT, || {
        sandbox.try_status().is_some_and(|status| {
            status.control_pid() != before.control_pid() && status.edge_pid().is_some()
        })
    });
    eventually("the site is served", LIMIT, || {
        sandbox.https(site).try_get("/health").is_ok_and(|answer| answer.status == 200)
    });
}

/// A platform of its own.
fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_seaworthy"))
}

/// A site with one application that behaves.
fn shop() -> Site {
    Site::new("shop").app("web", FakeApp::new())
}
