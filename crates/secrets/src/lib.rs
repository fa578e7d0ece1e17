//! Where values of secrets come from, and a type that never prints one.
//!
//! Invariants: a value reaches a process as environment or as a file, never by argv; no error, log or
//! state file holds one; [`Secret`] can be neither printed nor serialised, so that it takes a visible
//! `expose()` to give a value away.

mod dotenv;
mod secret;
pub mod sources;
pub mod vault;

pub use dotenv::{DotenvError, parse_dotenv};
pub use secret::{NameError, Secret, SecretName};
