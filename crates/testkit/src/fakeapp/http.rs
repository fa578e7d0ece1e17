//! One connection of the fake application: requests in, answers out, one after the other.
//!
//! Invariants: a request whose framing is unclear closes the connection; the next request is read only
//! after the body of this one was, so that a proxy which forgets a body is noticed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{App, answers};

/// Largest head in bytes.
const MAX_HEAD: usize = 64 << 10;

/// A request whose body is still on the wire.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

/// What is left of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes follow.
    Length(u64),
    /// Chunks follow.
    Chunked,
    /// Nothing follows any more.
    Done,
}

impl Request {
    /// The path without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A value of the query, `+` and `%XX` decoded.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        query
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
            .map(|(_, value)| decode(value))
    }

    /// A header, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => (bytes.push(byte), rest = &tail[2..]).1,
            (b'+', _) => (bytes.push(b' '), rest = tail).1,
            (other, _) => (bytes.push(*other), rest = tail).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The two directions of a connection, with what was read too far.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Wire {
    /// Bytes of the connection, those already read first.
    fn some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            return self.stream.read(into);
        }
        let count = self.ahead.len().min(into.len());
        into[..count].copy_from_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        Ok(count)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            if self.some(&mut byte)? == 0 || line.len() > 1024 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }

    /// The next piece of a body; empty at its end.
    pub(crate) fn piece(&mut self, body: &mut Body) -> io::Result<Vec<u8>> {
        let limit = match *body {
            Body::Done => return Ok(Vec::new()),
            Body::Length(left) => left,
            Body::Chunked => {
                let line = self.line()?;
                let size = line.split(';').next().unwrap_or_default().trim();
                u64::from_str_radix(size, 16)
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?
            }
        };
        if limit == 0 {
            while *body == Body::Chunked && !self.line()?.is_empty() {}
            *body = Body::Done;
            return Ok(Vec::new());
        }
        let mut piece = vec![0; limit.min(64 << 10) as usize];
        if *body == Body::Chunked {
            piece.resize(usize::try_from(limit.min(16 << 20)).unwrap_or_default(), 0);
            self.fill(&mut piece)?;
            self.line()?;
            return Ok(piece);
        }
        let count = self.some(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(count);
        *body = if limit == count as u64 { Body::Done } else { Body::Length(limit - count as u64) };
        Ok(piece)
    }

    fn fill(&mut self, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            match self.some(&mut into[done..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Writes all of it.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// One chunk of a chunked body; an empty one ends it.
    pub(crate) fn send_chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.send(&chunk)
    }

    /// A whole answer with a length.
    pub(crate) fn answer(
        &mut self,
        status: u16,
        content_type: &str,
        extra: &str,
        body: &[u8],
    ) -> io::Result<()> {
        let length = body.len();
        let mut whole = format!("HTTP/1.1 {status} Fake\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n{extra}\r\n").into_bytes();
        whole.extend_from_slice(body);
        self.send(&whole)
    }

    /// The bare connection, for an upgrade.
    pub(crate) fn stream(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }
}

/// Serves requests until the peer goes, the idle limit is reached, or an answer was the last.
pub(crate) fn serve_connection(app: &App, stream: TcpStream) {
    stream.set_nodelay(true).ok();
    let mut wire = Wire { stream, ahead: Vec::new() };
    while let Ok(Some(mut request)) = next_request(app, &mut wire) {
        app.hang_if_asked();
        app.busy.fetch_add(1, Ordering::SeqCst);
        let close =
            request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let result = answers::answer(app, &mut request, &mut wire).and_then(|goes_on| {
            while !wire.piece(&mut request.body)?.is_empty() {}
            Ok(goes_on)
        });
        app.busy.fetch_sub(1, Ordering::SeqCst);
        if close || !matches!(result, Ok(true)) {
            break;
        }
    }
    wire.stream.shutdown(Shutdown::Both).ok();
}

fn next_request(app: &App, wire: &mut Wire) -> io::Result<Option<Request>> {
    let idle = app.options.keep_alive.max(Duration::from_millis(1));
    wire.stream.set_read_timeout(Some(idle))?;
    let mut piece = [0; 8 << 10];
    loop {
        if let Some((request, used)) = parse(&wire.ahead)? {
            wire.ahead.drain(..used);
            wire.stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            return Ok(Some(request));
        }
        let count = wire.stream.read(&mut piece)?;
        if count == 0 || wire.ahead.len() > MAX_HEAD {
            return Ok(None);
        }
        wire.ahead.extend_from_slice(&piece[..count]);
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(used) = parsed.parse(bytes).map_err(|_| invalid())? else {
        return Ok(None);
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers: Vec<_> = parsed
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), text(header.value)))
        .collect();
    let find =
        |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let body = match (find("transfer-encoding"), find("content-length")) {
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Body::Chunked,
        (None, Some(length)) => Body::Length(length.parse().map_err(|_| invalid())?),
        (None, None) => Body::Done,
        _ => return Err(invalid()),
    };
    let (method, target) =
        (parsed.method.unwrap_or_default().to_owned(), parsed.path.unwrap_or_default().to_owned());
    Ok(Some((Request { method, target, headers, body }, used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_only_when_it_is_complete() {
        assert!(parse(b"GET / HTTP/1.1\r\nhost: a\r\n").unwrap().is_none());
        let wire = b"POST /a?x=1%20b+c HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let (request, used) = parse(wire).unwrap().unwrap();
        assert_eq!((request.path(), request.body), ("/a", Body::Length(3)));
        assert_eq!(&wire[used..], b"abc");
        assert_eq!(request.query("x").as_deref(), Some("1 b c"));
    }

    #[test]
    fn two_framings_at_once_are_refused() {
        assert!(
            parse(b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n")
                .is_err()
        );
    }
}
