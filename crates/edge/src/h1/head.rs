//! Request heads: found line by line as they come in, then read whole.
//!
//! Stricter than RFC 9112 where it leaves a choice to the reader: what two programs could read in two
//! ways is refused, even where a list of readers would agree. Invariant: a head that passes has one
//! framing ([`Shape`]). Limits come before allocation.

use std::ops::Range;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};

use super::framing::{Framing, plain_length};
use crate::head::{
    LARGEST, LONGEST_METHOD, LONGEST_TARGET, MOST_FIELDS, Refusal, TARGET_TOO_LONG, TOO_LARGE, bad,
};
use crate::rooms::Rooms;

/// What a head that passed means for the bytes behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) framing: Framing,
    /// The connection may stay open after the answer.
    pub(super) keep: bool,
    /// The client waits for a 100 before it sends the body.
    pub(super) waits: bool,
}

/// How far the search for the end of a head got; nothing is looked at twice.
#[derive(Debug, Default)]
pub(super) struct Search {
    at: usize,
    line: usize,
    lines: usize,
}

impl Search {
    /// Lines seen: of a whole head, the request line and its fields.
    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    /// The length of the head with its empty line, if it is there whole.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        if bytes.first().is_some_and(|first| !is_token(*first)) {
            return Err(bad("the first byte begins no method"));
        }
        let fresh = bytes.get(self.at..).unwrap_or_default();
        for offset in memchr::memchr_iter(b'\n', fresh) {
            let feed = self.at + offset;
            if feed == 0 || bytes[feed - 1] != b'\r' {
                return Err(bad("a line ends without CR"));
            }
            if feed + 1 > LARGEST {
                return Err(TOO_LARGE);
            }
            if feed - self.line == 1 {
                return Ok(Some(feed + 1));
            }
            (self.line, self.lines) = (feed + 1, self.lines + 1);
            if self.lines > MOST_FIELDS + 1 {
                return Err(TOO_LARGE);
            }
        }
        self.at = bytes.len();
        match self.lines {
            0 if bytes.len() > LONGEST_METHOD + LONGEST_TARGET + 16 => Err(TARGET_TOO_LONG),
            _ if bytes.len() > LARGEST => Err(TOO_LARGE),
            _ => Ok(None),
        }
    }
}

/// A request's head, read.
#[derive(Debug)]
pub(super) struct Head {
    /// Boxed once: it goes through many hands.
    pub(super) parts: Box<Parts>,
    pub(super) shape: Shape,
}

/// Reads a whole head of so many lines, as [`Search::end`] delimited it. The request's parts share its bytes.
pub(super) fn read(head: &Bytes, count: usize, rooms: &Rooms) -> Result<Head, Refusal> {
    let mut lines = Lines { bytes: head, at: 0 };
    let line = lines.next().unwrap_or_default();
    let (method, target, is_1_1) = request_line(&head[line])?;
    let target = target.start..target.end;
    // Room for what is put in later, too.
    let mut headers = rooms.fields(count + 1);
    let mut fields = Fields::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        let start = line.start;
        let (name, value) = split(&head[line])?;
        fields.take(name, &head[start + value.start..start + value.end])?;
        let name = HeaderName::from_bytes(name).map_err(|_| bad("a header name is no token"))?;
        let value = if value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(head.slice(start + value.start..start + value.end))
                .map_err(|_| CONTROL)?
        };
        headers.append(name, value);
    }
    let mut parts = Box::new(Request::new(()).into_parts().0);
    parts.method =
        Method::from_bytes(&head[..method]).map_err(|_| bad("the method is no token"))?;
    parts.uri = Uri::from_maybe_shared(head.slice(target))
        .map_err(|_| bad("the target holds a forbidden character"))?;
    parts.version = if is_1_1 { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.headers = headers;
    Ok(Head { parts, shape: fields.shape(is_1_1)? })
}

/// The lines of a head, as places in it, without their ends.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Lines<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        let feed = start + memchr::memchr(b'\n', self.bytes.get(start..)?)?;
        self.at = feed + 1;
        let ends_in_cr = feed > start && self.bytes[feed - 1] == b'\r';
        Some(start..feed - usize::from(ends_in_cr))
    }
}

/// The length of the method, the place of the target, and whether the version is 1.1 (and not 1.0).
fn request_line(line: &[u8]) -> Result<(usize, Range<usize>, bool), Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("the request line has not three parts"));
    };
    if method.is_empty()
        || method.len() > LONGEST_METHOD
        || !method.iter().all(|byte| is_token(*byte))
    {
        return Err(bad("the method is no token"));
    }
    if target.len() > LONGEST_TARGET {
        return Err(TARGET_TOO_LONG);
    }
    // A fragment would be cut off silently by who parses the target as a URI.
    if !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Err(bad("the target holds a forbidden character"));
    }
    let scheme = |prefix: &[u8]| {
        target.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let known_form = target.first() == Some(&b'/')
        || scheme(b"http://")
        || scheme(b"https://")
        || (target == b"*" && method == b"OPTIONS")
        || method == b"CONNECT";
    if !known_form {
        return Err(bad("the target is neither a path nor a URL"));
    }
    let is_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ if version.starts_with(b"HTTP/") => {
            return Err(Refusal {
                status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                cause: "the version is not served",
            });
        }
        _ => return Err(bad("the request line names no version")),
    };
    let start = method.len() + 1;
    Ok((method.len(), start..start + target.len(), is_1_1))
}

const CONTROL: Refusal = bad("a header value holds a control character");

/// Checks one field line.
pub(super) fn field(line: &[u8]) -> Result<(), Refusal> {
    let (_, value) = split(line)?;
    // Tabs and everything from space on but DEL; CR is among what is forbidden.
    let plain = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if line[value].iter().all(plain) { Ok(()) } else { Err(CONTROL) }
}

/// One field line: its name, and the place of its value without the white space around it.
fn split(line: &[u8]) -> Result<(&[u8], Range<usize>), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(bad("a folded header line"));
    }
    let Some(colon) = memchr::memchr(b':', line) else {
        return Err(bad("a header line without a colon"));
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(bad("a header name is no token"));
    }
    let blank = value.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let start = colon + 1 + blank;
    Ok((name, start..start + trim(value).len()))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 § 5.6.2.
fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

/// The fields that say where a message ends and what becomes of its connection.
#[derive(Debug, Default)]
struct Fields {
    hosts: u32,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    waits: bool,
}

impl Fields {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is(b"host") => self.hosts += 1,
            6 if is(b"expect") => {
                self.waits = true;
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal {
                        status: StatusCode::EXPECTATION_FAILED,
                        cause: "an unknown expectation",
                    });
                }
            }
            10 if is(b"connection") => {
                for word in value.split(|byte| *byte == b',').map(trim) {
                    self.close |= word.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if is(b"content-length") && self.length.replace(length(value)?).is_some() => {
                return Err(bad("more than one Content-Length"));
            }
            17 if is(b"transfer-encoding") => {
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(bad("more than one Transfer-Encoding"));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("a Transfer-Encoding other than chunked"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn shape(self, is_1_1: bool) -> Result<Shape, Refusal> {
        match self.hosts {
            0 if is_1_1 => return Err(bad("no Host header")),
            0 | 1 => {}
            _ => return Err(bad("more than one Host header")),
        }
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(bad("Content-Length beside Transfer-Encoding")),
            (true, None) if !is_1_1 => return Err(bad("Transfer-Encoding with HTTP/1.0")),
            (true, None) => Framing::CHUNKED,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        Ok(Shape {
            framing,
            keep: !self.close && (is_1_1 || self.keep_alive),
            waits: is_1_1 && self.waits,
        })
    }
}

fn length(value: &[u8]) -> Result<u64, Refusal> {
    plain_length(value).ok_or(bad("the Content-Length is no plain number"))
}
