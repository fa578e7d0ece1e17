//! One client connection: TLS where it is spoken, then HTTP/1.1 or HTTP/2.
//!
//! Draining: HTTP/1.1 connections are never closed while idle; the next answer carries `Connection:
//! close`. HTTP/2 gets GOAWAY. Slow clients are cut by the bounds of handshake and head. Not here: the protocols
//! themselves ([`h1`], [`h2`]).

pub(crate) mod http3;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::pin::Pin;
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
use crate::socket::Socket;
use crate::tls::{self, TlsStream};
use crate::watch::{within, within_patience};
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

/// A connection that was begun, to its end.
type Serving<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Serves a connection to its end. Errors of clients are theirs.
pub(crate) async fn serve(
    local: &Rc<Local>,
    stream: TcpStream,
    peer: SocketAddr,
    (at, tls, outgoing): (SocketAddr, bool, bool),
) {
    // Boxed: what is needed to begin is given back, and what idles for an hour holds little.
    let begun = Box::pin(begin(local, stream, peer, (at, tls, outgoing))).await;
    let Some((_seat, serving)) = begun else { return };
    serving.await;
}

/// Finds out whose connection it is and what is spoken on it.
async fn begin(
    local: &Rc<Local>,
    stream: TcpStream,
    peer: SocketAddr,
    (at, tls, outgoing): (SocketAddr, bool, bool),
) -> Option<(Option<Seat>, Serving<'_>)> {
    let mut stream = Socket::Tcp(tokio::net::TcpStream::from_std(stream).ok()?);
    let (mut peer, port) = (peer, at.port());
    if outgoing {
        let mut client = Client::new(peer.ip(), port, false);
        client.outgoing = Some(at);
        return Some((None, Box::pin(h1::serve(local, stream, Arc::new(client)))));
    }
    if local.current().table.is_announced(peer.ip()) {
        let header = proxy_header::read(&mut stream);
        let header = within_patience(&local.watch, HANDSHAKE, header).await;
        peer = header?.ok()?.unwrap_or(peer);
    }
    let seat = seat(local, peer.ip()).ok()?;
    let mut client = Client::new(peer.ip(), port, tls);
    if !tls {
        return Some((seat, Box::pin(h1::serve(local, stream, Arc::new(client)))));
    }
    let accepted = TlsStream::accept(stream, &local.shared.tls);
    let accepted = within_patience(&local.watch, HANDSHAKE, accepted).await?;
    let mut stream = accepted.ok()?;
    let session = stream.session();
    if session.alpn_protocol() == Some(tls::ACME_TLS) {
        // The handshake was all there is to see (RFC 8737 § 3).
        within(&local.watch, HANDSHAKE, stream.shutdown()).await;
        return None;
    }
    client.server_name =
        session.server_name().and_then(|name| canonical_host(name.as_bytes()).ok());
    client.certificate = tls::certificate_header(session.peer_certificates());
    let serving: Serving<'_> = if session.alpn_protocol() == Some(b"h2") {
        client.protocol = Protocol::Http2;
        Box::pin(h2::serve(local, stream, Arc::new(client)))
    } else {
        Box::pin(h1::serve(local, stream, Arc::new(client)))
    };
    Some((seat, serving))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What idles is the future of the connection and that of its protocol.
    #[test]
    fn an_idle_connection_holds_little_besides_its_session() {
        let dir = tempfile::tempdir().unwrap();
        let log_dir = dir.path().to_owned();
        let options = crate::EdgeOptions { log_dir, ..crate::EdgeOptions::default() };
        let shared = crate::snapshot::Shared::new(&options);
        let local = Rc::new(Local::new(Arc::new(shared), 0));
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let whole = size_of_val(&serve(&local, stream, address, (address, true, false)));
        let client = Arc::new(Client::new(address.ip(), 443, false));
        let (near, _far) = tokio::io::duplex(1);
        let http1 = size_of_val(&h1::serve(&local, near, client));
        assert!(whole <= 256 && http1 <= 512, "{whole} and {http1} bytes");
    }
}
