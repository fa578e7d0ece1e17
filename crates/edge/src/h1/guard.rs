//! The connection as hyper sees it: the socket, minus every byte that could be read in two ways.
//!
//! Reading, it follows head, body, head, … and hands out what was checked; bodies of known length go
//! straight from the socket into hyper's buffer. Something that is refused becomes the end of the stream
//! for hyper; when hyper then shuts the connection down, having answered what came before, the refusal is
//! written first. So answers keep their order, pipelined or not.
//! Invariants: after a refusal nothing more of the connection is handed out; bytes behind a request to
//! switch protocols are held back until `switched` says whether they are HTTP. Shutting down with unread
//! bytes lingers briefly, or the reset would take the answer away from the client.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::chunked::Chunked;
use super::head::{self, Framing, Refusal, Search};
use crate::serve::Client;
use crate::snapshot::Shared;
use crate::watch::{Alarm, Watch};
use crate::worker::Ids;

/// Before the first request, and between two.
const IDLE_TIME: Duration = Duration::from_secs(75);
/// For a client to take anything of what it is sent.
const SEND_TIME: Duration = Duration::from_secs(60);
/// From the first byte of a head to its last.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// How long, and how much, is still read and thrown away after the last answer.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;
/// Read from the socket at once where the end of a message has to be found.
const PIECE: usize = 8 << 10;
/// Room for more than this is given back between two requests.
const KEPT: usize = 32 << 10;

const TOO_SLOW: Refusal =
    Refusal { status: http::StatusCode::REQUEST_TIMEOUT, cause: "the head took longer than 15 s" };

/// Where in the stream the next byte of the socket lies.
#[derive(Debug)]
enum Place {
    Head(Search),
    Length(u64),
    Chunked(Chunked),
    /// Another protocol since the 101.
    Switched,
    Refused,
}

/// Answers, counts and logs what is refused before it became a request.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ids: Arc<Ids>,
    pub(crate) client: Arc<Client>,
}

impl Refused {
    fn answer(&self, refusal: Refusal) -> Bytes {
        self.shared.requests.add();
        crate::serve::refused(
            &self.shared,
            self.ids.next(),
            &self.client,
            refusal.status,
            refusal.cause,
        )
        .into()
    }
}

/// A client's connection behind the check.
#[derive(Debug)]
pub(crate) struct Guard<S> {
    inner: S,
    /// From the socket; the first `clear` bytes may be handed out.
    bytes: BytesMut,
    clear: usize,
    place: Place,
    /// An empty line before a request line was skipped: one is tolerated, since old clients send one.
    skipped: bool,
    upgrade_asked: bool,
    switched: Arc<AtomicBool>,
    refused: Refused,
    /// Runs while the client has the floor, and whether part of a head is there.
    alarm: Alarm,
    in_head: bool,
    /// Runs while the client takes nothing.
    send_alarm: Alarm,
    ending: Ending,
}

/// What is left to do at the end.
#[derive(Debug)]
enum Ending {
    Open,
    Last(Bytes),
    Closing,
    Lingering(Pin<Box<Sleep>>, usize),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// Stands in front of a fresh connection. `switched` is to be set before a 101 is answered.
    pub(crate) fn new(
        inner: S,
        refused: Refused,
        switched: Arc<AtomicBool>,
        watch: &Arc<Watch>,
    ) -> Self {
        Self {
            inner,
            bytes: BytesMut::new(),
            clear: 0,
            place: Place::Head(Search::default()),
            skipped: false,
            upgrade_asked: false,
            switched,
            refused,
            alarm: Alarm::new(watch),
            in_head: false,
            send_alarm: Alarm::new(watch),
            ending: Ending::Open,
        }
    }

    /// Moves the border of what is in order as far as `bytes` allow.
    fn examine(&mut self) -> Result<(), Refusal> {
        match &mut self.place {
            Place::Head(search) => {
                if !self.skipped && self.bytes.starts_with(b"\r\n") {
                    self.bytes.advance(2);
                    self.skipped = true;
                }
                if self.bytes.is_empty() || (!self.skipped && self.bytes[..] == b"\r"[..]) {
                    return Ok(());
                }
                if let Some(end) = search.end(&self.bytes)? {
                    let shape = head::check(&self.bytes[..end])?;
                    self.clear = end;
                    self.upgrade_asked = shape.upgrade;
                    self.place = match shape.framing {
                        Framing::Length(length) => after(length),
                        Framing::Chunked => Place::Chunked(Chunked::Size),
                    };
                    self.skipped = false;
                    self.alarm.clear();
                }
            }
            Place::Length(left) => {
                self.clear = self.bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                self.place = after(*left - self.clear as u64);
            }
            Place::Chunked(chunked) => {
                self.clear = chunked.advance(&self.bytes)?;
                if *chunked == Chunked::Done {
                    self.place = after(0);
                }
            }
            Place::Switched => self.clear = self.bytes.len(),
            Place::Refused => {}
        }
        Ok(())
    }

    /// The end for hyper, as an error where it is in the middle of a body.
    fn refuse(&mut self, refusal: Refusal) -> Poll<io::Result<()>> {
        let in_body = matches!(self.place, Place::Chunked(_));
        self.place = Place::Refused;
        self.alarm.clear();
        self.bytes.clear();
        if in_body {
            // `serve` answers this one: the request is known there, and part of it may be on its way.
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal.cause)));
        }
        self.ending = Ending::Last(self.refused.answer(refusal));
        Poll::Ready(Ok(()))
    }

    /// Reads straight into hyper's buffer, at most to the end of the body or chunk.
    fn poll_direct(
        &mut self,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = match self.place {
            Place::Length(left) | Place::Chunked(Chunked::Data(left)) => {
                usize::try_from(left).unwrap_or(usize::MAX)
            }
            _ => usize::MAX,
        };
        let most = left.min(out.remaining());
        let mut part = ReadBuf::new(out.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut part))?;
        let read = part.filled().len();
        out.advance(read);
        match &mut self.place {
            Place::Length(left) => self.place = after(*left - read as u64),
            Place::Chunked(Chunked::Data(left)) if read as u64 == *left => {
                self.place = Place::Chunked(Chunked::DataEnd)
            }
            Place::Chunked(Chunked::Data(left)) => *left -= read as u64,
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing comes: how long the client may stay silent.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !matches!(self.place, Place::Head(_)) {
            return Poll::Pending;
        }
        let in_head = !self.bytes.is_empty();
        if in_head != self.in_head {
            self.in_head = in_head;
            self.alarm.clear();
        }
        ready!(self.alarm.poll(context, if in_head { HEAD_TIME } else { IDLE_TIME }));
        // An idle connection ends without a word: the client may be about to send on another one.
        if in_head { self.refuse(TOO_SLOW) } else { Poll::Ready(Ok(())) }
    }

    /// A write that made progress, or waits; a client that takes nothing for too long is cut off.
    fn poll_sent(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.send_alarm.clear();
            return written;
        }
        ready!(self.send_alarm.poll(context, SEND_TIME));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Throws away what still comes, so that closing sends no reset before the client has read the answer.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Ending::Lingering(sleep, bytes) = &mut self.ending else { return Poll::Ready(Ok(())) };
        let mut room = [std::mem::MaybeUninit::uninit(); 4 << 10];
        loop {
            if sleep.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut out = ReadBuf::uninit(&mut room);
            let result = ready!(Pin::new(&mut self.inner).poll_read(context, &mut out));
            *bytes += out.filled().len();
            if result.is_err() || out.filled().is_empty() || *bytes > LINGER_BYTES {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Behind a body of which so much is left.
fn after(left: u64) -> Place {
    if left == 0 { Place::Head(Search::default()) } else { Place::Length(left) }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.clear > 0 {
                let here = this.clear.min(out.remaining());
                out.put_slice(&this.bytes[..here]);
                this.bytes.advance(here);
                this.clear -= here;
                if this.bytes.is_empty() && this.bytes.capacity() > KEPT {
                    this.bytes = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.upgrade_asked && this.switched.load(Ordering::Acquire) {
                (this.place, this.upgrade_asked) = (Place::Switched, false);
            }
            if matches!(this.place, Place::Refused) {
                return Poll::Ready(Ok(()));
            }
            if let Err(refusal) = this.examine() {
                return this.refuse(refusal);
            }
            if this.clear > 0 {
                continue;
            }
            if this.bytes.is_empty()
                && matches!(
                    this.place,
                    Place::Length(_) | Place::Chunked(Chunked::Data(_)) | Place::Switched
                )
            {
                return this.poll_direct(context, out);
            }
            let Poll::Ready(read) = read_more(&mut this.inner, context, &mut this.bytes) else {
                return this.poll_patience(context);
            };
            let read = read?;
            if read == 0 {
                // Within a body hyper sees that it was cut off; within a head there is nothing to answer.
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// One read to the end of a buffer.
fn read_more<S: AsyncRead + Unpin>(
    inner: &mut S,
    context: &mut Context<'_>,
    bytes: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let before = bytes.len();
    let mut room = [std::mem::MaybeUninit::uninit(); PIECE];
    let mut out = ReadBuf::uninit(&mut room);
    ready!(Pin::new(inner).poll_read(context, &mut out))?;
    bytes.extend_from_slice(out.filled());
    Poll::Ready(Ok(bytes.len() - before))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.poll_sent(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.poll_sent(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.ending {
                Ending::Open => this.ending = Ending::Closing,
                Ending::Last(last) if last.is_empty() => this.ending = Ending::Closing,
                Ending::Last(last) => {
                    let written = ready!(Pin::new(&mut this.inner).poll_write(context, last))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    last.advance(written);
                }
                Ending::Closing => {
                    ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
                    let clean = matches!(this.place, Place::Head(_) | Place::Switched)
                        && this.bytes.is_empty();
                    if clean {
                        return Poll::Ready(Ok(()));
                    }
                    this.ending = Ending::Lingering(Box::pin(sleep(LINGER_TIME)), 0);
                }
                Ending::Lingering(..) => return this.poll_linger(context),
            }
        }
    }
}

#[cfg(test)]
mod tests;
