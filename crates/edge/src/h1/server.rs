//! One HTTP/1.1 connection: request, answer, request, … in one task.
//!
//! Invariants: answers keep the order of their requests, pipelined or not; a connection on which something
//! was refused, or whose request was not read to its end, is never read as HTTP again; closing with unread
//! bytes lingers briefly, or the reset would take the answer away from the client.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::answer::{Answer, Asked};
use super::head::Head;
use super::wire::{Bad, Next, Source, Wire};
use crate::body::ClientBody;
use crate::head::Refusal;
use crate::serve::{self, Client};
use crate::watch::within;
use crate::worker::Local;

/// How long, and how much, is still read and thrown away after the last answer.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// A request's body, read from the connection it came on.
pub(crate) struct Body(Rc<RefCell<dyn Source>>);

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("left", &self.left()).finish()
    }
}

impl Body {
    /// The next piece; nothing at the end.
    pub(crate) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, impl std::error::Error + Send + Sync + use<>>>> {
        let polled: Poll<Option<Result<Bytes, Bad>>> = self.0.borrow_mut().poll_data(context);
        polled
    }

    /// Bytes still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.0.borrow().left()
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve<S>(local: &Rc<Local>, stream: S, client: Arc<Client>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let wire = Rc::new(RefCell::new(Wire::new(stream, &local.watch, Rc::clone(&local.rooms))));
    // What is boxed has its room only while it goes on: an idle connection holds none of it.
    loop {
        match poll_fn(|context| wire.borrow_mut().poll_request(context)).await {
            Next::End => return Box::pin(close(local, wire)).await,
            Next::Refused(refusal) => {
                return Box::pin(refuse(local, wire, &client, refusal)).await;
            }
            Next::Request(head) => match Box::pin(respond(local, &wire, &client, head)).await {
                After::Next => {}
                After::Over => return,
                After::Close => return Box::pin(close(local, wire)).await,
                After::Switch(tunnel) => {
                    let Some(wire) = Rc::into_inner(wire) else { return };
                    let wire = wire.into_inner();
                    return Box::pin(tunnel.run(wire.stream, wire.bytes)).await;
                }
            },
        }
    }
}

/// What becomes of the connection.
enum After {
    Next,
    Close,
    /// Nothing is left to send or to read: the answer was the last that the client wanted, or it could
    /// not be sent whole.
    Over,
    Switch(serve::Tunnel),
}

async fn respond<S>(
    local: &Rc<Local>,
    wire: &Rc<RefCell<Wire<S>>>,
    client: &Arc<Client>,
    head: Head,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Head { parts, shape } = head;
    let asked = Asked {
        is_head: parts.method == Method::HEAD,
        is_1_0: parts.version == Version::HTTP_10,
        keep: shape.keep,
    };
    let body = if shape.framing.is_over() {
        ClientBody::Empty
    } else {
        let source: Rc<RefCell<dyn Source>> = wire.clone();
        ClientBody::Http1(Body(source))
    };
    let response = serve::handle(Rc::clone(local), Arc::clone(client), parts, body).await;
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    // Of an answer of our own nobody reads the rest of the request; what is here of it is thrown away.
    let unread = !response.body().needs_request() && !wire.borrow_mut().discard();
    let mut answer = Answer::new(response, asked, unread, local);
    let sent = poll_fn(|context| answer.poll(context, wire)).await;
    let tunnel = answer.take_tunnel();
    let keep = answer.keeps();
    answer.give_back(local);
    match (sent, tunnel) {
        (Err(()), _) => After::Over,
        (Ok(()), Some(tunnel)) if switches => After::Switch(tunnel),
        (Ok(()), _) if keep && wire.borrow_mut().discard() => After::Next,
        (Ok(()), _) if !asked.keep && wire.borrow_mut().is_spent() => After::Over,
        _ => After::Close,
    }
}

/// Answers what is no request, and ends the connection.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    local: &Rc<Local>,
    wire: Rc<RefCell<Wire<S>>>,
    client: &Client,
    refusal: Refusal,
) {
    local.shared.requests.add();
    let id = local.next_id(Instant::now());
    let text = serve::refused(&local.shared, id, client, refusal.status, refusal.cause);
    let mut left = text.as_bytes();
    while !left.is_empty() {
        let written =
            poll_fn(|context| wire.borrow_mut().poll_write(context, &[IoSlice::new(left)])).await;
        let Ok(written) = written else { return };
        left = left.get(written..).unwrap_or_default();
    }
    close(local, wire).await;
}

/// Says that nothing more comes.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(local: &Rc<Local>, wire: Rc<RefCell<Wire<S>>>) {
    let Some(wire) = Rc::into_inner(wire) else { return };
    let mut wire = wire.into_inner();
    linger(local, &mut wire.stream).await;
}

/// Says that nothing more comes, and throws away what still does, so that closing sends no reset before
/// the client has read the answer.
pub(crate) async fn linger(local: &Local, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let linger = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        // Not in the future: that lasts as long as its connection.
        let mut room = vec![0; 4 << 10];
        let mut bytes = 0;
        while bytes < LINGER_BYTES {
            match stream.read(&mut room).await {
                Ok(read @ 1..) => bytes += read,
                _ => return,
            }
        }
    };
    within(&local.watch, LINGER_TIME, linger).await;
}
