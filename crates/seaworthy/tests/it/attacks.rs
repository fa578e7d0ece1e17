//! What the edge must withstand, against the real binary: raw bytes over HTTP/1.1, raw frames over HTTP/2.
//! Beside each attack somebody else is served, and the edge does not grow.

use std::io::{Read, Write};

use seaworthy_testkit::{Client, FakeApp, Sandbox, Site};

use crate::{sandbox, shop};

/// Behind each attack: what a smuggler hopes to get through.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";

/// Every class of requests that two readers could read in two ways; `HOST` stands for the site's.
const AMBIGUOUS: &[(&str, &str)] = &[
    (
        "CL.TE",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    ),
    (
        "TE.CL",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n",
    ),
    ("0.CL", "GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length : 44\r\n\r\n"),
    ("TE with 1.0", "POST / HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
    ),
    ("folded", "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\r\n b\r\n\r\n"),
    ("bare LF", "GET / HTTP/1.1\nHost: HOST\n\n"),
    ("bare CR", "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\rContent-Length: 44\r\n\r\n"),
    (
        "chunk extension with LF",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n2;a\nok\r\n0\r\n\r\n",
    ),
    ("NUL", "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\0b\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\n\r\n"),
    ("another host in the target", "GET http://evil.example/ HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    ("encoded slash", "GET /a%2fb HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    ("dot segments", "GET /a/%2e%2e/b HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    ("two slashes", "GET //evil.example/ HTTP/1.1\r\nHost: HOST\r\n\r\n"),
];

#[test]
fn what_could_be_read_in_two_ways_is_answered_400_once_and_closed() {
    let (sandbox, site) = (sandbox(), shop());
    sandbox.up(&site);
    let host = site.host();
    for (name, bytes) in AMBIGUOUS {
        let mut stream = sandbox.https(&site).connect().unwrap();
        stream.write_all(format!("{bytes}{SMUGGLED}").replace("HOST", &host).as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The connection may end without TLS's goodbye: what came before it counts.
        stream.read_to_end(&mut answer).ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
    }
    assert_eq!(sandbox.https(&site).get("/").status, 200);
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Pseudo-headers for a path that is known to HPACK's static table as `/`.
fn head(method: u8, host: &str) -> Vec<u8> {
    // :method, :scheme https, :path /, :authority as a literal that is not remembered.
    let mut block = vec![method, 0x87, 0x84, 0x01, u8::try_from(host.len()).unwrap()];
    block.extend_from_slice(host.as_bytes());
    block
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// A site, its memory, and somebody who only wants to be served.
struct Stage {
    sandbox: Sandbox,
    host: String,
    bystander: Client,
}

impl Stage {
    fn new() -> Self {
        let sandbox = sandbox();
        let site = Site::new("shop").app("web", FakeApp::new());
        sandbox.up(&site);
        let (bystander, host) = (sandbox.https(&site), site.host());
        Self { sandbox, host, bystander }
    }

    /// Sends a preface, `settings` and then pieces until the edge has enough or there are no more. Whether
    /// it closed the connection; the others are served meanwhile, and the edge does not grow.
    fn attack(
        &self,
        settings: &[u8],
        pieces: impl Iterator<Item = Vec<u8>>,
        is_read: bool,
    ) -> bool {
        let address = self.sandbox.status().https();
        let client = Client::over_http2(address, &self.host, &self.sandbox.ca());
        let before = self.sandbox.edge_memory();
        let mut stream = client.connect().unwrap();
        stream.write_all(PREFACE).unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, settings)).unwrap();
        let mut closed = false;
        for piece in pieces {
            if stream.write_all(&piece).is_err() {
                closed = true;
                break;
            }
        }
        assert_eq!(self.bystander.get("/").status, 200);
        if is_read && !closed {
            // A goodbye, a reset, or nothing at all within the time.
            let end = stream.read_to_end(&mut Vec::new());
            closed = end
                .map_err(|error| error.kind() != std::io::ErrorKind::WouldBlock)
                .map_or_else(|ended| ended, |_| true);
        }
        assert_eq!(self.bystander.get("/").status, 200);
        let grown = self.sandbox.edge_memory().saturating_sub(before);
        assert!(grown < 48 << 10, "{grown} KiB");
        closed
    }
}

/// So many streams, each made by `make` of its id.
fn streams(count: u32, make: impl Fn(u32) -> Vec<u8>) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(move |nth| make(2 * nth + 1))
}

#[test]
fn floods_of_frames_end_their_connection_and_harm_nobody_else() {
    let stage = Stage::new();
    let host = stage.host.clone();
    let open = |id: u32, flags: u8, method: u8| {
        frame(HEADERS, END_HEADERS | flags, id, &head(method, &host))
    };
    let rapid = streams(20_000, |id| {
        [open(id, END_STREAM, GET), frame(RESET, 0, id, &8_u32.to_be_bytes())].concat()
    });
    assert!(stage.attack(&[], rapid, true), "rapid reset");
    // The edge is made to reset: a window of nothing, on a stream that is open.
    let made = streams(20_000, |id| {
        [open(id, 0, POST), frame(WINDOW, 0, id, &0_u32.to_be_bytes())].concat()
    });
    assert!(stage.attack(&[], made, true), "made you reset");
    // A head without end.
    let block =
        [&[0x00, 0x01, b'a', 0x7f, 0xe1, 0x7d][..], &vec![b'x'; 16 << 10][..16_200]].concat();
    let first = frame(HEADERS, 0, 1, &head(GET, &host));
    let endless = std::iter::once(first)
        .chain(std::iter::repeat_with(|| frame(CONTINUATION, 0, 1, &block)).take(20_000));
    assert!(stage.attack(&[], endless, true), "CONTINUATION");
    // Pieces of a body that hold nothing.
    let empty = std::iter::once(open(1, 0, POST))
        .chain((0..2_000).map(|_| frame(DATA, 0, 1, b"").repeat(100)));
    assert!(stage.attack(&[], empty, true), "empty DATA");
    // A head that unfolds: one long field, remembered, then named again and again.
    let mut bomb = head(GET, &host);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend(vec![b'y'; 4_000]);
    bomb.extend(vec![0xbe; 10_000]);
    let bombs = streams(200, |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &bomb));
    stage.attack(&[], bombs, false);
    // Questions without end whose answers nobody reads.
    let pings = (0..300).map(|_| frame(PING, 0, 0, &[0; 8]).repeat(100));
    stage.attack(&[], pings, false);
    let settings = (0..300).map(|_| frame(SETTINGS, 0, 0, &[]).repeat(100));
    stage.attack(&[], settings, false);
    // A window of nothing for every stream: what is answered waits, and no more than is bounded.
    let nothing = [0, 4, 0, 0, 0, 0];
    stage.attack(&nothing, streams(1_000, |id| open(id, END_STREAM, GET)), false);
}

#[test]
fn what_is_no_http_2_ends_the_connection() {
    let stage = Stage::new();
    let host = stage.host.clone();
    let cases: [(&str, Vec<u8>); 6] = [
        ("a frame that is too large", frame(DATA, 0, 1, &vec![0; 17 << 10])),
        ("an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &head(GET, &host))),
        ("a body of no stream", frame(DATA, 0, 7, b"x")),
        (
            "a head within another",
            [frame(HEADERS, 0, 1, &head(GET, &host)), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        (
            "a table that is not there",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ),
        ("a window of more than there is", frame(WINDOW, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
    ];
    for (name, bytes) in cases {
        assert!(stage.attack(&[], std::iter::once(bytes), true), "{name}");
    }
}

/// A field that no table is asked for, nor told to remember (RFC 7541 § 6.2.3).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 0x7f);
        [vec![length], text.as_bytes().to_vec()].concat()
    };
    [vec![0x10], text(name), text(value)].concat()
}

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Reset,
    /// The first byte of its head: a status of HPACK's static table.
    Answered(u8),
}

/// What became of each of two streams, the second of which is a good one.
fn fates(stream: &mut impl Read) -> [Option<Fate>; 2] {
    let mut fates = [None, None];
    let mut head = [0; 9];
    while fates[1].is_none() || fates[0].is_none() {
        if stream.read_exact(&mut head).is_err() {
            break;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).unwrap();
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Some(fate) = [1, 3].iter().position(|one| *one == id).and_then(|at| fates.get_mut(at))
        else {
            continue;
        };
        match head[3] {
            RESET => *fate = Some(Fate::Reset),
            HEADERS => {
                // Behind what the table's size may be told by.
                let first = payload.into_iter().find(|byte| byte & 0xe0 != 0x20);
                fate.get_or_insert(Fate::Answered(first.unwrap()));
            }
            _ => {}
        }
    }
    fates
}

#[test]
fn what_is_no_request_over_http_2_is_reset_or_400_and_its_neighbour_is_answered() {
    const OK: Fate = Fate::Answered(0x88);
    const BAD: Fate = Fate::Answered(0x8c);
    let stage = Stage::new();
    let host = stage.host.clone();
    let with = |method: u8, more: &[u8]| [&head(method, &host), more].concat();
    let get = |name: &str, value: &str| (with(GET, &field(name, value)), Vec::new());
    let sized = |lengths: &[&str], body: &[u8]| {
        let fields: Vec<u8> = lengths.iter().flat_map(|one| field("content-length", one)).collect();
        (with(POST, &fields), frame(DATA, END_STREAM, 1, body))
    };
    let cases = [
        ("transfer-encoding", get("transfer-encoding", "chunked")),
        ("connection", get("connection", "close")),
        ("keep-alive", get("keep-alive", "timeout=5")),
        ("proxy-connection", get("proxy-connection", "keep-alive")),
        ("upgrade", get("upgrade", "websocket")),
        ("te", get("te", "gzip")),
        ("a name in capitals", get("X-Seen", "1")),
        ("a name with a space", get("x seen", "1")),
        ("a name with a colon", get("x:seen", "1")),
        ("no name", get("", "1")),
        ("a value with a line end", get("x-seen", "a\r\nb: c")),
        ("a value with a zero", get("x-seen", "a\0b")),
        ("an unknown pseudo-header", get(":seen", "1")),
        (
            "a pseudo-header behind a field",
            (with(GET, &[field("x", "y"), field(":path", "/")].concat()), Vec::new()),
        ),
        ("two paths", get(":path", "/other")),
        ("another host", get("host", "other.example")),
        (
            "no path",
            ([&[GET, 0x87, 0x01][..], &field(":authority", &host)[12..]].concat(), Vec::new()),
        ),
        ("a body that is longer", sized(&["2"], b"abc")),
        ("a body that is shorter", sized(&["9"], b"abc")),
        ("two lengths", sized(&["3", "4"], b"abc")),
        ("a length with a sign", sized(&["+3"], b"abc")),
        ("a length of nothing", sized(&[""], b"abc")),
    ];
    for (name, (block, body)) in cases {
        let address = stage.sandbox.status().https();
        let client = Client::over_http2(address, &host, &stage.sandbox.ca());
        let mut stream = client.connect().unwrap();
        let flags = END_HEADERS | if body.is_empty() { END_STREAM } else { 0 };
        let bytes = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, flags, 1, &block),
            body,
            frame(HEADERS, END_HEADERS | END_STREAM, 3, &head(GET, &host)),
        ];
        stream.write_all(&bytes.concat()).unwrap();
        let [first, second] = fates(&mut stream);
        assert!(
            first.as_ref().is_some_and(|fate| [Fate::Reset, BAD].contains(fate)),
            "{name}: {first:?}"
        );
        assert_eq!(second, Some(OK), "beside {name}");
    }
    // A tunnel is none of ours; nor is one for a protocol (RFC 8441), which was never offered.
    let tunnel = [field(":method", "CONNECT"), field(":authority", "other.example:443")].concat();
    let socket = [
        field(":method", "CONNECT"),
        field(":protocol", "websocket"),
        field(":scheme", "https"),
        field(":path", "/ws"),
        field(":authority", &host),
    ]
    .concat();
    for block in [tunnel, socket] {
        let address = stage.sandbox.status().https();
        let client = Client::over_http2(address, &host, &stage.sandbox.ca());
        let mut stream = client.connect().unwrap();
        let asked = frame(HEADERS, END_HEADERS, 1, &block);
        let next = frame(HEADERS, END_HEADERS | END_STREAM, 3, &head(GET, &host));
        stream
            .write_all(&[PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[]), asked, next].concat())
            .unwrap();
        let [first, second] = fates(&mut stream);
        assert!(first.is_some_and(|fate| fate != OK) && second == Some(OK));
    }
}

#[test]
fn giant_heads_and_a_million_cookies_are_refused_before_they_are_kept() {
    let stage = Stage::new();
    let before = stage.sandbox.edge_memory();
    let cookies = "Cookie: a=b\r\n".repeat(1_000_000);
    let giants = [
        ("cookies", format!("GET / HTTP/1.1\r\nHost: {}\r\n{cookies}\r\n", stage.host)),
        (
            "a field",
            format!("GET / HTTP/1.1\r\nHost: {}\r\nX: {}\r\n\r\n", stage.host, "x".repeat(8 << 20)),
        ),
        (
            "a target",
            format!("GET /{} HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(8 << 20), stage.host),
        ),
    ];
    for (name, bytes) in giants {
        let site = Site::new("shop");
        let mut stream = stage.sandbox.https(&site).connect().unwrap();
        // It is refused long before all of it is sent.
        let sent = stream.write_all(bytes.as_bytes());
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let refused = answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 414 ");
        assert!(refused || sent.is_err(), "{name}: {answer}");
        assert_eq!(stage.bystander.get("/").status, 200);
    }
    let crumbs: Vec<(&str, &str)> = (0..10_000).map(|_| ("cookie", "a=b")).collect();
    let address = stage.sandbox.status().https();
    let client = Client::over_http2(address, &stage.host, &stage.sandbox.ca());
    let answer = client.send("GET", "/", &crumbs, b"");
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 431));
    assert_eq!(stage.bystander.get("/").status, 200);
    let grown = stage.sandbox.edge_memory().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB");
}

#[test]
fn a_name_in_the_handshake_and_another_in_the_request_is_no_way_into_another_site() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let other = Site::new("other").app("web", FakeApp::new());
    sandbox.up(&other);
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    let headers = [("host", other.host())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = sandbox.https(&shop()).send("GET", "/", &headers, b"").unwrap();
    assert_eq!(answer.status, 421);
    // Over HTTP/2 the authority is asked for beside it: two names are none.
    let client = Client::over_http2(address, &shop().host(), &ca);
    assert_eq!(client.send("GET", "/", &headers, b"").unwrap().status, 400);
}

/// The status of each answer in a connection's bytes.
fn statuses(answer: &str) -> Vec<&str> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)).collect()
}

/// All that a connection says to these bytes, up to its end; `HOST` stands for the site's.
fn exchange(sandbox: &Sandbox, site: &Site, bytes: &str) -> String {
    let mut stream = sandbox.https(site).connect().unwrap();
    stream.write_all(bytes.replace("HOST", &site.host()).as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn what_follows_a_switch_that_was_declined_or_an_answer_that_is_due_is_a_request_like_others() {
    let sandbox = sandbox();
    let routes = "[[route]]\npaths = [\"/instance\"]\nblock = true\n\
        [[route]]\npaths = [\"/say\"]\nlimit = \"1/h burst 4 by ip\"\n";
    let site = Site::new("shop").app("web", FakeApp::new()).more(routes);
    sandbox.up(&site);
    let hidden = "GET /instance HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n";
    let ask =
        |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: HOST\r\n{fields}\r\n");
    let http2 = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    for (name, first, status) in [
        // What no WebSocket server takes.
        ("a WebSocket", ask("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n"), "426"),
        ("anything", ask("/", "Connection: Upgrade\r\nUpgrade: smuggled\r\n"), "200"),
        ("HTTP/2", ask("/", http2), "200"),
        ("a tunnel", "CONNECT HOST:443 HTTP/1.1\r\nHost: HOST:443\r\n\r\n".to_owned(), "405"),
    ] {
        let answer = exchange(&sandbox, &site, &(first + hidden));
        let found = statuses(&answer);
        assert_eq!(found.first(), Some(&status), "{name}: {answer}");
        assert!(
            !answer.contains("\"pid\"") && found[1..].iter().all(|one| *one == "404"),
            "{name}: {answer}"
        );
        assert_eq!(sandbox.https(&site).get("/").status, 200, "{name}");
    }
    // Eight at once on one connection are eight.
    let many = ask("/say?text=x", "").repeat(7) + &ask("/say?text=x", "Connection: close\r\n");
    let answer = exchange(&sandbox, &site, &many);
    assert_eq!(statuses(&answer), ["200", "200", "200", "200", "200", "429", "429", "429"]);
}
