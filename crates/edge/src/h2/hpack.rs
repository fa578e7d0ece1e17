//! Field blocks: HPACK (RFC 7541), both directions.
//!
//! A decoder yields fields that are judged already ([`Entry`]): what a table gives again and again is checked
//! once, when it comes in. Invariants: an error of the coding ends the connection, since the tables of both
//! sides are no longer the same (RFC 9113 § 4.3); a field that HTTP does not allow does not, it is only marked;
//! neither table holds more than [`TABLE`]. Not here: what fields mean (`head`), how blocks are cut into frames.

mod decode;
mod encode;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub(super) use decode::Decoder;
pub(super) use encode::Encoder;
pub(super) use table::{Entry, Kind, Name, Pseudo, Value};

/// The size of either table in bytes, as § 4.1 counts them: the default, which nobody is asked to change.
const TABLE: usize = 4096;

/// A block that cannot be decoded, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);
