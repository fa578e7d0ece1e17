//! A request's body as a client of HTTP/3 sends it.
//!
//! Invariants: it has as many bytes as its head said, or it is broken (RFC 9114 § 4.1.2); whether there is one
//! at all is known before the request is handled, where clients leave no doubt about that for long.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::server::RequestStream;
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};

use super::transport::{Meter, Receiving};
use crate::body::{BodyError, Polled};

/// What is still to come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Data,
    Trailers,
    Over,
}

/// The body of one request.
pub(crate) struct Body {
    stream: RequestStream<Receiving, Bytes>,
    meter: Meter,
    /// What was read before anybody asked.
    ahead: Option<Bytes>,
    /// Bytes that were announced and have not come, where they were announced.
    left: Option<u64>,
    stage: Stage,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("left", &self.left)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl Body {
    /// `length`: what the head announced.
    pub(super) fn new(
        stream: RequestStream<Receiving, Bytes>,
        meter: Meter,
        length: Option<u64>,
    ) -> Self {
        Self { stream, meter, ahead: None, left: length, stage: Stage::Data }
    }

    /// Waits until its first piece or its end is there.
    pub(super) async fn begin(&mut self) -> Result<(), BodyError> {
        poll_fn(|context| self.poll_begin(context)).await
    }

    /// Reads ahead what is there already: most requests are here whole.
    pub(super) async fn look(&mut self) -> Result<(), BodyError> {
        poll_fn(|context| match self.poll_begin(context) {
            Poll::Pending => Poll::Ready(Ok(())),
            begun @ Poll::Ready(_) => begun,
        })
        .await
    }

    fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.ahead.is_none() && self.stage == Stage::Data {
            self.ahead = ready!(self.poll_data(context))?;
        }
        Poll::Ready(Ok(()))
    }

    /// The next piece; nothing behind the last one.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        loop {
            let read = ready!(self.stream.poll_recv_data(context))?;
            self.meter.reset();
            let Some(mut piece) = read else {
                self.stage = Stage::Trailers;
                let short = self.left.is_some_and(|left| left > 0);
                return Poll::Ready(if short { Err(SHORT.into()) } else { Ok(None) });
            };
            let piece = piece.copy_to_bytes(piece.remaining());
            if let Some(left) = &mut self.left {
                let rest = left.checked_sub(piece.len() as u64);
                *left = rest.ok_or(LONG)?;
            }
            if !piece.is_empty() {
                return Poll::Ready(Ok(Some(piece)));
            }
        }
    }

    fn poll_trailers(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, BodyError>> {
        let trailers = ready!(self.stream.poll_recv_trailers(context));
        self.stage = Stage::Over;
        let trailers = trailers?;
        if trailers.as_ref().is_some_and(|trailers| !super::are_allowed(trailers)) {
            return Poll::Ready(Err(FIELDS.into()));
        }
        Poll::Ready(Ok(trailers))
    }

    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Polled {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(Ok(Frame::data(ahead))));
        }
        if self.stage == Stage::Data {
            match ready!(self.poll_data(context)) {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                Ok(None) => {}
                Err(error) => {
                    self.stage = Stage::Over;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        if self.stage == Stage::Trailers {
            let trailers = ready!(self.poll_trailers(context)).transpose();
            return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)));
        }
        Poll::Ready(None)
    }

    /// Whether nothing comes any more; trailers that are not here yet are nothing either where no data was.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.stage != Stage::Data
    }

    /// How much is left, where that was announced.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let ahead = self.ahead.as_ref().map_or(0, Bytes::len) as u64;
        self.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + ahead))
    }
}

const SHORT: &str = "the body ended before its announced length";
const LONG: &str = "the body is longer than announced";
const FIELDS: &str = "trailers name what is about the connection";
