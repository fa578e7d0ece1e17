//! One client connection: TLS where it is spoken, then HTTP/1.1 or HTTP/2.
//!
//! Draining: HTTP/1.1 connections are never closed while idle; the next answer carries `Connection:
//! close`. HTTP/2 gets GOAWAY. Slow clients are cut by the bounds of handshake and head. HTTP/1.1 reaches
//! hyper only through [`Guard`].

use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::h1::{Guard, Refused};
use crate::route::canonical_host;
use crate::serve::{self, Client};
use crate::watch::within;
use crate::worker::Local;

/// A handshake that takes longer is none.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Runs tasks of HTTP/2 streams on their own thread.
#[derive(Debug, Clone, Copy)]
struct SameThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for SameThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Serves a connection to its end. Errors of clients are theirs.
pub(crate) async fn serve(
    local: &Rc<Local>,
    stream: TcpStream,
    peer: SocketAddr,
    port: u16,
    tls: bool,
) {
    let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
    stream.set_nodelay(true).ok();
    let mut client = Client::new(peer.ip(), port, tls);
    if !tls {
        return serve_http1(local, stream, Arc::new(client)).await;
    }
    let acceptor = TlsAcceptor::from(Arc::clone(&local.shared.tls));
    let Some(Ok(stream)) = within(&local.watch, HANDSHAKE, acceptor.accept(stream)).await else {
        return;
    };
    let session = stream.get_ref().1;
    client.server_name =
        session.server_name().and_then(|name| canonical_host(name.as_bytes()).ok());
    client.http2 = session.alpn_protocol() == Some(b"h2");
    if client.http2 {
        serve_http2(local, stream, Arc::new(client)).await;
    } else {
        serve_http1(local, stream, Arc::new(client)).await;
    }
}

async fn serve_http1(
    local: &Rc<Local>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Arc<Client>,
) {
    let (of_service, of_client) = (Rc::clone(local), Arc::clone(&client));
    let switched = Arc::new(AtomicBool::new(false));
    let of_guard = Arc::clone(&switched);
    let service = service_fn(move |request| {
        let answer = serve::handle(Rc::clone(&of_service), Arc::clone(&of_client), request);
        let switched = Arc::clone(&switched);
        async move {
            let answer = answer.await;
            if answer
                .as_ref()
                .is_ok_and(|answer| answer.status() == StatusCode::SWITCHING_PROTOCOLS)
            {
                switched.store(true, Ordering::Release);
            }
            answer
        }
    });
    let refused =
        Refused { shared: Arc::clone(&local.shared), ids: Arc::clone(&local.ids), client };
    let stream = Guard::new(stream, refused, of_guard, &local.watch);
    let mut builder = http1::Builder::new();
    // Its own timer would be set for each request; the guard has cheaper ones.
    builder.header_read_timeout(None).half_close(true).max_buf_size(64 << 10);
    builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await.ok();
}

async fn serve_http2(
    local: &Rc<Local>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    client: Arc<Client>,
) {
    let of_service = Rc::clone(local);
    let service = service_fn(move |request| {
        // Boxed: the task of each stream is moved about before it runs.
        Box::pin(serve::handle(Rc::clone(&of_service), Arc::clone(&client), request))
    });
    let mut builder = http2::Builder::new(SameThread);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(64 << 10)
        .max_pending_accept_reset_streams(Some(20))
        .max_local_error_reset_streams(Some(64))
        .keep_alive_interval(Some(Duration::from_secs(60)))
        .keep_alive_timeout(Duration::from_secs(20));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut told = local.draining.get();
    if told {
        connection.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = local.drain.notified(), if !told => {
                connection.as_mut().graceful_shutdown();
                told = true;
            }
        }
    }
}
