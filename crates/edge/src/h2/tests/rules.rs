//! What RFC 9113 forbids ends what it must, with its code.

use std::time::Duration;

use super::*;
use crate::h1::HEAD_TIME;

const CONNECTION: u8 = GOAWAY;
const STREAM: u8 = RESET;

async fn fault(bytes: &[u8]) -> (u8, u32) {
    let edge = fixed(3);
    let mut client = raw(&edge.local);
    client.begin(b"").await;
    client.send(bytes).await;
    client.fault().await
}

fn get(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &with(GET, fields))
}

fn post(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &with(POST, fields))
}

#[test]
fn frames_that_are_wrong_have_the_code_of_their_fault() {
    let open = post(&[]);
    let (protocol, flow, closed, size, compression) =
        (Code::Protocol, Code::FlowControl, Code::StreamClosed, Code::FrameSize, Code::Compression);
    let window = number(0x7fff_ffff);
    let cases: &[(&str, u8, Code, Vec<u8>)] = &[
        ("DATA of no stream", CONNECTION, protocol, frame(DATA, 0, 0, b"x")),
        ("DATA before HEADERS", CONNECTION, protocol, frame(DATA, 0, 1, b"x")),
        ("padding that is too long", CONNECTION, protocol, frame(HEADERS, 0xd, 1, b"\x09\x82")),
        ("a long frame", CONNECTION, size, frame(DATA, 0, 1, &vec![0; 16385])),
        ("a short PRIORITY", STREAM, size, [&open[..], &frame(PRIORITY, 0, 1, b"1234")].concat()),
        ("a short RST_STREAM", CONNECTION, size, [&open[..], &frame(RESET, 0, 1, b"123")].concat()),
        ("RST_STREAM of none", CONNECTION, protocol, frame(RESET, 0, 1, &number(8))),
        ("SETTINGS of a stream", CONNECTION, protocol, frame(SETTINGS, 0, 1, b"")),
        ("SETTINGS of a wrong size", CONNECTION, size, frame(SETTINGS, 0, 0, b"123")),
        ("an ACK that says something", CONNECTION, size, frame(SETTINGS, ACK, 0, &setting(3, 1))),
        ("push, twice", CONNECTION, protocol, frame(SETTINGS, 0, 0, &setting(2, 2))),
        ("a giant window", CONNECTION, flow, frame(SETTINGS, 0, 0, &setting(4, 1 << 31))),
        ("small frames", CONNECTION, protocol, frame(SETTINGS, 0, 0, &setting(5, 16383))),
        ("a PUSH_PROMISE", CONNECTION, protocol, frame(5, 4, 1, b"\0\0\0\x02")),
        ("a short PING", CONNECTION, size, frame(PING, 0, 0, b"123456")),
        ("PING of a stream", CONNECTION, protocol, frame(PING, 0, 1, b"12345678")),
        ("GOAWAY of a stream", CONNECTION, protocol, frame(GOAWAY, 0, 1, &[0; 8])),
        ("a short WINDOW_UPDATE", CONNECTION, size, frame(WINDOW, 0, 0, b"123")),
        ("a window that grows by nothing", CONNECTION, protocol, frame(WINDOW, 0, 0, &number(0))),
        ("the window of no stream", CONNECTION, protocol, frame(WINDOW, 0, 1, &number(1))),
        ("a window beyond its end", CONNECTION, flow, frame(WINDOW, 0, 0, &window)),
        ("that of a stream", STREAM, flow, [&open[..], &frame(WINDOW, 0, 1, &window)].concat()),
        ("a lone CONTINUATION", CONNECTION, protocol, frame(CONTINUATION, 4, 1, GET)),
        (
            "a block with something in it",
            CONNECTION,
            protocol,
            [frame(HEADERS, 1, 1, GET), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        ("a block that cannot be decoded", CONNECTION, compression, frame(HEADERS, 5, 1, b"\x40")),
        ("an even stream", CONNECTION, protocol, frame(HEADERS, WHOLE, 2, GET)),
        (
            "a stream out of order",
            CONNECTION,
            protocol,
            [frame(HEADERS, WHOLE, 5, GET), frame(HEADERS, WHOLE, 3, GET)].concat(),
        ),
        (
            "DATA behind the end",
            STREAM,
            closed,
            [frame(HEADERS, WHOLE, 1, POST), frame(DATA, 1, 1, b"x")].concat(),
        ),
        (
            "DATA behind RST_STREAM",
            STREAM,
            closed,
            [&open[..], &frame(RESET, 0, 1, &number(8)), &frame(DATA, 1, 1, b"x")].concat(),
        ),
    ];
    for (name, kind, code, bytes) in cases {
        let seen = simulate(fault(bytes));
        assert_eq!(seen, (*kind, *code as u32), "{name}");
    }
}

#[test]
fn a_head_for_a_stream_that_was_answered_ends_the_connection() {
    simulate(async {
        let edge = fixed(3);
        let mut client = raw(&edge.local);
        client.begin(b"").await;
        client.send(&get(&[])).await;
        while client.find(&[DATA]).await.unwrap().flags != END_STREAM {}
        client.send(&get(&[])).await;
        assert_eq!(client.fault().await, (CONNECTION, Code::StreamClosed as u32));
        assert!(client.next().await.is_none(), "it goes on behind its end");
    });
}

#[test]
fn what_is_no_request_is_answered_400_and_reset() {
    let block = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, bytes);
    let heads: Vec<(&str, Vec<u8>)> = vec![
        ("upper case", get(&[("Upper", "x")])),
        ("a colon", get(&[("a:b", "x")])),
        ("a blank before a value", get(&[("x", " y")])),
        ("a tab behind one", get(&[("x", "y\t")])),
        ("a line feed", get(&[("x", "a\nb")])),
        ("connection", get(&[("connection", "close")])),
        ("transfer-encoding", get(&[("transfer-encoding", "chunked")])),
        ("upgrade", get(&[("upgrade", "h2c")])),
        ("te", get(&[("te", "gzip")])),
        ("another host", get(&[("host", "b.example")])),
        ("two hosts", get(&[("host", "a.example"), ("host", "a.example")])),
        ("two lengths", get(&[("content-length", "0"), ("content-length", "0")])),
        ("a length without a body", get(&[("content-length", "3")])),
        ("a status", get(&[(":status", "200")])),
        ("a pseudo-header behind a header", get(&[("x", "y"), (":path", "/z")])),
        ("a method twice", block(b"\x82\x82\x87\x84\x01\x09a.example")),
        ("no method", block(b"\x87\x84\x01\x09a.example")),
        ("no scheme", block(b"\x82\x84\x01\x09a.example")),
        ("no path", block(b"\x82\x87\x01\x09a.example")),
        ("an empty path", block(b"\x82\x87\x04\0\x01\x09a.example")),
        ("no path at all", block(b"\x82\x87\x04\x03a/b\x01\x09a.example")),
        ("a fragment", block(b"\x82\x87\x04\x03/#b\x01\x09a.example")),
        ("another scheme", block(b"\x82\x06\x03ftp\x84\x01\x09a.example")),
        ("CONNECT with a path", block(b"\x02\x07CONNECT\x84\x01\x0ba.example:1")),
        ("CONNECT to nobody", block(b"\x02\x07CONNECT")),
        (
            "extended CONNECT",
            block(&with(
                b"\x02\x07CONNECT\x87\x84\x01\x09a.example",
                &[(":protocol", "websocket")],
            )),
        ),
    ];
    for (name, bytes) in heads {
        simulate(async {
            let edge = fixed(3);
            let mut client = raw(&edge.local);
            client.begin(b"").await;
            client.send(&bytes).await;
            let head = client.find(&[HEADERS, RESET, GOAWAY]).await.unwrap();
            assert_eq!(head.status, "400", "{name}");
            assert_eq!(client.fault().await, (STREAM, Code::Protocol as u32), "{name}");
            // The connection goes on.
            client.send(&frame(HEADERS, WHOLE, 3, GET)).await;
            let head = client.find(&[HEADERS, RESET, GOAWAY]).await.unwrap();
            assert_eq!(head.status, "200", "{name}");
        });
    }
}

#[test]
fn a_body_of_another_length_and_wrong_trailers_reset_their_stream() {
    let ten = [("content-length", "10")];
    let data = |flags, text: &[u8]| frame(DATA, flags, 1, text);
    let cases = [
        ("too short", [post(&ten), data(END_STREAM, b"test")].concat()),
        ("too long", [post(&ten), data(0, b"eleven bytes")].concat()),
        (
            "too short, with trailers",
            [post(&ten), data(0, b"x"), frame(HEADERS, WHOLE, 1, &field("x", "y"))].concat(),
        ),
        (
            "a pseudo-header in trailers",
            [post(&[]), frame(HEADERS, WHOLE, 1, &field(":method", "GET"))].concat(),
        ),
        (
            "trailers that are not the end",
            [post(&[]), frame(HEADERS, END_HEADERS, 1, &field("x", "y"))].concat(),
        ),
    ];
    for (name, bytes) in cases {
        assert_eq!(simulate(fault(&bytes)), (STREAM, Code::Protocol as u32), "{name}");
    }
}

#[test]
fn connect_is_405_and_what_is_too_large_is_431() {
    simulate(async {
        let edge = fixed(3);
        let mut client = raw(&edge.local);
        client.begin(b"").await;
        client.send(&frame(HEADERS, WHOLE, 1, b"\x02\x07CONNECT\x01\x0ba.example:1")).await;
        let head = client.find(&[HEADERS, RESET, GOAWAY]).await.unwrap();
        assert_eq!(head.status, "405");
        // One field that is remembered, then named again and again.
        let mut bomb = [GET, &[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]].concat();
        bomb.extend(vec![b'y'; 4_000]);
        bomb.extend(vec![0xbe; 10_000]);
        client.send(&frame(HEADERS, WHOLE, 3, &bomb)).await;
        let head = client.find(&[HEADERS, RESET, GOAWAY]).await.unwrap();
        assert_eq!((head.status.as_str(), head.stream), ("431", 3));
        let many: Vec<u8> = (0..101).flat_map(|_| field("x", "y")).collect();
        client.send(&frame(HEADERS, WHOLE, 5, &[GET, &many].concat())).await;
        let head = client.find(&[HEADERS, RESET, GOAWAY]).await.unwrap();
        assert_eq!((head.status.as_str(), head.stream), ("431", 5));
        // Crumbs of a cookie are one field.
        let crumbs: Vec<u8> = (0..500).flat_map(|_| field("cookie", "a=b")).collect();
        client.send(&frame(HEADERS, WHOLE, 7, &[GET, &crumbs].concat())).await;
        let head = client.find(&[HEADERS, RESET, GOAWAY]).await.unwrap();
        assert_eq!((head.status.as_str(), head.stream), ("200", 7));
    });
}

#[test]
fn a_client_that_is_told_to_go_loses_no_request() {
    simulate(async {
        let edge = fixed(3);
        let mut client = raw(&edge.local);
        client.begin(b"").await;
        client.find(&[SETTINGS]).await.unwrap();
        edge.local.draining.set(true);
        edge.local.drain.notify_waiters();
        let first = client.find(&[GOAWAY]).await.unwrap();
        assert_eq!(first.payload, [number(0x7fff_ffff), number(0)].concat());
        let asked = client.find(&[PING]).await.unwrap();
        // It was on its way when the client heard.
        client.send(&frame(HEADERS, WHOLE, 9, GET)).await;
        client.send(&frame(PING, ACK, 0, &asked.payload)).await;
        let (mut status, mut last) = (String::new(), Vec::new());
        while let Some(seen) = client.next().await {
            match seen.kind {
                HEADERS => status = seen.status,
                GOAWAY => last = seen.payload,
                _ => {}
            }
        }
        assert_eq!((status.as_str(), last), ("200", [number(9), number(0)].concat()));
    });
}

#[test]
fn a_frame_has_all_of_its_time_whatever_was_begun_before_a_long_request() {
    simulate(async {
        let edge = fixed(3);
        let mut client = raw(&edge.local);
        // An answer that may not be sent: its stream stays open.
        client.begin(&setting(4, 0)).await;
        client.find(&[SETTINGS]).await.unwrap();
        let mut halves = async |bytes: &[u8], stream: u32| {
            let head = frame(HEADERS, WHOLE, stream, GET);
            client.send(&[bytes, &head[..5]].concat()).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.send(&head[5..]).await;
            let seen = client.find(&[HEADERS, GOAWAY]).await.unwrap();
            assert_eq!((seen.kind, seen.stream), (HEADERS, stream));
            tokio::time::sleep(HEAD_TIME).await;
        };
        halves(b"", 1).await;
        halves(&frame(RESET, 0, 1, &number(Code::Cancel as u32)), 3).await;
    });
}
