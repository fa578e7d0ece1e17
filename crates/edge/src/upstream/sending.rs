//! A request on its way to an instance.
//!
//! Invariants: the head is made once, however often it is sent; a request of which part is gone for good
//! is never begun again. Not here: headers' meaning, the response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method};
use hyper::body::Body as _;
use tokio::io::AsyncWrite;

use super::Outgoing;
use crate::body::{BodyError, RequestBody};
use crate::forwarded::field;
use crate::h1::{Delimited, Fault, Outlet, Step};
use crate::socket::Socket;

/// Most heads need no more.
const ROOM: usize = 1024;

/// Why it did not go on.
#[derive(Debug)]
pub(super) enum Stuck {
    /// The instance takes no more; it may still have answered.
    Instance(io::Error),
    /// What the client sent is wrong or cut off.
    Client(BodyError),
}

/// One request.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(super) method: Method,
    outlet: Outlet<RequestBody>,
    begun: bool,
    /// Nothing of it is left on our side.
    flushed: bool,
}

impl Sending {
    /// Encodes the head into `buffer`, which was used before for its room.
    pub(super) fn new(request: &Outgoing<'_>, body: RequestBody, mut buffer: Vec<u8>) -> Self {
        let Outgoing { parts, fields, .. } = *request;
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
        Self { method, outlet: Outlet::new(buffer, body, delimited), begun: false, flushed: false }
    }

    /// Whether all of it was sent.
    pub(super) fn is_done(&self) -> bool {
        self.flushed
    }

    /// Makes it ready to be sent anew; false where part of it is gone for good.
    pub(super) fn restart(&mut self) -> bool {
        if !self.begun {
            return true;
        }
        let whole = matches!(self.outlet.body(), RequestBody::Empty);
        if whole {
            self.outlet.rewind();
            (self.begun, self.flushed) = (false, false);
        }
        whole
    }

    /// The body of a request that is not sent after all.
    pub(super) fn into_body(self) -> RequestBody {
        self.outlet.into_body()
    }

    /// Whether anything was sent.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The room of its head, for another one.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.outlet.into_buffer()
    }

    /// Sends as much as can be sent now; ready when nothing is left.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Socket,
    ) -> Poll<Result<(), Stuck>> {
        loop {
            let step = self.outlet.step(context, |context, slices| {
                Pin::new(&mut *stream).poll_write_vectored(context, slices)
            });
            match ready!(step) {
                Ok(Step::Wrote) => self.begun = true,
                Ok(Step::Waits) => {
                    // What was sealed goes out while the rest is waited for; an error is met by the next write.
                    let _is_pending = Pin::new(&mut *stream).poll_flush(context);
                    return Poll::Pending;
                }
                Ok(Step::Done) => {
                    let flushed = ready!(Pin::new(&mut *stream).poll_flush(context));
                    self.flushed = true;
                    return Poll::Ready(flushed.map_err(Stuck::Instance));
                }
                Err(Fault::Io(error)) => return Poll::Ready(Err(Stuck::Instance(error))),
                Err(Fault::Body(error)) => return Poll::Ready(Err(Stuck::Client(error))),
            }
        }
    }
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
                field(buffer, "content-length", b"0");
            }
            Delimited::Done
        }
        (Some(length), false) => {
            let mut digits = itoa::Buffer::new();
            field(buffer, "content-length", digits.format(length).as_bytes());
            Delimited::Length(length)
        }
        (None, false) => {
            field(buffer, "transfer-encoding", b"chunked");
            Delimited::Chunks
        }
    }
}
