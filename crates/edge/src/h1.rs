//! HTTP/1.1 as clients may speak it: read strictly, answered in order (docs/decisions/001).
//!
//! What is lenient can be read in two ways: bare LF, `Content-Length` beside `Transfer-Encoding`, two
//! hosts. So bytes are read here once, by one reader, and a request goes on as what was read, never as the
//! bytes that came. Rooms: [`server`] a connection's life, [`wire`] its bytes, [`head`], [`framing`] and
//! [`chunked`] their meaning, [`answer`] what goes back, [`outlet`] how a message is
//! written. Not here: what the host and path mean (`route`), HTTP/2.

mod answer;
mod chunked;
mod framing;
#[cfg(test)]
pub(crate) mod fuzz;
mod head;
mod outlet;
mod server;
mod wire;

pub(crate) use framing::{Framing, plain_length};
pub(crate) use outlet::{Delimited, Fault, Outlet, Step};
pub(crate) use server::{Body, linger, serve};
pub(crate) use wire::{HEAD_TIME, IDLE_TIME, SEND_TIME};
