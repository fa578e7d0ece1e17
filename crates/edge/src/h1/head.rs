//! Request heads: found line by line as they come in, then checked whole.
//!
//! Stricter than RFC 9112 where it leaves a choice to the reader: what two programs could read in two
//! ways is refused, even where a list of readers would agree. Invariant: a head that passes has one
//! framing ([`Shape`]), and hyper derives the same one. Limits come before allocation.

use http::StatusCode;

/// The longest head; cookies of real applications stay far below.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// The longest request target.
const MAX_TARGET: usize = 16 << 10;
/// The longest method: the longest registered one has 17 letters.
const MAX_METHOD: usize = 32;
/// As many fields as hyper takes by default.
const MAX_FIELDS: usize = 100;

/// Why a request is not passed on. The cause is for the log, the client gets the status only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) cause: &'static str,
}

/// A 400.
pub(super) const fn bad(cause: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, cause }
}

const TARGET_TOO_LONG: Refusal =
    Refusal { status: StatusCode::URI_TOO_LONG, cause: "the target is longer than 16 KiB" };
const HEAD_TOO_LONG: Refusal = Refusal {
    status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    cause: "the head is larger than 64 KiB or 100 fields",
};

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes; none at all without a length.
    Length(u64),
    Chunked,
}

/// What a head that passed means for the bytes behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) framing: Framing,
    /// The client asks to switch protocols: after a 101 nothing is HTTP any more.
    pub(super) upgrade: bool,
}

/// How far the search for the end of a head got; nothing is looked at twice.
#[derive(Debug, Default)]
pub(super) struct Search {
    at: usize,
    line: usize,
    lines: usize,
}

impl Search {
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
            if feed + 1 > MAX_HEAD {
                return Err(HEAD_TOO_LONG);
            }
            if feed - self.line == 1 {
                return Ok(Some(feed + 1));
            }
            (self.line, self.lines) = (feed + 1, self.lines + 1);
            if self.lines > MAX_FIELDS + 1 {
                return Err(HEAD_TOO_LONG);
            }
        }
        self.at = bytes.len();
        match self.lines {
            0 if bytes.len() > MAX_METHOD + MAX_TARGET + 16 => Err(TARGET_TOO_LONG),
            _ if bytes.len() > MAX_HEAD => Err(HEAD_TOO_LONG),
            _ => Ok(None),
        }
    }
}

/// Reads a whole head, as [`Search::end`] delimited it.
pub(super) fn check(head: &[u8]) -> Result<Shape, Refusal> {
    let mut lines =
        head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let is_1_1 = request_line(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = field(line)?;
        fields.take(name, value)?;
    }
    fields.shape(is_1_1)
}

/// Whether the version is 1.1 (and not 1.0).
fn request_line(line: &[u8]) -> Result<bool, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("the request line has not three parts"));
    };
    if method.is_empty() || method.len() > MAX_METHOD || !method.iter().all(|byte| is_token(*byte))
    {
        return Err(bad("the method is no token"));
    }
    if target.len() > MAX_TARGET {
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
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        _ if version.starts_with(b"HTTP/") => Err(Refusal {
            status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            cause: "the version is not served",
        }),
        _ => Err(bad("the request line names no version")),
    }
}

/// One field line: name and value without the white space around it.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
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
    // Tabs and everything from space on but DEL; CR is among what is forbidden.
    if !value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)) {
        return Err(bad("a header value holds a control character"));
    }
    Ok((name, trim(value)))
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
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// The fields that say where a message ends and what becomes of its connection.
#[derive(Debug, Default)]
struct Fields {
    hosts: u32,
    length: Option<u64>,
    chunked: bool,
    connection_upgrade: bool,
    upgrade: bool,
}

impl Fields {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is(b"host") => self.hosts += 1,
            6 if is(b"expect") && !value.eq_ignore_ascii_case(b"100-continue") => {
                return Err(Refusal {
                    status: StatusCode::EXPECTATION_FAILED,
                    cause: "an unknown expectation",
                });
            }
            7 if is(b"upgrade") => self.upgrade = true,
            10 if is(b"connection") => {
                self.connection_upgrade |= value
                    .split(|byte| *byte == b',')
                    .any(|word| trim(word).eq_ignore_ascii_case(b"upgrade"));
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
            (true, None) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        Ok(Shape { framing, upgrade: is_1_1 && self.connection_upgrade && self.upgrade })
    }
}

/// Digits only: no sign, no list, no white space inside, and it fits.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    // Eighteen digits are below 2^63, so nobody's arithmetic wraps.
    let plain = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    if !plain {
        return Err(bad("the Content-Length is no plain number"));
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
