//! One client connection: TLS where it is spoken, then HTTP/1.1 or HTTP/2.
//!
//! Draining: HTTP/1.1 connections are never closed while idle; the next answer carries `Connection:
//! close`. HTTP/2 gets GOAWAY. Slow clients are cut by the bounds of handshake and head. Not here: HTTP/1.1
//! itself ([`h1`]).

pub(crate) mod http3;
mod streams;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use self::streams::{Paced, Streams};
use crate::body::ClientBody;
use crate::h1::{self, SEND_TIME};
use crate::proxy_header;
use crate::route::canonical_host;
use crate::seats::Seat;
use crate::serve::{self, Client, Protocol};
use crate::tls::{self, TlsStream};
use crate::watch::within;
use crate::worker::Local;

/// A handshake that takes longer is none.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// An address holds all the connections that it may.
struct NoSeat;

/// What a connection holds of those that its address may have; nothing for proxies that speak for others.
fn seat(local: &Local, ip: IpAddr) -> Result<Option<Seat>, NoSeat> {
    let snapshot = local.current();
    if snapshot.table.is_proxy(ip) {
        return Ok(None);
    }
    let seat = local.shared.seats.take(ip, snapshot.table.per_address);
    if seat.is_none() {
        local.shared.turned_away.fetch_add(1, Ordering::Relaxed);
    }
    seat.map(Some).ok_or(NoSeat)
}

/// Serves a connection to its end. Errors of clients are theirs.
pub(crate) async fn serve(
    local: &Rc<Local>,
    stream: TcpStream,
    peer: SocketAddr,
    (at, tls, outgoing): (SocketAddr, bool, bool),
) {
    let Ok(mut stream) = tokio::net::TcpStream::from_std(stream) else { return };
    let (mut peer, port) = (peer, at.port());
    if outgoing {
        let mut client = Client::new(peer.ip(), port, false);
        client.outgoing = Some(at);
        return h1::serve(local, stream, Arc::new(client)).await;
    }
    if local.current().table.is_announced(peer.ip()) {
        let header = within(&local.watch, HANDSHAKE, proxy_header::read(&mut stream)).await;
        let Some(Ok(announced)) = header else { return };
        peer = announced.unwrap_or(peer);
    }
    let Ok(_seat) = seat(local, peer.ip()) else { return };
    let mut client = Client::new(peer.ip(), port, tls);
    if !tls {
        return h1::serve(local, stream, Arc::new(client)).await;
    }
    let accepted = TlsStream::accept(stream, &local.shared.tls);
    let Some(Ok(mut stream)) = within(&local.watch, HANDSHAKE, accepted).await else { return };
    let session = stream.session();
    if session.alpn_protocol() == Some(tls::ACME_TLS) {
        // The handshake was all there is to see (RFC 8737 § 3).
        within(&local.watch, HANDSHAKE, stream.shutdown()).await;
        return;
    }
    client.server_name =
        session.server_name().and_then(|name| canonical_host(name.as_bytes()).ok());
    client.certificate = tls::certificate_header(session.peer_certificates());
    if session.alpn_protocol() == Some(b"h2") {
        client.protocol = Protocol::Http2;
        serve_http2(local, stream, Arc::new(client)).await;
    } else {
        h1::serve(local, stream, Arc::new(client)).await;
    }
}

/// Serves HTTP/2 on a connection whose client is known.
pub(crate) async fn serve_http2(
    local: &Rc<Local>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    client: Arc<Client>,
) {
    let of_service = Rc::clone(local);
    let streams = Streams::new(&local.watch);
    let of_streams = streams.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let pace = of_streams.begin();
        let request = request.map(ClientBody::Http2);
        let (local, client) = (Rc::clone(&of_service), Arc::clone(&client));
        // Boxed, and made where it stays: the task of each stream is moved about before it runs.
        Box::pin(async move {
            let response = serve::handle(local, client, request).await;
            Ok::<_, Infallible>(response.map(|body| Paced::new(body, pace)))
        })
    });
    let mut builder = http2::Builder::new(streams.clone());
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
    let mut idle = pin!(streams.idle());
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = local.drain.notified(), if !told => {
                connection.as_mut().graceful_shutdown();
                told = true;
            }
            () = idle.as_mut() => {
                connection.as_mut().graceful_shutdown();
                // What was given away and is not taken would hold the connection for ever.
                while within(&local.watch, SEND_TIME, connection.as_mut()).await.is_none()
                    && streams.are_open()
                {}
                return;
            }
        }
    }
}
