//! One client connection: TLS where it is spoken, then HTTP/1.1 or HTTP/2.
//!
//! Draining: HTTP/1.1 connections are never closed while idle; the next answer carries `Connection:
//! close`. HTTP/2 gets GOAWAY. Slow clients are cut by the bounds of handshake and head. Not here: the protocols
//! themselves ([`h1`], [`h2`]).

pub(crate) mod http3;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::h1;
use crate::h2;
use crate::proxy_header;
use crate::route::canonical_host;
use crate::seats::Seat;
use crate::serve::{Client, Protocol};
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
    port: u16,
    tls: bool,
) {
    let Ok(mut stream) = tokio::net::TcpStream::from_std(stream) else { return };
    let mut peer = peer;
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
        Box::pin(h2::serve(local, stream, Arc::new(client))).await;
    } else {
        h1::serve(local, stream, Arc::new(client)).await;
    }
}
