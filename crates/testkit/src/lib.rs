//! The harness that runs the real binary, the application that misbehaves on demand, and load that
//! counts what was lost.
//!
//! Why not call the crates' functions: the promises (nothing is dropped, applications outlive the
//! manager) are made by processes, and only processes can break them. A test therefore starts the
//! built `seaworthy` in a [`Sandbox`] (folders, ports and processes of its own), describes a [`Site`]
//! around a [`FakeApp`], and looks at exit codes, output, `status --json`, and at what a client
//! gets ([`Client`], [`load::Load`]).
//!
//! Invariants: sandboxes side by side never meet (own state, own run folder, port 0 everywhere);
//! nothing waits for a fixed time ([`eventually`]); what a sandbox started is gone when it is, and only
//! processes that demonstrably belong to it are ever killed; a failed test keeps its folder.
//! Not here: unit tests of the crates, benchmarks.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::exit,
    clippy::missing_panics_doc,
    reason = "test code: a broken assumption is to end the test, loudly and on the spot"
)]

mod changes;
mod client;
pub mod fakeapp;
pub mod filters;
pub mod flags;
pub mod load;
mod output;
pub mod peers;
pub mod process;
mod sandbox;
mod site;
mod status;
pub mod tls;
mod wait;

pub use changes::Changes;
pub use client::{Ask, Client, Response, http3};
pub use output::{Output, Running, assert_text};
pub use sandbox::{Sandbox, is_root};
pub use site::{FakeApp, Site};
pub use status::Status;
pub use wait::{eventually, eventually_some};
