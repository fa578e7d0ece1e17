//! The one reading of a request's path that everybody gets: route, static files, upstream, log.
//!
//! | in the request | what happens | why |
//! | --- | --- | --- |
//! | `%41`, `%7e` (unreserved) | decoded in [`CanonicalPath::as_str`] | RFC 3986: the same path; every server agrees |
//! | `%c3%a9`, `%20`, `%40` | kept, hex digits in capitals | decoded only for matching and for files |
//! | `..` or `.` as a segment, also as `%2e` | 400 | clients resolve them; only attacks send them |
//! | `..;x`, `.;` | 400 | servlet containers strip `;x` and then resolve the dots |
//! | `%2f`, `%5c`, `\` | 400 | some servers decode before they split, some do not |
//! | `%00`, control characters, encoded or raw, raw bytes above `~` | 400 | cut or injected somewhere |
//! | `%zz`, `%4` | 400 | servers differ in what they make of it |
//! | not UTF-8 once decoded (`%c0%af`, `%ff`) | 400 | overlong forms of `/` and `.` |
//! | `%252e`, `%252f`, `%255c`, `%2500`, also deeper | 400 | for applications that decode twice |
//! | `?`, `#`, space, empty, no `/` first, `*` | 400 | no path |
//! | `//` at the beginning | 400 | `//x/y` is host `x`, path `/y` to some URL parsers (Node's `new URL`) |
//! | `//` further on | kept | image proxies and object stores need it; see below |
//! | `;x` | kept | legal and used; see below |
//!
//! Paths with `//` or `;x` are read in a second way by some applications (slashes merged, parameters
//! dropped). [`CanonicalPath::other_reading`] gives that reading, and the route table serves such a path
//! only when both readings lead to the same route: nothing is gained by writing it differently.
//! Invariant: `parse(parse(x)) == parse(x)`; a path that is canonical already is not copied.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// Why a request is answered with 400, in words for the log.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("{0}")]
pub struct BadRequest(pub &'static str);

/// Empty, no slash first, or a `?` or `#` in it.
pub(super) const NOT_A_PATH: BadRequest = BadRequest("the target is no path");
/// A byte that may not stand in a path, raw or encoded.
pub(super) const CHARACTER: BadRequest = BadRequest("the path holds a forbidden character");
/// `%` without two hex digits, or bytes that are no UTF-8.
pub(super) const ENCODING: BadRequest = BadRequest("the path is wrongly encoded");
/// `.` or `..` as a segment.
pub(super) const DOT_SEGMENT: BadRequest = BadRequest("the path has dot segments");
/// An encoded slash or backslash, or one of them or a dot encoded twice.
pub(super) const ENCODED_SEPARATOR: BadRequest = BadRequest("the path has an encoded separator");
/// A host to some URL parsers.
pub(super) const TWO_SLASHES: BadRequest = BadRequest("the path begins with two slashes");

/// A path in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    path: Cow<'a, str>,
    /// Without percent-encoding; none where there is no `%` (then it is `path`).
    decoded: Option<Box<str>>,
}

impl<'a> CanonicalPath<'a> {
    /// Reads the path of a request target, without its query; refuses one that could be read in two ways
    /// (see the table of this module). What passes may go upstream as it is: routes are matched on its
    /// decoded form, whatever its spelling.
    pub fn parse(raw: &'a str) -> Result<Self, BadRequest> {
        let bytes = raw.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Err(NOT_A_PATH);
        }
        if bytes.get(1) == Some(&b'/') {
            return Err(TWO_SLASHES);
        }
        let mut encoded = false;
        for byte in raw.bytes() {
            match byte {
                b'%' => encoded = true,
                b'?' | b'#' => return Err(NOT_A_PATH),
                b'\\' | 0..=b' ' | 0x7f.. => return Err(CHARACTER),
                _ => {}
            }
        }
        let path = if encoded { normalise(raw)? } else { Cow::Borrowed(raw) };
        // In the one spelling: `%252%65` is `%252e`, too.
        let percents = path.match_indices("%25");
        if encoded && percents.into_iter().any(|(at, _)| encodes_again(&path.as_bytes()[at + 3..]))
        {
            return Err(ENCODED_SEPARATOR);
        }
        let decoded = if path.contains('%') {
            Some(
                percent_decode_str(&path)
                    .decode_utf8()
                    .map_err(|_| ENCODING)?
                    .into_owned()
                    .into_boxed_str(),
            )
        } else {
            None
        };
        let canonical = Self { path, decoded };
        if has_dot_segments(canonical.decoded()) { Err(DOT_SEGMENT) } else { Ok(canonical) }
    }

    /// As it goes upstream and into the log: begins with `/`, visible ASCII only.
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Percent-decoded, for matching and for files: valid UTF-8, no control characters, no `\`, and no
    /// `/` that was not one before.
    pub fn decoded(&self) -> &str {
        self.decoded.as_deref().unwrap_or(&self.path)
    }

    /// How a laxer application reads [`Self::decoded`], where that differs: parameters (`;x`) dropped from
    /// each segment, doubled slashes merged.
    pub fn other_reading(&self) -> Option<String> {
        let path = self.decoded();
        // Looked through once: most paths have neither, and searching for a text is dear to begin.
        let mut before = 0;
        let is_odd =
            |byte| byte == b';' || (std::mem::replace(&mut before, byte), byte) == (b'/', b'/');
        if !path.bytes().any(is_odd) {
            return None;
        }
        let mut other = String::with_capacity(path.len());
        for segment in path.split('/').skip(1) {
            if !(other.ends_with('/') && segment.is_empty()) || other.is_empty() {
                if !other.ends_with('/') {
                    other.push('/');
                }
                other.push_str(segment.split(';').next().unwrap_or_default());
            }
        }
        if path.ends_with('/') && !other.ends_with('/') {
            other.push('/');
        }
        Some(other)
    }
}

/// Decodes what is unreserved, capitalises the rest, refuses what is ambiguous.
fn normalise(raw: &str) -> Result<Cow<'_, str>, BadRequest> {
    let bytes = raw.as_bytes();
    let mut out: Option<String> = None;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte != b'%' {
            if let Some(out) = &mut out {
                out.push(char::from(*byte));
            }
            at += 1;
            continue;
        }
        let value = hex_pair(bytes, at + 1).ok_or(ENCODING)?;
        match value {
            b'/' | b'\\' => return Err(ENCODED_SEPARATOR),
            0..=0x1f | 0x7f => return Err(CHARACTER),
            _ => {}
        }
        let upper = [b'%', bytes[at + 1].to_ascii_uppercase(), bytes[at + 2].to_ascii_uppercase()];
        let unreserved =
            value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~');
        if out.is_none() && (unreserved || upper != bytes[at..at + 3]) {
            out = Some(raw[..at].to_owned());
        }
        if let Some(out) = &mut out {
            if unreserved {
                out.push(char::from(value));
            } else {
                out.extend(upper.iter().map(|byte| char::from(*byte)));
            }
        }
        at += 3;
    }
    Ok(out.map_or(Cow::Borrowed(raw), Cow::Owned))
}

/// Whether what follows a `%25` would, decoded once more (or more often), be a separator, dot or NUL.
fn encodes_again(mut rest: &[u8]) -> bool {
    while let Some(deeper) = rest.strip_prefix(b"25") {
        rest = deeper;
    }
    matches!(hex_pair(rest, 0), Some(b'/' | b'\\' | b'.' | 0))
}

fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    Some((digit(at)? * 16 + digit(at + 1)?) as u8)
}

/// `.` and `..`, also with parameters behind them.
fn has_dot_segments(path: &str) -> bool {
    if !path.contains("/.") {
        return false;
    }
    path.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}
