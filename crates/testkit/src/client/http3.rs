//! Requests over HTTP/3, in the words of the HTTP/1.1 client; and bare QUIC, for what no client would send.

pub mod raw;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use rustls::ClientConfig as TlsConfig;

use super::{Ask, Response};

/// Longer than anything takes that works.
const LIMIT: Duration = Duration::from_secs(20);

/// Begins a connection that nobody hears of again, not even its end.
pub fn abandon(address: SocketAddr, host: &str, ca: &Path) -> io::Result<()> {
    let tls = crate::tls::client_config(ca, &["h3"]);
    run(async { connect(address, host, &tls).await.map(drop) })
}

/// What goes on by itself, in a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Going {
    runtime: tokio::runtime::Handle,
    _over: tokio::sync::oneshot::Sender<()>,
}

impl Going {
    fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (over, ended) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || runtime.block_on(ended));
        Ok(Self { runtime: handle, _over: over })
    }
}

/// Begins so many handshakes, of which none need come to an end.
pub fn begin(address: SocketAddr, host: &str, ca: &Path, count: usize) -> io::Result<Going> {
    let tls = crate::tls::client_config(ca, &["h3"]);
    let going = Going::new()?;
    for _ in 0..count {
        let (tls, host) = (Arc::clone(&tls), host.to_owned());
        going.runtime.spawn(async move { connect(address, &host, &tls).await.map(drop) });
    }
    Ok(going)
}

/// A connection over QUIC, and the endpoint that it lives in.
pub async fn connect(
    address: SocketAddr,
    host: &str,
    tls: &Arc<TlsConfig>,
) -> io::Result<(Endpoint, Connection)> {
    let crypto = QuicClientConfig::try_from(TlsConfig::clone(tls)).map_err(io::Error::other)?;
    let endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
    let config = ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint.connect_with(config, address, host).map_err(io::Error::other)?;
    let connection = tokio::time::timeout(LIMIT, connecting).await?.map_err(io::Error::other)?;
    Ok((endpoint, connection))
}

/// Nobody there is left waiting for us: what says so leaves in one of the next turns.
async fn leave(endpoint: &Endpoint) {
    endpoint.close(0x100_u32.into(), b"");
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// Runs what speaks QUIC to its end.
pub fn run<T>(talk: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(LIMIT, talk).await? })
}

/// Sends a request, does something once it is under way, and sends another on the same connection. The
/// answer to the first, and what became of the other.
pub fn around(
    (address, host, ca): (SocketAddr, &str, &Path),
    (first, other): (&Ask<'_>, &Ask<'_>),
    between: impl FnOnce() + Send + 'static,
) -> io::Result<(Response, io::Result<Response>)> {
    let tls = crate::tls::client_config(ca, &["h3"]);
    run(async {
        let (endpoint, connection) = connect(address, host, &tls).await?;
        let own = h3_quinn::Connection::new(connection);
        let (mut driver, sender) = h3::client::new(own).await.map_err(io::Error::other)?;
        let driving = tokio::spawn(async move { driver.wait_idle().await });
        let uri = |ask: &Ask<'_>| format!("https://{host}:{}{}", address.port(), ask.target);
        let (first_uri, other_uri) = (uri(first), uri(other));
        let between = async {
            tokio::task::spawn_blocking(between).await.map_err(io::Error::other)?;
            exchange(sender.clone(), &other_uri, other).await
        };
        let under_way = exchange(sender.clone(), &first_uri, first);
        let (first, other) = futures_util::future::join(under_way, between).await;
        driving.abort();
        leave(&endpoint).await;
        Ok((first?, other))
    })
}

/// Sends so many copies at once over one connection, and gives their answers.
pub(super) fn send(
    address: SocketAddr,
    host: &str,
    tls: &Arc<TlsConfig>,
    ask: &Ask<'_>,
    copies: usize,
) -> io::Result<Vec<Response>> {
    run(async {
        let (endpoint, connection) = connect(address, host, tls).await?;
        let own = h3_quinn::Connection::new(connection);
        let (mut driver, sender) = h3::client::new(own).await.map_err(io::Error::other)?;
        let driving = tokio::spawn(async move { driver.wait_idle().await });
        let uri = format!("https://{host}:{}{}", address.port(), ask.target);
        let each = (0..copies).map(|_| exchange(sender.clone(), &uri, ask));
        let answers = futures_util::future::try_join_all(each).await;
        drop(sender);
        driving.abort();
        leave(&endpoint).await;
        answers
    })
}

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

async fn exchange(mut sender: Sender, uri: &str, ask: &Ask<'_>) -> io::Result<Response> {
    let mut request = http::Request::builder().method(ask.method).uri(uri);
    for (name, value) in ask.headers {
        request = request.header(*name, *value);
    }
    let names_length =
        ask.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    // What is put is as long as it turns out to be.
    if !names_length && ask.method != "PUT" && (!ask.body.is_empty() || ask.method == "POST") {
        request = request.header("content-length", ask.body.len());
    }
    let request = request.body(()).map_err(io::Error::other)?;
    let stream = sender.send_request(request).await.map_err(io::Error::other)?;
    let (mut out, mut back) = stream.split();
    let sending = async {
        if !ask.body.is_empty() {
            // A server that has answered may take no more.
            out.send_data(Bytes::copy_from_slice(ask.body)).await.ok();
        }
        out.finish().await.ok();
    };
    let receiving = async {
        let head = back.recv_response().await.map_err(io::Error::other)?;
        let mut body = Vec::new();
        while let Some(mut piece) = back.recv_data().await.map_err(io::Error::other)? {
            while piece.has_remaining() {
                let chunk = piece.chunk();
                body.extend_from_slice(chunk);
                let length = chunk.len();
                piece.advance(length);
            }
        }
        io::Result::Ok(Response::of(head.status(), head.headers(), body))
    };
    let (received, ()) = futures_util::future::join(receiving, sending).await;
    received
}
