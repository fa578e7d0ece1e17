//! Where the body of a response comes from, whichever protocol its instance speaks.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use hyper::body::{Body as _, Frame, Incoming};

use super::exchange::Exchange;
use crate::body::Polled;
use crate::instance::Instance;
use crate::socket::Socket;
use crate::worker::Local;

/// A response as far as it was not read yet.
#[derive(Debug)]
pub(crate) enum Flow {
    /// Boxed once: it goes through many hands.
    Http1(Box<Exchange>),
    Http2(Incoming),
}

impl Flow {
    /// The next piece, or the trailers; nothing at the end.
    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Polled {
        match self {
            Self::Http1(exchange) => {
                let piece = ready!(exchange.poll_data(context));
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
            Self::Http2(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    /// So many bytes are still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Http1(exchange) => exchange.left(),
            Self::Http2(body) => body.size_hint().exact(),
        }
    }

    /// Whether nothing is to come, trailers included.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Http1(exchange) => exchange.left() == Some(0),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    /// It is not read any further.
    pub(crate) fn finish(self, local: &Rc<Local>, instance: &Instance) {
        if let Self::Http1(exchange) = self {
            exchange.finish(local, instance);
        }
    }

    /// The connection itself after a 101, with what came behind the head; HTTP/2 has no 101.
    pub(crate) fn into_stream(self) -> Option<(Socket, BytesMut)> {
        match self {
            Self::Http1(exchange) => Some(exchange.into_stream()),
            Self::Http2(_) => None,
        }
    }
}
