//! A request on its way to an instance: its head as bytes, then its body piece by piece.
//!
//! Invariants: the head is made once, however often it is sent; the body is framed by its own length or
//! in chunks, never by what the client's headers said; a piece that was taken from the client is sent or
//! the exchange fails. Not here: headers' meaning, the response.

use std::io::{IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method};
use hyper::body::Body as _;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::Outgoing;
use crate::body::{BodyError, RequestBody};

/// Most heads need no more.
const ROOM: usize = 1024;

/// Why it did not go on.
#[derive(Debug)]
pub(super) enum Stuck {
    /// The instance takes no more; it may still have answered.
    Instance,
    /// What the client sent is wrong or cut off.
    Client(BodyError),
}

/// How the body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delimited {
    /// So many bytes are to follow.
    Length(u64),
    /// In chunks; whether one was sent already.
    Chunks(bool),
    /// All of it is in the buffer.
    Done,
}

/// One request.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) method: Method,
    /// The head, later the sizes of chunks.
    buffer: Vec<u8>,
    /// So many of its bytes are sent.
    sent: usize,
    piece: Bytes,
    body: RequestBody,
    delimited: Delimited,
    begun: bool,
}

impl Sending {
    /// Encodes the head into `buffer`, which was used before for its room. `fields` writes all fields but
    /// those that frame the body.
    pub(super) fn new(request: Outgoing<'_>, mut buffer: Vec<u8>) -> Self {
        let Outgoing { parts, fields, body, .. } = request;
        buffer.clear();
        buffer.reserve(ROOM);
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        for part in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            buffer.extend_from_slice(part.as_bytes());
        }
        let delimited = frame(&mut buffer, &parts.method, &parts.headers, &body);
        fields(&mut buffer);
        buffer.extend_from_slice(b"\r\n");
        let method = parts.method.clone();
        Self { method, buffer, sent: 0, piece: Bytes::new(), body, delimited, begun: false }
    }

    /// Whether all of it was sent.
    pub(super) fn is_done(&self) -> bool {
        self.delimited == Delimited::Done && self.sent == self.buffer.len() && self.piece.is_empty()
    }

    /// Makes it ready to be sent anew; false where part of it is gone for good.
    pub(super) fn restart(&mut self) -> bool {
        if !self.begun {
            return true;
        }
        let whole = matches!(self.body, RequestBody::Empty);
        if whole {
            (self.sent, self.begun) = (0, false);
        }
        whole
    }

    /// Whether anything was sent.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The room of its head, for another one.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Sends as much as can be sent now; ready when nothing is left.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut TcpStream,
    ) -> Poll<Result<(), Stuck>> {
        loop {
            if self.piece.is_empty() && self.delimited != Delimited::Done {
                // The first piece goes with the head where it is there already.
                let waits = self.poll_piece(context)?.is_pending();
                if waits && self.sent == self.buffer.len() {
                    return Poll::Pending;
                }
            }
            let left = &self.buffer[self.sent..];
            if left.is_empty() && self.piece.is_empty() {
                if self.delimited == Delimited::Done {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let written = if self.piece.is_empty() {
                ready!(Pin::new(&mut *stream).poll_write(context, left))
            } else {
                let both = [IoSlice::new(left), IoSlice::new(&self.piece)];
                ready!(Pin::new(&mut *stream).poll_write_vectored(context, &both))
            };
            let written = match written {
                Ok(0) | Err(_) => return Poll::Ready(Err(Stuck::Instance)),
                Ok(written) => written,
            };
            self.begun = true;
            let of_buffer = written.min(left.len());
            self.sent += of_buffer;
            self.piece.advance(written - of_buffer);
        }
    }

    /// Takes the next piece of the body and frames it. Only called when there is room for it.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Stuck> {
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame.transpose().map_err(Stuck::Client)?,
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
                Delimited::Length(1..) => return Err(short()),
                Delimited::Chunks(begun) => {
                    let end: &[u8] = if begun { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" };
                    self.buffer.extend_from_slice(end);
                    self.delimited = Delimited::Done;
                }
                Delimited::Length(0) | Delimited::Done => self.delimited = Delimited::Done,
            },
        }
        Ok(Poll::Ready(()))
    }

    fn add(&mut self, piece: Bytes) -> Result<(), Stuck> {
        let size = piece.len() as u64;
        match &mut self.delimited {
            _ if size == 0 => return Ok(()),
            Delimited::Length(left) => *left = left.checked_sub(size).ok_or_else(short)?,
            Delimited::Chunks(begun) => {
                let end = if std::mem::replace(begun, true) { "\r\n" } else { "" };
                // A Vec takes every byte.
                write!(self.buffer, "{end}{size:x}\r\n").ok();
            }
            Delimited::Done => return Err(short()),
        }
        self.piece = piece;
        Ok(())
    }
}

fn short() -> Stuck {
    Stuck::Client("the body has another length than was announced".into())
}

/// Says how the body is delimited, by its own length.
fn frame(
    buffer: &mut Vec<u8>,
    method: &Method,
    headers: &HeaderMap,
    body: &RequestBody,
) -> Delimited {
    let said = headers.contains_key(CONTENT_LENGTH);
    let expected = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    match (body.size_hint().exact(), body.is_end_stream()) {
        (_, true) => {
            // Where a length is expected, 0 is said (RFC 9110 § 8.6).
            if said || expected {
                buffer.extend_from_slice(b"content-length: 0\r\n");
            }
            Delimited::Done
        }
        (Some(length), false) => {
            let mut digits = itoa::Buffer::new();
            buffer.extend_from_slice(b"content-length: ");
            buffer.extend_from_slice(digits.format(length).as_bytes());
            buffer.extend_from_slice(b"\r\n");
            Delimited::Length(length)
        }
        (None, false) => {
            buffer.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Delimited::Chunks(false)
        }
    }
}
