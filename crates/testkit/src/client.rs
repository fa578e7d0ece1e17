//! A blocking HTTP/1.1 client for single requests, over TLS or not.
//!
//! By hand, because tests must see the wire: bodies piece by piece as they arrive, headers twice, the
//! bare connection after an upgrade. One connection for each request. [`Client::over_http2`] and
//! [`Client::over_http3`] ask the same over HTTP/2 and HTTP/3. Not here: redirects, cookies.

mod http2;
pub mod http3;

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::tls::{client_config, client_config_showing};

/// A byte stream, encrypted or not.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Asks one server under one host name.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    host: String,
    tls: Option<Arc<ClientConfig>>,
    protocol: Protocol,
    /// Where it comes from, if not from where the system would have it.
    source: Option<Ipv4Addr>,
}

/// What whole requests go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Http3,
}

/// A request as [`Client::send`] takes it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Its method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Its headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// Its body.
    pub body: &'a [u8],
}

impl Client {
    /// Plain HTTP.
    pub fn http(address: SocketAddr, host: &str) -> Self {
        let protocol = Protocol::Http1;
        Self { address, host: host.to_owned(), tls: None, protocol, source: None }
    }

    /// As somebody at this address (of 127.0.0.0/8); over HTTP/1.1 only.
    pub fn at(mut self, source: Ipv4Addr) -> Self {
        self.source = Some(source);
        self
    }

    /// HTTPS that trusts the authority in `ca` only.
    pub fn https(address: SocketAddr, host: &str, ca: &Path) -> Self {
        Self { tls: Some(client_config(ca, &["http/1.1"])), ..Self::http(address, host) }
    }

    /// The same, showing a certificate: files with chain and key.
    pub fn https_showing(
        address: SocketAddr,
        host: &str,
        ca: &Path,
        shown: (&Path, &Path),
    ) -> Self {
        let tls = Some(client_config_showing(ca, &["http/1.1"], Some(shown)));
        Self { tls, ..Self::http(address, host) }
    }

    /// HTTPS by HTTP/2, that trusts the authority in `ca` only. Only whole requests can be sent.
    pub fn over_http2(address: SocketAddr, host: &str, ca: &Path) -> Self {
        let tls = Some(client_config(ca, &["h2"]));
        Self { tls, protocol: Protocol::Http2, ..Self::http(address, host) }
    }

    /// HTTPS by HTTP/3, that trusts the authority in `ca` only. Only whole requests can be sent.
    pub fn over_http3(address: SocketAddr, host: &str, ca: &Path) -> Self {
        let tls = Some(client_config(ca, &["h3"]));
        Self { tls, protocol: Protocol::Http3, ..Self::http(address, host) }
    }

    /// As [`Self::over_http3`], showing a certificate (chain, key; PEM files).
    pub fn over_http3_showing(
        address: SocketAddr,
        host: &str,
        ca: &Path,
        shown: (&Path, &Path),
    ) -> Self {
        let tls = Some(client_config_showing(ca, &["h3"], Some(shown)));
        Self { tls, protocol: Protocol::Http3, ..Self::http(address, host) }
    }

    /// So many copies of a request at once over one connection of HTTP/2 or HTTP/3; the answers in order.
    pub fn at_once(
        &self,
        copies: usize,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Vec<Response>> {
        let tls = self.tls.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let ask = Ask { method, target, headers, body };
        match self.protocol {
            Protocol::Http1 => Err(io::ErrorKind::Unsupported.into()),
            Protocol::Http2 => http2::send(self.address, &self.host, tls, &ask, copies),
            Protocol::Http3 => http3::send(self.address, &self.host, tls, &ask, copies),
        }
    }

    /// A connection; a read or write on it that takes 20 s is an error.
    pub fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = match self.source {
            Some(source) => from(source, self.address)?,
            None => TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?,
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        let Some(config) = &self.tls else { return Ok(Box::new(stream)) };
        let name = self.host.clone().try_into().map_err(io::Error::other)?;
        let connection =
            ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, stream)))
    }

    /// GET; ends the test when there is no answer.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.send("GET", target, &[], b"").unwrap_or_else(|error| panic!("GET {target}: {error}"))
    }

    /// GET that may come to nothing.
    pub fn try_get(&self, target: &str) -> io::Result<Response> {
        self.send("GET", target, &[], b"")
    }

    /// Any request with a body of known length; the whole answer is read.
    pub fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        if self.protocol != Protocol::Http1 {
            let mut answers = self.at_once(1, method, target, headers, body)?;
            return answers.pop().ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
        let mut exchange = self.open(method, target, headers, Some(body.len()))?;
        exchange.write(body)?;
        exchange.finish()
    }

    /// Sends a head only. With a `length` that many bytes are to follow, without one there is no body.
    pub fn open(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        length: Option<usize>,
    ) -> io::Result<Exchange> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            let _infallible = write!(head, "host: {}:{}\r\n", self.host, self.address.port());
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
            head.push_str("connection: close\r\n");
        }
        for (name, value) in headers {
            let _infallible = write!(head, "{name}: {value}\r\n");
        }
        if let Some(length) = length.filter(|length| *length > 0 || method != "GET") {
            let _infallible = write!(head, "content-length: {length}\r\n");
        }
        let mut stream = self.connect()?;
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        stream.flush()?;
        let is_head = method == "HEAD";
        Ok(Exchange { stream, ahead: Vec::new(), left: None, ended: false, is_head })
    }
}

/// A connection that comes from an address.
fn from(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// Its body, chunks put together.
    pub body: Vec<u8>,
}

impl Response {
    fn of(status: http::StatusCode, headers: &http::HeaderMap, body: Vec<u8>) -> Self {
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Self { status: status.as_u16(), headers, body }
    }

    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All headers of that (lower-case) name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }
}

/// What is left of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Bytes(u64),
    Chunks,
    ToTheEnd,
}

/// A request under way, both directions in the test's hands.
pub struct Exchange {
    stream: Box<dyn Stream>,
    ahead: Vec<u8>,
    left: Option<Left>,
    ended: bool,
    /// The answer has no body; were there one all the same, it is seen.
    is_head: bool,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Exchange {
    /// Sends a piece of the request's body.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads the head of the answer; its body is empty so far.
    pub fn head(&mut self) -> io::Result<Response> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 128];
            let mut parsed = httparse::Response::new(&mut headers);
            let used = match parsed.parse(&self.ahead).map_err(io::Error::other)? {
                httparse::Status::Complete(used) => used,
                httparse::Status::Partial => {
                    self.more()?.then_some(()).ok_or(io::ErrorKind::UnexpectedEof)?;
                    continue;
                }
            };
            let pair = |header: &httparse::Header<'_>| {
                (
                    header.name.to_ascii_lowercase(),
                    String::from_utf8_lossy(header.value).into_owned(),
                )
            };
            let answer = Response {
                status: parsed.code.unwrap_or(0),
                headers: parsed.headers.iter().map(pair).collect(),
                body: Vec::new(),
            };
            self.ahead.drain(..used);
            let length = answer.header("content-length").and_then(|text| text.parse().ok());
            let chunked = answer
                .header("transfer-encoding")
                .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
            self.left = Some(match length {
                _ if self.is_head => Left::ToTheEnd,
                _ if chunked => Left::Chunks,
                _ if matches!(answer.status, 101 | 204 | 304) => Left::Bytes(0),
                Some(length) => Left::Bytes(length),
                None => Left::ToTheEnd,
            });
            return Ok(answer);
        }
    }

    /// The next piece of the body as it arrives; none at its end.
    pub fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.left {
            Some(Left::Bytes(0)) | None => Ok(None),
            Some(Left::Chunks) => self.chunk(),
            Some(left) => {
                if self.ahead.is_empty() && !self.more()? {
                    return if left == Left::ToTheEnd {
                        Ok(None)
                    } else {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    };
                }
                let most = if let Left::Bytes(bytes) = left { bytes } else { u64::MAX };
                let count = most.min(self.ahead.len() as u64) as usize;
                if let Left::Bytes(bytes) = left {
                    self.left = Some(Left::Bytes(bytes - count as u64));
                }
                Ok(Some(self.ahead.drain(..count).collect()))
            }
        }
    }

    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match httparse::parse_chunk_size(&self.ahead)
                .map_err(|error| io::Error::other(error.to_string()))?
            {
                httparse::Status::Complete((start, size))
                    if self.ahead.len() as u64 >= start as u64 + size + 2 =>
                {
                    let chunk = self.ahead[start..start + size as usize].to_vec();
                    self.ahead.drain(..start + size as usize + 2);
                    if chunk.is_empty() {
                        self.left = None;
                        return Ok(None);
                    }
                    return Ok(Some(chunk));
                }
                _ => self.more()?.then_some(()).ok_or(io::ErrorKind::UnexpectedEof)?,
            }
        }
    }

    /// Reads head and body to the end.
    pub fn finish(&mut self) -> io::Result<Response> {
        let mut answer = self.head()?;
        while let Some(piece) = self.piece()? {
            answer.body.extend_from_slice(&piece);
        }
        Ok(answer)
    }

    /// The bare connection after an upgrade, with what was read too far.
    pub fn into_stream(self) -> (Box<dyn Stream>, Vec<u8>) {
        (self.stream, self.ahead)
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16 << 10];
        let count = match self.stream.read(&mut piece) {
            // TLS without a proper goodbye: the framing above says whether something is missing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            other => other?,
        };
        self.ahead.extend_from_slice(&piece[..count]);
        self.ended = count == 0;
        Ok(!self.ended)
    }
}
