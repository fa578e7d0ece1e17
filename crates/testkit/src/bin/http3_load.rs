//! Load over HTTP/3: so many connections, so many requests at a time on each, for so long; the same against any server.
//!
//! `http3_load ADDRESS HOST CONNECTIONS STREAMS SECONDS`. Prints answers, answers in a second and the 99th percentile
//! of the times. Any certificate is taken; an answer that is not 200 ends it. Not here: what the server spends.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool of the bench: a broken assumption is to end it, and its figures go to standard output"
)]

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Takes every certificate: what is measured is the server.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn config() -> quinn::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let anybody = Arc::new(Anybody(provider));
    let mut tls =
        builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// Answers so far, and how long each took in microseconds.
#[derive(Default)]
struct Counted {
    until: Cell<Option<Instant>>,
    micros: RefCell<Vec<u32>>,
}

async fn connection(address: SocketAddr, host: String, streams: usize, counted: Rc<Counted>) {
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let connecting = endpoint.connect_with(config(), address, &host).unwrap();
    let own = h3_quinn::Connection::new(connecting.await.unwrap());
    let (mut driver, sender) = h3::client::new(own).await.unwrap();
    tokio::task::spawn_local(async move { driver.wait_idle().await });
    let uri = format!("https://{host}:{}/", address.port());
    let one = |mut sender: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>| {
        let (uri, counted) = (uri.clone(), Rc::clone(&counted));
        async move {
            while counted.until.get().is_none_or(|until| Instant::now() < until) {
                let begun = Instant::now();
                let request = http::Request::get(&uri).body(()).unwrap();
                let mut stream = sender.send_request(request).await.unwrap();
                stream.finish().await.unwrap();
                assert_eq!(stream.recv_response().await.unwrap().status(), 200);
                while let Some(mut piece) = stream.recv_data().await.unwrap() {
                    piece.advance(piece.remaining());
                }
                counted.micros.borrow_mut().push(begun.elapsed().as_micros() as u32);
            }
        }
    };
    let all = (0..streams).map(|_| one(sender.clone()));
    futures_util::future::join_all(all).await;
    endpoint.close(0x100_u32.into(), b"");
    endpoint.wait_idle().await;
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, host, connections, streams, seconds] = words.as_slice() else {
        println!("http3_load ADDRESS HOST CONNECTIONS STREAMS SECONDS");
        return;
    };
    let (address, seconds) = (address.parse().unwrap(), seconds.parse().unwrap());
    let (connections, streams): (usize, usize) =
        (connections.parse().unwrap(), streams.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let counted = Rc::new(Counted::default());
    let begun = Instant::now();
    counted.until.set(Some(begun + Duration::from_secs(seconds)));
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let all = (0..connections)
            .map(|_| connection(address, host.clone(), streams, Rc::clone(&counted)));
        futures_util::future::join_all(all).await;
    });
    let mut micros = counted.micros.take();
    micros.sort_unstable();
    let p99 = micros.get(micros.len() * 99 / 100).copied().unwrap_or_default();
    let rate = micros.len() as f64 / begun.elapsed().as_secs_f64();
    println!("{} answers {rate:.0} req/s p99 {:.2}ms", micros.len(), f64::from(p99) / 1000.0);
}
