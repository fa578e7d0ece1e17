//! Bodies on their way: what a client sends, and what it is sent.
//!
//! Enums instead of boxes, since every request has two. Invariants: a piece is never gathered, only passed on, but for
//! the beginning of what is uploaded; a log line is written at the end of every response, however it ends. Rooms:
//! [`upload`] (from the client), [`instance`] (from an instance).

mod instance;
mod upload;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

pub(crate) use instance::{FromInstance, Times};
pub(crate) use upload::{ClientBody, Progress, RequestBody};

use crate::ahead::Ahead;
use crate::serve::{Record, Tunnel};
use crate::shape::Shaped;
use crate::static_files::FileBody;

/// What a body fails with.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

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
