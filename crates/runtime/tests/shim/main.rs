//! The real shim with real programs: `sh` and `python3` under every rule that it promises to keep.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod ends;
mod health;
mod instance;
mod limits;
mod output;
mod ports;
mod protocol;
mod sockets;
mod starts;
mod stops;
