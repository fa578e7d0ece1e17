//! One connection to an instance.
//!
//! Nobody else runs it: whoever waits for it drives it ([`Link::drive`]), so the request, the response
//! and the client's connection are one task, and nothing is handed from task to task. Invariant: a link
//! is reused only when hyper says that the last exchange ended cleanly.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::body::RequestBody;
use crate::model::Settings;
use crate::snapshot::Instance;
use crate::watch::within;
use crate::worker::Local;

/// A connection with its two halves: what requests go into, and what moves the bytes.
pub(crate) struct Link {
    sender: SendRequest<RequestBody>,
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>>>>>,
    /// How long it may be idle, as far as the instance said (`Keep-Alive: timeout=`).
    pub(super) patience: Duration,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("ended", &self.connection.is_none()).finish_non_exhaustive()
    }
}

impl Link {
    /// Moves bytes, as far as that is possible now; the task is woken when there is more to do.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(context).is_ready()
        {
            // How it ended is told to who waits for an answer.
            self.connection = None;
        }
    }

    /// Whether another request may be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Hands a request over; the future is to be polled beside [`Self::drive`].
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.sender.try_send_request(request)
    }

    /// Notes for how long the instance keeps an idle connection.
    pub(crate) fn note_patience(&mut self, keep_alive: &str) {
        let timeout = keep_alive
            .split(',')
            .find_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok());
        if let Some(seconds) = timeout {
            // A second less: the request must not meet the instance's closing.
            let kept = Duration::from_secs(seconds.saturating_sub(1));
            self.patience = kept.min(super::pool::IDLE);
        }
    }

    /// What still moves the bytes of a connection that changed its protocol.
    pub(crate) fn into_connection(
        self,
    ) -> Option<Pin<Box<dyn Future<Output = hyper::Result<()>>>>> {
        self.connection
    }
}

/// A pooled connection, or a new one. The flag says whether it was used before.
pub(super) async fn get(
    local: &Rc<Local>,
    instance: &Arc<Instance>,
    settings: &Settings,
) -> Result<(Link, bool), ()> {
    let pooled = std::future::poll_fn(|context| {
        std::task::Poll::Ready(local.pool.take(instance.address, context))
    });
    if let Some(link) = pooled.await {
        return Ok((link, true));
    }
    let limit = Duration::from_millis(settings.connect_ms);
    let connected = within(&local.watch, limit, TcpStream::connect(instance.address)).await;
    let Some(Ok(stream)) = connected else { return Err(()) };
    stream.set_nodelay(true).ok();
    let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(drop)?;
    let mut link = Link {
        sender,
        connection: Some(Box::pin(connection.with_upgrades())),
        patience: super::pool::IDLE,
    };
    // The first poll makes it ready for a request.
    std::future::poll_fn(|context| {
        link.drive(context);
        std::task::Poll::Ready(())
    })
    .await;
    Ok((link, false))
}
