//! quinn's connections and streams, as h3 wants them.
//!
//! Why our own: h3 reads a frame whole before it looks at it, however long it says it is, so what is read here
//! is metered; and a stream that is let go before its end is reset, not ended as if that were all. Invariants:
//! of what nobody took at most [`MOST`] bytes lie here for a request, of the connection's own streams at most
//! [`MOST_OF_CONTROL`] ever; a stream is finished when the client has all of it; after the last stream that we
//! promised to answer none is begun; a request that ends in the middle of a frame does not pass for whole.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::frames::Frames;

/// What a request may have sent that is no part of its body and not looked at yet: more than a head is allowed.
const MOST: u64 = 128 << 10;
/// What a client may say on the streams that are about the connection, over its whole life.
const MOST_OF_CONTROL: u64 = 1 << 20;

type Connected<T> = Pin<Box<dyn Future<Output = Result<T, ConnectionError>>>>;
type Both = (quinn::SendStream, quinn::RecvStream);

/// Bytes that were read and not taken, by who may say that they were.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter(Rc<Cell<u64>>);

impl Meter {
    /// All of it was taken.
    pub(super) fn reset(&self) {
        self.0.set(0);
    }
}

/// What is known of a stream besides what h3 makes of it.
pub(super) struct Arrival {
    pub(super) meter: Meter,
    /// Ends when the client wants no answer any more, or has all of it.
    pub(super) stopped: Pin<Box<dyn Future<Output = Stopped>>>,
}

/// How a client is done with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It has all of it.
    Satisfied,
    /// It, or its connection, went away.
    Gone,
}

/// What the connection's room and h3's side of it share.
#[derive(Default)]
pub(super) struct Door {
    /// Of the request that was let in last.
    arrival: RefCell<Option<Arrival>>,
    /// What the next request's number will be at least.
    next: Cell<u64>,
    /// Requests from this number on are not answered.
    closed_from: Cell<Option<u64>>,
}

impl Door {
    /// Of the request that h3 gave out just now.
    pub(super) fn arrival(&self) -> Option<Arrival> {
        self.arrival.take()
    }

    /// No request after those that came.
    pub(super) fn close(&self) {
        self.closed_from.set(Some(self.next.get()));
    }
}

/// A connection.
pub(super) struct Transport {
    connection: quinn::Connection,
    door: Rc<Door>,
    control: Meter,
    streams: Option<Connected<Both>>,
    control_streams: Option<Connected<quinn::RecvStream>>,
    opener: Opener,
}

impl Transport {
    pub(super) fn new(connection: quinn::Connection, door: Rc<Door>) -> Self {
        let control = Meter::default();
        let opener = Opener::new(&connection);
        Self { connection, door, control, streams: None, control_streams: None, opener }
    }
}

/// Polls what was begun before, or begins it.
fn poll_kept<T>(
    kept: &mut Option<Connected<T>>,
    begin: impl FnOnce() -> Connected<T>,
    context: &mut Context<'_>,
) -> Poll<Result<T, ConnectionError>> {
    let done = ready!(kept.get_or_insert_with(begin).as_mut().poll(context));
    *kept = None;
    Poll::Ready(done)
}

fn of_connection(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(closed) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: closed.error_code.into() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn lost(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: of_connection(error) }
}

fn terminated(code: impl Into<u64>) -> StreamErrorIncoming {
    StreamErrorIncoming::StreamTerminated { error_code: code.into() }
}

/// A code as QUIC writes it; all of h3's fit.
pub(super) fn code(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

impl quic::Connection<Bytes> for Transport {
    type RecvStream = Receiving;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Receiving, ConnectionErrorIncoming>> {
        let connection = &self.connection;
        let begin = || -> Connected<quinn::RecvStream> {
            let connection = connection.clone();
            Box::pin(async move { connection.accept_uni().await })
        };
        let stream = ready!(poll_kept(&mut self.control_streams, begin, context));
        Poll::Ready(stream.map_err(of_connection).map(|stream| Receiving {
            stream,
            meter: self.control.clone(),
            most: MOST_OF_CONTROL,
            over: false,
            framed: None,
        }))
    }

    fn poll_accept_bidi(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionErrorIncoming>> {
        loop {
            let connection = &self.connection;
            let begin = || -> Connected<Both> {
                let connection = connection.clone();
                Box::pin(async move { connection.accept_bi().await })
            };
            let (send, mut receive) =
                ready!(poll_kept(&mut self.streams, begin, context)).map_err(of_connection)?;
            let number = u64::from(send.id());
            if self.door.closed_from.get().is_some_and(|from| number >= from) {
                // The client was told that it may ask elsewhere (RFC 9114 § 5.2).
                let rejected = code(Code::H3_REQUEST_REJECTED.value());
                let mut send = send;
                send.reset(rejected).ok();
                receive.stop(rejected).ok();
                continue;
            }
            self.door.next.set(self.door.next.get().max(number + 4));
            let meter = Meter::default();
            let stopped = send.stopped();
            let stopped = Box::pin(async move {
                match stopped.await {
                    Ok(None) => Stopped::Satisfied,
                    Ok(Some(_)) | Err(_) => Stopped::Gone,
                }
            });
            *self.door.arrival.borrow_mut() = Some(Arrival { meter: meter.clone(), stopped });
            return Poll::Ready(Ok(Stream {
                send: Sending::new(send),
                receive: Receiving {
                    stream: receive,
                    meter,
                    most: MOST,
                    over: false,
                    framed: Some((Frames::default(), self.connection.clone())),
                },
            }));
        }
    }

    fn opener(&self) -> Opener {
        Opener::new(&self.connection)
    }
}

impl quic::OpenStreams<Bytes> for Transport {
    type BidiStream = Stream;
    type SendStream = Sending;

    fn poll_open_bidi(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Stream, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(context)
    }

    fn poll_open_send(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Sending, StreamErrorIncoming>> {
        self.opener.poll_open_send(context)
    }

    fn close(&mut self, reason: Code, text: &[u8]) {
        self.opener.close(reason, text);
    }
}

/// Opens the connection's own streams.
pub(super) struct Opener {
    connection: quinn::Connection,
    opening: Option<Connected<quinn::SendStream>>,
}

impl Opener {
    fn new(connection: &quinn::Connection) -> Self {
        Self { connection: connection.clone(), opening: None }
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Stream;
    type SendStream = Sending;

    fn poll_open_bidi(
        &mut self,
        _context: &mut Context<'_>,
    ) -> Poll<Result<Stream, StreamErrorIncoming>> {
        // A server asks for nothing.
        let refused = StreamErrorIncoming::Unknown("a server begins no requests".into());
        Poll::Ready(Err(refused))
    }

    fn poll_open_send(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Sending, StreamErrorIncoming>> {
        let connection = &self.connection;
        let begin = || -> Connected<quinn::SendStream> {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await })
        };
        let stream = ready!(poll_kept(&mut self.opening, begin, context));
        Poll::Ready(stream.map(Sending::new).map_err(lost))
    }

    fn close(&mut self, reason: Code, text: &[u8]) {
        self.connection.close(code(reason.value()), text);
    }
}

/// A request's stream.
pub(super) struct Stream {
    send: Sending,
    receive: Receiving,
}

impl quic::BidiStream<Bytes> for Stream {
    type SendStream = Sending;
    type RecvStream = Receiving;

    fn split(self) -> (Sending, Receiving) {
        (self.send, self.receive)
    }
}

impl quic::RecvStream for Stream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receive.poll_data(context)
    }

    fn stop_sending(&mut self, code: u64) {
        self.receive.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receive.recv_id()
    }
}

impl quic::SendStream<Bytes> for Stream {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(context)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(context)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

/// What comes from the client.
pub(super) struct Receiving {
    stream: quinn::RecvStream,
    meter: Meter,
    most: u64,
    over: bool,
    /// Of a request: what it is made of, and its connection, which a frame that is cut off ends.
    framed: Option<(Frames, quinn::Connection)>,
}

impl Receiving {
    /// A request that ends in the middle of a frame takes its connection along (RFC 9114 § 7.1).
    fn check_end(&self) -> Result<(), StreamErrorIncoming> {
        match &self.framed {
            Some((frames, connection)) if !frames.is_between() => {
                connection.close(code(Code::H3_FRAME_ERROR.value()), b"a frame was cut off");
                Err(terminated(Code::H3_FRAME_ERROR.value()))
            }
            _ => Ok(()),
        }
    }
}

impl quic::RecvStream for Receiving {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        // What waits lies in the stream: a future that is dropped has taken nothing.
        let read = pin!(self.stream.read_chunk(usize::MAX, true)).poll(context);
        let chunk = match ready!(read) {
            Ok(Some(chunk)) => chunk.bytes,
            ended => {
                self.over = true;
                if ended.is_ok() {
                    self.check_end()?;
                }
                return Poll::Ready(match ended {
                    Err(ReadError::Reset(code)) => Err(terminated(code)),
                    Err(ReadError::ConnectionLost(error)) => Err(lost(error)),
                    Err(other) => Err(StreamErrorIncoming::Unknown(Box::new(other))),
                    Ok(_) => Ok(None),
                });
            }
        };
        if let Some((frames, _)) = &mut self.framed {
            frames.see(&chunk);
        }
        let lying = self.meter.0.get() + chunk.len() as u64;
        self.meter.0.set(lying);
        if lying > self.most {
            let code = Code::H3_EXCESSIVE_LOAD.value();
            self.stop_sending(code);
            return Poll::Ready(Err(terminated(code)));
        }
        Poll::Ready(Ok(Some(chunk)))
    }

    fn stop_sending(&mut self, reason: u64) {
        self.over = true;
        // It may have ended in the meantime.
        self.stream.stop(code(reason)).ok();
    }

    fn recv_id(&self) -> StreamId {
        number(self.stream.id())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.over {
            // What is left of the request is not needed for its answer (RFC 9114 § 4.1).
            self.stream.stop(code(Code::H3_NO_ERROR.value())).ok();
        }
    }
}

/// QUIC's numbers are h3's.
fn number(id: quinn::StreamId) -> StreamId {
    #[expect(clippy::expect_used, reason = "both take all numbers of 62 bits, and no others")]
    StreamId::try_from(u64::from(id)).expect("a number of 62 bits")
}

/// What goes to the client.
pub(super) struct Sending {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    /// Set when everything was given away.
    arriving: Option<Pin<Box<dyn Future<Output = bool>>>>,
}

impl Sending {
    fn new(stream: quinn::SendStream) -> Self {
        Self { stream, writing: None, arriving: None }
    }
}

fn of_write(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => terminated(code),
        WriteError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

impl quic::SendStream<Bytes> for Sending {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(data) = &mut self.writing {
            while data.has_remaining() {
                let written = Pin::new(&mut self.stream).poll_write(context, data.chunk());
                data.advance(ready!(written).map_err(of_write)?);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            return Err(StreamErrorIncoming::Unknown("two pieces at once".into()));
        }
        self.writing = Some(data.into());
        Ok(())
    }

    /// Ready when the client has all of it.
    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if self.arriving.is_none() {
            self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error)))?;
            let stopped = self.stream.stopped();
            self.arriving = Some(Box::pin(async move { matches!(stopped.await, Ok(None)) }));
        }
        let Some(arriving) = &mut self.arriving else { return Poll::Pending };
        if ready!(arriving.as_mut().poll(context)) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(terminated(Code::H3_REQUEST_CANCELLED.value())))
    }

    fn reset(&mut self, reason: u64) {
        self.stream.reset(code(reason)).ok();
    }

    fn send_id(&self) -> StreamId {
        number(self.stream.id())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // quinn would end it as if it were whole. Where it is, this does nothing.
        if self.arriving.is_none() {
            self.stream.reset(code(Code::H3_INTERNAL_ERROR.value())).ok();
        }
    }
}
