//! Frames: the ten types of RFC 9113 § 6 in bytes, read and written.
//!
//! Invariants: a frame is read once it is there whole; each way in which its bytes can be wrong has the error
//! code of the standard, and whether it ends the connection or the stream. Not here: whether a frame may come
//! now (`receive`).

use super::Code;

/// What every frame begins with.
pub(super) const HEAD: usize = 9;
/// The longest payload that is taken: what nobody may go below, and nobody is told more.
pub(super) const LONGEST: usize = 16 << 10;
/// Windows and their increments end here (§ 6.9.1).
pub(super) const LARGEST_WINDOW: i64 = (1 << 31) - 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const WITH_PRIORITY: u8 = 0x20;

/// What is wrong, and what has to end for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Connection(Code, &'static str),
    Stream(u32, Code),
}

/// A frame, as far as it matters to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// `counted` is what flow control counts: padding, too.
    Data {
        stream: u32,
        data: &'a [u8],
        counted: u32,
        end: bool,
    },
    Headers {
        stream: u32,
        block: &'a [u8],
        end: bool,
        whole: bool,
    },
    Continuation {
        stream: u32,
        block: &'a [u8],
        whole: bool,
    },
    Priority,
    Reset {
        stream: u32,
    },
    Settings(&'a [u8]),
    SettingsAck,
    Ping([u8; 8]),
    Pong([u8; 8]),
    Goaway,
    Window {
        stream: u32,
        increment: u32,
    },
    /// Of a type that nobody has to know.
    Unknown,
}

/// What lies at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read<'a> {
    /// Bytes that it takes.
    pub(super) size: usize,
    pub(super) frame: Result<Frame<'a>, Fault>,
}

const fn ends(code: Code, cause: &'static str) -> Fault {
    Fault::Connection(code, cause)
}

const NO_STREAM: Fault = ends(Code::Protocol, "a frame belongs to no stream");
const A_STREAM: Fault = ends(Code::Protocol, "a frame of the connection names a stream");
const SIZE: Fault = ends(Code::FrameSize, "a frame has not the size of its type");
const PADDING: Fault = ends(Code::Protocol, "a frame has more padding than bytes");

/// The frame that these bytes begin with, if it is there whole.
pub(super) fn read(bytes: &[u8]) -> Option<Read<'_>> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let [a, b, c, kind, flags, s0, s1, s2, s3] = *head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
    if length > LONGEST {
        let fault = ends(Code::FrameSize, "a frame is longer than was allowed");
        return Some(Read { size: HEAD, frame: Err(fault) });
    }
    let payload = bytes.get(HEAD..HEAD + length)?;
    Some(Read { size: HEAD + length, frame: meaning((kind, flags), stream, payload) })
}

/// How many bytes the frame at the beginning has, once that is known.
pub(super) fn wanted(bytes: &[u8]) -> Option<usize> {
    let length: &[u8; 3] = bytes.first_chunk()?;
    Some(HEAD + (u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize).min(LONGEST))
}

fn meaning((kind, flags): (u8, u8), stream: u32, payload: &[u8]) -> Result<Frame<'_>, Fault> {
    let of_stream = matches!(kind, DATA | HEADERS | PRIORITY | RESET | PUSH | CONTINUATION);
    if of_stream && stream == 0 {
        return Err(NO_STREAM);
    }
    if matches!(kind, SETTINGS | PING | GOAWAY) && stream != 0 {
        return Err(A_STREAM);
    }
    let has = |flag: u8| flags & flag != 0;
    match kind {
        DATA => Ok(Frame::Data {
            stream,
            data: unpadded(payload, has(PADDED))?,
            counted: payload.len() as u32,
            end: has(END_STREAM),
        }),
        HEADERS => {
            let mut block = unpadded(payload, has(PADDED))?;
            if has(WITH_PRIORITY) {
                block = block.get(5..).ok_or(SIZE)?;
            }
            Ok(Frame::Headers { stream, block, end: has(END_STREAM), whole: has(END_HEADERS) })
        }
        CONTINUATION => Ok(Frame::Continuation { stream, block: payload, whole: has(END_HEADERS) }),
        PRIORITY if payload.len() != 5 => Err(Fault::Stream(stream, Code::FrameSize)),
        PRIORITY => Ok(Frame::Priority),
        RESET if payload.len() != 4 => Err(SIZE),
        RESET => Ok(Frame::Reset { stream }),
        SETTINGS if has(ACK) && payload.is_empty() => Ok(Frame::SettingsAck),
        SETTINGS if has(ACK) || !payload.len().is_multiple_of(6) => Err(SIZE),
        SETTINGS => Ok(Frame::Settings(payload)),
        PUSH => Err(ends(Code::Protocol, "clients do not push")),
        PING => {
            let opaque = payload.try_into().map_err(|_| SIZE)?;
            Ok(if has(ACK) { Frame::Pong(opaque) } else { Frame::Ping(opaque) })
        }
        GOAWAY if payload.len() < 8 => Err(SIZE),
        GOAWAY => Ok(Frame::Goaway),
        WINDOW => window(stream, payload),
        _ => Ok(Frame::Unknown),
    }
}

fn window(stream: u32, payload: &[u8]) -> Result<Frame<'_>, Fault> {
    let increment = u32::from_be_bytes(payload.try_into().map_err(|_| SIZE)?) & 0x7fff_ffff;
    match (increment, stream) {
        (0, 0) => Err(ends(Code::Protocol, "a window grows by nothing")),
        (0, _) => Err(Fault::Stream(stream, Code::Protocol)),
        _ => Ok(Frame::Window { stream, increment }),
    }
}

fn unpadded(payload: &[u8], is_padded: bool) -> Result<&[u8], Fault> {
    if !is_padded {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(SIZE)?;
    let length = rest.len().checked_sub(usize::from(*padding)).ok_or(PADDING)?;
    rest.get(..length).ok_or(PADDING)
}

/// The settings of a payload: identifier and value, in their order (§ 6.5.1).
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> + '_ {
    payload.as_chunks::<6>().0.iter().map(|[a, b, c, d, e, f]| {
        (u16::from_be_bytes([*a, *b]), u32::from_be_bytes([*c, *d, *e, *f]))
    })
}

fn head(length: usize, (kind, flags): (u8, u8), stream: u32) -> [u8; HEAD] {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [a, b, c, kind, flags, s0, s1, s2, s3]
}

fn put(out: &mut Vec<u8>, length: usize, kind: (u8, u8), stream: u32) {
    out.extend_from_slice(&head(length, kind, stream));
}

/// Our settings, as they open a connection.
pub(super) fn put_settings(out: &mut Vec<u8>, all: &[(u16, u32)]) {
    put(out, all.len() * 6, (SETTINGS, 0), 0);
    for (identifier, value) in all {
        out.extend_from_slice(&identifier.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn put_settings_ack(out: &mut Vec<u8>) {
    put(out, 0, (SETTINGS, ACK), 0);
}

pub(super) fn put_ping(out: &mut Vec<u8>, opaque: [u8; 8], is_ack: bool) {
    put(out, 8, (PING, if is_ack { ACK } else { 0 }), 0);
    out.extend_from_slice(&opaque);
}

pub(super) fn put_window(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put(out, 4, (WINDOW, 0), stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

pub(super) fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put(out, 4, (RESET, 0), stream);
    out.extend_from_slice(&(code as u32).to_be_bytes());
}

pub(super) fn put_goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    put(out, 8, (GOAWAY, 0), 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&(code as u32).to_be_bytes());
}

/// What a piece of a body begins with.
pub(super) fn put_data(out: &mut Vec<u8>, stream: u32, length: usize, end: bool) {
    put(out, length, (DATA, if end { END_STREAM } else { 0 }), stream);
}

/// A field block that `write` appends, in as many frames as it needs.
pub(super) fn put_headers(
    out: &mut Vec<u8>,
    stream: u32,
    end: bool,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    write(out);
    let length = out.len() - start - HEAD;
    let end = if end { END_STREAM } else { 0 };
    if length <= LONGEST {
        let head = head(length, (HEADERS, end | END_HEADERS), stream);
        return out[start..start + HEAD].copy_from_slice(&head);
    }
    let block = out.split_off(start + HEAD);
    out.truncate(start);
    let last = block.len().div_ceil(LONGEST) - 1;
    for (nth, piece) in block.chunks(LONGEST).enumerate() {
        let whole = if nth == last { END_HEADERS } else { 0 };
        let kind = if nth == 0 { (HEADERS, end | whole) } else { (CONTINUATION, whole) };
        put(out, piece.len(), kind, stream);
        out.extend_from_slice(piece);
    }
}
