//! The head of a response, and how its body goes behind it.
//!
//! Invariants: what is about one connection of HTTP/1.1 is left out (RFC 9113 § 8.2.2); the length that is said
//! is the body's own where there is a body, and what a GET would have where there is none.

use http::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Body as _;

use super::frame;
use super::hpack::Encoder;
use super::stream::Sending;
use crate::body::ResponseBody;
use crate::date::Date;
use crate::head::is_of_connection;

/// What is written of a head, and how.
pub(super) struct Page<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) encoder: &'a mut Encoder,
    pub(super) date: &'a Date,
}

/// How long a body is said to be.
enum Length {
    Unsaid,
    Own(u64),
    /// What an instance says of a body that is not sent.
    Said,
}

impl Page<'_> {
    /// Writes the head of a stream's answer; what is left to send, if anything.
    pub(super) fn head(
        self,
        stream: u32,
        is_head: bool,
        response: Response<ResponseBody>,
    ) -> Option<Sending> {
        let (head, body) = response.into_parts();
        let exact = body.size_hint().exact();
        let none = head.status == StatusCode::NO_CONTENT || head.status.is_informational();
        let unsent = is_head || none || head.status == StatusCode::NOT_MODIFIED;
        let (length, end) = match exact {
            _ if none => (Length::Unsaid, true),
            _ if unsent && head.headers.contains_key(CONTENT_LENGTH) => (Length::Said, true),
            Some(0) | None if unsent => (Length::Unsaid, true),
            Some(length) => (Length::Own(length), unsent || (length == 0 && body.is_end_stream())),
            None => (Length::Unsaid, body.is_end_stream()),
        };
        let Page { out, encoder, date } = self;
        frame::put_headers(out, stream, end, |out| {
            encoder.begin(out);
            Encoder::status(out, head.status.as_u16());
            if let Length::Own(length) = length {
                let mut digits = itoa::Buffer::new();
                Encoder::length(out, digits.format(length).as_bytes());
            }
            let said = matches!(length, Length::Said);
            fields(out, encoder, &head.headers, said);
            if !head.headers.contains_key(DATE) {
                encoder.field(out, &DATE, &date.value());
            }
        });
        let left = if let Length::Own(length) = length { Some(length) } else { None };
        (!end).then(|| Sending::new(body, left))
    }
}

/// Writes what may follow a body.
pub(super) fn trailers(out: &mut Vec<u8>, encoder: &mut Encoder, stream: u32, all: &HeaderMap) {
    frame::put_headers(out, stream, true, |out| {
        encoder.begin(out);
        fields(out, encoder, all, false);
    });
}

fn fields(out: &mut Vec<u8>, encoder: &mut Encoder, all: &HeaderMap, with_length: bool) {
    for (name, value) in all {
        if *name == CONTENT_LENGTH {
            if with_length {
                Encoder::length(out, value.as_bytes());
            }
        } else if !is_of_connection(name.as_str()) {
            field(out, encoder, name, value);
        }
    }
}

/// Applications that pad their values do it for HTTP/1.1, where nobody minds (§ 8.2.1 forbids it).
fn field(out: &mut Vec<u8>, encoder: &mut Encoder, name: &HeaderName, value: &HeaderValue) {
    let bytes = value.as_bytes();
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if !blank(bytes.first()) && !blank(bytes.last()) {
        return encoder.field(out, name, value);
    }
    if let Ok(mut trimmed) = HeaderValue::from_bytes(bytes.trim_ascii()) {
        trimmed.set_sensitive(value.is_sensitive());
        encoder.field(out, name, &trimmed);
    }
}
