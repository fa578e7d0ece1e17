//! A TLS connection as a stream of bytes: what rustls seals and opens, put on a socket and taken from it.
//!
//! Why our own: what is sent goes out in as few pieces as possible. Session tickets leave with the first
//! answer, the end of the connection with the last one; each piece less is a system call here and a
//! wake-up there. Invariants: what was written is sent at the next flush or shutdown, before the stream
//! waits for the client, and at the latest once [`GATHERED`] bytes lie here; a client that breaks the
//! protocol is told how (RFC 8446 § 6) before its connection ends. Not here: which certificate is shown
//! and how long a handshake may take.

use std::future::poll_fn;
use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConnection;
use rustls::server::{AcceptedAlert, Acceptor};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Settings;
use super::opening::Opening;
use super::transcript::hashing;

/// Plain bytes that may lie here before they are sent: one record's most (RFC 8446 § 5.1).
const GATHERED: usize = 16 << 10;

/// A connection after its handshake.
#[derive(Debug)]
pub(crate) struct TlsStream<S> {
    socket: S,
    session: ServerConnection,
    /// Plain bytes written since everything was sent.
    gathered: usize,
}

/// The socket as rustls sees it: what cannot be done now would block.
struct Socket<'a, 'b, S> {
    socket: &'a mut S,
    context: &'a mut Context<'b>,
}

fn now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn later<T>(done: io::Result<T>) -> Poll<io::Result<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

impl<S: AsyncRead + Unpin> io::Read for Socket<'_, '_, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut bytes = ReadBuf::new(bytes);
        now(Pin::new(&mut *self.socket).poll_read(self.context, &mut bytes))?;
        Ok(bytes.filled().len())
    }
}

impl<S: AsyncWrite + Unpin> io::Write for Socket<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut *self.socket).poll_write(self.context, bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        now(Pin::new(&mut *self.socket).poll_write_vectored(self.context, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        now(Pin::new(&mut *self.socket).poll_flush(self.context))
    }
}

/// Tells a client what was wrong, as far as it can be told now; the connection ends either way.
async fn tell(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    error: rustls::Error,
    mut alert: AcceptedAlert,
) -> io::Error {
    poll_fn(|context| {
        alert.write_all(&mut Socket { socket, context }).ok();
        Poll::Ready(io::Error::new(io::ErrorKind::InvalidData, error.clone()))
    })
    .await
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands with a client (RFC 8446 § 4). The tickets that end it leave with what is sent next.
    ///
    /// # Errors
    /// The connection's, and those of a client that speaks no TLS or none of ours.
    pub(crate) async fn accept(mut socket: S, settings: &Settings) -> io::Result<Self> {
        let (mut acceptor, mut opening) = (Acceptor::default(), Opening::new());
        let begun = loop {
            let read = poll_fn(|context| {
                let mut socket = Socket { socket: &mut socket, context };
                later(acceptor.read_tls(&mut opening.of(&mut socket)))
            });
            if read.await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match acceptor.accept() {
                Ok(Some(begun)) => break begun,
                Ok(None) => {}
                Err((error, alert)) => return Err(tell(&mut socket, error, alert).await),
            }
        };
        let config = Arc::clone(&settings.of(&begun.client_hello()).tcp);
        settings.note(opening.misnamed());
        let session = match hashing(opening.misnamed(), || begun.into_connection(config)) {
            Ok(session) => session,
            Err((error, alert)) => return Err(tell(&mut socket, error, alert).await),
        };
        opening.may_come_again();
        let mut stream = Self { socket, session, gathered: 0 };
        poll_fn(|context| stream.poll_handshake(context, &mut opening)).await?;
        Ok(stream)
    }

    /// What the handshake agreed on.
    pub(crate) fn session(&self) -> &ServerConnection {
        &self.session
    }

    fn poll_handshake(
        &mut self,
        context: &mut Context<'_>,
        opening: &mut Opening,
    ) -> Poll<io::Result<()>> {
        while self.session.is_handshaking() || opening.holds() {
            ready!(self.poll_send(context))?;
            let mut socket = Socket { socket: &mut self.socket, context };
            let read = ready!(later(self.session.read_tls(&mut opening.of(&mut socket))))?;
            hashing(opening.misnamed(), || self.open(context))?;
            if read == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the socket has and opens it; nothing at its end.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut socket = Socket { socket: &mut self.socket, context };
        let read = ready!(later(self.session.read_tls(&mut socket)))?;
        self.open(context)?;
        Poll::Ready(Ok(read))
    }

    /// Opens what was taken.
    fn open(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Err(error) = self.session.process_new_packets() else { return Ok(()) };
        // Tells the client what was wrong, if it can be told now; the connection ends either way.
        let _told = self.poll_send(context);
        Err(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Sends all that lies here.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut socket = Socket { socket: &mut self.socket, context };
            if ready!(later(self.session.write_tls(&mut socket)))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        self.gathered = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let mut reader = this.session.reader();
            match reader.fill_buf() {
                // Nothing is the end.
                Ok(here) => {
                    let taken = here.len().min(bytes.remaining());
                    bytes.put_slice(&here[..taken]);
                    reader.consume(taken);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            match this.poll_receive(context) {
                Poll::Ready(received) => received?,
                Poll::Pending => {
                    // The client may be waiting for what lies here.
                    if let Poll::Ready(Err(error)) = this.poll_send(context) {
                        return Poll::Ready(Err(error));
                    }
                    return Poll::Pending;
                }
            };
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered >= GATHERED {
            ready!(this.poll_send(context))?;
        }
        let written = match slices {
            [only] => this.session.writer().write(only)?,
            several => this.session.writer().write_vectored(several)?,
        };
        this.gathered += written;
        if this.gathered >= GATHERED
            && let Poll::Ready(Err(error)) = this.poll_send(context)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Said once, however often it is called (RFC 8446 § 6.1).
        this.session.send_close_notify();
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
