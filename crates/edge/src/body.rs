//! Bodies on their way: what a client sends, and what it is sent.
//!
//! Enums instead of boxes, since every request has two. Invariants: a piece is never gathered, only
//! passed on, but for the beginning of what is uploaded ([`RequestBody::begin`]); between two pieces no more than the route's idle time goes by, either way; the connection
//! to an instance goes back to the pool only when its response was read whole.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::ahead::Ahead;
use crate::conn::http3;
use crate::events::EventStream;
use crate::h1;
use crate::h2;
use crate::instance::Instance;
use crate::outgoing::Slot;
use crate::serve::{Record, Tunnel};
use crate::shape::Shaped;
use crate::static_files::FileBody;
use crate::upstream::{Flow, InFlight};
use crate::watch::Alarm;
use crate::worker::Local;

/// What a body fails with.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// How far a client's body got; shared with who waits for the instance's answer.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pieces: Cell<u64>,
    fault: Cell<Option<(StatusCode, &'static str)>>,
}

impl Progress {
    /// Grows with each piece that was passed on.
    pub(crate) fn seen(&self) -> u64 {
        self.pieces.get()
    }

    /// What was wrong with it.
    pub(crate) fn fault(&self) -> Option<(StatusCode, &'static str)> {
        self.fault.get()
    }
}

/// A request's body as the client sends it.
#[derive(Debug)]
pub(crate) enum ClientBody {
    Empty,
    Http1(h1::Body),
    Http2(h2::Body),
    Http3(Box<http3::Body>),
    /// It was read whole already.
    Read(Bytes),
}

impl HttpBody for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Read(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Read(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Http1(body) => {
                let piece = ready!(body.poll_data(context));
                Poll::Ready(piece.map(|piece| piece.map(Frame::data).map_err(Into::into)))
            }
            Self::Http2(body) => body.poll_frame(context),
            Self::Http3(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Read(bytes) => bytes.is_empty(),
            Self::Http1(body) => body.left() == Some(0),
            Self::Http2(body) => body.is_end_stream(),
            Self::Http3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Read(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(body) => body.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2(body) => body.size_hint(),
            Self::Http3(body) => body.size_hint(),
        }
    }
}

/// A request's body on its way to an instance.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Upload(Box<Upload>),
}

/// What a client sends, within bounds.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Its beginning, as far as that was waited for.
    held: Bytes,
    body: ClientBody,
    /// Bytes that may still come.
    left: u64,
    idle: Option<Duration>,
    alarm: Alarm,
    progress: Rc<Progress>,
}

const TOO_LARGE: (StatusCode, &str) =
    (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than the route's body_limit");
const CUT_OFF: (StatusCode, &str) =
    (StatusCode::BAD_REQUEST, "the body was cut off, or its chunks are not in order");
const TOO_SLOW: (StatusCode, &str) =
    (StatusCode::REQUEST_TIMEOUT, "the client sent nothing of the body for the route's idle time");

/// Bytes of a body that are there before an instance is asked.
const BEGINNING: u64 = 16 << 10;

impl RequestBody {
    /// `body` within bounds, with its progress where there is anything to come.
    pub(crate) fn new(
        body: ClientBody,
        most: Option<u64>,
        idle: Option<Duration>,
        alarm: impl FnOnce() -> Alarm,
    ) -> (Self, Option<Rc<Progress>>) {
        if body.is_end_stream() {
            return (Self::Empty, None);
        }
        let progress = Rc::new(Progress::default());
        let (left, of_body) = (most.unwrap_or(u64::MAX), Rc::clone(&progress));
        let (held, alarm) = (Bytes::new(), alarm());
        let upload = Upload { held, body, left, idle, alarm, progress: of_body };
        (Self::Upload(Box::new(upload)), Some(progress))
    }

    /// Waits for the beginning of a body that says how long it is: a client that sends slowly keeps nobody but us
    /// waiting. A body without a length may be one half of a conversation.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub(crate) async fn begin(&mut self) -> Result<(), (StatusCode, &'static str)> {
        let Some(length) = self.size_hint().exact() else { return Ok(()) };
        let wanted = length.min(BEGINNING) as usize;
        let mut held = Vec::new();
        while held.len() < wanted {
            let next = std::future::poll_fn(|context| Pin::new(&mut *self).poll_frame(context));
            let next = next.await;
            let Self::Upload(upload) = self else { break };
            let data = match next {
                Some(Ok(frame)) => frame.into_data(),
                Some(Err(_)) => return Err(upload.progress.fault().unwrap_or(CUT_OFF)),
                None => break,
            };
            let Ok(data) = data else { break };
            if held.is_empty() && data.len() >= wanted {
                upload.held = data;
                return Ok(());
            }
            // Copied, so that a few bytes do not keep the buffer in which they came.
            held.extend_from_slice(&data);
        }
        if let Self::Upload(upload) = self {
            upload.held = held.into();
        }
        Ok(())
    }
}

impl Upload {
    fn fail(&self, (status, cause): (StatusCode, &'static str)) -> Polled {
        self.progress.fault.set(Some((status, cause)));
        Poll::Ready(Some(Err(cause.into())))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let Self::Upload(upload) = &mut *self else { return Poll::Ready(None) };
        if !upload.held.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut upload.held)))));
        }
        let Poll::Ready(polled) = Pin::new(&mut upload.body).poll_frame(context) else {
            let Some(idle) = upload.idle else { return Poll::Pending };
            ready!(upload.alarm.poll(context, idle));
            return upload.fail(TOO_SLOW);
        };
        upload.alarm.clear();
        match polled {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                if size > upload.left {
                    return upload.fail(TOO_LARGE);
                }
                upload.left -= size;
                upload.progress.pieces.set(upload.progress.pieces.get() + 1);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => upload.fail(CUT_OFF),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(upload) => upload.held.is_empty() && upload.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(upload) => {
                let left = upload.body.size_hint().exact();
                left.map_or_else(SizeHint::default, |left| {
                    SizeHint::with_exact(left + upload.held.len() as u64)
                })
            }
        }
    }
}

/// What a client is sent.
#[derive(Debug)]
pub(crate) enum Content {
    Empty,
    Full(Bytes),
    File(FileBody),
    Instance(Box<FromInstance>),
    /// What the connection becomes behind the head.
    Tunnel(Option<Box<Tunnel>>),
    Shaped(Box<Shaped>),
    /// Somebody reads it faster than it is sent.
    Ahead(Box<Ahead>),
}

impl Content {
    /// The next piece.
    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Polled {
        Poll::Ready(match self {
            Self::Empty | Self::Tunnel(_) => None,
            Self::Full(bytes) if bytes.is_empty() => None,
            Self::Full(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Self::File(file) => file.next_piece().map(|piece| Ok(Frame::data(piece?))),
            Self::Instance(response) => ready!(response.poll_frame(context)),
            Self::Shaped(shaped) => ready!(shaped.poll_frame(context)),
            Self::Ahead(ahead) => ready!(ahead.poll_frame(context)),
        })
    }

    /// Whether nothing is left.
    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::File(file) => file.is_done(),
            Self::Instance(response) => response.is_over(),
            Self::Shaped(shaped) => shaped.is_done(),
            Self::Ahead(ahead) => ahead.is_done(),
        }
    }

    /// How much is left, as far as that is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::File(file) => SizeHint::with_exact(file.left()),
            Self::Instance(response) => {
                response.left().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Self::Shaped(shaped) => shaped.size_hint(),
            Self::Ahead(ahead) => ahead.size_hint(),
        }
    }

    /// Whether more of the request may be needed for it.
    pub(crate) fn needs_request(&self) -> bool {
        match self {
            Self::Instance(_) | Self::Tunnel(_) => true,
            Self::Shaped(shaped) => shaped.needs_request(),
            Self::Empty | Self::Full(_) | Self::File(_) | Self::Ahead(_) => false,
        }
    }
}

/// What is kept until an instance's response was read whole.
#[derive(Debug)]
struct Rest {
    flow: Flow,
    instance: Arc<Instance>,
    local: Rc<Local>,
    _guard: InFlight,
    /// A call's place among those that are made at once.
    slot: Option<Slot>,
}

/// An instance's response; at its end the connection goes back into the pool.
#[derive(Debug)]
pub(crate) struct FromInstance {
    /// None once it ended.
    rest: Option<Rest>,
    times: Times,
    alarm: Option<Alarm>,
    total: Option<Alarm>,
    events: Option<Box<EventStream>>,
}

/// How long a response may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Between two pieces.
    pub(crate) idle: Option<Duration>,
    /// By when it must have ended.
    pub(crate) end: Option<Instant>,
}

const TOO_LONG: &str = "the answer took longer than the route's total time";

impl FromInstance {
    pub(crate) fn new(
        flow: Flow,
        instance: Arc<Instance>,
        local: Rc<Local>,
        guard: InFlight,
        times: Times,
    ) -> Self {
        let total = times.end.map(|_| Alarm::new(&local.watch));
        let rest = Rest { flow, instance, local, _guard: guard, slot: None };
        Self { rest: Some(rest), times, alarm: None, total, events: None }
    }

    /// With the place that a call gives back at its end.
    pub(crate) fn holding(mut self, slot: Slot) -> Self {
        if let Some(rest) = &mut self.rest {
            rest.slot = Some(slot);
        }
        self
    }

    /// As a stream of events, if it is one. One that says how long it is ends by itself.
    pub(crate) fn with(mut self, events: Option<EventStream>) -> Self {
        if self.left().is_none() {
            self.events = events.map(Box::new);
        }
        self
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Polled {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        if let (Some(alarm), Some(end)) = (&mut self.total, self.times.end)
            && alarm.poll(context, end.saturating_duration_since(Instant::now())).is_ready()
        {
            self.rest = None;
            return Poll::Ready(Some(Err(TOO_LONG.into())));
        }
        match rest.flow.poll_frame(context) {
            Poll::Ready(Some(piece)) => {
                self.alarm = None;
                if let (Some(events), Ok(piece)) = (&mut self.events, &piece)
                    && let Some(data) = piece.data_ref()
                {
                    events.see(data);
                }
                Poll::Ready(Some(piece))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if let Some(Poll::Ready(last)) =
                    self.events.as_mut().map(|events| events.poll_last(context))
                {
                    self.finish();
                    return Poll::Ready(Some(Ok(Frame::data(last))));
                }
                let Some(idle) = self.times.idle else { return Poll::Pending };
                let alarm = self.alarm.get_or_insert_with(|| Alarm::new(&rest.local.watch));
                ready!(alarm.poll(context, idle));
                Poll::Ready(Some(Err("the instance sent nothing for the route's idle time".into())))
            }
        }
    }

    fn left(&self) -> Option<u64> {
        self.rest.as_ref().map_or(Some(0), |rest| rest.flow.left())
    }

    fn is_over(&self) -> bool {
        self.rest.as_ref().is_none_or(|rest| rest.flow.is_over())
    }

    fn finish(&mut self) {
        self.alarm = None;
        if let Some(rest) = self.rest.take() {
            rest.flow.finish(&rest.local, &rest.instance);
        }
    }
}

impl Drop for FromInstance {
    fn drop(&mut self) {
        // Whether it was read whole or not; no further frame is asked for when all that was promised is sent.
        self.finish();
    }
}

/// A response on its way to the client; the log line is written at its end, however it ends.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    content: Content,
    bytes: u64,
    /// None for what is not logged.
    record: Option<Box<Record>>,
}

impl From<Content> for ResponseBody {
    fn from(content: Content) -> Self {
        Self { content, bytes: 0, record: None }
    }
}

impl ResponseBody {
    /// What is sent, to be wrapped.
    pub(crate) fn into_content(mut self) -> Content {
        std::mem::replace(&mut self.content, Content::Empty)
    }

    /// Whether more of the request may be needed for it.
    pub(crate) fn needs_request(&self) -> bool {
        self.content.needs_request()
    }

    /// What the connection becomes, once.
    pub(crate) fn take_tunnel(&mut self) -> Option<Tunnel> {
        let Content::Tunnel(tunnel) = &mut self.content else { return None };
        tunnel.take().map(|tunnel| *tunnel)
    }

    /// Fields that are written behind those of its head, as lines.
    pub(crate) fn lines(&self) -> &[u8] {
        self.record.as_ref().map_or(b"", |record| record.profile_lines())
    }

    /// With the record that is written when it is dropped.
    pub(crate) fn logged(mut self, record: Box<Record>) -> Self {
        self.record = Some(record);
        self
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let polled = ready!(self.content.poll_frame(context));
        match &polled {
            Some(Ok(frame)) => self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(error)) => {
                let cause = error.to_string();
                if let Some(record) = &mut self.record {
                    record.cut_short(cause);
                }
            }
            None => {}
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.write(self.bytes);
        }
    }
}
