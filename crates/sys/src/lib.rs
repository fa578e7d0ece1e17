//! The border to the operating system: descriptors, processes, limits, files. The only crate with `unsafe`.
//!
//! Why a crate of its own: what cannot be checked by the compiler is read in one place. Invariants:
//! everything public here is safe to call; each `unsafe` block says why it is sound; descriptors are
//! close-on-exec unless a call says otherwise. Not here: any decision.

#![expect(unsafe_code, reason = "this crate is where it stands, so that nowhere else needs it")]

pub mod cgroup;
pub mod datagram;
pub mod fdpass;
pub mod files;
pub mod logfile;
pub mod memory;
pub mod proc_tree;
pub mod process;
pub mod sandbox;
pub mod seccomp;
pub mod socket;
pub mod spawn;
pub mod systemd;
