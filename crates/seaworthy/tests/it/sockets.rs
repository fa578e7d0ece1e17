//! WebSockets and event streams when their instance goes: told, one after another, and never cut; and their bytes while
//! it is there: not changed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox, shop};

/// Another release for each level.
fn level(level: &str) -> Site {
    let web = FakeApp::new().instances(2).key(&format!("env = {{ LEVEL = \"{level}\" }}"));
    Site::new("shop").app("web", web).more("[deploy]\nwatch = false\nsockets = \"2s\"")
}

/// A reader of events, as a shell has it: ends well only when the stream does.
fn reader(sandbox: &Sandbox, number: usize, version: &str) -> Child {
    let address = sandbox.status().https();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--no-buffer", version, "--cacert"]).arg(sandbox.ca());
    curl.args(["--resolve", &format!("shop.localhost:{}:{}", address.port(), address.ip())]);
    curl.arg(format!("https://shop.localhost:{}/events?ms=20", address.port()));
    curl.arg("--output").arg(sandbox.folder().join(format!("out/events-{number}")));
    curl.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn of_a_release_that_was_replaced_are_told_to_come_again() {
    let sandbox = sandbox();
    sandbox.up(&level("one"));
    let load = Load::new(sandbox.target(&shop())).mixed(30.0).web_sockets(12);
    let running = load.start(Duration::from_secs(120));
    let mut readers: Vec<Child> = ["--http1.1", "--http2", "--http1.1", "--http2"]
        .iter()
        .enumerate()
        .map(|(number, version)| reader(&sandbox, number, version))
        .collect();
    let heard = |number: usize| {
        let path = sandbox.folder().join(format!("out/events-{number}"));
        std::fs::read_to_string(path).unwrap_or_default()
    };
    eventually("all flows", LIMIT, || {
        let now = running.so_far();
        now.web_sockets.opened >= 12
            && now.web_sockets.echoes > 12
            && (0..4).all(|number| heard(number).contains("id: 3"))
    });
    let project = sandbox.write(&level("two"));
    sandbox.run(["deploy".as_ref(), project.as_os_str()]).success();
    // All of them were on instances of the old release.
    eventually("all WebSockets were told, and opened again", LIMIT, || {
        let now = running.so_far().web_sockets;
        now.closed.get(&1001).is_some_and(|told| *told >= 12) && now.opened >= 24
    });
    for (number, reader) in readers.iter_mut().enumerate() {
        let ended = reader.wait().unwrap();
        let text = heard(number);
        let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        assert!(ended.success() && last.starts_with("retry: "), "{ended}: {last:?}");
    }
    let echoes = running.so_far().web_sockets.echoes;
    eventually("the new ones echo", LIMIT, || running.so_far().web_sockets.echoes > echoes + 24);
    assert_eq!(sandbox.status().document()["edge"]["told"], 16);
    eventually("the old instances ended", LIMIT, || {
        sandbox.status().instances("shop/web").len() == 2
    });
    let report = running.stop();
    assert_eq!((report.failures(), report.web_sockets_dropped()), (0, 0), "{report}");
}

#[test]
fn of_an_edge_that_was_replaced_go_on_until_its_time_is_over() {
    let sandbox = sandbox();
    sandbox.up(&level("one"));
    let before = sandbox.status();
    let running = Load::new(sandbox.target(&shop())).web_sockets(8).start(Duration::from_secs(120));
    eventually("they echo", LIMIT, || running.so_far().web_sockets.echoes > 16);
    sandbox.run(["restart", "edge"]).success();
    eventually("a new edge", LIMIT, || sandbox.status().edge_pid() != before.edge_pid());
    let echoes = running.so_far().web_sockets.echoes;
    eventually("they go on", LIMIT, || running.so_far().web_sockets.echoes > echoes + 24);
    assert_eq!(running.so_far().web_sockets.opened, 8);
    // A release that is replaced now tells those that the older edge has, too.
    let project = sandbox.write(&level("two"));
    sandbox.run(["deploy".as_ref(), project.as_os_str()]).success();
    eventually("all were told, and opened again", LIMIT, || {
        let now = running.so_far().web_sockets;
        now.closed.get(&1001).is_some_and(|told| *told >= 8) && now.opened >= 16
    });
    let report = running.stop();
    assert_eq!(report.web_sockets_dropped(), 0, "{report}");
}

/// A frame (RFC 6455 § 5.2): its first byte, whether it is masked as a client's has to be, and what it holds.
fn frame(first: u8, is_masked: bool, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 1, 9, 4];
    let flag = if is_masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(flag | short as u8),
        long => {
            bytes.push(flag | 0x7e);
            bytes.extend((long as u16).to_be_bytes());
        }
    }
    if is_masked {
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// What a server says behind its 101 to these bytes, so many at a time, until it ends the connection. `half`: the client
/// ends its own side behind them.
fn answer(to: SocketAddr, bytes: &[u8], piece: usize, half: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let asked = "GET /ws HTTP/1.1\r\nHost: shop.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(asked.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    for part in bytes.chunks(piece) {
        // It may have had enough already.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    if half {
        stream.shutdown(Shutdown::Write).ok();
    }
    let mut said = Vec::new();
    if let Err(error) = stream.read_to_end(&mut said) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{}", said.escape_ascii());
    }
    said
}

#[test]
fn frames_and_close_codes_are_the_same_with_and_without_us_good_or_bad() {
    const TEXT: u8 = 0x81;
    const CLOSE: u8 = 0x88;
    let sandbox = sandbox();
    let manifest = "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n[tls]\nmode = \"off\"\n\
        [service.web]\nrun = \"{fakeapp}\"\nhealth = \"/health\"\n";
    sandbox.up(&Site::new("shop").manifest(manifest));
    let edge = sandbox.status().http();
    let instance = sandbox.status().instances("shop/web").remove(0);
    let address = instance["listening"].as_object().unwrap().values().next().unwrap();
    let instance: SocketAddr = address.as_str().unwrap().parse().unwrap();
    let close =
        |code: u16, why: &str| frame(CLOSE, true, &[&code.to_be_bytes(), why.as_bytes()].concat());
    let long = vec![b'x'; 20_000];
    let cases: [(&str, Vec<u8>, bool); 14] = [
        ("a text", [frame(TEXT, true, b"a"), close(1000, "done")].concat(), false),
        (
            "in pieces",
            [frame(1, true, b"a"), frame(0x80, true, b"b"), close(4321, "")].concat(),
            false,
        ),
        (
            "a ping between",
            [
                frame(1, true, b"a"),
                frame(0x89, true, b"p"),
                frame(0x80, true, b"b"),
                close(1001, "x"),
            ]
            .concat(),
            false,
        ),
        ("a long one", [frame(0x82, true, &long), close(3000, "long")].concat(), false),
        ("a close without a code", frame(CLOSE, true, b""), false),
        ("a close with a code that is none", close(1005, ""), false),
        ("a close with half a code", frame(CLOSE, true, &[3]), false),
        ("not masked", frame(TEXT, false, b"a"), false),
        (
            "not masked, behind another",
            [frame(TEXT, true, b"a"), frame(TEXT, false, b"b")].concat(),
            false,
        ),
        ("a close that is not masked", frame(CLOSE, false, &[3, 0xe8]), false),
        ("a bit that nobody agreed on", frame(TEXT | 0x40, true, b"a"), false),
        ("a kind that nobody knows", frame(0x83, true, b"a"), false),
        ("half a frame, and the end", frame(TEXT, true, b"abc")[..7].to_vec(), true),
        ("a text, and the end", frame(TEXT, true, b"abc"), true),
    ];
    for (name, bytes, half) in cases {
        let straight = answer(instance, &bytes, bytes.len(), half);
        for piece in [bytes.len(), 1.max(bytes.len() / 50)] {
            let through = answer(edge, &bytes, piece, half);
            assert_eq!(
                through.escape_ascii().to_string(),
                straight.escape_ascii().to_string(),
                "{name}, {piece} bytes at a time"
            );
        }
        let closes = straight.windows(4).any(|part| part[0] == CLOSE);
        assert!(closes || !name.starts_with("a text") || half, "the peer answers a close");
    }
    eventually("nothing is held", LIMIT, || sandbox.status().upgraded() == 0);
}
