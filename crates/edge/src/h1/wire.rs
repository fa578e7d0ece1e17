//! A client's connection: bytes in, read as requests and their bodies; bytes out, with patience.
//!
//! Invariants: a head is read once it is there whole; after a refusal nothing more of the connection is
//! read as HTTP; bytes behind a request to switch protocols are not looked at before the answer is known;
//! an idle connection holds no room for bytes.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::framing::Framing;
use super::head::{self, Head, Search};
use crate::head::Refusal;
use crate::rooms::{Rooms, make_room};
use crate::watch::{Alarm, Watch};

/// Before the first request, and between two.
pub(crate) const IDLE_TIME: Duration = Duration::from_secs(75);
/// For a client to take anything of what it is sent.
pub(crate) const SEND_TIME: Duration = Duration::from_secs(60);
/// From the first byte of a head to its last.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(15);

const TOO_SLOW: Refusal =
    Refusal { status: http::StatusCode::REQUEST_TIMEOUT, cause: "the head took longer than 15 s" };

/// What the client sends next.
#[derive(Debug)]
pub(super) enum Next {
    Request(Head),
    Refused(Refusal),
    /// Nothing more.
    End,
}

/// Why a body does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    CutOff,
    Refused(Refusal),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CutOff => "the body was cut off",
            Self::Refused(refusal) => refusal.cause,
        })
    }
}

impl std::error::Error for Bad {}

/// A connection between its bytes and their meaning.
#[derive(Debug)]
pub(super) struct Wire<S> {
    pub(super) stream: S,
    /// Read and not yet taken.
    pub(super) bytes: BytesMut,
    /// What is left of the present request's body.
    body: Framing,
    search: Search,
    /// An empty line before a request line was skipped: one is tolerated, since old clients send one.
    skipped: bool,
    /// What is still to be written of a 100.
    go_on: &'static [u8],
    /// Runs while the client has the floor, and whether part of a head is there.
    alarm: Alarm,
    in_head: bool,
    /// Runs while the client takes nothing.
    send_alarm: Alarm,
    rooms: Rc<Rooms>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, watch: &Rc<Watch>, rooms: Rc<Rooms>) -> Self {
        Self {
            stream,
            bytes: BytesMut::new(),
            body: Framing::Length(0),
            search: Search::default(),
            skipped: false,
            go_on: b"",
            alarm: Alarm::of_client(watch),
            in_head: false,
            send_alarm: Alarm::of_client(watch),
            rooms,
        }
    }

    fn poll_more(&mut self, context: &mut Context<'_>, wanted: u64) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() == 0 {
            self.bytes = self.rooms.buffer();
        }
        make_room(&mut self.bytes, wanted);
        let read = pin!(self.stream.read_buf(&mut self.bytes)).poll(context);
        if read.is_pending() && self.bytes.is_empty() {
            self.rooms.keep_buffer(std::mem::take(&mut self.bytes));
        }
        read
    }

    /// The next request, when the one before was answered.
    pub(super) fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        loop {
            match self.take_head() {
                Err(refusal) => return Poll::Ready(Next::Refused(refusal)),
                Ok(Some(head)) => {
                    self.alarm.clear();
                    self.in_head = false;
                    return Poll::Ready(Next::Request(head));
                }
                Ok(None) => {}
            }
            let Poll::Ready(read) = self.poll_more(context, 0) else {
                return self.poll_patience(context);
            };
            // Within a head there is nothing to answer.
            if !matches!(read, Ok(1..)) {
                return Poll::Ready(Next::End);
            }
        }
    }

    fn take_head(&mut self) -> Result<Option<Head>, Refusal> {
        if !self.skipped && self.bytes.starts_with(b"\r\n") {
            drop(self.bytes.split_to(2));
            self.skipped = true;
        }
        if self.bytes.is_empty() || (!self.skipped && self.bytes[..] == b"\r"[..]) {
            return Ok(None);
        }
        let Some(end) = self.search.end(&self.bytes)? else { return Ok(None) };
        let head =
            head::read(&self.bytes.split_to(end).freeze(), self.search.lines(), &self.rooms)?;
        (self.search, self.skipped) = (Search::default(), false);
        self.body = head.shape.framing;
        if head.shape.waits && !self.is_body_over() {
            self.go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
        }
        Ok(Some(head))
    }

    /// Nothing comes: how long the client may stay silent.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let in_head = !self.bytes.is_empty();
        if in_head != self.in_head {
            self.in_head = in_head;
            self.alarm.clear();
        }
        ready!(self.alarm.poll(context, if in_head { HEAD_TIME } else { IDLE_TIME }));
        // An idle connection ends without a word: the client may be about to send on another one.
        Poll::Ready(if in_head { Next::Refused(TOO_SLOW) } else { Next::End })
    }

    /// Whether the present request was read to its end.
    pub(super) fn is_body_over(&self) -> bool {
        self.body.is_over()
    }

    /// Takes what is left of the body as far as it is here already; whether that was all of it.
    pub(super) fn discard(&mut self) -> bool {
        // A client that waits for a 100 sends nothing without it.
        self.go_on = b"";
        while matches!(self.body.take(&mut self.bytes), Ok(Some(_))) {}
        self.is_body_over()
    }

    /// Whether nothing is here but what was answered.
    pub(super) fn is_spent(&self) -> bool {
        self.is_body_over() && self.bytes.is_empty()
    }

    /// Writes as much as can be written now.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let written = match slices {
            [only] => stream.poll_write(context, only),
            several => stream.poll_write_vectored(context, several),
        };
        self.wait_for_client(context, written)
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context).map_ok(|()| 1);
        self.wait_for_client(context, flushed)
    }

    /// Says that nothing more comes.
    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(context).map_ok(|()| 1);
        self.wait_for_client(context, ended)
    }

    /// A client that takes nothing for too long is cut off.
    fn wait_for_client(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(_) => {
                self.send_alarm.clear();
                written
            }
            Poll::Pending => {
                ready!(self.send_alarm.poll(context, SEND_TIME));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

/// A body that can be read, whatever the connection is made of.
pub(super) trait Source {
    /// The next piece; nothing at the end.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Bad>>>;
    /// Bytes still to come, where that is known.
    fn left(&self) -> Option<u64>;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Source for Wire<S> {
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Bad>>> {
        loop {
            match self.body.take(&mut self.bytes) {
                Err(refusal) => return Poll::Ready(Some(Err(Bad::Refused(refusal)))),
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(None) if self.is_body_over() => return Poll::Ready(None),
                Ok(None) => {}
            }
            while !self.go_on.is_empty() {
                let go_on = self.go_on;
                match ready!(self.poll_write(context, &[IoSlice::new(go_on)])) {
                    Ok(written) => self.go_on = go_on.get(written..).unwrap_or_default(),
                    Err(_) => return Poll::Ready(Some(Err(Bad::CutOff))),
                }
                if self.go_on.is_empty() && ready!(self.poll_flush(context)).is_err() {
                    return Poll::Ready(Some(Err(Bad::CutOff)));
                }
            }
            let wanted = self.body.wanted();
            if !matches!(ready!(self.poll_more(context, wanted)), Ok(1..)) {
                return Poll::Ready(Some(Err(Bad::CutOff)));
            }
        }
    }

    fn left(&self) -> Option<u64> {
        self.body.left()
    }
}

#[cfg(test)]
mod tests;
