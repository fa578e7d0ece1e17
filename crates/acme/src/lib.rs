//! Certificates of public authorities (ACME, RFC 8555): when to ask, whom, and the worker that asks.
//!
//! Decisions are pure ([`due`]); what talks to the world runs in a process of its own ([`worker`]) that control
//! starts for one job, feeds through standard input and may kill at any moment. The way of a job: `worker` →
//! `preflight` (does the name lead here?) → `order` (account, challenges, certificate) → `solve` (how a
//! challenge is answered). Invariants: a job is done once or can be taken up where it was cut off; an
//! authority that asks for patience gets it; no key stands in a message that is logged. Not here: where
//! certificates are kept and how they reach the edge (control).

pub mod due;
pub mod model;
pub mod worker;
pub mod x509;

mod client;
mod directory;
mod dns;
mod order;
mod preflight;
mod solve;
mod window;

pub use window::is_link;

pub use model::{
    Action, Answer, Challenge, Directory, Dns, Event, Issued, Job, Pending, Refusal, Ways, Window,
};
