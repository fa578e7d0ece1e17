//! The control protocol: what the command line (and later the console) and the control process say to
//! each other over a Unix socket, and where the folders are that both of them know.
//!
//! HTTP/1.1 with JSON, because every language and `curl --unix-socket` speak it; long work answers
//! with one JSON object a line. Invariants: additive after 0.1; values of secrets travel to
//! `exec` only, which asks for them as the user that owns them.
//! Not here: the server's routes; they stand in `control`, which implements them.

pub mod backup;
pub mod certificates;
pub mod client;
pub mod layout;
pub mod model;

pub use client::{Client, ClientError};
pub use layout::Layout;
