//! The answers of the fake application that take their time: drops, events, echoes, WebSockets.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocket};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::App;
use super::answers::whoami;
use super::http::{Request, Wire};

const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";

/// A body in pieces with pauses between them.
pub(crate) fn drip(wire: &mut Wire, chunks: u64, pause: Duration) -> io::Result<()> {
    wire.send(format!("HTTP/1.1 200 Fake\r\ncontent-type: text/plain\r\n{CHUNKED}").as_bytes())?;
    for number in 0..chunks {
        wire.send_chunk(format!("drop {number}\n").as_bytes())?;
        std::thread::sleep(pause);
    }
    wire.send_chunk(b"")
}

/// Server-sent events, `count` of them or until the client goes.
pub(crate) fn events(wire: &mut Wire, count: Option<u64>, pause: Duration) -> io::Result<()> {
    wire.send(format!("HTTP/1.1 200 Fake\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n{CHUNKED}").as_bytes())?;
    for number in 0..count.unwrap_or(u64::MAX) {
        wire.send_chunk(
            format!("id: {number}\ndata: {}\n\n", String::from_utf8_lossy(&whoami())).as_bytes(),
        )?;
        std::thread::sleep(pause);
    }
    wire.send_chunk(b"")
}

/// Each piece of the request's body goes back before the next one is read.
pub(crate) fn echo(request: &mut Request, wire: &mut Wire) -> io::Result<()> {
    wire.send(
        format!("HTTP/1.1 200 Fake\r\ncontent-type: application/octet-stream\r\n{CHUNKED}")
            .as_bytes(),
    )?;
    loop {
        let piece = wire.piece(&mut request.body)?;
        wire.send_chunk(&piece)?;
        if piece.is_empty() {
            return Ok(());
        }
    }
}

/// A WebSocket that echoes texts and binaries until the client closes it or the application ends.
pub(crate) fn web_socket(app: &App, request: &Request, wire: &mut Wire) -> io::Result<()> {
    let upgrade =
        request.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let Some(key) = request.header("sec-websocket-key").filter(|_| upgrade) else {
        return wire.answer(426, "text/plain", "upgrade: websocket\r\n", b"this is a WebSocket");
    };
    let accept = derive_accept_key(key.as_bytes());
    wire.send(format!("HTTP/1.1 101 Fake\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n").as_bytes())?;
    // An open WebSocket is no request under way: it must not hold up the end.
    app.busy.fetch_sub(1, Ordering::SeqCst);
    let result = echo_messages(app, wire);
    app.busy.fetch_add(1, Ordering::SeqCst);
    result
}

fn echo_messages(app: &App, wire: &Wire) -> io::Result<()> {
    let stream = wire.stream()?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    loop {
        if app.ending.load(Ordering::SeqCst) {
            let frame = CloseFrame { code: 1001.into(), reason: "going away".into() };
            return socket.close(Some(frame)).and_then(|()| socket.flush()).or(Ok(()));
        }
        app.hang_if_asked();
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                socket.send(message).map_err(io::Error::other)?;
            }
            Ok(_) => {}
            Err(Error::Io(error))
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return Ok(()),
        }
    }
}
