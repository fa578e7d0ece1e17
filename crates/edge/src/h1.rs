//! HTTP/1.1 as clients may speak it: the check that stands in front of hyper (docs/decisions/001).
//!
//! hyper is lenient where the standard allows it, and what is lenient can be read in two ways: bare LF,
//! `Content-Length` beside `Transfer-Encoding`, two hosts. [`Guard`] lies between the socket and hyper,
//! follows the framing of every request by itself and lets through only bytes that have one reading.
//! Invariants: hyper never sees a head that was not checked whole, nor a byte behind a message that was
//! refused; a connection on which something was refused is never read as HTTP again.
//! Not here: what the host and path mean (`route`), HTTP/2.

mod chunked;
mod guard;
mod head;

pub(crate) use chunked::Chunked;
pub(crate) use guard::{Guard, Refused};
pub(crate) use head::Refusal;
