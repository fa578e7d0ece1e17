//! The stream against a client of another make, and what it puts on the wire in how many pieces.

mod misnamed;

use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::DEFAULT_CIPHER_SUITES;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::*;
use crate::model::{Certificate, Keys};
use crate::tls::Resolver;

/// Counts the pieces that are written.
#[derive(Debug)]
struct Counted(DuplexStream, usize);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, bytes)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write_vectored(context, slices))?;
        self.1 += 1;
        Poll::Ready(Ok(written))
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Both sides' settings; the client likes these suites, in this order.
fn configs(suites: &[SupportedCipherSuite]) -> (Settings, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let (chain_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
    let certificate = Certificate { hosts: vec!["a.example".to_owned()], chain_pem, key_pem };
    let resolver = Arc::new(Resolver::default());
    let certificates = vec![certificate];
    resolver.swap(&Keys { version: 1, certificates, ..Keys::default() }).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = CryptoProvider {
        cipher_suites: suites.to_vec(),
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Settings::new(resolver, Arc::default()), TlsConnector::from(Arc::new(client)))
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test)
}

/// The pieces in which a server sends everything to a client that says something at once, or not.
async fn pieces(speaks: bool) -> usize {
    let (server, connector) = configs(DEFAULT_CIPHER_SUITES);
    let (near, far) = duplex(64 << 10);
    let client = async {
        let name = ServerName::try_from("a.example").unwrap();
        let mut stream = connector.connect(name, far).await.unwrap();
        if speaks {
            stream.write_all(b"ping").await.unwrap();
        }
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, if speaks { &b"pong"[..] } else { b"" });
    };
    let served = async {
        let mut stream = TlsStream::accept(Counted(near, 0), &server).await.unwrap();
        let mut asked = [0; 4];
        if speaks {
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"ping");
            stream.write_all(b"po").await.unwrap();
            stream.write_all(b"ng").await.unwrap();
        } else {
            let waits = stream.read(&mut asked);
            let mut waits = std::pin::pin!(waits);
            let polled = poll_fn(|context| Poll::Ready(waits.as_mut().poll(context)));
            assert!(polled.await.is_pending());
        }
        stream.shutdown().await.unwrap();
        stream.socket.1
    };
    tokio::join!(client, served).1
}

#[test]
fn tickets_leave_with_the_answer_and_the_end_with_the_last_of_it() {
    assert_eq!(run(pieces(true)), 2);
}

#[test]
fn nothing_is_held_back_from_a_client_that_is_waited_for() {
    assert_eq!(run(pieces(false)), 3);
}

#[test]
fn the_cheap_suite_is_taken_unless_the_client_has_no_aes_or_no_choice() {
    let (large, small, chacha) =
        (TLS13_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256);
    for (suites, agreed) in [
        (vec![large, chacha, small], small),
        (vec![chacha, large, small], chacha),
        (vec![large], large),
    ] {
        let (server, connector) = configs(&suites);
        let session = run(async {
            let (near, far) = duplex(64 << 10);
            let name = ServerName::try_from("a.example").unwrap();
            let (client, served) =
                tokio::join!(connector.connect(name, far), TlsStream::accept(near, &server));
            client.unwrap();
            served.unwrap().session
        });
        assert_eq!(session.negotiated_cipher_suite(), Some(agreed), "{suites:?}");
    }
}

#[test]
fn a_client_that_breaks_the_protocol_is_told_how() {
    run(async {
        let (server, _) = configs(DEFAULT_CIPHER_SUITES);
        let (near, mut far) = duplex(4 << 10);
        far.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
        let error = TlsStream::accept(near, &server).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.unwrap();
        // An alert, and a fatal one (RFC 8446 § 6).
        assert_eq!((said[0], said[5]), (21, 2), "{said:?}");
    });
}

/// What a server says first to a client that asks for a name of the same length as another.
async fn asked_for(name: &str, in_place_of: &'static str) -> Vec<u8> {
    let (server, connector) = configs(DEFAULT_CIPHER_SUITES);
    let honest = ServerName::try_from(in_place_of).unwrap();
    let mut client = ClientConnection::new(Arc::clone(connector.config()), honest).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let at = hello.windows(name.len()).position(|part| part == in_place_of.as_bytes()).unwrap();
    hello[at..at + name.len()].copy_from_slice(name.as_bytes());
    let (near, mut far) = duplex(64 << 10);
    far.write_all(&hello).await.unwrap();
    far.shutdown().await.unwrap();
    TlsStream::accept(near, &server).await.unwrap_err();
    let mut said = Vec::new();
    far.read_to_end(&mut said).await.unwrap();
    said
}

#[test]
fn a_client_with_an_address_in_place_of_a_name_is_served() {
    let said = run(asked_for("127.0.0.1", "127x0.0.x"));
    assert_eq!(said[0], 22, "{said:?}");
}

#[test]
fn a_client_that_goes_in_the_middle_of_a_handshake_is_no_success() {
    run(async {
        let (server, _) = configs(DEFAULT_CIPHER_SUITES);
        let (near, mut far) = duplex(4 << 10);
        far.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
        drop(far);
        let error = TlsStream::accept(near, &server).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_written_arrives_whole_however_little_the_socket_takes(
        sizes in prop::collection::vec(0usize..40_000, 0..12),
        room in 1usize..30_000,
        flushes in any::<bool>(),
    ) {
        let (server, connector) = configs(DEFAULT_CIPHER_SUITES);
        let (near, far) = duplex(room);
        let bytes: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(at, size)| vec![at as u8; *size]).collect();
        let client = async {
            let name = ServerName::try_from("a.example").unwrap();
            let mut stream = connector.connect(name, far).await.unwrap();
            stream.write_all(&bytes.concat()).await.unwrap();
            let mut said = Vec::new();
            stream.flush().await.unwrap();
            stream.read_to_end(&mut said).await.unwrap();
            said
        };
        let served = async {
            let mut stream = TlsStream::accept(near, &server).await.unwrap();
            let mut asked = vec![0; sizes.iter().sum()];
            stream.read_exact(&mut asked).await.unwrap();
            for piece in &bytes {
                stream.write_all(piece).await.unwrap();
                if flushes {
                    stream.flush().await.unwrap();
                }
            }
            stream.shutdown().await.unwrap();
            asked
        };
        let (said, asked) = run(async { tokio::join!(client, served) });
        prop_assert_eq!(said, bytes.concat());
        prop_assert_eq!(asked, bytes.concat());
    }
}
