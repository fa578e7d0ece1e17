//! HTTP/2 as clients may speak it (RFC 9113): read strictly, answered as each answer is there
//! (docs/decisions/040).
//!
//! A connection is one task: it reads frames, runs the handlers of its requests itself, and writes what they
//! have to say in one go. Rooms, in the order of a request's way: [`server`] a connection's life, [`receive`]
//! what its frames do ([`frame`] their bytes, [`hpack`] the field blocks, [`guard`] floods), [`head`] what
//! block makes a request, [`stream`] the states of § 5.1, [`inbox`] a request's body, [`send`] answers and
//! flow control, [`answer`] their heads, [`ready`] who has to be run. Not here: what a request means (`serve`), HTTP/2 towards instances
//! (`upstream`).

mod answer;
mod frame;
#[cfg(test)]
pub(crate) mod fuzz;
mod guard;
mod head;
mod hpack;
mod inbox;
mod ready;
mod receive;
mod send;
mod server;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use inbox::Body;
pub(crate) use server::serve;

/// Requests that may be under way on one connection: as many as [`ready`] has bits.
const STREAMS: usize = 128;
/// What a client may send before a handler has taken any of it: of a stream, and of all together.
const STREAM_WINDOW: u32 = 256 << 10;
const WINDOW: u32 = 1 << 20;

/// Why something ends (§ 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    None = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    Refused = 7,
    Cancel = 8,
    Compression = 9,
    Calm = 11,
}
