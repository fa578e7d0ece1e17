//! Calls to servers that answer with anything: raw bytes from the other side, through the real binary.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use seaworthy_testkit::{Client, FakeApp, Sandbox, Site};

use crate::sandbox;

/// A server that says what it was given to each connection that asked for something, and how often it was asked.
struct Peer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Peer {
    fn start(say: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, say) = (Arc::clone(&asked), Arc::new(say));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (count, say) = (Arc::clone(&count), Arc::clone(&say));
                std::thread::spawn(move || {
                    while read_head(&mut stream) {
                        count.fetch_add(1, Ordering::SeqCst);
                        if say(&mut stream).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, asked }
    }

    /// One that says these bytes and goes.
    fn saying(bytes: &'static [u8]) -> Self {
        Self::start(move |stream| {
            stream.write_all(bytes)?;
            Err(ErrorKind::Other.into())
        })
    }
}

fn read_head(stream: &mut TcpStream) -> bool {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"\r\n\r\n") {
        if stream.read_exact(&mut byte).is_err() {
            return false;
        }
        seen.push(byte[0]);
    }
    true
}

fn through(sandbox: &Sandbox, peer: &Peer, rules: &str) -> Client {
    let site = Site::new("shop")
        .app("web", FakeApp::new())
        .more(&format!("[outgoing.peer]\nto = \"http://{}\"\n{rules}", peer.address));
    sandbox.up(&site);
    let told = sandbox.https(&site).get("/env?name=OUTGOING_PEER").json();
    let way = told["value"].as_str().and_then(|told| told.strip_prefix("http://")).unwrap();
    Client::http(way.parse().unwrap(), "127.0.0.1")
}

const ONCE: &str = "retry = false\ntimeout = { response = \"2s\", idle = \"2s\" }\n";

#[test]
fn what_no_answer_can_be_read_from_is_said_to_be_none() {
    let sandbox = sandbox();
    for (name, status, bytes) in [
        ("one 100 before", 200, &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..]),
        ("several before", 200, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("a 101 that nobody asked for", 502, b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        ("100 and the end", 502, b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("nothing", 502, b""),
        ("half a head", 502, b"HTTP/1.1 200 OK\r\nContent-Le"),
        ("no HTTP", 502, b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("HTTP/2", 502, b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"),
        ("two lengths", 502, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"),
        ("a length and chunks", 502, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a folded line", 502, b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"),
        ("a zero in a field", 502, b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("a status that is none", 502, b"HTTP/1.1 0 OK\r\n\r\n"),
    ] {
        let peer = Peer::saying(bytes);
        let answer = through(&sandbox, &peer, ONCE).get("/");
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        // Ours says so; the other side's does not.
        assert_eq!(answer.header("seaworthy-outgoing").is_some(), status == 502, "{name}");
        assert_eq!(peer.asked.load(Ordering::SeqCst), 1, "{name}");
    }
}

#[test]
fn answers_without_end_are_ended_and_those_that_are_cut_off_are_not_taken_for_whole() {
    let sandbox = sandbox();
    let again = |begin: &'static [u8], piece: &'static [u8]| {
        Peer::start(move |stream| {
            stream.write_all(begin)?;
            loop {
                stream.write_all(piece)?;
            }
        })
    };
    let head = b"HTTP/1.1 200 OK\r\n";
    for (name, peer) in [
        ("fields", again(head, b"X-Field: and another one, and another one, and another one\r\n")),
        (
            "one field",
            again(b"HTTP/1.1 200 OK\r\nX: ", b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"),
        ),
        ("interim answers", again(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
        ("empty lines", again(b"", b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n")),
    ] {
        let client = through(&sandbox, &peer, ONCE);
        let before = sandbox.edge_memory();
        let answer = client.get("/");
        assert!([502, 504].contains(&answer.status), "{name}: {}", answer.status);
        let grown = sandbox.edge_memory().saturating_sub(before);
        assert!(grown < 16 << 10, "{name}: {grown} KiB");
    }
    for (name, bytes) in [
        ("a length", &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"[..]),
        ("chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        ("half a chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf"),
        ("a chunk that is none", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        (
            "a chunk beyond all",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        ),
    ] {
        let peer = Peer::saying(bytes);
        let client = through(&sandbox, &peer, ONCE);
        assert!(
            client.try_get("/").is_err_and(|error| error.kind() == ErrorKind::UnexpectedEof),
            "{name}"
        );
    }
    // Who is silent is not waited for, and a call is made again only where that changes nothing.
    let silent = Peer::start(|stream| stream.read_exact(&mut [0; 1 << 10]));
    let client = through(&sandbox, &silent, ONCE);
    assert_eq!(client.get("/").status, 504);
    let rude = Peer::saying(b"");
    let client = through(&sandbox, &rude, "retry = { times = 2, for = [503] }\n");
    assert_eq!(client.send("POST", "/", &[], b"once").unwrap().status, 502);
    assert_eq!(rude.asked.load(Ordering::SeqCst), 1);
    assert_eq!(client.get("/").status, 502);
    assert_eq!(rude.asked.load(Ordering::SeqCst), 4);
}
