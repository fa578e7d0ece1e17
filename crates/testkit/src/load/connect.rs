//! Connections for load, and what their failures mean.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Target;
use super::report::Outcome;
use crate::tls::client_config;

/// Opens connections to one target.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    target: Target,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// `protocol` is what TLS is to agree on.
    pub(crate) fn new(target: Target, protocol: &str) -> Self {
        let tls = target.ca.as_deref().map(|ca| client_config(ca, &[protocol]));
        Self { target, tls }
    }

    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        let Some(config) = &self.tls else { return Ok(Connection::Plain(stream)) };
        let name = self.target.host.clone().try_into().map_err(io::Error::other)?;
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        connecting.await.map(|stream| Connection::Secure(Box::new(stream)))
    }

    /// `host:port`, as the `Host` header names it.
    pub(crate) fn host(&self) -> String {
        format!("{}:{}", self.target.host, self.target.address.port())
    }

    /// `https://host:port`, as requests name it.
    pub(crate) fn origin(&self, scheme: &str) -> String {
        let secure = if self.tls.is_some() { "s" } else { "" };
        format!("{scheme}{secure}://{}:{}", self.target.host, self.target.address.port())
    }
}

/// A connection, encrypted or not.
#[derive(Debug)]
pub(crate) enum Connection {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Secure(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Secure(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What a failed connection attempt counts as.
pub(crate) fn failed_connect(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::TimedOut => Outcome::Lost,
        _ => Outcome::Reset(format!("while connecting: {error}")),
    }
}

/// An error with all of its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Whether the request was provably not processed: never written, or the server said so (a GOAWAY
/// without error below the stream, `REFUSED_STREAM`).
pub(crate) fn never_processed(error: &hyper::Error) -> bool {
    let text = chain(error);
    error.is_canceled()
        || text.contains("refused stream")
        || text.contains("connection error received: not a result of an error")
}
