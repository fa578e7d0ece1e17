//! One request and its response on one connection, both ways at once.
//!
//! Whoever waits polls it: for the head ([`Exchange::poll_head`]), then for the body
//! ([`Exchange::poll_data`]); what is left of the request goes out meanwhile. Invariants: an instance
//! that answers before it took all of the request is heard; the connection is used again only when the
//! request was sent whole, the response was read to its end, and nothing followed it.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::link::Link;
use super::response::{self, Head};
use super::sending::{Sending, Stuck};
use crate::body::BodyError;
use crate::h1::Framing;
use crate::instance::Instance;
use crate::rooms::Rooms;
use crate::socket::Socket;
use crate::worker::Local;

/// Why there is no head, and whose doing that is.
#[derive(Debug)]
pub(super) enum Lost {
    Instance(String),
    /// Its request cannot be sent at all.
    Client(String),
}

/// A request on a connection, until its response was read.
#[derive(Debug)]
pub(crate) struct Exchange {
    link: Link,
    sending: Sending,
    /// Why the instance takes no more of the request.
    deaf: Option<io::Error>,
    framing: Framing,
    keep: bool,
    /// Answers so far that were none yet.
    interim: u8,
}

/// A server that says "100 Continue" again and again keeps a request for as long as it may take, and a thread busy.
const MOST_INTERIM: u8 = 100;

impl Exchange {
    pub(super) fn new(link: Link, sending: Sending) -> Self {
        Self { link, sending, deaf: None, framing: Framing::ToEnd, keep: false, interim: 0 }
    }

    /// What was to be sent, after a failure.
    pub(super) fn into_sending(self) -> Sending {
        self.sending
    }

    /// When the head of the response was there.
    pub(super) fn heard(&self) -> Instant {
        self.link.heard
    }

    /// Whether all of the request was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sending.is_done()
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Result<(), BodyError> {
        if self.deaf.is_some() || self.sending.is_done() {
            return Ok(());
        }
        match self.sending.poll(context, &mut self.link.stream) {
            Poll::Ready(Err(Stuck::Client(error))) => Err(error),
            Poll::Ready(Err(Stuck::Instance(error))) => {
                // Said when it turns out that it gave no answer either.
                self.deaf = Some(error);
                Ok(())
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// The head of the response; 100 and its like are passed over, but for 101.
    pub(super) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        rooms: &Rooms,
    ) -> Poll<Result<Response<()>, Lost>> {
        let failed = |cause: String| Poll::Ready(Err(Lost::Instance(cause)));
        if let Err(error) = self.poll_send(context) {
            return Poll::Ready(Err(Lost::Client(error.to_string())));
        }
        loop {
            match response::take(&mut self.link.bytes, &self.sending.method, rooms) {
                Err(wrong) => return failed(format!("the answer was refused: {wrong}")),
                Ok(Some(head)) if is_interim(&head) => {
                    self.interim += 1;
                    if self.interim > MOST_INTERIM {
                        return failed("it said `100 Continue` or its like too often".to_owned());
                    }
                    continue;
                }
                Ok(Some(head)) => return Poll::Ready(Ok(self.begin(head))),
                Ok(None) => {}
            }
            match ready!(self.link.poll_read(context, 0)) {
                Ok(0) => {
                    let why =
                        self.deaf.as_ref().map_or(String::new(), |error| format!(": {error}"));
                    return failed(format!("the connection ended before the answer{why}"));
                }
                Ok(_) => {}
                Err(error) => {
                    return failed(format!("the connection ended before the answer: {error}"));
                }
            }
        }
    }

    fn begin(&mut self, head: Head) -> Response<()> {
        (self.framing, self.keep) = (head.framing, head.keep);
        self.link.hear(&head.headers);
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }

    /// Whether the body was read to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.framing.is_over()
    }

    /// So many bytes of the body are still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.framing.left()
    }

    /// The next piece of the body; nothing at its end.
    pub(crate) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Err(error) = self.poll_send(context) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            match self.framing.take(&mut self.link.bytes) {
                Err(wrong) => return Poll::Ready(Some(Err(wrong.cause.into()))),
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(None) if self.is_over() => return Poll::Ready(None),
                Ok(None) => {}
            }
            let wanted = self.framing.wanted();
            match ready!(self.link.poll_read(context, wanted)) {
                Ok(0) if self.framing == Framing::ToEnd => self.framing = Framing::Length(0),
                Ok(0) => return Poll::Ready(Some(Err("the response was cut off".into()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// The response is not read any further: the connection goes back into the pool where it can.
    pub(crate) fn finish(self: Box<Self>, local: &Rc<Local>, instance: &Instance) {
        let Self { mut link, sending, keep, framing, .. } = *self;
        let reusable = keep
            && !instance.proxy_header
            && framing.is_over()
            && sending.is_done()
            && link.bytes.is_empty();
        local.rooms.keep_head(sending.into_buffer());
        local.rooms.keep_buffer(std::mem::take(&mut link.bytes));
        if reusable {
            local.pool.put(instance, link);
        }
    }

    /// The connection itself after a 101, with what came behind the head.
    pub(crate) fn into_stream(self) -> (Socket, BytesMut) {
        (self.link.stream, self.link.bytes)
    }
}

fn is_interim(head: &Head) -> bool {
    head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS
}
