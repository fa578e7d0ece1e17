//! Client and load over TLS and HTTP/2, against a server made of the plain libraries: what they say
//! about the edge can only be believed if they are right about this one.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use seaworthy_testkit::Client;
use seaworthy_testkit::load::{Kind, Load, Target};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server that echoes `/say`; it closes each HTTP/2 connection politely (GOAWAY) after so many requests.
struct Server {
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    fn start(requests_a_connection: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let acceptor = acceptor(&folder.path().join("ca.pem"));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        serve(stream, requests_a_connection).await;
                    });
                }
            });
        });
        Self { address: told.recv().unwrap(), folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn target(&self) -> Target {
        Target { address: self.address, host: "shop.localhost".to_owned(), ca: Some(self.ca()) }
    }
}

async fn serve(stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>, most: u64) {
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let (seen, full) = (Arc::new(AtomicU64::new(0)), Arc::new(tokio::sync::Notify::new()));
    let answer = |request: http::Request<hyper::body::Incoming>| {
        let text = request
            .uri()
            .query()
            .and_then(|query| query.strip_prefix("text="))
            .unwrap_or_default()
            .to_owned();
        if seen.fetch_add(1, Ordering::SeqCst) + 1 == most {
            full.notify_one();
        }
        async move { Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(text)))) }
    };
    if !http2 {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .await
            .ok();
        return;
    }
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = full.notified() => {
            connection.as_mut().graceful_shutdown();
            connection.await.ok();
        }
    }
}

/// A new authority, written to `ca`, and a certificate of it for `shop.localhost`.
fn acceptor(ca: &std::path::Path) -> TlsAcceptor {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(ca, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["shop.localhost".to_owned()])
        .unwrap()
        .signed_by(&leaf_key, &issuer)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into());
    let mut config =
        builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[test]
fn single_requests_trust_the_given_authority_only() {
    let (server, other) = (Server::start(u64::MAX), Server::start(u64::MAX));
    assert_eq!(
        Client::https(server.address, "shop.localhost", &server.ca()).get("/say?text=hello").text(),
        "hello"
    );
    assert!(Client::https(server.address, "shop.localhost", &other.ca()).try_get("/").is_err());
    assert!(Client::https(server.address, "other.localhost", &server.ca()).try_get("/").is_err());
}

#[test]
fn every_kind_of_load_works_over_tls() {
    let server = Server::start(u64::MAX);
    let report = Load::new(server.target()).mixed(200.0).start(Duration::from_millis(800)).finish();
    report.assert_clean();
    assert!(
        report.requests.iter().all(|counts| counts.ok > 5 && counts.issued == counts.ok),
        "{report}"
    );
}

#[test]
fn a_polite_goodbye_over_http2_is_no_failure() {
    let server = Server::start(20);
    let report =
        Load::new(server.target()).rate(Kind::Http2, 300.0).start(Duration::from_secs(1)).finish();
    report.assert_clean();
    assert!(report.ok() > 100, "{report}");
}

#[test]
fn nobody_listening_is_counted_as_refused() {
    let server = Server::start(u64::MAX);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = Target { address: free, ..server.target() };
    let report =
        Load::new(target).mixed(100.0).web_sockets(1).start(Duration::from_millis(300)).finish();
    assert!(
        report.ok() == 0
            && report.failures() == report.refused() - report.web_sockets.refused
            && report.web_sockets.refused > 0,
        "{report}"
    );
}
