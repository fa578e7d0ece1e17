//! The vocabulary that every other crate speaks: names, durations, sizes, rates, faults, exit codes, time.
//!
//! Why a crate of its own: these words cross every border of the program (the manifest, the
//! control protocol, the logs), so they must mean the same thing on both sides.
//! Invariant: no I/O here, except that [`clock::SystemClock`] reads the clock.

pub mod challenge;
pub mod clock;
pub mod delivery;
pub mod exit;
pub mod fault;
pub mod ids;
pub mod keep;
pub mod names;
pub mod outgoing;
pub mod policy;
pub mod quantity;

pub use clock::{Clock, SystemClock, Timestamp};
pub use exit::Exit;
pub use fault::{Code, Fault};
pub use ids::{InstanceId, ReleaseId, RequestId};
pub use keep::Keep;
pub use names::{ServiceName, SiteName};
pub use quantity::{ByteSize, Rate, format_duration, parse_duration};
