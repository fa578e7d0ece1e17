//! Single requests over HTTP/2, in the words of the HTTP/1.1 client, so that one test asks over both.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Ask, Response};

/// Sends so many copies at once over one connection, and gives their answers.
pub(super) fn send(
    address: SocketAddr,
    host: &str,
    tls: &Arc<ClientConfig>,
    ask: &Ask<'_>,
    copies: usize,
) -> io::Result<Vec<Response>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let limit = std::time::Duration::from_secs(20);
        tokio::time::timeout(limit, exchange(address, host, tls, ask, copies)).await?
    })
}

async fn exchange(
    address: SocketAddr,
    host: &str,
    tls: &Arc<ClientConfig>,
    ask: &Ask<'_>,
    copies: usize,
) -> io::Result<Vec<Response>> {
    let stream = TcpStream::connect(address).await?;
    let name = host.to_owned().try_into().map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    let mut waiting = Vec::new();
    for _ in 0..copies {
        let uri = format!("https://{host}:{}{}", address.port(), ask.target);
        let mut request = http::Request::builder().method(ask.method).uri(uri);
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(Full::new(Bytes::copy_from_slice(ask.body))).map_err(io::Error::other)?;
        sender.ready().await.map_err(io::Error::other)?;
        waiting.push(sender.send_request(request));
    }
    let mut answers = Vec::new();
    for one in waiting {
        let (parts, body) = one.await.map_err(io::Error::other)?.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
        answers.push(Response::of(parts.status, &parts.headers, body));
    }
    driver.abort();
    Ok(answers)
}
