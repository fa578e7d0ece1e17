//! What the edge must withstand over HTTP/3, against the real binary: fields, frames and packets by hand.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use seaworthy_testkit::http3::raw::{End, Raw, fields, frame, frame_head};
use seaworthy_testkit::{Client, Sandbox, Site, eventually, http3};

use crate::{LIMIT, sandbox};

const HOST: &str = "shop.example";
/// Kinds of frames (RFC 9114 § 7.2).
const DATA: u64 = 0;
const HEADERS: u64 = 1;
const SETTINGS: u64 = 4;
/// What a stream or a connection ends with (RFC 9114 § 8.1, RFC 9204 § 6).
const INTERNAL_ERROR: u64 = 0x102;
const STREAM_CREATION: u64 = 0x103;
const CLOSED_CRITICAL: u64 = 0x104;
const FRAME_UNEXPECTED: u64 = 0x105;
const FRAME_ERROR: u64 = 0x106;
const EXCESSIVE_LOAD: u64 = 0x107;
const SETTINGS_ERROR: u64 = 0x109;
const MISSING_SETTINGS: u64 = 0x10a;
const MESSAGE_ERROR: u64 = 0x10e;
const DECOMPRESSION_FAILED: u64 = 0x200;

/// A platform with a site, and somebody who asks it over TCP.
struct Stage {
    sandbox: Sandbox,
    bystander: Client,
    address: SocketAddr,
}

impl Stage {
    fn new(listen: &str) -> Self {
        let sandbox = sandbox();
        let site = Site::new("shop").manifest(&format!(
            "site = \"shop\"\ndomains = [\"{HOST}\"]\n{{listen}}http3 = true\n{listen}[tls]\nmode = \"internal\"\n\
             [service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n\
             [[route]]\npaths = [\"/*\"]\nto = \"web\"\ntimeout = {{ idle = \"2s\" }}\n"
        ));
        sandbox.up(&site);
        let address = sandbox.status().https();
        let bystander = Client::https(address, HOST, &sandbox.ca());
        Self { sandbox, bystander, address }
    }

    fn raw(&self) -> Raw {
        Raw::open(self.address, HOST, &self.sandbox.ca()).unwrap()
    }

    fn honest(&self) -> Client {
        Client::over_http3(self.address, HOST, &self.sandbox.ca())
    }
}

/// A head with everything that a request needs, and more.
fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", method), (":scheme", "https"), (":authority", HOST), (":path", path)];
    frame(HEADERS, &fields(&[&usual[..], more].concat()))
}

#[test]
fn what_is_no_request_is_reset_and_the_others_of_its_connection_go_on() {
    let stage = Stage::new("");
    let raw = stage.raw();
    let without = |name: &str| {
        let usual =
            [(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", "/")];
        let kept: Vec<_> = usual.into_iter().filter(|(one, _)| *one != name).collect();
        frame(HEADERS, &fields(&kept))
    };
    let with = |name: &str, value: &str| head("POST", "/echo", &[(name, value)]);
    let sized =
        |length: &str, body: &[u8]| [with("content-length", length), frame(DATA, body)].concat();
    let cases: [(&str, Vec<u8>); 25] = [
        ("a name in capitals", with("X-Seen", "1")),
        ("a name with a space", with("x seen", "1")),
        ("a value with a line end", with("x-seen", "a\r\nb: c")),
        ("a value with a zero", with("x-seen", "a\0b")),
        ("an unknown pseudo-header", with(":seen", "1")),
        ("a protocol without CONNECT", with(":protocol", "websocket")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("no authority", without(":authority")),
        ("another host", with("host", "other.example")),
        ("connection", with("connection", "close")),
        ("keep-alive", with("keep-alive", "timeout=5")),
        ("proxy-connection", with("proxy-connection", "keep-alive")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("upgrade", with("upgrade", "websocket")),
        ("te", with("te", "gzip")),
        ("a long method", head(&"M".repeat(33), "/echo", &[])),
        ("a length of letters", sized("abc", b"abc")),
        ("a length with a sign", sized("+3", b"abc")),
        (
            "two lengths",
            [
                head("POST", "/echo", &[("content-length", "3"), ("content-length", "3")]),
                frame(DATA, b"abc"),
            ]
            .concat(),
        ),
        ("a body that is shorter", sized("4", b"abc")),
        ("a body that is longer", sized("2", b"abc")),
        ("a body that was not announced", sized("0", b"abc")),
        (
            "a GET that is shorter",
            [head("GET", "/echo", &[("content-length", "9")]), frame(DATA, b"abc")].concat(),
        ),
    ];
    for (name, bytes) in cases {
        let end = raw.ask(&bytes, true);
        // Where the body began well, the answer may have begun too: it is cut off then.
        let has_begun = name.contains("body") || name.contains("GET");
        let refused = match end {
            End::Reset(INTERNAL_ERROR) | End::Status(400) => has_begun,
            end => end == End::Reset(MESSAGE_ERROR),
        };
        assert!(refused, "{name}: {end:?}");
        assert_eq!(raw.ask(&head("GET", "/", &[]), true), End::Status(200), "after {name}");
    }
    // What is answered, most of it with a refusal.
    for (name, status, bytes) in [
        ("a path with two readings", 400, head("GET", "/a%2fb", &[])),
        ("an escape that is none", 400, head("GET", "/%zz", &[])),
        (
            "a host that is none of ours",
            421,
            frame(
                HEADERS,
                &fields(&[
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":authority", "other.example"),
                    (":path", "/"),
                ]),
            ),
        ),
        (
            "CONNECT",
            405,
            frame(HEADERS, &fields(&[(":method", "CONNECT"), (":authority", "other.example:443")])),
        ),
        (
            "a tunnel for UDP",
            405,
            head("CONNECT", "/.well-known/masque/udp/a/53/", &[(":protocol", "connect-udp")]),
        ),
        ("a large head", 431, head("GET", "/", &[("x", &"y".repeat(70 << 10))])),
        ("more fields than any version takes", 431, head("GET", "/", &vec![("x", "y"); 101])),
        (
            "as many crumbs of a cookie as there are",
            200,
            head("GET", "/", &vec![("cookie", "a=b"); 101]),
        ),
        ("a long target", 414, head("GET", &format!("/{}", "a".repeat(16 << 10)), &[])),
    ] {
        assert_eq!(raw.ask(&bytes, true), End::Status(status), "{name}");
    }
    // Never offered (RFC 9220 § 3), and so no request.
    let web_socket =
        head("CONNECT", "/ws", &[(":protocol", "websocket"), ("sec-websocket-version", "13")]);
    assert_eq!(raw.ask(&web_socket, true), End::Reset(MESSAGE_ERROR));
    let log = || stage.sandbox.run(["logs", "shop", "--access"]).stdout();
    eventually("refusals are logged", LIMIT, || log().contains("HTTP/3"));
}

#[test]
fn who_breaks_the_protocol_loses_the_connection() {
    let stage = Stage::new("");
    let good = head("GET", "/", &[]);
    let streams: [(&str, u64, Vec<u8>); 7] = [
        ("a body without a head", FRAME_UNEXPECTED, frame(DATA, b"x")),
        ("settings in a request", FRAME_UNEXPECTED, frame(SETTINGS, &[])),
        ("a push to a server", FRAME_UNEXPECTED, frame(5, &[0, 0, 0])),
        ("a frame of HTTP/2", FRAME_UNEXPECTED, frame(2, &[0; 5])),
        (
            "a field of a table that is not there",
            DECOMPRESSION_FAILED,
            frame(HEADERS, &[2, 0, 0x80]),
        ),
        (
            "a field beyond the table",
            DECOMPRESSION_FAILED,
            frame(HEADERS, &[0, 0, 0xff, 0xff, 0x7f]),
        ),
        (
            "settings after a head",
            FRAME_UNEXPECTED,
            [head("POST", "/say", &[]), frame(SETTINGS, &[])].concat(),
        ),
    ];
    for (name, code, bytes) in streams {
        let raw = stage.raw();
        assert_eq!(raw.ask(&good, true), End::Status(200));
        raw.ask(&bytes, true);
        assert_eq!(raw.end(), End::Closed(code), "{name}");
    }
    // A body of unknown length that is cut off is not whole; each way of reading it ends the same.
    for (name, begin) in [("POST", head("POST", "/echo", &[])), ("GET", head("GET", "/", &[]))] {
        for cut_off in [[frame_head(DATA, 10), b"abc".to_vec()].concat(), vec![0], vec![0, 0x40]] {
            let raw = stage.raw();
            assert_eq!(raw.ask(&good, true), End::Status(200));
            raw.ask(&[begin.clone(), cut_off].concat(), true);
            assert_eq!(raw.end(), End::Closed(FRAME_ERROR), "{name} that is cut off");
        }
    }
    let raw = stage.raw();
    raw.own_stream(&[&[0][..], &frame(SETTINGS, &[])].concat()).unwrap();
    assert_eq!(raw.end(), End::Closed(STREAM_CREATION), "two control streams");
    let own: [(&str, u64, Vec<u8>); 4] = [
        ("no settings first", MISSING_SETTINGS, [vec![0], frame(7, &[0])].concat()),
        (
            "settings twice",
            FRAME_UNEXPECTED,
            [vec![0], frame(SETTINGS, &[]), frame(SETTINGS, &[])].concat(),
        ),
        ("a setting of HTTP/2", SETTINGS_ERROR, [vec![0], frame(SETTINGS, &[2, 0])].concat()),
        (
            "a head among settings",
            FRAME_UNEXPECTED,
            [vec![0], frame(SETTINGS, &[]), good.clone()].concat(),
        ),
    ];
    for (name, code, bytes) in own {
        let raw = Raw::silent(stage.address, HOST, &stage.sandbox.ca()).unwrap();
        raw.own_stream(&bytes).unwrap();
        assert_eq!(raw.end(), End::Closed(code), "{name}");
    }
    assert_eq!(stage.bystander.get("/").status, 200);
    assert_eq!(stage.honest().get("/").status, 200);
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let log = std::fs::read_to_string(self.sandbox.state().join("logs/control.log"));
            let log = log.unwrap();
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

#[test]
fn rubbish_in_a_head_ends_nothing_but_its_connection() {
    let stage = Stage::new("");
    // The same each time (Marsaglia's xorshift).
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut raw = stage.raw();
    for round in 0..150 {
        let length = random() % 60;
        let mut block: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        // Behind the prefix that says that no table is needed, more of it is looked at.
        if round % 3 != 0 {
            block.splice(..0, [0, 0]);
        }
        if round % 3 == 2 {
            // A literal with a packed value: the length says what it will.
            block.splice(2..2, [0x50 | (random() as u8 & 0xf), 0x80 | (random() as u8 & 0x3f)]);
        }
        match raw.ask(&frame(HEADERS, &block), true) {
            End::Closed(_) | End::Lost => raw = stage.raw(),
            End::Reset(_) | End::Status(_) => {}
        }
    }
    assert_eq!(stage.bystander.get("/").status, 200);
    assert_eq!(stage.honest().get("/").status, 200);
}

#[test]
fn what_is_sent_without_end_is_not_kept() {
    let stage = Stage::new("");
    assert_eq!(stage.honest().get("/").status, 200);
    let before = stage.sandbox.edge_memory();
    let much = vec![b'x'; 8 << 20];
    let endless = |kind: u64| [frame_head(kind, 1 << 30), much.clone()].concat();
    for (name, bytes) in [
        ("a head", endless(HEADERS)),
        ("a frame that nobody knows", endless(0x21)),
        ("trailers", [head("POST", "/echo", &[]), frame(DATA, b"x"), endless(HEADERS)].concat()),
    ] {
        let end = stage.raw().ask(&bytes, false);
        assert!(matches!(end, End::Reset(_) | End::Status(400)), "{name}: {end:?}");
        assert_eq!(stage.bystander.get("/").status, 200);
    }
    // On the connection's own stream.
    let raw = Raw::silent(stage.address, HOST, &stage.sandbox.ca()).unwrap();
    raw.own_stream(&[&[0][..], &endless(0x21)].concat()).ok();
    assert!(matches!(raw.end(), End::Closed(CLOSED_CRITICAL | EXCESSIVE_LOAD)), "control");
    let grown = stage.sandbox.edge_memory().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB");
}

#[test]
fn who_takes_requests_back_faster_than_they_are_answered_is_sent_away() {
    let stage = Stage::new("");
    assert_eq!(stage.honest().get("/").status, 200);
    let before = stage.sandbox.edge_memory();
    for (name, bytes) in [
        ("whole requests", head("GET", "/sleep?ms=5000", &[])),
        ("begun requests", head("GET", "/", &[])[..9].to_vec()),
    ] {
        let raw = stage.raw();
        let ended = raw.take_back(&bytes, 20_000);
        let end = ended.err().unwrap_or_else(|| raw.end());
        assert_eq!(end, End::Closed(EXCESSIVE_LOAD), "{name}");
        assert_eq!(stage.bystander.get("/").status, 200);
    }
    let status = stage.sandbox.run(["status", "--json"]).json();
    assert_eq!(status["edge"]["flooded"], 2);
    // Who is answered in between may change its mind now and then.
    let raw = stage.raw();
    for _ in 0..300 {
        raw.take_back(&head("GET", "/sleep?ms=5000", &[]), 1).unwrap();
        assert_eq!(raw.ask(&head("GET", "/", &[]), true), End::Status(200));
    }
    let grown = stage.sandbox.edge_memory().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB");
}

#[test]
fn who_sends_nothing_is_not_waited_for() {
    let stage = Stage::new("");
    // The route waits two seconds for a body, a stream fifteen for its head.
    let body = [head("POST", "/echo", &[("content-length", "9")]), frame(DATA, b"abc")].concat();
    let begun = head("GET", "/", &[])[..9].to_vec();
    let open = head("GET", "/", &[]);
    let slow = |bytes: Vec<u8>| {
        let raw = stage.raw();
        std::thread::spawn(move || raw.ask(&bytes, false))
    };
    let (body, begun, open) = (slow(body), slow(begun), slow(open));
    assert_eq!(stage.bystander.get("/").status, 200);
    let of_body = body.join().unwrap();
    assert!(matches!(of_body, End::Status(408) | End::Reset(_)), "{of_body:?}");
    assert!(matches!(begun.join().unwrap(), End::Reset(_)));
    assert!(matches!(open.join().unwrap(), End::Reset(_)));
}

#[test]
fn an_address_holds_as_many_connections_as_it_may() {
    let stage = Stage::new("connections_per_address = 3\n");
    let held = [stage.raw(), stage.raw(), stage.raw()];
    for raw in &held {
        assert_eq!(raw.ask(&head("GET", "/", &[]), true), End::Status(200));
    }
    let more = Raw::silent(stage.address, HOST, &stage.sandbox.ca()).unwrap();
    assert_eq!(more.end(), End::Closed(EXCESSIVE_LOAD));
    // Of TCP and UDP together.
    assert!(stage.bystander.try_get("/").is_err());
    drop(held);
    eventually("a seat is free", LIMIT, || {
        stage.honest().try_get("/").is_ok_and(|answer| answer.status == 200)
    });
}

/// Stands between a client and the edge: sees what kinds of packets come back, and may keep them.
struct Between {
    address: SocketAddr,
    retries: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    back: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Between {
    fn new(edge: SocketAddr, passes_back: bool) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let client: Mutex<Option<SocketAddr>> = Mutex::default();
        let between = Self {
            address,
            retries: Arc::default(),
            sent: Arc::default(),
            back: Arc::default(),
            over: Arc::default(),
        };
        let (retries, sent, back, over) = (
            Arc::clone(&between.retries),
            Arc::clone(&between.sent),
            Arc::clone(&between.back),
            Arc::clone(&between.over),
        );
        std::thread::spawn(move || {
            let mut room = [0; 2048];
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut room) else { continue };
                if from != edge {
                    *client.lock().unwrap() = Some(from);
                    sent.fetch_add(length as u64, Ordering::Relaxed);
                    socket.send_to(&room[..length], edge).unwrap();
                    continue;
                }
                back.fetch_add(length as u64, Ordering::Relaxed);
                // A long header of type 3 (RFC 9000 § 17.2.5).
                retries.fetch_add(u64::from(room[0] & 0xf0 == 0xf0), Ordering::Relaxed);
                let to = *client.lock().unwrap();
                if let Some(to) = to.filter(|_| passes_back) {
                    socket.send_to(&room[..length], to).unwrap();
                }
            }
        });
        between
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_address_that_may_be_somebody_elses_gets_little_and_has_to_prove_itself_in_a_crowd() {
    let stage = Stage::new("");
    let ca = stage.sandbox.ca();
    let quiet = Between::new(stage.address, true);
    assert_eq!(Client::over_http3(quiet.address, HOST, &ca).get("/").status, 200);
    assert_eq!(quiet.retries.load(Ordering::Relaxed), 0);
    // Their answers go to somebody who did not ask.
    let spoofed = Between::new(stage.address, false);
    let crowd = http3::begin(spoofed.address, HOST, &ca, 200).unwrap();
    eventually("the edge asks for proof", LIMIT, || spoofed.retries.load(Ordering::Relaxed) > 0);
    let (sent, back) = (spoofed.sent.load(Ordering::Relaxed), spoofed.back.load(Ordering::Relaxed));
    assert!(back <= 3 * sent, "{back} of {sent}");
    // An honest client proves itself, and is served.
    let honest = Between::new(stage.address, true);
    assert_eq!(Client::over_http3(honest.address, HOST, &ca).get("/").status, 200);
    assert!(honest.retries.load(Ordering::Relaxed) > 0);
    drop(crowd);
    drop(spoofed);
    assert_eq!(stage.bystander.get("/").status, 200);
}
