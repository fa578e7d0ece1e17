//! Whole connections over a pipe, spoken to in raw frames.

mod floods;
mod flow;
mod rules;

use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::frame::HEAD;
use super::hpack::Decoder;
use super::*;
use crate::serve::Client;
use crate::tests::simulated::{Simulated, simulate};
use crate::worker::Local;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const WHOLE: u8 = END_STREAM | END_HEADERS;

/// GET, https, /, a.example.
const GET: &[u8] = b"\x82\x87\x84\x01\x09a.example";
const POST: &[u8] = b"\x83\x87\x84\x01\x09a.example";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn number(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

fn setting(identifier: u16, value: u32) -> Vec<u8> {
    [&identifier.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A literal that no table remembers.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(value.len() as u8);
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

fn with(head: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    let fields: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
    [head, &fields].concat()
}

/// What the edge sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
    /// Of a head.
    status: String,
}

impl Seen {
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A client that says what it likes.
struct Raw {
    pipe: DuplexStream,
    decoder: Decoder,
}

fn raw(local: &Rc<Local>) -> Raw {
    let (ours, theirs) = tokio::io::duplex(256 << 10);
    let local = Rc::clone(local);
    tokio::task::spawn_local(async move {
        let mut client = Client::new([192, 0, 2, 1].into(), 443, true);
        client.protocol = crate::serve::Protocol::Http2;
        serve(&local, theirs, Arc::new(client)).await;
    });
    Raw { pipe: ours, decoder: Decoder::new() }
}

impl Raw {
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.pipe.write_all(bytes).await.is_ok()
    }

    /// The preface and settings.
    async fn begin(&mut self, settings: &[u8]) {
        let begin = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
        assert!(self.send(&begin).await);
    }

    async fn next(&mut self) -> Option<Seen> {
        let mut head = [0; HEAD];
        self.pipe.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.pipe.read_exact(&mut payload).await.ok()?;
        // Decoded whether somebody looks or not, for the table's sake.
        let status = if kind == HEADERS { self.status(&payload) } else { String::new() };
        Some(Seen { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]), payload, status })
    }

    /// The next frame of such a kind; answers settings meanwhile.
    async fn find(&mut self, kinds: &[u8]) -> Option<Seen> {
        loop {
            let seen = self.next().await?;
            if seen.kind == SETTINGS && seen.flags == 0 {
                self.send(&frame(SETTINGS, ACK, 0, b"")).await;
            }
            if kinds.contains(&seen.kind) {
                return Some(seen);
            }
        }
    }

    fn status(&mut self, block: &[u8]) -> String {
        let mut status = String::new();
        let take = |entry: std::borrow::Cow<'_, hpack::Entry>| {
            if let (hpack::Name::Pseudo(_), hpack::Value::Raw(value)) = (&entry.name, &entry.value)
            {
                status = String::from_utf8_lossy(value).into_owned();
            }
        };
        self.decoder.decode(block, take).unwrap();
        status
    }

    /// What ends the connection, or a stream: its kind and code.
    async fn fault(&mut self) -> (u8, u32) {
        let seen = self.find(&[GOAWAY, RESET]).await.expect("it ended without a word");
        (seen.kind, seen.code())
    }
}

/// An edge whose only route answers itself.
fn fixed(length: usize) -> Simulated {
    let body = "x".repeat(length);
    let action =
        crate::model::Action::Respond { status: 200, body, content_type: "text/plain".into() };
    Simulated::new(vec![crate::tests::route("*", action)], &[])
}

#[test]
fn cut_at_every_byte_the_answers_are_the_same() {
    let script = [
        PREFACE,
        &frame(SETTINGS, 0, 0, b""),
        &frame(HEADERS, WHOLE, 1, GET),
        &frame(HEADERS, END_STREAM, 3, &GET[..2]),
        &frame(CONTINUATION, END_HEADERS, 3, &GET[2..]),
        &frame(HEADERS, END_HEADERS, 5, &with(POST, &[("content-length", "4")])),
        &frame(DATA, 0, 5, b"bo"),
        &frame(DATA, 0x8 | END_STREAM, 5, b"\x03dy\0\0\0"),
        &frame(PING, 0, 0, b"whatever"),
    ]
    .concat();
    for cut in 0..=script.len() {
        simulate(async {
            let edge = fixed(3);
            let mut client = raw(&edge.local);
            client.send(&script[..cut]).await;
            tokio::task::yield_now().await;
            client.send(&script[cut..]).await;
            let (mut answered, mut ponged) = (Vec::new(), false);
            while answered.len() < 3 || !ponged {
                let seen = client.find(&[HEADERS, DATA, RESET, GOAWAY, PING]).await.unwrap();
                match seen.kind {
                    HEADERS => assert_eq!(seen.status, "200"),
                    DATA if seen.flags == END_STREAM && seen.payload == b"xxx" => {
                        answered.push(seen.stream);
                    }
                    PING => ponged = seen.payload == b"whatever",
                    other => panic!("{other} at {cut}"),
                }
            }
            answered.sort_unstable();
            assert_eq!(answered, [1, 3, 5]);
        });
    }
}
