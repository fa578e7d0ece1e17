//! Who stands still over HTTP/3: the whole of QUIC beneath it, on loopback, with a clock that jumps.
//!
//! The clock is quinn's, too, and jumps by up to a second whenever nobody has anything to do: packets may seem to be under
//! way for so long, and so [`NETWORK`] is what a deadline may be late here. The deadlines themselves are those of
//! `deadlines`.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Buf as _;
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::deadlines::{half, idle_of, large, silent};
use super::*;
use crate::conn;
use crate::h1::{HEAD_TIME, IDLE_TIME, SEND_TIME};
use crate::model::{Certificate, Keys};
use crate::quic::{self, Greeted};

/// What packets may take on a clock that jumps.
const NETWORK: Duration = Duration::from_secs(5);
/// The bound of a handshake, as of TCP.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Nothing is wrong (RFC 9114 § 8.1).
const NO_ERROR: u64 = 0x100;

#[track_caller]
fn about(begun: Instant, expected: Duration) {
    let took = begun.elapsed();
    assert!(took >= expected && took <= expected + NETWORK, "{took:?} instead of {expected:?}");
}

/// Waits for what comes by itself.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(600), "it never came: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Where the edge is met over QUIC.
struct Way {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    trusted: CertificateDer<'static>,
    /// Handshakes under way.
    shaking: Arc<AtomicUsize>,
    /// Connections that are served, handshakes among them.
    served: Rc<Cell<usize>>,
    /// Connections that were ever begun.
    begun: Rc<Cell<usize>>,
}

impl Way {
    /// With the edge's own settings, read by the test's thread.
    fn to(edge: &Simulated) -> Self {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let (chain_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
        let certificate = Certificate { hosts: vec!["a.example".into()], chain_pem, key_pem };
        let keys = Keys { version: 1, certificates: vec![certificate], ..Keys::default() };
        let shared = &edge.local.shared;
        shared.tls.swap(&shared.resolver, &keys).unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (endpoint, _) = quic::open(socket, 0, shared).unwrap();
        let way = Self {
            endpoint,
            address,
            trusted: made.cert.der().clone(),
            shaking: Arc::default(),
            served: Rc::default(),
            begun: Rc::default(),
        };
        tokio::task::spawn_local(way.accept(&edge.local));
        way
    }

    fn accept(&self, local: &Rc<Local>) -> impl Future<Output = ()> + 'static {
        let (endpoint, local) = (self.endpoint.clone(), Rc::clone(local));
        let (shaking, port) = (Arc::clone(&self.shaking), self.address.port());
        let (served, begun) = (Rc::clone(&self.served), Rc::clone(&self.begun));
        async move {
            while let Some(incoming) = endpoint.accept().await {
                let greeted = Greeted::new(incoming, port, &shaking);
                let (local, served) = (Rc::clone(&local), Rc::clone(&served));
                begun.set(begun.get() + 1);
                served.set(served.get() + 1);
                tokio::task::spawn_local(async move {
                    conn::http3::serve(&local, greeted).await;
                    served.set(served.get() - 1);
                });
            }
        }
    }

    fn shaking(&self) -> usize {
        self.shaking.load(Ordering::Relaxed)
    }

    /// Begins to shake hands with whoever is at `address`; each stream gets a window of so many bytes.
    fn connecting(&self, address: SocketAddr, window: u32) -> (quinn::Endpoint, quinn::Connecting) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider);
        let tls = tls.with_safe_default_protocol_versions().unwrap();
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let crypto = QuicClientConfig::try_from(tls).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(window.into()).max_idle_timeout(None);
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(config, address, "a.example").unwrap();
        (endpoint, connecting)
    }

    /// A client of HTTP/3.
    async fn client(&self, window: u32) -> Client3 {
        self.client_by(self.address, window).await
    }

    async fn client_by(&self, address: SocketAddr, window: u32) -> Client3 {
        let (endpoint, connecting) = self.connecting(address, window);
        let connection = connecting.await.unwrap();
        let own = h3_quinn::Connection::new(connection.clone());
        let (mut driver, sender) = h3::client::new(own).await.unwrap();
        tokio::task::spawn_local(async move { driver.wait_idle().await });
        Client3 { sender, connection, _endpoint: endpoint }
    }
}

/// A client of HTTP/3.
struct Client3 {
    sender: h3::client::SendRequest<h3_quinn::OpenStreams, bytes::Bytes>,
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

type Stream3 = h3::client::RequestStream<h3_quinn::BidiStream<bytes::Bytes>, bytes::Bytes>;

impl Client3 {
    /// Sends a head; what follows is the test's.
    async fn begin(&mut self, method: &str, length: Option<usize>) -> Stream3 {
        let request = http::Request::builder().method(method).uri("https://a.example/");
        let request = length
            .into_iter()
            .fold(request, |request, length| request.header("content-length", length));
        self.sender.send_request(request.body(()).unwrap()).await.unwrap()
    }

    /// A whole GET, of which nothing was read yet but the answer's head.
    async fn get(&mut self) -> Stream3 {
        let mut stream = self.begin("GET", None).await;
        stream.finish().await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        stream
    }
}

/// Reads to the end of an answer: how long it was, and whether it came whole.
async fn read(stream: &mut Stream3) -> (usize, bool) {
    let mut length = 0;
    loop {
        match stream.recv_data().await {
            Ok(Some(piece)) => length += piece.remaining(),
            Ok(None) => return (length, true),
            Err(_) => return (length, false),
        }
    }
}

/// What stands on the way, and passes packets on as long as it is told to.
struct Between {
    address: SocketAddr,
    /// So many packets more of the client's.
    there: Rc<Cell<usize>>,
    /// So many packets more of the edge's.
    back: Rc<Cell<usize>>,
}

impl Between {
    async fn new(edge: SocketAddr, there: usize, back: usize) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (there, back) = (Rc::new(Cell::new(there)), Rc::new(Cell::new(back)));
        let left = [Rc::clone(&there), Rc::clone(&back)];
        tokio::task::spawn_local(async move {
            let (mut room, mut client) = ([0; 2048], None);
            while let Ok((length, from)) = socket.recv_from(&mut room).await {
                let (left, to) = if from == edge {
                    (&left[1], client)
                } else {
                    client = Some(from);
                    (&left[0], Some(edge))
                };
                let Some(to) = to.filter(|_| left.get() > 0) else { continue };
                left.set(left.get() - 1);
                socket.send_to(&room[..length], to).await.unwrap();
            }
        });
        Self { address, there, back }
    }
}

fn in_flight(edge: &Simulated) -> u64 {
    edge.local.shared.status().instances.values().map(|one| one.in_flight).sum()
}

#[test]
fn a_stream_whose_client_takes_nothing_is_reset_and_the_others_go_on() {
    simulate(async {
        let size = 1 << 20;
        let edge = Simulated::new(to_web(), &[large(size).await]);
        let way = Way::to(&edge);
        let mut client = way.client(64 << 10).await;
        let begun = Instant::now();
        let mut slow = client.get().await;
        let mut brisk = client.get().await;
        assert_eq!(read(&mut brisk).await, (size, true));
        until("the slow one is given up", || in_flight(&edge) == 0).await;
        about(begun, SEND_TIME);
        let (taken, whole) = read(&mut slow).await;
        assert!(taken <= 128 << 10 && !whole, "{taken} {whole}");
        assert_eq!(read(&mut client.get().await).await, (size, true));
    });
}

#[test]
fn a_client_that_takes_little_but_goes_on_is_served_to_the_end() {
    simulate(async {
        let size = 512 << 10;
        let edge = Simulated::new(to_web(), &[large(size).await]);
        let way = Way::to(&edge);
        let mut client = way.client(64 << 10).await;
        let mut stream = client.get().await;
        let (begun, mut read, mut rested) = (Instant::now(), 0, 0);
        while let Some(piece) = stream.recv_data().await.unwrap() {
            read += piece.remaining();
            while rested + (16 << 10) <= read {
                rested += 16 << 10;
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        }
        assert!(read == size && begun.elapsed() > 4 * SEND_TIME, "{read} {:?}", begun.elapsed());
    });
}

#[test]
fn a_request_whose_body_stands_still_is_answered_408_and_one_without_a_head_is_reset() {
    simulate(async {
        let edge = Simulated::new(idle_of(7_000), &[silent().await]);
        let way = Way::to(&edge);
        let mut client = way.client(1 << 20).await;
        let mut stream = client.begin("POST", Some(10)).await;
        stream.send_data("hello".into()).await.unwrap();
        let begun = Instant::now();
        assert_eq!(stream.recv_response().await.unwrap().status(), 408);
        about(begun, Duration::from_secs(7));
        // The beginning of a frame that is to hold a head.
        let (mut send, mut receive) = client.connection.open_bi().await.unwrap();
        send.write_all(&[1, 40, 0, 0]).await.unwrap();
        let begun = Instant::now();
        assert!(receive.read_to_end(1 << 10).await.is_err());
        about(begun, HEAD_TIME);
        // Neither costs the connection anything.
        edge.place(vec![endpoint(large(5).await)]);
        assert_eq!(read(&mut client.get().await).await, (5, true));
    });
}

#[test]
fn an_answer_that_stands_still_is_reset() {
    simulate(async {
        let edge = Simulated::new(idle_of(7_000), &[half().await]);
        let way = Way::to(&edge);
        let mut client = way.client(1 << 20).await;
        let begun = Instant::now();
        let mut stream = client.get().await;
        assert_eq!(read(&mut stream).await, (5, false));
        about(begun, Duration::from_secs(7));
    });
}

#[test]
fn a_connection_on_which_nothing_is_asked_ends() {
    simulate(async {
        let edge = Simulated::new(to_web(), &[large(5).await]);
        let way = Way::to(&edge);
        // One that never said a word of HTTP/3, and one that asked once.
        let (_endpoint, connecting) = way.connecting(way.address, 1 << 20);
        let mute = connecting.await.unwrap();
        let begun = Instant::now();
        let mut asked = way.client(1 << 20).await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(read(&mut asked.get().await).await, (5, true));
        let last = Instant::now();
        for (connection, since) in [(mute, begun), (asked.connection.clone(), last)] {
            let closed = tokio::time::timeout(IDLE_TIME * 3, connection.closed()).await;
            let closed = closed.expect("nobody ends it");
            let quinn::ConnectionError::ApplicationClosed(close) = closed else {
                panic!("{closed:?}")
            };
            assert_eq!(u64::from(close.error_code), NO_ERROR);
            about(since, IDLE_TIME);
        }
        until("nothing of them is left", || way.served.get() == 0).await;
    });
}

#[test]
fn a_client_that_is_gone_without_a_word_holds_nothing_for_long() {
    simulate(async {
        let edge = Simulated::new(to_web(), &[large(1 << 20).await]);
        let way = Way::to(&edge);
        let between = Between::new(way.address, usize::MAX, usize::MAX).await;
        // In the middle of an answer.
        let mut client = way.client_by(between.address, 64 << 10).await;
        let _answer = client.get().await;
        assert_eq!((in_flight(&edge), way.served.get()), (1, 1));
        between.there.set(0);
        between.back.set(0);
        let begun = Instant::now();
        until("its connection is given up", || way.served.get() == 0).await;
        let took = begun.elapsed();
        // A minute without a word, counted from the last question whether it is there.
        assert!(took <= Duration::from_secs(90), "{took:?}");
        until("its request is given up", || in_flight(&edge) == 0).await;
    });
}

#[test]
fn a_handshake_that_does_not_go_on_ends() {
    simulate(async {
        let edge = Simulated::new(to_web(), &[large(5).await]);
        let way = Way::to(&edge);
        // Its first packet and nothing more, and all that it says without ever hearing an answer.
        for there in [1, usize::MAX] {
            let between = Between::new(way.address, there, 0).await;
            let (before, begun) = (way.begun.get(), Instant::now());
            let (endpoint, connecting) = way.connecting(between.address, 1 << 20);
            tokio::task::spawn_local(async move { drop(connecting.await) });
            until("it is heard", || way.begun.get() > before).await;
            assert_eq!((way.shaking(), way.served.get()), (1, 1));
            until("it is given up", || way.served.get() == 0).await;
            about(begun, HANDSHAKE);
            assert_eq!(way.shaking(), 0);
            drop(endpoint);
        }
        // Who shakes hands meanwhile, and afterwards, is served.
        let mut client = way.client(1 << 20).await;
        assert_eq!(read(&mut client.get().await).await, (5, true));
    });
}
