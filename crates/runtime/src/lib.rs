//! Instances: a small parent process (the shim) for each, and the driver by which control speaks with it.
//!
//! Flow: control → [`driver::launch`] → shim ([`shim::main`]) → program. Invariants: a shim's lock is its
//! liveness; it outlives control; when it ends, its program ends; what its program leaves behind is ended
//! too. Not here: which instances should run.

pub mod backoff;
pub mod driver;
mod ending;
mod faults;
mod health;
mod logs;
pub mod model;
mod pace;
mod ports;
mod probe;
pub mod scale;
pub mod shim;
pub mod socket;
mod wire;
