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

use seaworthy_testkit::{FakeApp, Sandbox, Site};

/// Long enough for a busy machine; nothing waits that long when all is well.
const LIMIT: Duration = Duration::from_secs(30);

/// A platform of its own.
fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_seaworthy"))
}

/// A site with one application that behaves.
fn shop() -> Site {
    Site::new("shop").app("web", FakeApp::new())
}
