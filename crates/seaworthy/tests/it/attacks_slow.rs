//! Clients that stop in the middle, of a handshake, of a head, over HTTP/2 also of a body: raw bytes against the real
//! binary. Other bodies and answers: `cargo xtask slow-tests`, and the edge's own tests in simulated time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use seaworthy_testkit::{Client, FakeApp, Sandbox, Site};

use crate::{LIMIT, sandbox, shop};

/// A client's hello as openssl sends it, for a name that nobody has here.
const HELLO: &[u8] = include_bytes!("../../../edge/corpus/client_hello/name");

/// A connection on which so much was said.
fn say(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// Everything that comes until the other side ends the connection, which it has to do by itself.
fn to_the_end(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    if let Err(error) = stream.read_to_end(&mut said) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{} bytes", said.len());
    }
    said
}

fn memory(sandbox: &Sandbox) -> u64 {
    let pid = sandbox.status().edge_pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_handshake_that_stops_in_the_middle_is_ended_and_holds_nobody_up() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let (address, bystander) = (sandbox.status().https(), sandbox.https(&shop()));
    assert_eq!(bystander.get("/").status, 200);
    let before = memory(&sandbox);
    // As long as a hello may be that is kept until it is whole, without its last bytes.
    let mut long = vec![22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb];
    long.resize(16_000, 0);
    let stops: [&[u8]; 6] = [
        b"",
        &HELLO[..1],
        &HELLO[..5],
        &HELLO[..HELLO.len() / 2],
        &HELLO[..HELLO.len() - 1],
        &long,
    ];
    let held: Vec<TcpStream> =
        (0..40).flat_map(|_| stops).map(|bytes| say(address, bytes)).collect();
    // These get an answer, and say nothing to it.
    let answered: Vec<TcpStream> = (0..40).map(|_| say(address, HELLO)).collect();
    for _ in 0..20 {
        assert_eq!(bystander.get("/").status, 200);
    }
    let grown = memory(&sandbox).saturating_sub(before);
    assert!(grown < 48 << 10, "{grown} KiB");
    for stream in held {
        // Nothing was agreed on: there is nobody to tell, or an alert.
        assert!(to_the_end(stream).len() <= 7);
    }
    for stream in answered {
        let said = to_the_end(stream);
        assert_eq!(said.first(), Some(&22), "a handshake: {said:?}");
    }
    assert_eq!(bystander.get("/").status, 200);
}

#[test]
fn a_head_that_stops_in_the_middle_is_ended_and_holds_nobody_up() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let (address, bystander) = (sandbox.status().http(), sandbox.https(&shop()));
    let stops = [
        "GE",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: shop.localhost\r\nX-",
        "GET / HTTP/1.1\r\nHost: shop.localhost\r\nX: y\r\n",
    ];
    let held: Vec<TcpStream> =
        (0..50).flat_map(|_| stops).map(|head| say(address, head.as_bytes())).collect();
    for _ in 0..20 {
        assert_eq!(bystander.get("/").status, 200);
    }
    for stream in held {
        let said = to_the_end(stream);
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 408 "), "{}", said.escape_ascii());
    }
    assert_eq!(bystander.get("/").status, 200);
}

/// A frame of HTTP/2 on the first stream, or on none.
fn frame(kind: u8, flags: u8, is_stream: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags];
    bytes.extend([0, 0, 0, u8::from(is_stream)]);
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn over_http_2_a_head_or_body_that_stops_in_the_middle_is_ended_and_holds_nobody_up() {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    let sandbox = sandbox();
    let web = Site::new("shop").app("web", FakeApp::new()).route("/*", "web");
    let site = web.more("timeout = { idle = \"2s\" }");
    sandbox.up(&site);
    let (address, host) = (sandbox.status().https(), site.host());
    let bystander = sandbox.https(&site);
    assert_eq!(bystander.get("/").status, 200);
    let before = sandbox.edge_memory();
    // POST, https, /, the host, and a body of nine bytes.
    let mut block = vec![0x83, 0x87, 0x84, 0x01, u8::try_from(host.len()).unwrap()];
    block.extend_from_slice(host.as_bytes());
    block.extend([0x0f, 0x0d, 1, b'9']);
    let preface =
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, false, &[])].concat();
    let stops = [
        preface[..10].to_vec(),
        // A frame's beginning, a head whose end is never sent, a body that is.
        [preface.clone(), frame(HEADERS, 4, true, &block)[..12].to_vec()].concat(),
        [preface.clone(), frame(HEADERS, 0, true, &block)].concat(),
        [preface, frame(HEADERS, 4, true, &block), frame(0, 0, true, b"abc")].concat(),
    ];
    let client = Client::over_http2(address, &host, &sandbox.ca());
    let held: Vec<_> = (0..20)
        .flat_map(|_| &stops)
        .map(|bytes| {
            let mut stream = client.connect().unwrap();
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(bystander.get("/").status, 200);
    }
    let grown = sandbox.edge_memory().saturating_sub(before);
    assert!(grown < 48 << 10, "{grown} KiB");
    for (number, mut stream) in held.into_iter().enumerate() {
        let mut seen = Vec::new();
        let mut piece = [0; 1 << 10];
        let is_body = number % stops.len() == stops.len() - 1;
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => seen.extend_from_slice(&piece[..count]),
                Err(error) => {
                    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{number}");
                    break;
                }
            }
            // Its stream was answered (408) or reset; the connection goes on.
            let of_stream = |kind: u8| {
                seen.windows(9).any(|head| head[3] == kind && head[5..9] == [0, 0, 0, 1])
            };
            if is_body && (of_stream(HEADERS) || of_stream(3)) {
                break;
            }
        }
        assert!(!is_body || !seen.is_empty(), "{number}");
    }
    assert_eq!(bystander.get("/").status, 200);
}
