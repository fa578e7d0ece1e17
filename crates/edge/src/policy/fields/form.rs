//! Forms: pairs of a query or an urlencoded body, and the parts of `multipart/form-data` (RFC 7578).
//!
//! Parts are read as browsers and the usual libraries write them. Invariant: a part that is written in
//! another way (folded or unknown headers, an encoding of its own, parameters that only some obey, its
//! boundary within a value) is refused, since applications differ in what they make of it.

use memchr::memmem;
use percent_encoding::percent_decode;

use super::kind::{Charset, Kind, parameters};
use super::{Name, Unreadable, malformed, other_type};

/// More fields are no log-in; many applications stop reading there.
const MAX_PAIRS: usize = 1000;

const MANY: Unreadable = malformed("the body is to be looked into, and it has over 1,000 fields");
const PARTS: Unreadable = other_type(
    "the body is to be looked into, and it is no form as browsers send it (multipart/form-data)",
);

/// A field and its value.
type Pair = (Name, String);

/// The fields of a query or an urlencoded body.
pub(super) fn pairs(text: &[u8], charset: Charset) -> Result<Vec<Pair>, Unreadable> {
    let decode = |part: &[u8]| {
        let spaced: Vec<u8> = part.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
        charset.text(&percent_decode(&spaced).collect::<Vec<u8>>())
    };
    let mut all = Vec::new();
    // `;` separates too, for some applications.
    for pair in text.split(|byte| *byte == b'&' || *byte == b';') {
        let Some(at) = memchr::memchr(b'=', pair) else { continue };
        if all.len() == MAX_PAIRS {
            return Err(MANY);
        }
        let (name, value) = pair.split_at(at);
        let value = decode(value.get(1..).unwrap_or_default())?;
        all.push((Name::of(&decode(name)?), value));
    }
    Ok(all)
}

/// The fields of a form in parts.
pub(super) fn parts(
    body: &[u8],
    boundary: &str,
    charset: Charset,
) -> Result<Vec<Pair>, Unreadable> {
    let mark = format!("--{boundary}");
    let between = format!("\r\n{mark}");
    let mut all = Vec::new();
    let body = body.strip_prefix(b"\r\n").unwrap_or(body);
    if body.is_empty() {
        return Ok(all);
    }
    let mut rest = body.strip_prefix(mark.as_bytes()).ok_or(PARTS)?;
    loop {
        if let Some(end) = rest.strip_prefix(b"--") {
            return if end.trim_ascii().is_empty() { Ok(all) } else { Err(PARTS) };
        }
        let part = rest.strip_prefix(b"\r\n").ok_or(PARTS)?;
        let at = memmem::find(part, b"\r\n\r\n").ok_or(PARTS)?;
        let (head, value) = part.split_at(at);
        let value = value.get(4..).unwrap_or_default();
        let end = memmem::find(value, between.as_bytes()).ok_or(PARTS)?;
        let (value, after) = value.split_at(end);
        // Some end lines without CR, some look for the mark alone.
        let is_within = |text: &[u8]| memmem::find(text, mark.as_bytes()).is_some();
        if is_within(value) || is_within(head) || all.len() == MAX_PAIRS {
            return Err(PARTS);
        }
        let name = part_name(std::str::from_utf8(head).map_err(|_not_text| PARTS)?)?;
        all.push((Name::of(name), charset.text(value)?));
        rest = after.get(between.len()..).unwrap_or_default();
    }
}

/// The name of a field, from the headers of its part.
fn part_name(head: &str) -> Result<&str, Unreadable> {
    let (mut name, mut is_odd) = (None, false);
    for line in head.split("\r\n") {
        let (header, value) = line.split_once(':').ok_or(PARTS)?;
        if line.contains(['\r', '\n']) || header.contains(char::is_whitespace) {
            return Err(PARTS);
        }
        let value = value.trim_matches([' ', '\t']);
        match header.to_ascii_lowercase().as_str() {
            "content-disposition" if name.is_none() => name = Some(disposition(value)?),
            "content-type" => {
                let kind = Kind::read(value)?;
                is_odd |= kind.is_multipart() || kind.charset != Charset::Utf8;
            }
            "content-transfer-encoding"
                if ["7bit", "8bit", "binary"].iter().any(|one| value.eq_ignore_ascii_case(one)) => {
            }
            "content-length" => {}
            _ => return Err(PARTS),
        }
    }
    let (name, is_file) = name.ok_or(PARTS)?;
    if is_odd && !is_file { Err(PARTS) } else { Ok(name) }
}

/// `form-data; name="…"`, and whether it is a file.
fn disposition(value: &str) -> Result<(&str, bool), Unreadable> {
    let (kind, rest) = value.split_once(';').ok_or(PARTS)?;
    let (mut found, mut is_file) = (None, false);
    for (name, value) in parameters(rest).ok_or(PARTS)? {
        match name.as_str() {
            "name" if found.is_none() => found = Some(value),
            "filename" | "filename*" => is_file = true,
            _ => return Err(PARTS),
        }
    }
    // `=?UTF-8?Q?…?=`, a word of mail's headers (RFC 2047), is decoded by some.
    if found.is_some_and(|name| name.contains("=?")) {
        return Err(PARTS);
    }
    let found = found.filter(|_| kind.trim().eq_ignore_ascii_case("form-data"));
    found.map(|name| (name, is_file)).ok_or(PARTS)
}
