//! What a client sends: its body as it comes, and as it goes to an instance.
//!
//! Invariants: no more than the route's `body_limit` is passed on; between two pieces no more than the idle time goes
//! by; nothing is gathered but the beginning ([`RequestBody::begin`]). Not here: how a body is framed.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::{BodyError, Polled};
use crate::conn::http3;
use crate::h1;
use crate::h2;
use crate::watch::Alarm;

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
