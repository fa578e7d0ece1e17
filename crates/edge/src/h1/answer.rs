//! A response on its way to an HTTP/1.1 client.
//!
//! Invariants: its framing is its own, never what headers say; a body that ends short of its length, or
//! breaks, ends the connection, so that nobody takes it for whole.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::outlet::{Delimited, Outlet, Step};
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

/// A response, as far as it is not sent yet.
#[derive(Debug)]
pub(super) struct Answer {
    outlet: Outlet<ResponseBody>,
    keep: bool,
    /// Nothing follows it on the connection.
    is_last: bool,
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
        let (mut head, body) = response.into_parts();
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
        buffer.extend_from_slice(body.lines());
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
        local.rooms.keep_fields(std::mem::take(&mut head.headers));
        let is_last = !keep && !switches;
        Self { outlet: Outlet::new(buffer, body, delimited), keep, is_last, flushed: false }
    }

    /// Whether another request may follow.
    pub(super) fn keeps(&self) -> bool {
        self.keep
    }

    /// What the connection becomes after a 101.
    pub(super) fn take_tunnel(&mut self) -> Option<Tunnel> {
        self.outlet.body_mut().take_tunnel()
    }

    /// The room goes back; what is left of the body is dropped.
    pub(super) fn give_back(self, local: &Local) {
        local.rooms.keep_head(self.outlet.into_buffer());
    }

    /// Sends as much as can be sent now; ready when nothing is left, or when the connection cannot be used
    /// any more. The last answer of a connection takes its end along.
    pub(super) fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        wire: &Rc<RefCell<Wire<S>>>,
    ) -> Poll<Result<(), ()>> {
        loop {
            let step = self
                .outlet
                .step(context, |context, slices| wire.borrow_mut().poll_write(context, slices));
            let step = ready!(step).map_err(drop)?;
            if step == Step::Wrote {
                self.flushed = false;
                continue;
            }
            if !self.flushed {
                let mut wire = wire.borrow_mut();
                let ends = self.is_last && step == Step::Done;
                let sent =
                    if ends { wire.poll_shutdown(context) } else { wire.poll_flush(context) };
                ready!(sent).map_err(drop)?;
                self.flushed = true;
            }
            return if step == Step::Done { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
    }
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
            Delimited::Chunks
        }
    }
}
