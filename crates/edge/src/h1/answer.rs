//! A response on its way to an HTTP/1.1 client: its head as bytes, then its body piece by piece.
//!
//! Invariants: the body is framed by its own length, in chunks, or by the end of the connection, never by
//! what headers say; one that ends short of its length, or breaks, ends the connection, so that nobody
//! takes it for whole; a piece is passed on before the next one is asked for.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::wire::Wire;
use crate::body::ResponseBody;
use crate::forwarded::field;
use crate::serve::Tunnel;
use crate::worker::Local;

/// What the request says about its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) is_head: bool,
    pub(super) is_1_0: bool,
    pub(super) keep: bool,
}

/// How the body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delimited {
    /// So many bytes are to follow.
    Length(u64),
    /// In chunks; whether one was sent already.
    Chunks(bool),
    ToEnd,
    /// All of it is in the buffer.
    Done,
}

/// A response, as far as it is not sent yet.
#[derive(Debug)]
pub(super) struct Answer {
    /// The head, later the sizes of chunks.
    buffer: Vec<u8>,
    /// So many of its bytes are sent.
    sent: usize,
    piece: Bytes,
    body: ResponseBody,
    delimited: Delimited,
    keep: bool,
    flushed: bool,
}

impl Answer {
    /// Encodes the head. `unread`: the request was not and will not be read to its end.
    pub(super) fn new(
        response: Response<ResponseBody>,
        asked: Asked,
        unread: bool,
        local: &Local,
    ) -> Self {
        let (head, body) = response.into_parts();
        let mut buffer = local.rooms.head();
        buffer.clear();
        status_line(&mut buffer, head.status);
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let delimited = frame(&mut buffer, &head.headers, head.status, asked, &body);
        let says_close = !switches
            && head.headers.get(CONNECTION).is_some_and(|value| value.as_bytes() == b"close");
        for (name, value) in &head.headers {
            let framing = *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING;
            let connection = *name == CONNECTION && !switches;
            if !framing && !connection {
                field(&mut buffer, name.as_str(), value.as_bytes());
            }
        }
        let keep = asked.keep && !says_close && !unread && delimited != Delimited::ToEnd;
        if !keep && !switches {
            field(&mut buffer, "connection", b"close");
        } else if asked.is_1_0 && !switches {
            field(&mut buffer, "connection", b"keep-alive");
        }
        if !head.headers.contains_key(DATE) && !switches {
            local.date.write(&mut buffer);
        }
        buffer.extend_from_slice(b"\r\n");
        Self { buffer, sent: 0, piece: Bytes::new(), body, delimited, keep, flushed: false }
    }

    /// Whether another request may follow.
    pub(super) fn keeps(&self) -> bool {
        self.keep
    }

    /// What the connection becomes after a 101.
    pub(super) fn take_tunnel(&mut self) -> Option<Tunnel> {
        self.body.take_tunnel()
    }

    /// The room goes back; what is left of the body is dropped.
    pub(super) fn give_back(self, local: &Local) {
        local.rooms.keep_head(self.buffer);
    }

    /// Sends as much as can be sent now; ready when nothing is left, or when the connection cannot be used
    /// any more.
    pub(super) fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        wire: &Rc<RefCell<Wire<S>>>,
    ) -> Poll<Result<(), ()>> {
        loop {
            let mut waits = false;
            if self.piece.is_empty() && self.delimited != Delimited::Done {
                // The first piece goes with the head where it is there already.
                waits = self.poll_piece(context)?.is_pending();
            }
            let left = &self.buffer[self.sent..];
            if left.is_empty() && self.piece.is_empty() {
                if !self.flushed && (waits || self.delimited == Delimited::Done) {
                    ready!(wire.borrow_mut().poll_flush(context)).map_err(drop)?;
                    self.flushed = true;
                }
                match self.delimited {
                    Delimited::Done => return Poll::Ready(Ok(())),
                    _ if waits => return Poll::Pending,
                    _ => continue,
                }
            }
            let written = wire.borrow_mut().poll_write(context, left, &self.piece);
            let written = ready!(written).map_err(drop)?;
            self.flushed = false;
            let of_buffer = written.min(left.len());
            self.sent += of_buffer;
            self.piece.advance(written - of_buffer);
        }
    }

    /// Takes the next piece of the body and frames it.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, ()> {
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame.transpose().map_err(drop)?,
        };
        if self.sent == self.buffer.len() {
            self.buffer.clear();
            self.sent = 0;
        }
        match frame.map(hyper::body::Frame::into_data) {
            // Trailers go nowhere.
            Some(Err(_)) => {}
            Some(Ok(piece)) => self.add(piece)?,
            None => match self.delimited {
                Delimited::Length(1..) => return Err(()),
                Delimited::Chunks(begun) => {
                    let end: &[u8] = if begun { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" };
                    self.buffer.extend_from_slice(end);
                    self.delimited = Delimited::Done;
                }
                Delimited::Length(0) | Delimited::ToEnd | Delimited::Done => {
                    self.delimited = Delimited::Done;
                }
            },
        }
        Ok(Poll::Ready(()))
    }

    fn add(&mut self, piece: Bytes) -> Result<(), ()> {
        let size = piece.len() as u64;
        match &mut self.delimited {
            _ if size == 0 => return Ok(()),
            Delimited::Length(left) => {
                *left = left.checked_sub(size).ok_or(())?;
                if *left == 0 {
                    // No need to ask whether it is the end.
                    self.delimited = Delimited::Done;
                }
            }
            Delimited::Chunks(begun) => {
                let end: &[u8] = if std::mem::replace(begun, true) { b"\r\n" } else { b"" };
                self.buffer.extend_from_slice(end);
                hex(&mut self.buffer, size);
                self.buffer.extend_from_slice(b"\r\n");
            }
            Delimited::ToEnd => {}
            Delimited::Done => return Err(()),
        }
        self.piece = piece;
        Ok(())
    }
}

fn hex(buffer: &mut Vec<u8>, size: u64) {
    use std::io::Write as _;
    // A Vec takes every byte.
    write!(buffer, "{size:x}").ok();
}

fn status_line(buffer: &mut Vec<u8>, status: StatusCode) {
    buffer.reserve(ROOM);
    buffer.extend_from_slice(b"HTTP/1.1 ");
    buffer.extend_from_slice(status.as_str().as_bytes());
    buffer.push(b' ');
    buffer.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    buffer.extend_from_slice(b"\r\n");
}

/// Most heads need no more.
const ROOM: usize = 1024;

/// Says how the body is delimited (RFC 9112 § 6).
fn frame(
    buffer: &mut Vec<u8>,
    headers: &HeaderMap,
    status: StatusCode,
    asked: Asked,
    body: &ResponseBody,
) -> Delimited {
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return Delimited::Done;
    }
    let mut digits = itoa::Buffer::new();
    if asked.is_head || status == StatusCode::NOT_MODIFIED {
        // What a GET would have: the instance knows, or the body that is not sent.
        let exact = body.size_hint().exact().filter(|length| *length > 0);
        match (headers.get(CONTENT_LENGTH), exact) {
            (Some(said), _) => field(buffer, "content-length", said.as_bytes()),
            (None, Some(length)) => {
                field(buffer, "content-length", digits.format(length).as_bytes());
            }
            (None, None) => {}
        }
        return Delimited::Done;
    }
    match body.size_hint().exact() {
        Some(length) => {
            field(buffer, "content-length", digits.format(length).as_bytes());
            if length == 0 { Delimited::Done } else { Delimited::Length(length) }
        }
        None if asked.is_1_0 => Delimited::ToEnd,
        None => {
            field(buffer, "transfer-encoding", b"chunked");
            Delimited::Chunks(false)
        }
    }
}
